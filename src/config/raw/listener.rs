//! `listeners`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ListenerTls;
use crate::config::{
    decode::At,
    units::{Count, Duration, Size},
};

/// A socket that takes connections.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Listener {
    /// What routes, logs and metrics call it. The address unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<At<String>>,
    /// `IP:port`, `[IPv6]:port` or `unix:PATH`. Port 0 takes a free one.
    pub(crate) address: At<String>,
    /// What is spoken on it.
    #[serde(default)]
    pub(crate) protocol: ListenerProtocol,
    /// Name of an upstream. With `protocol: tcp` every connection goes there, and it is required;
    /// with `protocol: http` every request that no route takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<At<String>>,
    /// Whether every connection begins with a PROXY protocol header, version 1 or 2. One that
    /// doesn't is closed.
    #[serde(default)]
    pub(crate) proxy_protocol: bool,
    /// TLS towards clients. Plaintext unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<At<ListenerTls>>,
    /// Connections at the same time; more are closed as they are accepted.
    #[serde(default = "max_connections")]
    pub(crate) max_connections: Count<1, 10_000_000>,
    /// Settings of an HTTP listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<At<HttpOptions>>,
    /// Settings of a TCP listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcp: Option<At<TcpOptions>>,
}

fn max_connections() -> Count<1, 10_000_000> {
    Count(50_000)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ListenerProtocol {
    /// HTTP/1.1, HTTP/1.0 and HTTP/2 with prior knowledge, told apart by the first bytes.
    #[default]
    Http,
    /// Opaque bytes.
    Tcp,
}

/// Settings of an HTTP listener.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct HttpOptions {
    /// Largest request head, from 8KiB to 1MiB. A larger one is answered with 431.
    pub(crate) max_head_size: At<Size>,
    /// From the first byte of a request head (for the first one: from accept) to its end. More
    /// than 0s.
    pub(crate) head_timeout: At<Duration>,
    /// An HTTP/1.1 connection without a request for this long is closed. More than 0s.
    pub(crate) keep_alive_timeout: At<Duration>,
    /// An HTTP/2 connection without a stream for this long is closed. More than 0s.
    pub(crate) http2_idle_timeout: At<Duration>,
    /// HTTP/2 streams that a client may have open on one connection.
    pub(crate) max_concurrent_streams: Count<1, 65_536>,
    /// Whether `CONNECT host:port` opens a tunnel to the upstream of the route that it matches.
    pub(crate) allow_connect: bool,
    /// How many proxies in front are trusted to have appended to `X-Forwarded-For` and
    /// `Forwarded`. With 0 the client's own forwarding headers and `x-pillion-*` headers are
    /// dropped.
    pub(crate) trusted_hops: Count<0, 255>,
    /// Which forwarding headers the upstream gets.
    pub(crate) forwarded: ForwardedHeaders,
    /// Whether `Via` is appended to, and a request refused that has passed here three times.
    pub(crate) via: bool,
    /// What becomes of forms of a path that servers disagree about.
    pub(crate) path: PathOptions,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            max_head_size: Size(64 << 10).into(),
            head_timeout: Duration::secs(10).into(),
            keep_alive_timeout: Duration::secs(60).into(),
            http2_idle_timeout: Duration::secs(3600).into(),
            max_concurrent_streams: Count(100),
            allow_connect: false,
            trusted_hops: Count(0),
            forwarded: ForwardedHeaders::XForwarded,
            via: true,
            path: PathOptions::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ForwardedHeaders {
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// All of them.
    Both,
    /// None is added; a client's own are still dropped unless it is trusted.
    Off,
}

/// Forms of a path that servers disagree about. Dot segments are always removed and unreserved
/// `%XX` always decoded (RFC 3986 section 6.2.2); the same form is matched and forwarded.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct PathOptions {
    /// What becomes of `%2F` and `%5C`.
    pub(crate) escaped_slash: EscapedSlash,
    /// What becomes of a literal `\`.
    pub(crate) backslash: Backslash,
    /// Whether `//` becomes `/`.
    pub(crate) merge_slashes: bool,
}

impl Default for PathOptions {
    fn default() -> Self {
        Self {
            escaped_slash: EscapedSlash::Keep,
            backslash: Backslash::Reject,
            merge_slashes: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum EscapedSlash {
    /// It stays as it is.
    Keep,
    /// It becomes a `/` or `\` before dot segments are removed.
    Decode,
    /// The request is refused with 400.
    Reject,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Backslash {
    /// It stays as it is.
    Keep,
    /// It becomes a `/`.
    Slash,
    /// The request is refused with 400.
    Reject,
}

/// Settings of a TCP listener.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct TcpOptions {
    /// No byte in either direction for this long ends the connection. More than 0s.
    pub(crate) idle_timeout: At<Duration>,
    /// The same once one side has said that it sends no more. More than 0s.
    pub(crate) half_close_timeout: At<Duration>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::secs(3600).into(),
            half_close_timeout: Duration::secs(300).into(),
        }
    }
}
