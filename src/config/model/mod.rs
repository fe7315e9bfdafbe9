//! A configuration with every name resolved and every default filled in.
//!
//! Nothing here is optional unless its absence means something to the data plane. The types
//! serialize to what `GET /config` shows, so that an operator sees the value in force for every
//! key, written or not. Two equal values behave equally: a reload compares them to decide what to
//! carry over.

mod access;
mod access_log;
mod balancing;
mod checks;
mod fallback;
mod fault;
mod health;
mod metrics;
mod otlp;
mod protect;
mod retry;
mod tls;
mod tracing;
mod upstream;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::{Serialize, Serializer};

use crate::telemetry::{Redaction, attributes::LONGEST};

pub use self::{
    access::*, access_log::*, balancing::*, checks::*, fallback::*, fault::*, health::*,
    metrics::*, otlp::*, protect::*, retry::*, tls::*, tracing::*, upstream::*,
};

/// One whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    pub admin: Admin,
    pub access_log: AccessLog,
    pub metrics: Metrics,
    /// What the access log and spans do not show.
    pub redact: Arc<Redaction>,
    pub otlp: Otlp,
    /// `None`: no request is traced.
    pub tracing: Option<Arc<Tracing>>,
    pub drain: Drain,
    /// Where this process runs.
    pub zone: Option<Arc<str>>,
    pub identity: Option<Identity>,
    pub trust: Vec<Trust>,
    pub listeners: Vec<Arc<Listener>>,
    /// HTTP routes; a listener serves those whose `listeners` name it.
    pub routes: Vec<Arc<Route>>,
    /// Who may call what, in the order of the files.
    pub access: Vec<Arc<AccessRule>>,
    /// Whose tokens `access` may ask for.
    pub jwt_providers: Vec<Arc<JwtProvider>>,
    pub upstreams: Vec<Arc<Upstream>>,
}

impl Config {
    /// Characters that the value of a span's attribute may have.
    pub fn span_value_length(&self) -> usize {
        let tracing = self.tracing.as_ref();
        tracing.map_or(LONGEST, |tracing| tracing.value_length)
    }
}

/// Where the process answers about itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Admin {
    /// Everything, the mutating requests included. `None`: no admin server.
    pub address: Option<SocketAddr>,
    /// Only `/livez`, `/readyz` and `/metrics`; may be a public address, for the kubelet.
    pub probes: Option<SocketAddr>,
}

/// How the process leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// Not ready, but still accepting, for this long.
    #[serde(serialize_with = "duration")]
    pub delay: Duration,
    /// From the signal; what is still in flight then is cut.
    #[serde(serialize_with = "duration")]
    pub deadline: Duration,
}

/// A socket that takes connections.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    pub name: Arc<str>,
    pub address: Address,
    /// Connections beyond this are closed as they are accepted.
    pub max_connections: usize,
    /// Every connection must begin with a PROXY protocol header (v1 or v2).
    pub proxy_protocol: bool,
    pub tls: Option<ListenerTls>,
    pub kind: ListenerKind,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerKind {
    Http(Box<HttpListener>),
    Tcp(TcpListener),
}

/// Opaque bytes to one upstream.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpListener {
    pub upstream: Arc<str>,
    /// No byte in either direction for this long ends the connection.
    #[serde(serialize_with = "duration")]
    pub idle_timeout: Duration,
    /// The same once one side has said it sends no more.
    #[serde(serialize_with = "duration")]
    pub half_close_timeout: Duration,
}

/// HTTP/1.1 and HTTP/2 with prior knowledge, told apart by their first bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpListener {
    /// Largest request head, in bytes.
    pub max_head_size: usize,
    /// From its first byte (or from accept, for the first) to the end of a request head.
    #[serde(serialize_with = "duration")]
    pub head_timeout: Duration,
    /// An HTTP/1.1 connection with no request for this long is closed.
    #[serde(serialize_with = "duration")]
    pub keep_alive_timeout: Duration,
    /// An HTTP/2 connection with no stream for this long is closed.
    #[serde(serialize_with = "duration")]
    pub http2_idle_timeout: Duration,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS` offered to clients.
    pub max_concurrent_streams: u32,
    /// Whether `CONNECT host:port` may open a tunnel to the matched route's upstream.
    pub allow_connect: bool,
    /// Proxies in front that are trusted to have appended to `X-Forwarded-For` and `Forwarded`.
    /// With 0 the peer's own forwarding headers and `x-pillion-*` headers are dropped.
    pub trusted_hops: u8,
    pub forwarded: ForwardedHeaders,
    /// Append to `Via`, and refuse a request that has passed here three times.
    pub via: bool,
    pub path: PathPolicy,
    /// Where requests go that no route takes.
    pub upstream: Option<Arc<str>>,
}

/// Which forwarding headers are written towards the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ForwardedHeaders {
    /// `X-Forwarded-For`, `-Proto`, `-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    Both,
    /// None is added; the peer's are still dropped when it is not trusted.
    Off,
}

/// What becomes of the forms of a path that servers disagree about. Dot segments are always
/// removed and unreserved `%XX` always decoded (RFC 3986 section 6.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathPolicy {
    pub escaped_slash: EscapedSlash,
    pub backslash: Backslash,
    pub merge_slashes: bool,
}

/// `%2F` (and `%5C`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EscapedSlash {
    Keep,
    Decode,
    Reject,
}

/// A literal `\`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Backslash {
    Keep,
    Slash,
    Reject,
}

/// Rules with the meaning of a Gateway API `HTTPRoute` (v1).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    pub name: Arc<str>,
    /// Names of the HTTP listeners that serve it; resolved, never empty.
    pub listeners: Vec<Arc<str>>,
    /// Empty: any host.
    pub hostnames: Vec<Hostname>,
    pub rules: Vec<Rule>,
}

