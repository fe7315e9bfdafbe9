//! A worker's own connections to endpoints.
//!
//! Nothing in here is shared between workers but the counts in [`Limits`](super::Limits): taking
//! a connection and giving it back meet no lock. The newest connection is used first, so that the
//! others grow old and go; each is tested before it is used again.

mod connection;
mod shared;
mod surplus;

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use foldhash::fast::FixedState;
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
    time::Instant,
};

use self::connection::{Lease, State};
pub use self::{connection::Http1, shared::Way};
use super::{
    ConnectionPermit, Endpoint, EndpointId, Opened, PendingPermit, Upstream, dial,
    idle_age::IdleAge, opening::Opening,
};
use crate::{
    error::{Error, Result},
    http::{h1::wire::Wire, h2::client::Http2, input::Input},
    tls::{Desk, alpn::Offer},
    worker::{Conn, Worker},
};

/// How often idle connections are looked through for those that are too old or gone.
const SWEEP: Duration = Duration::from_secs(1);

/// Connections in a row that a pool may pass on among its own while others wait too.
const OWN_TURNS: u8 = 7;

/// Ids are numbers of our own: nobody can choose them to collide.
type ByEndpoint = HashMap<EndpointId, Pool, FixedState>;

/// One worker's pools, by endpoint.
pub struct Pools {
    worker: usize,
    tls: Rc<Desk>,
    endpoints: RefCell<ByEndpoint>,
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
    #[expect(
        clippy::vec_box,
        reason = "a connection moves to an exchange and back as a pointer"
    )]
    idle: Vec<Box<Http1>>,
    idle_age: Arc<IdleAge>,
    /// Idle for so long, a connection is not used again.
    idle_limit: Duration,
    /// What the endpoint said last of how long it keeps one.
    told: Option<Duration>,
    /// When all idle connections were looked at.
    swept: Instant,
    /// Requests on this worker that wait while the upstream is at its connection limit.
    waiting: VecDeque<oneshot::Sender<Box<Http1>>>,
    /// Connections that went to one of those.
    handed_over: u8,
    shared: Vec<Rc<Http2>>,
    /// One of us is opening an HTTP/2 connection that others may then share.
    opening: Option<Rc<Opening>>,
    /// Notified when a stream of a shared connection ends.
    room: Rc<Notify>,
    /// The task that gives up idle connections for others.
    asked: AbortHandle,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.asked.abort();
    }
}

