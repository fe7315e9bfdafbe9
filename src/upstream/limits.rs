//! What may be held of one upstream at once, counted over all workers.
//!
//! Below the limits every count is one atomic step. At the connection limit requests queue in the
//! order they came, across workers, and [ask](Limits::subscribe) every pool for an idle connection:
//! a worker never starves while another one holds connections it doesn't use.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    task::coop::unconstrained,
    time::Instant,
};

use super::concurrency::Concurrency;
use crate::{
    config::model,
    error::{Error, Reason, Replay, Result},
};

/// Counters of one upstream.
#[derive(Debug)]
pub struct Limits {
    requests: Counter,
    pending: Counter,
    retries: Counter,
    pub concurrency: Concurrency,
    connections: AtomicUsize,
    max_connections: AtomicUsize,
    /// Free connections. Hands a permit that is given back to the one who has waited longest.
    free: Semaphore,
    /// Permits to swallow as they are given back, since the limit has been lowered.
    excess: AtomicUsize,
    /// Requests that wait for a permit of `free`.
    waiting: AtomicUsize,
    /// Idle connections asked for and not given up yet; at most `waiting`, but for a moment.
    asked: AtomicUsize,
    ask: watch::Sender<()>,
}

impl Limits {
    pub fn new(limits: model::Limits) -> Arc<Self> {
        let connections = limits.connections.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            requests: Counter::new(limits.requests),
            pending: Counter::new(limits.pending),
            retries: Counter::new(limits.retries),
            concurrency: Concurrency::new(limits.adaptive, Instant::now()),
            connections: AtomicUsize::new(0),
            max_connections: AtomicUsize::new(connections),
            free: Semaphore::new(connections),
            excess: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            ask: watch::Sender::new(()),
        })
    }

    /// Changes the limits. What is held above a lowered one stays until it is given back. Called
    /// by one thread at a time: the control thread.
    pub fn set(&self, limits: model::Limits) {
        self.requests.max.store(limits.requests, Ordering::Relaxed);
        self.pending.max.store(limits.pending, Ordering::Relaxed);
        self.retries.max.store(limits.retries, Ordering::Relaxed);
        self.concurrency.set(limits.adaptive, Instant::now());
        let new = limits.connections.min(Semaphore::MAX_PERMITS);
        let old = self.max_connections.swap(new, Ordering::Relaxed);
        if new < old {
            let surplus = old - new;
            let forgotten = self.free.forget_permits(surplus);
            self.excess.fetch_add(surplus - forgotten, Ordering::AcqRel);
        }
        if new > old {
            let swallowed = self.swallow(new - old);
            self.free.add_permits(new - old - swallowed);
        }
    }

    /// Counts a request until the permit is dropped.
    pub fn request(self: &Arc<Self>) -> Result<RequestPermit> {
        if !self.requests.acquire() {
            return Err(self.requests.full(Reason::RequestLimit, "requests"));
        }
        let permit = RequestPermit(self.clone());
        match self.concurrency.limit() {
            Some(limit) if self.requests() > limit => Err(crowded(limit)),
            _ => Ok(permit),
        }
    }

    /// Counts a request that waits for a connection until the permit is dropped.
    pub fn pending(self: &Arc<Self>) -> Result<PendingPermit> {
        if self.pending.acquire() {
            Ok(PendingPermit(self.clone()))
        } else {
            Err(self
                .pending
                .full(Reason::PendingLimit, "requests that wait for a connection"))
        }
    }

    /// Counts a retry or a hedge until the permit is dropped; `None` at the limit.
    pub fn retry(self: &Arc<Self>) -> Option<RetryPermit> {
        self.retries.acquire().then(|| RetryPermit(self.clone()))
    }

    /// The right to open a connection, if there is one to spare and nobody waits for it.
    pub fn try_connection(self: &Arc<Self>) -> Option<ConnectionPermit> {
        self.free.try_acquire().ok()?.forget();
        Some(ConnectionPermit::new(self))
    }

    /// The right to open a connection, waited for behind those who came before. Fails when too
    /// many wait already; how long to wait is the caller's to decide.
    pub async fn connection(self: &Arc<Self>) -> Result<ConnectionPermit> {
        match self.try_connection() {
            Some(permit) => Ok(permit),
            None => Ok(self.pending()?.connection().await),
        }
    }

    /// Whether some request waits for a connection that an idle one could make room for.
    pub fn connection_wanted(&self) -> bool {
        self.asked.load(Ordering::Acquire) > 0
    }

    /// True: close the idle connection at hand, somebody waits for its place. To be asked with an
    /// idle connection at hand only: when one is about to go into the pool, and for those in it
    /// whenever [`Limits::subscribe`] reports.
    #[must_use]
    pub fn give_up_one(&self) -> bool {
        // The common case must not write to what all workers share.
        self.connection_wanted()
            && self
                .asked
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |asked| {
                    asked.checked_sub(1)
                })
                .is_ok()
    }

    /// Reports (`changed()`) each time a request begins to wait for a connection, and once at first,
    /// since somebody may wait already. A pool keeps one and then closes idle connections for as
    /// long as [`Limits::give_up_one`] says.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        let mut asks = self.ask.subscribe();
        asks.mark_changed();
        asks
    }

    /// Connections held now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Requests that wait for a connection now.
    pub fn pending_requests(&self) -> usize {
        self.pending.used.load(Ordering::Relaxed)
    }

    /// Requests now.
    pub fn requests(&self) -> usize {
        self.requests.used.load(Ordering::Relaxed)
    }

    pub(super) fn describe(&self) -> Value {
        let row = |used: usize, max: &AtomicUsize| json!({ "used": used, "limit": max.load(Ordering::Relaxed) });
        json!({
            "connections": row(self.connections(), &self.max_connections),
            "pending": row(self.pending_requests(), &self.pending.max),
            "requests": row(self.requests(), &self.requests.max),
            "concurrency": self.concurrency.limit(),
            "retries": row(self.retries.used.load(Ordering::Relaxed), &self.retries.max),
        })
    }

    fn ask_for_one(&self) {
        self.asked.fetch_add(1, Ordering::AcqRel);
        self.ask.send_replace(());
    }

    /// Takes up to `count` places off the excess that a lowered limit has left; how many it took.
    fn swallow(&self, count: usize) -> usize {
        self.excess
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |excess| {
                (excess > 0).then(|| excess.saturating_sub(count))
            })
            .map_or(0, |excess| excess.min(count))
    }
}

