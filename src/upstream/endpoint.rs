//! One place that requests can go to, and what all workers know about it.

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    balancer::{Ewma, Ramp},
    health::{Health, Probe},
    idle_age::IdleAge,
};
use crate::telemetry::{attributes::Block, metrics::EndpointMetrics};

/// Unique in this process, never used twice: a pool may key by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(u64);

impl EndpointId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an endpoint that has not been measured is taken to need, when somebody is tired of waiting.
const UNKNOWN: Duration = Duration::from_secs(1);

/// How an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Tcp {
        /// What the endpoint is known by.
        address: SocketAddr,
        /// An address of the other family under the same name, tried beside a slow or failing
        /// `address` (RFC 8305).
        alternative: Option<SocketAddr>,
    },
    Unix(PathBuf),
}

impl Target {
    /// A target with nothing to fall back to.
    pub const fn tcp(address: SocketAddr) -> Self {
        Self::Tcp {
            address,
            alternative: None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One place that requests can go to. Shared by all workers and by every endpoint set and every
/// generation of the configuration that knows it, so that what was learned about it survives.
#[derive(Debug)]
pub struct Endpoint {
    pub id: EndpointId,
    pub target: Target,
    /// The address as text, for logs and metrics.
    pub label: Arc<str>,
    /// The name that led to it, where it was one.
    pub host: Option<Arc<str>>,
    /// Requests in flight in the lower half, all that ever began (it wraps) in the upper one: both
    /// for one step of one counter.
    requests: AtomicU64,
    pub(super) ewma: Ewma,
    pub(super) health: Health,
    /// Begins whenever the endpoint is to get its load little by little.
    pub(super) ramp: Ramp,
    /// The alternative won the last race: where one family leads nowhere, only the first connection
    /// has to wait to find that out.
    pub(super) alternative_first: AtomicBool,
    /// How long it keeps idle connections.
    pub(super) idle_age: Arc<IdleAge>,
    /// Made for the first attempt.
    pub metrics: OnceLock<Arc<EndpointMetrics>>,
    /// Asked for the best it speaks, it chose HTTP/1.1: nothing there can be shared.
    pub(super) only_http1: AtomicBool,
    /// What spans of attempts at it have in common.
    pub(crate) told: OnceLock<Block>,
}

impl Endpoint {
    pub fn new(target: Target, now: Instant) -> Arc<Self> {
        Self::named(target, None, now)
    }

    /// The same, found under a name.
    pub fn named(target: Target, host: Option<Arc<str>>, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            host,
            id: EndpointId::next(),
            label: target.to_string().into(),
            target,
            requests: AtomicU64::new(0),
            ewma: Ewma::new(now),
            health: Health::new(),
            ramp: Ramp::new(now),
            alternative_first: AtomicBool::new(false),
            idle_age: Arc::default(),
            metrics: OnceLock::new(),
            only_http1: AtomicBool::new(false),
            told: OnceLock::new(),
        })
    }

    /// Whether it takes requests: neither its breaker nor a health check speaks against it.
    pub fn is_available(&self) -> bool {
        self.health.is_available()
    }

    /// Requests in flight, over all workers. A hint: it may be old by the time it is used.
    pub fn active(&self) -> u32 {
        self.requests.load(Ordering::Relaxed) as u32
    }

    /// Requests that ever began.
    pub(super) fn started(&self) -> Started {
        Started((self.requests.load(Ordering::Relaxed) >> 32) as u32)
    }

    /// The estimate of the time to a response head; `None` before the first one.
    pub fn latency(&self) -> Option<Duration> {
        self.ewma.estimate()
    }
}

/// How many requests have begun; it wraps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started(pub(super) u32);

/// One request in [`Endpoint::requests`].
const ONE_ACTIVE: u64 = 1;
const ONE_STARTED: u64 = 1 << 32;

/// What an attempt says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Success,
    /// No connection could be made.
    Unreachable,
    /// It was reached and failed: reset, timed out, answered with a failure of its own.
    Failure,
    /// It answered, but that is no news of its health (429, RESOURCE_EXHAUSTED): neither a failure
    /// nor a sign of recovery.
    Neutral,
}

