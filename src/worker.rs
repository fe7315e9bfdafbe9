//! What all workers share, what one worker has to itself, and the connection that is handed to it.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};

use crate::{
    access::Caller,
    config::model::Address,
    listener::accept::{Accepted, Acceptor},
    policy::Timers,
    protect::Pressure,
    snapshot::{ListenerId, ListenerPlan, Snapshot},
    telemetry::{
        ListenerMetrics, Registry,
        access_log::AccessLog,
        otlp::{Exporter, Signal},
        trace::Tracer,
    },
    tls::{Certificate, Desk, Manner, Materials, Secured},
    upstream::pool::Pools,
};

/// One thread's own world. It lives in an `Rc`: nothing in it is ever touched by another thread,
/// but for what [`Shared`] holds.
pub struct Worker {
    pub id: usize,
    pub shared: Arc<Shared>,
    /// Wakes everything on this worker that waits for a new snapshot or for the drain: an idle
    /// connection waits for it beside its socket, then asks [`Worker::should_close`].
    pub events: Arc<Notify>,
    pub rng: RefCell<fastrand::Rng>,
    pub access_log: AccessLog,
    pub tracer: Tracer,
    pub pools: Rc<Pools>,
    pub timers: Timers,
    /// Its TLS connections.
    pub tls: Rc<Desk>,
    snapshot: RefCell<Newest>,
    seen: Cell<u64>,
}

/// Keeps the snapshot that was newest at the last look.
type Newest = arc_swap::Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>;

impl Worker {
    pub fn new(id: usize, shared: Arc<Shared>, access_log: AccessLog) -> Rc<Self> {
        let tls = Desk::new(id, Arc::clone(shared.registry.tls()));
        Rc::new(Self {
            id,
            events: Arc::clone(&shared.workers[id].events),
            rng: RefCell::new(fastrand::Rng::new()),
            access_log: access_log.exporting(shared.otlp.outlet(Signal::Logs)),
            tracer: Tracer::new(shared.otlp.outlet(Signal::Traces), shared.otlp.trace()),
            timers: Timers::default(),
            pools: Pools::new(id, Rc::clone(&tls)),
            tls,
            seen: Cell::new(shared.snapshot.load().generation),
            snapshot: RefCell::new(arc_swap::Cache::new(Arc::clone(&shared.snapshot))),
            shared,
        })
    }

    /// Looks at the newest snapshot: one atomic load when it has not changed.
    ///
    /// Keep `look` short: it must not come back here, and it can't await.
    pub fn with_snapshot<R>(&self, look: impl FnOnce(&Arc<Snapshot>) -> R) -> R {
        look(self.snapshot.borrow_mut().load())
    }

    /// The newest snapshot's generation. A connection keeps its [`ListenerPlan`] and asks for
    /// another only when this differs from the plan's own.
    pub fn generation(&self) -> u64 {
        let newest = self.with_snapshot(|snapshot| snapshot.generation);
        self.seen.set(newest);
        newest
    }

    /// What [`Worker::generation`] said last. The task of a connection asks that whenever it is
    /// polled; within, this is as good and costs one load.
    pub fn seen(&self) -> u64 {
        self.seen.get()
    }

    /// The newest plan of a socket; `None` once its listener was removed.
    pub fn plan(&self, listener: ListenerId) -> Option<Arc<ListenerPlan>> {
        self.with_snapshot(|snapshot| snapshot.listeners.get(&listener).cloned())
    }

    /// Whether the listener is there, and would take such a client today.
    pub fn takes(&self, listener: ListenerId, manner: Manner) -> bool {
        self.with_snapshot(|snapshot| {
            let plan = snapshot.listeners.get(&listener);
            plan.is_some_and(|plan| manner.suits(plan.config.tls.as_ref()))
        })
    }

    /// Whether this connection must come to its end: no new request on it, closed when idle.
    pub fn should_close(&self, conn: &Conn) -> bool {
        self.shared.lifecycle() >= Lifecycle::Draining || !self.takes(conn.listener, conn.manner())
    }

