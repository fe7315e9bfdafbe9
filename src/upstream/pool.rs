//! A worker's own connections to endpoints.
//!
//! Nothing in here is shared between workers but the counts in [`Limits`](super::Limits): taking
//! a connection and giving it back meet no lock. The newest connection is used first, so that the
//! others grow old and go; each is tested before it is used again.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{ConnectionPermit, Endpoint, EndpointId, Upstream, connect};
use crate::{
    error::{Error, Reason, Replay, Result},
    http::{
        h1::wire::Wire,
        h2::client::{Http2, Slot},
    },
    listener::proxy_protocol,
    net::Stream,
    worker::{Conn, Worker},
};

/// How often idle connections are looked through for those that are too old or gone.
const SWEEP: Duration = Duration::from_secs(1);

/// One worker's pools, by endpoint.
pub struct Pools {
    worker: usize,
    endpoints: RefCell<HashMap<EndpointId, Pool>>,
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pools")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

struct Pool {
    upstream: Arc<Upstream>,
    /// Newest last.
    idle: Vec<Box<Http1>>,
    /// Requests on this worker that wait while the upstream is at its connection limit.
    waiting: VecDeque<oneshot::Sender<Box<Http1>>>,
    shared: Vec<Rc<Http2>>,
    /// One of us is opening an HTTP/2 connection that others may then share.
    opening: Option<Rc<Notify>>,
}

/// A connection to an HTTP/1.1 upstream.
#[derive(Debug)]
pub struct Http1 {
    pub wire: Wire,
    /// It has carried an exchange before.
    pub reused: bool,
    endpoint: EndpointId,
    lease: Lease,
    idle_since: Instant,
    /// Not to be used again from then on.
    expires: Option<Instant>,
    reusable: bool,
}

/// A connection's place in the upstream's counts.
#[derive(Debug)]
struct Lease {
    upstream: Arc<Upstream>,
    worker: usize,
    _permit: ConnectionPermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.metrics.connection_closed(self.worker);
    }
}

impl Pools {
    pub fn new(worker: usize) -> Rc<Self> {
        Rc::new(Self {
            worker,
            endpoints: RefCell::default(),
        })
    }