/// What a request asks of the endpoint that is picked for it.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Tried already: avoided while there are others.
    pub tried: &'a [EndpointId],
    /// Requests of one key keep to one endpoint, where the balancer hashes.
    pub key: Option<u64>,
    /// It can be sent again if it fails, so that it may be spent on finding out whether an endpoint
    /// is well again.
    pub idempotent: bool,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self {
            tried: &[],
            key: None,
            idempotent: true,
        }
    }
}

/// A request (or a forwarded TCP connection) on its way to an endpoint: counted as active until
/// this is dropped, which should be when the response's body has ended.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    started: Instant,
    /// It is to find out whether its endpoint is well again.
    probe: Option<Probe>,
    settled: Cell<bool>,
    crosses: Option<bool>,
}

impl InFlight {
    /// Counts a request against `endpoint` from `now` on.
    pub fn start(endpoint: Arc<Endpoint>, now: Instant) -> Self {
        Self::begin(endpoint, None, now)
    }

    /// The same for one that is a probe.
    pub(super) fn probing(endpoint: Arc<Endpoint>, probe: Probe, now: Instant) -> Self {
        Self::begin(endpoint, Some(probe), now)
    }

    fn begin(endpoint: Arc<Endpoint>, probe: Option<Probe>, now: Instant) -> Self {
        let one = ONE_STARTED + ONE_ACTIVE;
        endpoint.requests.fetch_add(one, Ordering::Relaxed);
        Self {
            endpoint,
            started: now,
            probe,
            settled: Cell::new(false),
            crosses: None,
        }
    }

    /// The same where a zone was chosen.
    pub(super) fn zoned(mut self, crosses: Option<bool>) -> Self {
        self.crosses = crosses;
        self
    }

    /// Whether it leaves the zone of this process; `None` where there was no choice between zones.
    pub const fn crosses_zones(&self) -> Option<bool> {
        self.crosses
    }

    pub const fn started(&self) -> Instant {
        self.started
    }

    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The head of the response is here: the time since the pick goes into the estimate, and
    /// earlier failures are forgiven.
    pub fn head_received(&self, now: Instant) {
        self.observe(now.saturating_duration_since(self.started), now);
    }

    /// The same with a duration measured elsewhere.
    pub fn observe(&self, rtt: Duration, now: Instant) {
        self.endpoint.ewma.observe(rtt, now);
        self.endpoint.health.timed(rtt);
    }

    /// The attempt was cut before its outcome: it would have taken longer than this. That is news
    /// only if it is worse than what is known.
    pub fn cut(&self, now: Instant) {
        let waited = now.saturating_duration_since(self.started);
        if waited > self.endpoint.latency().unwrap_or(UNKNOWN) {
            self.observe(waited, now);
        }
    }

    /// What came of the attempt. One that is dropped without this, cut by its client say, says
    /// nothing of the endpoint.
    pub fn settle(&self, verdict: Verdict, now: Instant) {
        match verdict {
            // Without this an endpoint that fails fast would look fast and draw all requests to
            // itself.
            Verdict::Unreachable | Verdict::Failure => self.endpoint.ewma.failed(now),
            Verdict::Success | Verdict::Neutral => {}
        }
        self.tell(Some(verdict), now);
    }

    /// Tells it to the breaker, once.
    fn tell(&self, verdict: Option<Verdict>, now: Instant) {
        if self.settled.replace(true) {
            return;
        }
        let Endpoint { id, health, .. } = &*self.endpoint;
        match self.probe {
            Some(probe) => health.probed(*id, probe, verdict, now),
            None => health.settle(*id, self.started, verdict, now),
        }
    }

    /// Whether it is the one request that finds out if its endpoint is well again.
    pub const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.settled.get() {
            self.tell(None, Instant::now());
        }
        self.endpoint
            .requests
            .fetch_sub(ONE_ACTIVE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_attempt_tells_only_bad_news() {
        let start = Instant::now();
        let endpoint = Endpoint::new(Target::tcp(([127, 0, 0, 1], 1).into()), start);
        let in_flight = InFlight::start(Arc::clone(&endpoint), start);
        in_flight.cut(start + Duration::from_millis(5));
        assert_eq!(endpoint.latency(), None);
        in_flight.cut(start + Duration::from_secs(15));
        assert_eq!(endpoint.latency(), Some(Duration::from_secs(15)));
        in_flight.cut(start + Duration::from_secs(2));
        assert_eq!(endpoint.latency(), Some(Duration::from_secs(15)));
    }
}