    /// Whether this connection was cut if it ends by itself now: the process ends, or its listener
    /// does not take it any more.
    pub fn cuts(&self, conn: &Conn) -> bool {
        self.shared.lifecycle() == Lifecycle::Forced || !self.takes(conn.listener, conn.manner())
    }

    /// Resolves when such a connection of this listener has had its time: `drain.deadline` after
    /// the listener was removed, or took no such connection any more. For the process itself that
    /// is counted elsewhere.
    pub async fn overdue(&self, listener: ListenerId, manner: Manner) {
        let mut due = None;
        loop {
            let event = self.events.notified();
            if self.takes(listener, manner) {
                due = None;
                event.await;
                continue;
            }
            let at = *due.get_or_insert_with(|| {
                let drain = self.with_snapshot(|snapshot| snapshot.config.drain);
                Instant::now() + drain.deadline
            });
            // Boxed: it is rare, and would be a good part of a connection at rest.
            if Box::pin(timeout_at(at, event)).await.is_err() {
                return;
            }
        }
    }
}

/// What the whole process shares.
pub struct Shared {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What was loaded of identities and trust; what uses them takes them from its plan.
    pub materials: ArcSwap<Materials>,
    pub registry: Arc<Registry>,
    /// Sends what goes to a collector.
    pub otlp: Exporter,
    /// How hard pressed the process is.
    pub pressure: Pressure,
    /// Random, made at start: part of the `Via` pseudonym and of request ids.
    pub process_id: u64,
    workers: Box<[Seat]>,
    lifecycle: AtomicU8,
    /// Notified when a connection ends while the process drains.
    ended: Notify,
}

/// Where a worker is met from outside. Aligned so that two workers' counts share no cache line.
#[repr(align(128))]
struct Seat {
    connections: AtomicUsize,
    /// The most there were at once since that was last asked.
    highest: AtomicUsize,
    events: Arc<Notify>,
    mailbox: mpsc::Sender<Command>,
}

/// What a worker is asked to do from outside.
pub enum Command {
    /// Serve this connection.
    Serve(Accepted),
    /// Accept on this socket, for all workers.
    Listen(Box<Acceptor>),
    /// Let go of freed memory that is kept for the next use.
    EmptyCache,
    /// Drop everything and end.
    Stop,
}

/// Commands that wait in a worker's mailbox; whoever sends one more waits.
const MAILBOX: usize = 1024;

impl Shared {
    /// With one mailbox for each of the `workers` that are to be started.
    pub fn new(
        first: Snapshot,
        materials: Materials,
        registry: Arc<Registry>,
        workers: usize,
    ) -> (Arc<Self>, Vec<mpsc::Receiver<Command>>) {
        let (seats, mailboxes) = (0..workers)
            .map(|_| {
                let (sender, mailbox) = mpsc::channel(MAILBOX);
                let events = Arc::new(Notify::new());
                (
                    Seat {
                        connections: AtomicUsize::new(0),
                        highest: AtomicUsize::new(0),
                        events,
                        mailbox: sender,
                    },
                    mailbox,
                )
            })
            .collect::<(Vec<_>, Vec<_>)>();
        let shared = Self {
            snapshot: Arc::new(ArcSwap::from_pointee(first)),
            materials: ArcSwap::from_pointee(materials),
            otlp: Exporter::new(registry.otlp()),
            registry,
            pressure: Pressure::default(),
            process_id: fastrand::u64(..),
            workers: seats.into(),
            lifecycle: AtomicU8::new(Lifecycle::Running as u8),
            ended: Notify::new(),
        };
        (Arc::new(shared), mailboxes)
    }

    /// Puts a command into a worker's mailbox, waiting while it is full. A worker that has ended
    /// drops what it gets.
    pub async fn send(&self, worker: usize, command: Command) {
        drop(self.workers[worker].mailbox.send(command).await);
    }

    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    pub fn lifecycle(&self) -> Lifecycle {
        Lifecycle::from_u8(self.lifecycle.load(Ordering::Acquire))
    }