/// A host name in lower case without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Hostname {
    Exact(Arc<str>),
    /// `*.example.com` is kept as `example.com`: one or more labels before it.
    Wildcard(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `route/index` unless written.
    pub name: Arc<str>,
    /// Any of these; never empty (the default is the prefix `/`).
    pub matches: Vec<Match>,
    pub filters: Filters,
    pub action: Action,
    pub timeouts: Timeouts,
    /// A header by which a client says how long it will wait.
    #[serde(serialize_with = "option_display")]
    pub deadline_header: Option<HeaderName>,
    pub retry: Retry,
    pub importance: Importance,
    /// In place of that of [`Tracing`].
    pub sampling: Option<Sampling>,
    pub fallback: Option<Fallback>,
}

impl Rule {
    /// The paths that it is for, if all of its matches are for the same: `/items`, or `/items/*` for
    /// all that begins so.
    pub fn pattern(&self) -> Option<Arc<str>> {
        let (first, others) = self.matches.split_first()?;
        if others.iter().any(|other| other.path != first.path) {
            return None;
        }
        Some(match &first.path {
            PathMatch::Exact(path) => Arc::clone(path),
            PathMatch::Prefix(path) => format!("{}/*", path.trim_end_matches('/')).into(),
            PathMatch::Regex(Pattern(regex)) => regex.as_str().into(),
        })
    }

    /// One that says nothing else.
    pub fn plain(name: &str, matches: Vec<Match>, action: Action) -> Self {
        Self {
            name: name.into(),
            matches,
            filters: Filters::default(),
            action,
            timeouts: Timeouts::default(),
            deadline_header: None,
            retry: Retry::default(),
            importance: Importance::default(),
            sampling: None,
            fallback: None,
        }
    }
}

/// All of these.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    pub path: PathMatch,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    #[serde(serialize_with = "option_display")]
    pub method: Option<Method>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    Exact(Arc<str>),
    /// Whole segments: `/a` matches `/a` and `/a/b`, not `/ab`. Without a trailing slash,
    /// unless it is `/`.
    Prefix(Arc<str>),
    /// Anchored at both ends.
    Regex(Pattern),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeaderMatch {
    #[serde(serialize_with = "display")]
    pub name: HeaderName,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueryMatch {
    pub name: Arc<str>,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ValueMatch {
    Exact(Arc<str>),
    /// Anchored at both ends.
    Regex(Pattern),
}

/// A regular expression that has compiled, compared by its text.
#[derive(Clone, Debug)]
pub struct Pattern(pub regex::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

/// What is done to a request and its response, in this order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Filters {
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    pub rewrite: Rewrite,
    pub mirrors: Vec<Mirror>,
    pub rate_limit: Option<RateLimit>,
    pub fault: Option<Fault>,
}

/// `set` replaces, `add` appends, `remove` drops; in the order remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeaderEdits {
    #[serde(serialize_with = "header_pairs")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    #[serde(serialize_with = "header_pairs")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    #[serde(serialize_with = "display_all")]
    pub remove: Vec<HeaderName>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathRewrite>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    Full(Arc<str>),
    /// Replaces what the matched `Prefix` covered. May be empty.
    Prefix(Arc<str>),
}

/// A copy of a share of the requests, its answer thrown away.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    pub upstream: Arc<str>,
    /// Of a million.
    pub share: u32,
    /// Bodies beyond this many buffered bytes end the copy, never the request.
    pub max_buffered_bytes: usize,
    /// Requests beyond this many copies under way are not copied.
    pub max_in_flight: usize,
}

/// What answers a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Weighted; never empty, weights never all zero.
    Forward(Vec<Backend>),
    Redirect(Redirect),
    Respond(DirectResponse),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Backend {
    pub upstream: Arc<str>,
    pub weight: u32,
    pub filters: BackendFilters,
}

/// Header edits for the requests that go to one backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendFilters {
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Redirect {
    pub scheme: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    #[serde(serialize_with = "display")]
    pub status: StatusCode,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectResponse {
    #[serde(serialize_with = "display")]
    pub status: StatusCode,
    pub body: Arc<str>,
    #[serde(serialize_with = "header_value")]
    pub content_type: HeaderValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// From the first byte of the request to the head of the response. Zero: none.
    #[serde(serialize_with = "duration")]
    pub request: Duration,
    /// No frame of a body in either direction for this long ends the exchange. Zero: none.
    #[serde(serialize_with = "duration")]
    pub idle: Duration,
    /// From the first byte of the request to the end of the response. Zero: none.
    #[serde(serialize_with = "duration")]
    pub total: Duration,
    /// From the beginning of an attempt to the head of its response. Zero: none.
    #[serde(serialize_with = "duration")]
    pub attempt: Duration,
}

impl Default for Timeouts {
    /// Those of a route that says nothing.
    fn default() -> Self {
        Self {
            request: Duration::from_secs(15),
            idle: Duration::from_secs(5 * 60),
            total: Duration::ZERO,
            attempt: Duration::ZERO,
        }
    }
}

/// A place that can be bound or connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&super::units::Duration(*value))
}

fn display<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn option_display<T: ToString, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value
        .as_ref()
        .map(ToString::to_string)
        .serialize(serializer)
}

fn display_all<T: ToString, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(ToString::to_string))
}

fn header_value<S: Serializer>(value: &HeaderValue, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(value.as_bytes()))
}

fn header_pairs<S: Serializer>(
    pairs: &[(HeaderName, HeaderValue)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(
        pairs
            .iter()
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()))),
    )
}