    /// Looks after idle connections for as long as the worker lives.
    pub async fn run(self: Rc<Self>, worker: Rc<Worker>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => {}
                () = worker.events.notified() => {}
            }
            self.sweep(&worker, Instant::now());
        }
    }

    /// A connection for one exchange over HTTP/1.1: an idle one, else a new one.
    ///
    /// # Errors
    /// Nothing has been sent in any of them.
    pub async fn http1(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        now: Instant,
        client: &Conn,
    ) -> Result<Box<Http1>> {
        if let Some(conn) = self.take_idle(upstream, endpoint.id, now) {
            upstream.metrics.pool_hit(self.worker);
            return Ok(conn);
        }
        upstream.metrics.pool_miss(self.worker);
        let permit = match upstream.limits.try_connection() {
            Some(permit) => permit,
            None => match self.wait(upstream, endpoint.id).await? {
                Waited::Connection(conn) => return Ok(conn),
                Waited::Permit(permit) => permit,
            },
        };
        self.open_http1(upstream, endpoint, permit, client).await
    }

    /// A connection of its own for a tunnel, never given back.
    ///
    /// # Errors
    /// Nothing has been sent in any of them.
    pub async fn tunnel(
        &self,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        client: &Conn,
    ) -> Result<Box<Http1>> {
        let permit = upstream.limits.connection().await?;
        self.open_http1(upstream, endpoint, permit, client).await
    }

    async fn open_http1(
        &self,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        permit: ConnectionPermit,
        client: &Conn,
    ) -> Result<Box<Http1>> {
        let (stream, lease) = self.open(upstream, endpoint, permit, client).await?;
        let now = Instant::now();
        Ok(Box::new(Http1 {
            wire: Wire::new(stream, BytesMut::new()),
            reused: false,
            endpoint: endpoint.id,
            expires: self.expiry(upstream, now),
            idle_since: now,
            // With the PROXY protocol a connection speaks for one client only.
            reusable: upstream.config.proxy_protocol.is_none(),
            lease,
        }))
    }

    /// A place for one stream over HTTP/2.
    ///
    /// # Errors
    /// Nothing has been sent in any of them.
    pub async fn http2(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        client: &Conn,
    ) -> Result<Slot> {
        loop {
            let opening = {
                let mut pools = self.endpoints.borrow_mut();
                let pool = self.pool(&mut pools, upstream, endpoint.id);
                if let Some(conn) = pool.shared.iter().find(|conn| conn.has_room()) {
                    upstream.metrics.pool_hit(self.worker);
                    return Ok(Slot::take(conn));
                }
                match &pool.opening {
                    Some(opening) => Rc::clone(opening),
                    None => {
                        pool.opening = Some(Rc::default());
                        drop(pools);
                        return self.open_http2(upstream, endpoint, client).await;
                    }
                }
            };
            let _pending = upstream.limits.pending()?;
            opening.notified().await;
        }
    }

    async fn open_http2(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        client: &Conn,
    ) -> Result<Slot> {
        // Also when this future is dropped: the others must not wait for ever.
        let _opened = Opened {
            pools: self,
            endpoint: endpoint.id,
        };
        upstream.metrics.pool_miss(self.worker);
        let permit = upstream.limits.connection().await?;
        let (stream, lease) = self.open(upstream, endpoint, permit, client).await?;
        let conn = Http2::open(stream, lease, Instant::now()).await?;
        let slot = Slot::take(&conn);
        if upstream.config.proxy_protocol.is_none() {
            let mut pools = self.endpoints.borrow_mut();
            self.pool(&mut pools, upstream, endpoint.id)
                .shared
                .push(conn);
        }
        Ok(slot)
    }

    /// Takes a connection back after an exchange that left it clean.
    pub fn check_in(&self, mut conn: Box<Http1>) {
        let now = Instant::now();
        if !conn.reusable || conn.expires.is_some_and(|at| at <= now) {
            return;
        }
        let mut pools = self.endpoints.borrow_mut();
        let Some(pool) = pools.get_mut(&conn.endpoint) else {
            return;
        };
        conn.reused = true;
        conn.idle_since = now;
        while let Some(waiting) = pool.waiting.pop_front() {
            match waiting.send(conn) {
                Ok(()) => return,
                Err(back) => conn = back,
            }
        }
        if pool.upstream.limits.give_up_one() {
            return;
        }
        conn.wire.release();
        pool.upstream.metrics.idle_added(self.worker);
        pool.idle.push(conn);
    }

    fn take_idle(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: EndpointId,
        now: Instant,
    ) -> Option<Box<Http1>> {
        let mut pools = self.endpoints.borrow_mut();
        let pool = self.pool(&mut pools, upstream, endpoint);
        while let Some(conn) = pool.idle.pop() {
            upstream.metrics.idle_removed(self.worker);
            if conn.is_usable(now) {
                return Some(conn);
            }
        }
        None
    }

    /// Waits at the connection limit: for a connection that one of our own gives back, or for the
    /// right to open one that somebody else gives up.
    async fn wait(&self, upstream: &Arc<Upstream>, endpoint: EndpointId) -> Result<Waited> {
        let pending = upstream.limits.pending().inspect_err(|error| {
            upstream.metrics.limit_refused(self.worker, error.reason);
        })?;
        let (sender, receiver) = oneshot::channel();
        if let Some(pool) = self.endpoints.borrow_mut().get_mut(&endpoint) {
            pool.waiting.retain(|waiting| !waiting.is_closed());
            pool.waiting.push_back(sender);
        }
        let _counted = upstream.metrics.waiting(self.worker);
        Ok(tokio::select! {
            Ok(conn) = receiver => Waited::Connection(conn),
            permit = pending.connection() => Waited::Permit(permit),
        })
    }

    async fn open(
        &self,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        permit: ConnectionPermit,
        client: &Conn,
    ) -> Result<(Stream, Lease)> {
        let start = Instant::now();
        let opened = async {
            let mut stream = connect::connect(endpoint, &upstream.config).await?;
            if let Some(version) = upstream.config.proxy_protocol {
                let header =
                    proxy_protocol::encode(version, &client.source(), &client.destination());
                stream.write_all(&header).await.map_err(|error| {
                    Error::new(Reason::ConnectFailed, "the PROXY header could not be sent")
                        .source(error)
                        .replay(Replay::NeverSent)
                })?;
            }
            Ok(stream)
        };
        let stream = opened.await.inspect_err(|error: &Error| {
            upstream
                .metrics
                .connection_failed(self.worker, error.reason);
        })?;
        upstream
            .metrics
            .connection_opened(self.worker, start.elapsed());
        let lease = Lease {
            upstream: Arc::clone(upstream),
            worker: self.worker,
            _permit: permit,
        };
        Ok((stream, lease))
    }

    /// Shortened by up to a tenth, so that connections made together don't end together.
    fn expiry(&self, upstream: &Upstream, now: Instant) -> Option<Instant> {
        let age = upstream.config.max_connection_age;
        (!age.is_zero()).then(|| now + age.mul_f64(1.0 - fastrand::f64() / 10.0))
    }

    fn pool<'p>(
        self: &Rc<Self>,
        pools: &'p mut HashMap<EndpointId, Pool>,
        upstream: &Arc<Upstream>,
        endpoint: EndpointId,
    ) -> &'p mut Pool {
        let pool = pools.entry(endpoint).or_insert_with(|| {
            tokio::task::spawn_local(give_up(Rc::downgrade(self), endpoint, Arc::clone(upstream)));
            Pool {
                upstream: Arc::clone(upstream),
                idle: Vec::new(),
                waiting: VecDeque::new(),
                shared: Vec::new(),
                opening: None,
            }
        });
        // A reload may have put a successor in the upstream's place; the endpoint stayed.
        if !Arc::ptr_eq(&pool.upstream, upstream) {
            pool.upstream = Arc::clone(upstream);
        }
        pool
    }

    /// Closes what is too old, gone, or leads to an endpoint that its upstream no longer has.
    fn sweep(&self, worker: &Worker, now: Instant) {
        self.endpoints.borrow_mut().retain(|id, pool| {
            let name = &pool.upstream.config.name;
            let current = worker.with_snapshot(|snapshot| snapshot.upstreams.get(name).cloned());
            let current = current.filter(|upstream| upstream.endpoints().contains(*id));
            let wanted = current.is_some();
            if let Some(upstream) = current {
                pool.upstream = upstream;
            }
            pool.retain_idle(self.worker, |conn| wanted && conn.is_usable(now));
            let (age, idle) = (
                pool.upstream.config.max_connection_age,
                pool.upstream.config.idle_timeout,
            );
            pool.shared.retain(|conn| {
                let too_old = !age.is_zero() && now.duration_since(conn.born) >= age;
                let too_idle = conn
                    .idle_since()
                    .is_some_and(|at| now.duration_since(at) >= idle);
                if !wanted || too_old || too_idle {
                    conn.retire();
                }
                !conn.is_closed()
            });
            wanted || pool.opening.is_some() || !pool.waiting.is_empty()
        });
    }
}