impl Pools {
    pub fn new(worker: usize, tls: Rc<Desk>) -> Rc<Self> {
        Rc::new(Self {
            worker,
            tls,
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
            let newest =
                |name: &str| worker.with_snapshot(|newest| newest.upstreams.get(name).cloned());
            self.sweep(newest, Instant::now());
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
        if let Some(conn) = self.take_idle(upstream, endpoint, now) {
            upstream.metrics.pool_hit(self.worker);
            return Ok(conn);
        }
        self.new_http1(upstream, endpoint, client).await
    }

    /// The same, but no idle one: such a one has just failed.
    ///
    /// # Errors
    /// Nothing has been sent in any of them.
    pub async fn new_http1(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        client: &Conn,
    ) -> Result<Box<Http1>> {
        upstream.metrics.pool_miss(self.worker);
        // Boxed: the space for what is rare would be part of every request.
        Box::pin(self.missing_http1(upstream, endpoint, client)).await
    }

    /// Whatever comes first: a connection that another request gives back, or a new one.
    async fn missing_http1(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        client: &Conn,
    ) -> Result<Box<Http1>> {
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
        let permit = self.permit(upstream).await?;
        self.open_http1(upstream, endpoint, permit, client).await
    }

    async fn open_http1(
        &self,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        permit: ConnectionPermit,
        client: &Conn,
    ) -> Result<Box<Http1>> {
        let offer = Offer::Http1;
        let (opened, lease) = self.open(upstream, endpoint, permit, client, offer).await?;
        Ok(self.http1_over(opened, lease, endpoint))
    }

    fn http1_over(&self, opened: Opened, lease: Lease, endpoint: &Endpoint) -> Box<Http1> {
        let now = Instant::now();
        Box::new(Http1 {
            wire: Wire::new(opened.stream, Input::default()),
            reused: false,
            endpoint: endpoint.id,
            expires: self.expiry(&lease.upstream, now),
            idle_since: now,
            idled: Duration::ZERO,
            told: None,
            // With the PROXY protocol a connection speaks for one client only.
            reusable: lease.upstream.config.proxy_protocol.is_none(),
            _lease: lease,
        })
    }

    /// The right to open a connection, waited for.
    async fn permit(&self, upstream: &Arc<Upstream>) -> Result<ConnectionPermit> {
        match upstream.limits.try_connection() {
            Some(permit) => Ok(permit),
            None => {
                let pending = self.pending(upstream)?;
                let _counted = upstream.metrics.waiting(self.worker);
                Ok(pending.connection().await)
            }
        }
    }

    /// A place among those who wait.
    fn pending(&self, upstream: &Arc<Upstream>) -> Result<PendingPermit> {
        upstream.limits.pending().inspect_err(|error| {
            upstream.metrics.limit_refused(self.worker, error.reason);
        })
    }

    /// Takes a connection back after an exchange that left it clean.
    pub fn check_in(&self, mut conn: Box<Http1>) {
        let now = Instant::now();
        if !conn.reusable
            || conn.expires.is_some_and(|at| at <= now)
            || conn.wire.stream.is_retired()
        {
            return conn.wire.stream.take_leave();
        }
        let mut pools = self.endpoints.borrow_mut();
        let Some(pool) = pools.get_mut(&conn.endpoint) else {
            return;
        };
        conn.reused = true;
        conn.idle_since = now;
        if conn.told.is_some() && conn.told != pool.told {
            pool.was_told(conn.told, now);
        }
        if pool.owes_others() && pool.upstream.limits.give_up_one() {
            return conn.wire.stream.take_leave();
        }
        let Some(mut conn) = pool.hand_over(conn) else {
            return;
        };
        if pool.upstream.limits.give_up_one() {
            return conn.wire.stream.take_leave();
        }
        conn.wire.input.rest();
        pool.upstream.metrics.idle_added(self.worker);
        pool.idle.push(conn);
    }

    /// An idle connection was lost to a request: the endpoint closed it as it was taken.
    pub fn raced(&self, conn: &Http1) {
        if let Some(pool) = self.endpoints.borrow_mut().get_mut(&conn.endpoint) {
            pool.saw_closing(conn.idled, conn.idled, Instant::now());
        }
    }

    fn take_idle(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        now: Instant,
    ) -> Option<Box<Http1>> {
        let mut pools = self.endpoints.borrow_mut();
        let pool = self.pool(&mut pools, upstream, endpoint);
        while let Some(mut conn) = pool.idle.pop() {
            upstream.metrics.idle_removed(self.worker);
            if pool.is_usable(&mut conn, now) {
                return Some(conn);
            }
            conn.wire.stream.take_leave();
        }
        None
    }

    /// Waits at the connection limit: for a connection that one of our own gives back, or for the
    /// right to open one that somebody else gives up.
    async fn wait(&self, upstream: &Arc<Upstream>, endpoint: EndpointId) -> Result<Waited> {
        let pending = self.pending(upstream)?;
        let (sender, arrival) = oneshot::channel();
        if let Some(pool) = self.endpoints.borrow_mut().get_mut(&endpoint) {
            pool.enqueue(sender);
        }
        let _counted = upstream.metrics.waiting(self.worker);
        let mut place = Place {
            pools: self,
            arrival,
        };
        Ok(tokio::select! {
            biased;
            Ok(conn) = &mut place.arrival => Waited::Connection(conn),
            permit = pending.connection() => Waited::Permit(permit),
        })
    }

    async fn open(
        &self,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
        permit: ConnectionPermit,
        client: &Conn,
        offer: Offer,
    ) -> Result<(Opened, Lease)> {
        let start = Instant::now();
        let opened = dial(upstream, endpoint, client, &self.tls, offer);
        let opened = opened.await.inspect_err(|error: &Error| {
            upstream
                .metrics
                .connection_failed(self.worker, error.reason);
        })?;
        opened.stream.probe_when_silent();
        upstream.metrics.connection_opened(self.worker);
        upstream.durations.connected(self.worker, start.elapsed());
        let lease = Lease {
            upstream: Arc::clone(upstream),
            worker: self.worker,
            _permit: permit,
        };
        Ok((opened, lease))
    }

    /// Shortened by up to a tenth, so that connections made together don't end together.
    fn expiry(&self, upstream: &Upstream, now: Instant) -> Option<Instant> {
        let age = upstream.config.max_connection_age;
        (!age.is_zero()).then(|| now + age.mul_f64(1.0 - fastrand::f64() / 10.0))
    }

    fn pool<'p>(
        self: &Rc<Self>,
        pools: &'p mut ByEndpoint,
        upstream: &Arc<Upstream>,
        endpoint: &Endpoint,
    ) -> &'p mut Pool {
        let pool = pools.entry(endpoint.id).or_insert_with(|| {
            let asked = give_up(Rc::downgrade(self), endpoint.id, Arc::clone(upstream));
            let (now, idle_age) = (Instant::now(), Arc::clone(&endpoint.idle_age));
            Pool {
                upstream: Arc::clone(upstream),
                idle: Vec::new(),
                idle_limit: idle_age.limit(upstream.config.idle_timeout, now),
                idle_age,
                told: None,
                swept: now,
                waiting: VecDeque::new(),
                handed_over: 0,
                shared: Vec::new(),
                opening: None,
                room: Rc::default(),
                asked: tokio::task::spawn_local(asked).abort_handle(),
            }
        });
        // A reload may have put a successor in the upstream's place; the endpoint stayed.
        if !Arc::ptr_eq(&pool.upstream, upstream) {
            pool.upstream = Arc::clone(upstream);
        }
        pool
    }

