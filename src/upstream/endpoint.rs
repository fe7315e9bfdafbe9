//! One place that requests can go to, and what all workers know about it.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::balancer::Ewma;

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
    active: AtomicU32,
    pub(super) ewma: Ewma,
    /// The alternative won the last race: where one family leads nowhere, only the first connection
    /// has to wait to find that out.
    pub(super) alternative_first: AtomicBool,
    /// Asked for the best it speaks, it chose HTTP/1.1: nothing there can be shared.
    pub(super) only_http1: AtomicBool,
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
            active: AtomicU32::new(0),
            ewma: Ewma::new(now),
            alternative_first: AtomicBool::new(false),
            only_http1: AtomicBool::new(false),
        })
    }

    /// Requests in flight, over all workers. A hint: it may be old by the time it is used.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// The estimate of the time to a response head; `None` before the first one.
    pub fn latency(&self) -> Option<Duration> {
        self.ewma.estimate()
    }
}

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
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Tried already: avoided while there are others.
    pub tried: &'a [EndpointId],
    /// Requests of one key keep to one endpoint, where the balancer hashes.
    pub key: Option<u64>,
}

/// A request (or a forwarded TCP connection) on its way to an endpoint: counted as active until
/// this is dropped, which should be when the response's body has ended.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    started: Instant,
}

impl InFlight {
    /// Counts a request against `endpoint` from `now` on.
    pub fn start(endpoint: Arc<Endpoint>, now: Instant) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self {
            endpoint,
            started: now,
        }
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
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
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