impl Pool {
    fn retain_idle(&mut self, worker: usize, keep: impl Fn(&Http1) -> bool) {
        let before = self.idle.len();
        self.idle.retain(|conn| keep(conn));
        for _ in self.idle.len()..before {
            self.upstream.metrics.idle_removed(worker);
        }
    }
}

impl Http1 {
    /// Neither too old nor too long idle, still open, and nothing unasked-for has come in.
    fn is_usable(&self, now: Instant) -> bool {
        let idle = self.lease.upstream.config.idle_timeout;
        now.saturating_duration_since(self.idle_since) < idle
            && self.expires.is_none_or(|at| now < at)
            && self.wire.stream.is_silent()
    }
}

enum Waited {
    Connection(Box<Http1>),
    Permit(ConnectionPermit),
}

struct Opened<'a> {
    pools: &'a Pools,
    endpoint: EndpointId,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let mut pools = self.pools.endpoints.borrow_mut();
        if let Some(pool) = pools.get_mut(&self.endpoint)
            && let Some(opening) = pool.opening.take()
        {
            opening.notify_waiters();
        }
    }
}

/// Closes an idle connection whenever another worker needs its place.
async fn give_up(pools: Weak<Pools>, endpoint: EndpointId, upstream: Arc<Upstream>) {
    let mut asks = upstream.limits.subscribe();
    let limits = Arc::downgrade(&upstream.limits);
    drop(upstream);
    while asks.changed().await.is_ok() {
        let (Some(pools), Some(limits)) = (pools.upgrade(), limits.upgrade()) else {
            return;
        };
        let mut endpoints = pools.endpoints.borrow_mut();
        let Some(pool) = endpoints.get_mut(&endpoint) else {
            return;
        };
        while !pool.idle.is_empty() && limits.give_up_one() {
            pool.idle.swap_remove(0);
            pool.upstream.metrics.idle_removed(pools.worker);
        }
        pool.shared.retain(|conn| {
            if conn.idle_since().is_some() && limits.give_up_one() {
                conn.retire();
            }
            !conn.is_closed()
        });
    }
}