    /// Moves on to `next` and wakes whoever waits; never back.
    pub fn advance(&self, next: Lifecycle) {
        self.lifecycle.fetch_max(next as u8, Ordering::AcqRel);
        self.registry.process().set_lifecycle(self.lifecycle());
        self.wake();
    }

    /// Makes every idle connection look at the snapshot and the lifecycle again.
    pub fn wake(&self) {
        for seat in &self.workers {
            seat.events.notify_waiters();
        }
        self.ended.notify_waiters();
    }

    /// Open client connections, over all workers.
    pub fn connections(&self) -> usize {
        self.workers
            .iter()
            .map(|seat| seat.connections.load(Ordering::Acquire))
            .sum()
    }

    /// The most client connections that were open at once since the last time this was asked, or a
    /// few more: each worker's own most is counted.
    pub fn take_highest(&self) -> usize {
        let highest = |seat: &Seat| {
            let open = seat.connections.load(Ordering::Relaxed);
            seat.highest.swap(open, Ordering::Relaxed).max(open)
        };
        self.workers.iter().map(highest).sum()
    }

    /// Resolves when no client connection is open. Only true while draining: before, an end of a
    /// connection wakes nobody.
    pub async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.connections() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// The worker with the fewest connections; among equals the first at or after `turn`, so that
    /// short connections, whose counts are mostly equal, go round.
    pub fn emptiest(&self, turn: usize) -> usize {
        let count = self.workers.len();
        (0..count)
            .map(|step| (turn + step) % count)
            .min_by_key(|&id| self.workers[id].connections.load(Ordering::Relaxed))
            .unwrap_or(0)
    }
}

/// How far the process is on its way out. Only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lifecycle {
    /// Serving.
    Running = 0,
    /// Not ready any more, but still accepting: `drain.delay`.
    Announced = 1,
    /// Accepts nothing; what is idle ends, what is busy ends after its exchange.
    Draining = 2,
    /// Ends now.
    Forced = 3,
}

impl Lifecycle {
    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Running,
            1 => Self::Announced,
            2 => Self::Draining,
            _ => Self::Forced,
        }
    }
}

/// An accepted connection, as the code that serves it gets it beside its stream.
pub struct Conn {
    pub listener: ListenerId,
    /// The listener's plan at accept. When the generation has moved, ask [`Worker::plan`].
    pub plan: Arc<ListenerPlan>,
    /// The other end of the socket.
    pub peer: Address,
    /// Our end of the socket.
    pub local: Address,
    /// What the PROXY header said, where the listener demands one and it named addresses.
    pub proxied: Option<Proxied>,
    /// What the handshake settled, where there was one.
    pub secured: Option<Secured>,
    /// Keep it until the last byte: it holds the connection's place in every count.
    pub permit: Permit,
}

impl Conn {
    /// Who really connects: what the PROXY header says, else the socket's peer.
    pub fn source(&self) -> Address {
        self.proxied
            .map_or_else(|| self.peer.clone(), |proxied| Address::Tcp(proxied.source))
    }

    /// What the client has shown of itself.
    pub fn manner(&self) -> Manner {
        Manner::of(self.secured.as_ref())
    }

    /// Who calls, as rules about access see it.
    pub fn caller(&self) -> Caller<'_> {
        let address = match (&self.proxied, &self.peer) {
            (Some(proxied), _) => Some(proxied.source.ip()),
            (None, Address::Tcp(address)) => Some(address.ip()),
            (None, Address::Unix(_)) => None,
        };
        let certificate = self
            .secured
            .as_ref()
            .and_then(|secured| secured.peer.as_deref());
        Caller {
            identity: certificate.and_then(|certificate| certificate.spiffe.as_ref()),
            address: address.map(|address| address.to_canonical()),
        }
    }

    /// What the client's certificate says, where it showed one.
    pub fn identity(&self) -> Option<Arc<Certificate>> {
        self.secured.as_ref()?.peer.clone()
    }

    /// Where the client really connected to.
    pub fn destination(&self) -> Address {
        self.proxied.map_or_else(
            || self.local.clone(),
            |proxied| Address::Tcp(proxied.destination),
        )
    }
}