    /// Closes what is too old, gone, or leads to an endpoint that its upstream no longer has.
    fn sweep(&self, newest: impl Fn(&str) -> Option<Arc<Upstream>>, now: Instant) {
        self.endpoints.borrow_mut().retain(|id, pool| {
            let current = newest(&pool.upstream.config.name);
            let current = current.filter(|upstream| upstream.endpoints().contains(*id));
            let wanted = current.is_some();
            if let Some(upstream) = current {
                pool.upstream = upstream;
            }
            pool.shed(self.worker, now);
            pool.learn(now);
            pool.retain_idle(self.worker, wanted, now);
            let (age, idle) = (
                pool.upstream.config.max_connection_age,
                pool.upstream.config.idle_timeout,
            );
            pool.shared.retain(|conn| {
                let too_old = !age.is_zero() && now.duration_since(conn.born) >= age;
                let too_idle = conn
                    .idle_since()
                    .is_some_and(|at| now.duration_since(at) >= idle);
                if !wanted || too_old || too_idle || conn.is_retired() {
                    conn.retire();
                }
                !conn.is_closed()
            });
            // Those who were served otherwise, or left, must not keep the pool.
            pool.waiting.retain(|waiting| !waiting.is_closed());
            wanted || pool.opening.is_some() || !pool.waiting.is_empty()
        });
    }
}

impl Pool {
    fn enqueue(&mut self, sender: oneshot::Sender<Box<Http1>>) {
        // Those who have left are looked for only before the queue would grow.
        if self.waiting.len() == self.waiting.capacity() {
            self.waiting.retain(|waiting| !waiting.is_closed());
        }
        self.waiting.push_back(sender);
    }

    /// Whether it is the turn of those who wait elsewhere: on other workers, for other endpoints.
    /// They can only have a connection's place; without this a pool with a backlog of its own
    /// would never give one up.
    fn owes_others(&mut self) -> bool {
        if self.handed_over < OWN_TURNS {
            return false;
        }
        self.handed_over = 0;
        let own = self.waiting.iter().filter(|own| !own.is_closed()).count();
        self.upstream.limits.pending_requests() > own
    }