/// One request counted against `limits.requests`.
#[derive(Debug)]
pub struct RequestPermit(Arc<Limits>);

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.requests.release();
    }
}

/// One retry or hedge counted against `limits.retries`.
#[derive(Debug)]
pub struct RetryPermit(Arc<Limits>);

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.retries.release();
    }
}

/// One request counted against `limits.pending`: it waits for a connection.
#[derive(Debug)]
pub struct PendingPermit(Arc<Limits>);

impl PendingPermit {
    /// Waits for the right to open a connection, behind those who came before. Dropping the future
    /// gives the place in the queue up.
    pub async fn connection(&self) -> ConnectionPermit {
        let limits = &self.0;
        let mut place = pin!(unconstrained(limits.free.acquire()));
        // First into the queue, then ask: the other way round a latecomer could take what was given
        // up for this one, and nobody would be asked again. (Unconstrained, since a poll that only
        // yields would not enter the queue.)
        let granted = match poll_fn(|cx| Poll::Ready(place.as_mut().poll(cx))).await {
            Poll::Ready(granted) => granted,
            Poll::Pending => {
                let _waiting = Waiting::begin(limits);
                place.await
            }
        };
        // An error would mean that the semaphore is closed, which nobody does.
        if let Ok(permit) = granted {
            permit.forget();
        }
        ConnectionPermit::new(limits)
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        self.0.pending.release();
    }
}

/// The right to hold one connection; to be dropped when the connection is closed.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<Limits>);

impl ConnectionPermit {
    fn new(limits: &Arc<Limits>) -> Self {
        limits.connections.fetch_add(1, Ordering::Relaxed);
        Self(limits.clone())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        // Its place goes to the next in line, unless a lowered limit takes it.
        if self.0.swallow(1) == 0 {
            self.0.free.add_permits(1);
        } else if self.0.waiting.load(Ordering::Acquire) > 0 {
            // It may have been given up for one who waits, who would not be served by it.
            self.0.ask_for_one();
        }
    }
}