/// The connection as the proxy in front saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxied {
    pub source: std::net::SocketAddr,
    pub destination: std::net::SocketAddr,
}

/// A connection's place in its listener's and its worker's count, given back on drop.
pub struct Permit {
    shared: Arc<Shared>,
    worker: usize,
    listener: Arc<AtomicUsize>,
    metrics: Option<Arc<ListenerMetrics>>,
}

impl Permit {
    /// Takes a place; `None` when the listener has `limit` connections already.
    ///
    /// `listener` counts the connections of one listener; `worker` will serve this one.
    pub fn take(
        shared: &Arc<Shared>,
        worker: usize,
        listener: &Arc<AtomicUsize>,
        limit: usize,
    ) -> Option<Self> {
        if listener.fetch_add(1, Ordering::AcqRel) >= limit {
            listener.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        let seat = &shared.workers[worker];
        let open = 1 + seat.connections.fetch_add(1, Ordering::AcqRel);
        // Two at once may lose one of two neighbouring numbers, which does no harm.
        if open > seat.highest.load(Ordering::Relaxed) {
            seat.highest.store(open, Ordering::Relaxed);
        }
        Some(Self {
            shared: Arc::clone(shared),
            worker,
            listener: Arc::clone(listener),
            metrics: None,
        })
    }

    /// The worker that will serve the connection has got it: it counts from here.
    pub fn serve(&mut self, metrics: &Arc<ListenerMetrics>) {
        metrics.accepted(self.worker);
        self.metrics = Some(Arc::clone(metrics));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.closed(self.worker);
        }
        self.listener.fetch_sub(1, Ordering::AcqRel);
        self.shared.workers[self.worker]
            .connections
            .fetch_sub(1, Ordering::AcqRel);
        if self.shared.lifecycle() >= Lifecycle::Draining {
            self.shared.ended.notify_waiters();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config;

    fn shared(workers: usize) -> Arc<Shared> {
        let text = "upstreams: [{ name: a, endpoints: [127.0.0.1:9] }]
listeners: [{ address: 127.0.0.1:0, upstream: a }]";
        let first = Snapshot {
            generation: 1,
            config: Arc::new(config::parse("test.yaml", text, &|_| None).unwrap().config),
            listeners: HashMap::new(),
            upstreams: HashMap::new(),
            jwt_providers: HashMap::new(),
            guards: HashMap::new(),
        };
        Shared::new(first, Materials::default(), Registry::new(workers), workers).0
    }

    #[test]
    fn connections_go_to_the_emptiest_and_equals_take_turns() {
        let shared = shared(3);
        assert_eq!([0, 1, 2, 3].map(|turn| shared.emptiest(turn)), [0, 1, 2, 0]);
        let listener = Arc::default();
        let first = Permit::take(&shared, 0, &listener, 10).unwrap();
        let _second = Permit::take(&shared, 1, &listener, 10).unwrap();
        assert_eq!(shared.emptiest(0), 2);
        drop(first);
        assert_eq!(shared.emptiest(1), 2);
        assert_eq!(shared.emptiest(0), 0);
    }

    #[test]
    fn a_listener_s_limit_holds_and_places_come_back() {
        let shared = shared(1);
        let listener = Arc::default();
        let permit = Permit::take(&shared, 0, &listener, 1).unwrap();
        assert!(Permit::take(&shared, 0, &listener, 1).is_none());
        assert_eq!(shared.connections(), 1);
        drop(permit);
        assert!(Permit::take(&shared, 0, &listener, 1).is_some());
        assert_eq!(shared.connections(), 0);
    }

    #[tokio::test]
    async fn a_drain_ends_with_the_last_connection() {
        let shared = shared(2);
        let permit = Permit::take(&shared, 1, &Arc::default(), 1).unwrap();
        shared.advance(Lifecycle::Draining);
        let ((), ()) = tokio::join!(shared.idle(), async {
            tokio::task::yield_now().await;
            drop(permit);
        });
        shared.advance(Lifecycle::Announced);
        assert_eq!(
            shared.lifecycle(),
            Lifecycle::Draining,
            "there is no way back"
        );
    }
}