    /// Gives the connection to the one of our own who has waited longest, if any does. One that
    /// the upstream has closed, or said something on that nobody asked for, is dropped.
    fn hand_over(&mut self, mut conn: Box<Http1>) -> Option<Box<Http1>> {
        while let Some(waiting) = self.waiting.pop_front() {
            if waiting.is_closed() {
                continue;
            }
            if !conn.wire.stream.is_silent() {
                self.waiting.push_front(waiting);
                return None;
            }
            match waiting.send(conn) {
                Ok(()) => {
                    self.handed_over = self.handed_over.saturating_add(1);
                    return None;
                }
                Err(back) => conn = back,
            }
        }
        Some(conn)
    }

    fn retain_idle(&mut self, worker: usize, wanted: bool, now: Instant) {
        let mut idle = std::mem::take(&mut self.idle);
        let before = idle.len();
        idle.retain_mut(|conn| {
            let kept = wanted && self.is_usable(conn, now);
            if !kept {
                conn.wire.stream.take_leave();
            }
            kept
        });
        for _ in idle.len()..before {
            self.upstream.metrics.idle_removed(worker);
        }
        self.idle = idle;
        self.swept = now;
    }

    /// Whether an idle connection may carry a request. What it shows of its endpoint is noted.
    fn is_usable(&mut self, conn: &mut Http1, now: Instant) -> bool {
        match conn.look(now, self.idle_limit) {
            State::Usable => return true,
            State::Retired => {}
            State::Closed => {
                let least = self.swept.saturating_duration_since(conn.idle_since);
                self.saw_closing(least, conn.idled, now);
            }
            State::Outlived => {
                self.idle_age.outlived(conn.idled, now);
                self.learn(now);
            }
        }
        false
    }

    /// See [`IdleAge::closed`].
    fn saw_closing(&mut self, least: Duration, most: Duration, now: Instant) {
        self.idle_age.closed(least, most, now);
        self.learn(now);
    }

    fn was_told(&mut self, age: Option<Duration>, now: Instant) {
        self.told = age;
        if let Some(age) = age {
            self.idle_age.told(age);
        }
        self.learn(now);
    }

    /// What all workers know by now.
    fn learn(&mut self, now: Instant) {
        let configured = self.upstream.config.idle_timeout;
        self.idle_limit = self.idle_age.limit(configured, now);
    }
}

enum Waited {
    Connection(Box<Http1>),
    Permit(ConnectionPermit),
}

/// A place in the queue for a connection. One that arrives as its request leaves goes back.
struct Place<'a> {
    pools: &'a Pools,
    arrival: oneshot::Receiver<Box<Http1>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Ok(conn) = self.arrival.try_recv() {
            self.pools.check_in(conn);
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
            pool.idle.remove(0).wire.stream.take_leave();
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

#[cfg(test)]
mod tests {
    use tokio::runtime::LocalRuntime;

    use super::*;
    use crate::{config::model::EndpointAddress, telemetry::Registry, upstream::tests::upstream};

    #[test]
    fn a_withdrawn_endpoint_s_pool_goes_once_nobody_waits() {
        LocalRuntime::new().unwrap().block_on(async {
            let upstream = upstream(&[EndpointAddress::Ip(([127, 0, 0, 1], 80).into())]);
            let pools = Pools::new(0, Desk::new(0, Arc::clone(Registry::new(1).tls())));
            let endpoint = Arc::clone(&upstream.endpoints().endpoints()[0]);
            let (sender, arrival) = oneshot::channel();
            pools
                .pool(&mut pools.endpoints.borrow_mut(), &upstream, &endpoint)
                .enqueue(sender);

            pools.sweep(|_| None, Instant::now());
            assert_eq!(pools.endpoints.borrow().len(), 1, "somebody waits");
            drop(arrival);
            pools.sweep(|_| Some(Arc::clone(&upstream)), Instant::now());
            assert_eq!(pools.endpoints.borrow().len(), 1, "it is wanted");
            pools.sweep(|_| None, Instant::now());
            assert!(pools.endpoints.borrow().is_empty());
        });
    }
}