/// A place in the queue: asks for one idle connection, and takes back what was asked in excess.
struct Waiting<'a>(&'a Limits);

impl<'a> Waiting<'a> {
    fn begin(limits: &'a Limits) -> Self {
        limits.waiting.fetch_add(1, Ordering::AcqRel);
        limits.ask_for_one();
        Self(limits)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Limits { waiting, asked, .. } = self.0;
        waiting.fetch_sub(1, Ordering::AcqRel);
        // `waiting` is read anew on each try: one who begins to wait meanwhile raises `asked` too,
        // and the exchange fails. So nobody's question is taken back but one too many.
        let _ = asked.fetch_update(Ordering::AcqRel, Ordering::Acquire, |asked| {
            let waiting = waiting.load(Ordering::Acquire);
            (asked > waiting).then_some(waiting)
        });
    }
}

/// The upstream bears no more at present.
fn crowded(limit: usize) -> Error {
    Error::new(Reason::ConcurrencyLimit, "")
        .detail(format!("{limit} requests at once, by how long they take"))
        .replay(Replay::NeverSent)
}

#[derive(Debug)]
struct Counter {
    used: AtomicUsize,
    max: AtomicUsize,
}

impl Counter {
    const fn new(max: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
        }
    }

    fn acquire(&self) -> bool {
        // Adding first is one step instead of a loop; that two who fail at once may make a third
        // fail who would just have fitted is no harm at a limit.
        if self.used.fetch_add(1, Ordering::Relaxed) < self.max.load(Ordering::Relaxed) {
            return true;
        }
        self.release();
        false
    }

    fn release(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    fn full(&self, reason: Reason, what: &str) -> Error {
        let max = self.max.load(Ordering::Relaxed);
        Error::new(reason, "")
            .detail(format!("limit of {max} {what}"))
            .replay(Replay::NeverSent)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc, sync::Barrier, thread};

    use tokio::{runtime::LocalRuntime, task::yield_now};

    use super::*;

    fn limits(connections: usize, pending: usize, requests: usize) -> Arc<Limits> {
        Limits::new(model::Limits {
            connections,
            pending,
            requests,
            retries: 1,
            adaptive: false,
        })
    }

    /// Runs `work` on so many threads, each a worker of its own.
    fn on_workers<F: Future<Output = ()>>(count: usize, work: impl Fn(usize) -> F + Sync) {
        thread::scope(|scope| {
            for worker in 0..count {
                let work = &work;
                scope.spawn(move || LocalRuntime::new().unwrap().block_on(work(worker)));
            }
        });
    }

    #[test]
    fn requests_and_pending_stop_at_their_limits() {
        let limits = limits(1, 1, 2);
        let first = limits.request().unwrap();
        let _second = limits.request().unwrap();
        let error = limits.request().unwrap_err();
        assert_eq!(
            (error.reason, error.replay),
            (Reason::RequestLimit, Replay::NeverSent)
        );
        drop(first);
        limits.request().unwrap();

        let waiting = limits.pending().unwrap();
        assert_eq!(limits.pending().unwrap_err().reason, Reason::PendingLimit);
        drop(waiting);
        limits.pending().unwrap();
    }

    #[tokio::test]
    async fn below_the_limit_nobody_is_pending() {
        let limits = limits(2, 0, 0);
        let first = limits.connection().await.unwrap();
        let _second = limits.connection().await.unwrap();
        assert_eq!(
            limits.connection().await.unwrap_err().reason,
            Reason::PendingLimit
        );
        drop(first);
        limits.connection().await.unwrap();
        assert_eq!(limits.connections(), 1);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_leaves_nothing_behind() {
        let limits = limits(1, 9, 0);
        let held = limits.connection().await.unwrap();
        let mut ask = limits.subscribe();
        {
            let mut wait = std::pin::pin!(limits.connection());
            tokio::select! {
                biased;
                _ = &mut wait => panic!("above the limit"),
                () = yield_now() => {}
            }
            ask.changed().await.unwrap();
            assert!(limits.connection_wanted());
            assert_eq!(limits.pending_requests(), 1);
        }
        assert_eq!(limits.pending_requests(), 0);
        assert!(!limits.give_up_one());
        drop(held);
        assert!(limits.try_connection().is_some());
    }

    #[test]
    fn changed_limits_count_what_is_held() {
        let limits = limits(3, 9, 9);
        let set = |connections| {
            limits.set(model::Limits {
                connections,
                pending: 9,
                requests: 9,
                retries: 9,
                adaptive: false,
            });
        };
        let mut held: Vec<_> = (0..3).map(|_| limits.try_connection().unwrap()).collect();
        set(1);
        held.truncate(1);
        assert!(limits.try_connection().is_none());
        set(2);
        held.push(limits.try_connection().unwrap());
        assert!(limits.try_connection().is_none());
        set(usize::MAX);
        held.push(limits.try_connection().unwrap());
        held.clear();
        set(1);
        assert!(limits.try_connection().is_some());
        assert_eq!(limits.connections(), 0);
    }

    #[tokio::test]
    async fn a_lowered_limit_does_not_eat_what_was_given_up_for_a_waiter() {
        let limits = limits(3, 9, 9);
        let mut idle: Vec<_> = (0..3).map(|_| limits.try_connection().unwrap()).collect();
        limits.set(model::Limits {
            connections: 1,
            pending: 9,
            requests: 9,
            retries: 9,
            adaptive: false,
        });
        let mut wait = std::pin::pin!(limits.connection());
        loop {
            tokio::select! {
                biased;
                granted = &mut wait => break drop(granted.unwrap()),
                () = yield_now() => {}
            }
            assert!(limits.give_up_one(), "with {} idle", idle.len());
            idle.pop();
        }
        assert!(idle.is_empty());
    }

    #[test]
    fn the_limit_holds_and_every_waiter_is_served() {
        let limits = limits(3, 1000, 1000);
        on_workers(4, |_| async {
            for _ in 0..500 {
                let permit = limits.connection().await.unwrap();
                assert!(limits.connections() <= 3);
                yield_now().await;
                drop(permit);
            }
        });
        assert_eq!(limits.connections(), 0);
        assert_eq!(limits.pending_requests(), 0);
        assert!(!limits.connection_wanted());
    }

    type Pool = Rc<RefCell<Vec<ConnectionPermit>>>;

    /// What a pool does in the background.
    async fn sweep(limits: Arc<Limits>, pool: Pool) {
        let mut ask = limits.subscribe();
        while ask.changed().await.is_ok() {
            while !pool.borrow().is_empty() && limits.give_up_one() {
                pool.borrow_mut().pop();
            }
        }
    }

    async fn take(limits: &Arc<Limits>, pool: &Pool) -> ConnectionPermit {
        let idle = pool.borrow_mut().pop();
        match idle {
            Some(connection) => connection,
            None => limits.connection().await.unwrap(),
        }
    }

    fn give_back(limits: &Limits, pool: &Pool, connection: ConnectionPermit) {
        if !limits.give_up_one() {
            pool.borrow_mut().push(connection);
        }
    }

    /// One worker has every connection idle in its pool and nothing more to do; the others get on
    /// only if it gives them up. And so on, since each of them keeps its last one in its pool.
    #[test]
    fn idle_connections_of_one_worker_do_not_starve_another() {
        for _ in 0..50 {
            let limits = limits(2, 1000, 1000);
            let ready = Barrier::new(4);
            let done = watch::Sender::new(0);
            on_workers(4, |worker| {
                let (limits, ready, done) = (&limits, &ready, &done);
                async move {
                    let pool = Pool::default();
                    let sweeper = tokio::task::spawn_local(sweep(limits.clone(), pool.clone()));
                    if worker == 0 {
                        pool.borrow_mut().extend(limits.try_connection());
                        pool.borrow_mut().extend(limits.try_connection());
                    }
                    ready.wait();
                    if worker > 0 {
                        for _ in 0..20 {
                            let connection = take(limits, &pool).await;
                            yield_now().await;
                            give_back(limits, &pool, connection);
                        }
                    }
                    done.send_modify(|done| *done += 1);
                    done.subscribe().wait_for(|&done| done == 4).await.unwrap();
                    sweeper.abort();
                }
            });
            assert_eq!(limits.connections(), 0);
            assert!(!limits.connection_wanted());
        }
    }
}
