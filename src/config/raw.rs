//! What may be written: every key, its meaning, its unit, its default.
//!
//! The comments here are the descriptions of the JSON Schema and of `docs/configuration.md`, and
//! the `Default`s are the only place where a default stands.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    decode::At,
    units::{Count, Duration, Size},
};

/// A configuration of Pillion. `${NAME}` and `${NAME:-default}` inside a value are replaced from
/// the environment; `$${` stands for `${`. Relative paths are relative to the file they stand in.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Pillion configuration")]
pub(super) struct Config {
    /// Where the process answers about itself.
    #[serde(default)]
    pub(super) admin: At<Admin>,
    /// One line a request.
    #[serde(default)]
    pub(super) access_log: At<AccessLog>,
    /// How the process leaves after SIGTERM, SIGINT or `POST /drain`.
    #[serde(default)]
    pub(super) drain: At<Drain>,
    /// The sockets that take connections. At least one, at most 256.
    pub(super) listeners: At<Vec<At<Listener>>>,
    /// What HTTP listeners do with requests: the rule semantics of a Gateway API HTTPRoute.
    #[serde(default)]
    pub(super) routes: At<Vec<At<Route>>>,
    /// The services that requests and connections are sent to.
    #[serde(default)]
    pub(super) upstreams: At<Vec<At<Upstream>>>,
}

/// The admin server and the probes.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Admin {
    /// IP address and port of the admin server, or `off`. It answers everything, the requests
    /// that change something included: keep it on loopback. Port 0 takes a free one.
    pub(super) address: At<String>,
    /// IP address and port of a second server with only `/livez`, `/readyz` and `/metrics`,
    /// which may be public, for the kubelet. None unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) probes: Option<At<String>>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:9901".to_owned().into(),
            probes: None,
        }
    }
}

/// The access log.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct AccessLog {
    /// Whether requests are logged.
    pub(super) enabled: bool,
    /// One JSON object a line, or a line of text.
    pub(super) format: LogFormat,
    /// `stdout`, `stderr` or the path of a file to append to.
    pub(super) output: At<String>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            enabled: true,
            format: LogFormat::Json,
            output: "stdout".to_owned().into(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One line of text in the order that Envoy's users know.
    Text,
}

/// Leaving without dropping a request.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Drain {
    /// Not ready but still accepting for this long, so that load balancers notice first. Not
    /// longer than `deadline`.
    pub(super) delay: At<Duration>,
    /// Counted from the signal; what is still in flight then is cut.
    pub(super) deadline: At<Duration>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            delay: Duration::secs(0).into(),
            deadline: Duration::secs(30).into(),
        }
    }
}

/// A socket that takes connections.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Listener {
    /// What routes, logs and metrics call it. The address unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<At<String>>,
    /// `IP:port`, `[IPv6]:port` or `unix:PATH`. Port 0 takes a free one.
    pub(super) address: At<String>,
    /// What is spoken on it.
    #[serde(default)]
    pub(super) protocol: ListenerProtocol,
    /// Name of an upstream. With `protocol: tcp` every connection goes there, and it is required;
    /// with `protocol: http` every request that no route takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<At<String>>,
    /// Whether every connection begins with a PROXY protocol header, version 1 or 2. One that
    /// doesn't is closed.
    #[serde(default)]
    pub(super) proxy_protocol: bool,
    /// Connections at the same time; more are closed as they are accepted.
    #[serde(default = "max_connections")]
    pub(super) max_connections: Count<1, 10_000_000>,
    /// Settings of an HTTP listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http: Option<At<HttpOptions>>,
    /// Settings of a TCP listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tcp: Option<At<TcpOptions>>,
}

fn max_connections() -> Count<1, 10_000_000> {
    Count(50_000)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum ListenerProtocol {
    /// HTTP/1.1, HTTP/1.0 and HTTP/2 with prior knowledge, told apart by the first bytes.
    #[default]
    Http,
    /// Opaque bytes.
    Tcp,
}

/// Settings of an HTTP listener.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct HttpOptions {
    /// Largest request head, from 8KiB to 1MiB. A larger one is answered with 431.
    pub(super) max_head_size: At<Size>,
    /// From the first byte of a request head (for the first one: from accept) to its end. More
    /// than 0s.
    pub(super) head_timeout: At<Duration>,
    /// An HTTP/1.1 connection without a request for this long is closed. More than 0s.
    pub(super) keep_alive_timeout: At<Duration>,
    /// An HTTP/2 connection without a stream for this long is closed. More than 0s.
    pub(super) http2_idle_timeout: At<Duration>,
    /// HTTP/2 streams that a client may have open on one connection.
    pub(super) max_concurrent_streams: Count<1, 65_536>,
    /// Whether `CONNECT host:port` opens a tunnel to the upstream of the route that it matches.
    pub(super) allow_connect: bool,
    /// How many proxies in front are trusted to have appended to `X-Forwarded-For` and
    /// `Forwarded`. With 0 the client's own forwarding headers and `x-pillion-*` headers are
    /// dropped.
    pub(super) trusted_hops: Count<0, 255>,
    /// Which forwarding headers the upstream gets.
    pub(super) forwarded: ForwardedHeaders,
    /// Whether `Via` is appended to, and a request refused that has passed here three times.
    pub(super) via: bool,
    /// What becomes of forms of a path that servers disagree about.
    pub(super) path: PathOptions,
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
pub(super) enum ForwardedHeaders {
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// All of them.
    Both,
    /// None is added; a client's own are still dropped unless it is trusted.
    Off,
}

/// Forms of a path that servers disagree about. Dot segments are always removed and unreserved `%XX` always decoded (RFC 3986 section 6.2.2);
/// the same form is matched and forwarded.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct PathOptions {
    /// What becomes of `%2F` and `%5C`.
    pub(super) escaped_slash: EscapedSlash,
    /// What becomes of a literal `\`.
    pub(super) backslash: Backslash,
    /// Whether `//` becomes `/`.
    pub(super) merge_slashes: bool,
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
pub(super) enum EscapedSlash {
    /// It stays as it is.
    Keep,
    /// It becomes a `/` or `\` before dot segments are removed.
    Decode,
    /// The request is refused with 400.
    Reject,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Backslash {
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
pub(super) struct TcpOptions {
    /// No byte in either direction for this long ends the connection. More than 0s.
    pub(super) idle_timeout: At<Duration>,
    /// The same once one side has said that it sends no more. More than 0s.
    pub(super) half_close_timeout: At<Duration>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::secs(3600).into(),
            half_close_timeout: Duration::secs(300).into(),
        }
    }
}

/// Rules for the requests to some host names, with the meaning of a Gateway API HTTPRoute (v1).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Route {
    /// What logs and metrics call it. `route-N` (from 0) unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<At<String>>,
    /// Names of the HTTP listeners that serve it. All of them unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listeners: Option<At<Vec<At<String>>>>,
    /// Host names without a port; `*.example.com` stands for one or more labels. Any host unless
    /// written. The most specific name wins, whatever the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hostnames: Option<At<Vec<At<String>>>>,
    /// At least one. The most specific match wins, then the earlier rule.
    pub(super) rules: At<Vec<At<Rule>>>,
}

/// What is done with the requests that match. Exactly one of `backendRefs`, a `RequestRedirect`
/// and a `DirectResponse` answers them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rule {
    /// What logs and metrics call it. `ROUTE/N` (from 0) unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<At<String>>,
    /// One of these has to match. Everything does unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) matches: Option<At<Vec<At<Match>>>>,
    /// What is changed on the way, or answered here. Every type once, `RequestMirror` excepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) filters: Vec<At<Filter>>,
    /// The upstreams that share the requests by weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backend_refs: Option<At<Vec<At<BackendRef>>>>,
    /// How long things may take.
    #[serde(default)]
    pub(super) timeouts: Timeouts,
}

/// Everything in it has to match.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Match {
    /// The path, without the query.
    pub(super) path: At<PathMatch>,
    /// Request headers, each name once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) headers: Vec<At<HeaderMatch>>,
    /// Query parameters, each name once; of a repeated one in a request the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) query_params: Vec<At<QueryParamMatch>>,
    /// The method, in upper case. Any unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<At<String>>,
}

/// How a path is matched.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct PathMatch {
    /// How `value` is read.
    pub(super) r#type: PathMatchType,
    /// Begins with `/` and has neither `?` nor `#`; it is brought into the form that requests are
    /// brought into before they are matched. For `RegularExpression` the syntax of the Rust crate
    /// `regex`; it has to match the whole path in that form.
    pub(super) value: At<String>,
}

impl Default for PathMatch {
    fn default() -> Self {
        Self {
            r#type: PathMatchType::PathPrefix,
            value: "/".to_owned().into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(super) enum PathMatchType {
    /// The whole path, byte by byte.
    Exact,
    /// Whole segments: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`.
    PathPrefix,
    /// The whole path by a regular expression.
    RegularExpression,
}

/// How a header is matched.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HeaderMatch {
    /// How `value` is read.
    #[serde(default)]
    pub(super) r#type: ValueMatchType,
    /// The header, in any case. Not `host`: that is what `hostnames` are for.
    pub(super) name: At<String>,
    /// What its value has to be.
    pub(super) value: At<String>,
}

/// How a query parameter is matched.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct QueryParamMatch {
    /// How `value` is read.
    #[serde(default)]
    pub(super) r#type: ValueMatchType,
    /// The parameter, byte by byte after percent-decoding.
    pub(super) name: At<String>,
    /// What its value has to be, after percent-decoding.
    pub(super) value: At<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(super) enum ValueMatchType {
    /// The whole value, byte by byte.
    #[default]
    Exact,
    /// The whole value by a regular expression.
    RegularExpression,
}

/// A change or an answer. The key that is named like the type holds what it needs, and no other.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filter {
    /// What it does.
    pub(super) r#type: At<FilterType>,
    /// For type `RequestHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_header_modifier: Option<At<HeaderModifier>>,
    /// For type `ResponseHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_header_modifier: Option<At<HeaderModifier>>,
    /// For type `RequestRedirect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_redirect: Option<At<RequestRedirect>>,
    /// For type `URLRewrite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url_rewrite: Option<At<UrlRewrite>>,
    /// For type `RequestMirror`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_mirror: Option<At<RequestMirror>>,
    /// For type `DirectResponse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) direct_response: Option<At<DirectResponse>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub(super) enum FilterType {
    /// Changes headers of the request.
    RequestHeaderModifier,
    /// Changes headers of the response.
    ResponseHeaderModifier,
    /// Answers with a redirect.
    RequestRedirect,
    /// Changes the host or the path that the upstream sees.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Sends a copy of the request elsewhere and ignores its answer.
    RequestMirror,
    /// Answers with a fixed response.
    DirectResponse,
}

/// Changes to headers, in the order `remove`, `set`, `add`. The headers that frame a message or
/// belong to one connection can't be changed, nor `host`: `urlRewrite.hostname` does that.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct HeaderModifier {
    /// Replaced, or added where they are missing. Each name once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) set: Vec<At<Header>>,
    /// Added beside those of the same name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) add: Vec<At<Header>>,
    /// Names of headers that are dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) remove: Vec<At<String>>,
}

/// A header.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Header {
    /// In any case.
    pub(super) name: At<String>,
    /// As it is sent.
    pub(super) value: At<String>,
}

/// A redirect. What isn't written stays as in the request; something has to be.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RequestRedirect {
    /// The scheme of the location.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scheme: Option<Scheme>,
    /// The host of the location.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hostname: Option<At<String>>,
    /// The port of the location. With `scheme` and no port: the port that the scheme implies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<Count<1, 65_535>>,
    /// The path of the location.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<At<PathModifier>>,
    /// 301, 302, 303, 307 or 308.
    pub(super) status_code: At<Count<300, 399>>,
}

impl Default for RequestRedirect {
    fn default() -> Self {
        Self {
            scheme: None,
            hostname: None,
            port: None,
            path: None,
            status_code: Count(302).into(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Scheme {
    /// Port 80 unless written.
    Http,
    /// Port 443 unless written.
    Https,
}

/// Changes to what the upstream sees as the host and the path.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct UrlRewrite {
    /// Replaces the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hostname: Option<At<String>>,
    /// Replaces the path or its matched prefix; the query stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<At<PathModifier>>,
}

/// A new path. The key that is named like the type holds it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PathModifier {
    /// What is replaced.
    pub(super) r#type: At<PathModifierType>,
    /// The new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replace_full_path: Option<At<String>>,
    /// What replaces the matched prefix; only in a rule all of whose matches are of type
    /// `PathPrefix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replace_prefix_match: Option<At<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(super) enum PathModifierType {
    /// The whole path.
    ReplaceFullPath,
    /// What a `PathPrefix` matched.
    ReplacePrefixMatch,
}

/// A copy of a share of the requests. Its answer, its failures and its slowness change nothing.
/// All requests are copied unless `percent` or `fraction` is written.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RequestMirror {
    /// Where the copy goes.
    pub(super) backend_ref: MirrorRef,
    /// How many of a hundred requests are copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) percent: Option<At<Count<0, 100>>>,
    /// The same as a fraction, for less than one in a hundred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fraction: Option<At<Fraction>>,
    /// How much of a body may wait for a slow copy; beyond it the copy is given up. At most
    /// 16MiB.
    #[serde(default = "max_buffered_bytes")]
    pub(super) max_buffered_bytes: At<Size>,
}

fn max_buffered_bytes() -> At<Size> {
    Size(64 << 10).into()
}

/// An upstream by its name.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MirrorRef {
    /// Name of an upstream.
    pub(super) name: At<String>,
}

/// A part of the whole.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Fraction {
    /// Not more than `denominator`.
    pub(super) numerator: Count<0, 1_000_000>,
    /// Of how many.
    #[serde(default = "denominator")]
    pub(super) denominator: Count<1, 1_000_000>,
}

fn denominator() -> Count<1, 1_000_000> {
    Count(100)
}

/// A fixed response.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DirectResponse {
    /// The status.
    pub(super) status_code: At<Count<200, 599>>,
    /// Text; none for 204 and 304.
    pub(super) body: At<String>,
    /// The `Content-Type` of a body.
    pub(super) content_type: At<String>,
}

impl Default for DirectResponse {
    fn default() -> Self {
        Self {
            status_code: Count(200).into(),
            body: String::new().into(),
            content_type: "text/plain; charset=utf-8".to_owned().into(),
        }
    }
}

/// An upstream and its share.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BackendRef {
    /// Name of an upstream.
    pub(super) name: At<String>,
    /// Its share of the sum of all weights; 0 for none. Not all of a rule may be 0.
    #[serde(default = "weight")]
    pub(super) weight: Count<0, 1_000_000>,
    /// Header modifiers for the requests that go there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) filters: Vec<At<Filter>>,
}

fn weight() -> Count<0, 1_000_000> {
    Count(1)
}

/// How long a request may take. 0s: no limit.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Timeouts {
    /// From the first byte of the request to the head of the response.
    pub(super) request: Duration,
    /// No part of a body in either direction for this long ends the exchange.
    pub(super) idle: Duration,
    /// From the first byte of the request to the end of the response.
    pub(super) total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::secs(15),
            idle: Duration::secs(300),
            total: Duration::secs(0),
        }
    }
}

/// A service: its endpoints, and how they are found, chosen, reached and limited.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Upstream {
    /// What listeners, rules, logs and metrics call it.
    pub(super) name: At<String>,
    /// Where it is. At least one.
    pub(super) endpoints: At<Vec<At<Endpoint>>>,
    /// What is spoken with it.
    #[serde(default)]
    pub(super) protocol: UpstreamProtocol,
    /// How an endpoint is chosen for a request.
    #[serde(default)]
    pub(super) balancer: Balancer,
    /// How long connecting and idling may take.
    #[serde(default)]
    pub(super) timeouts: UpstreamTimeouts,
    /// A connection older than this takes no new request; each one's limit is shortened by up to
    /// a tenth at random, so that they don't end together. 0s: no limit.
    #[serde(default = "max_connection_age")]
    pub(super) max_connection_age: Duration,
    /// How much it is sent at the same time, over all workers and endpoints.
    #[serde(default)]
    pub(super) limits: Limits,
    /// Version of a PROXY protocol header that is sent first on each connection. None unless
    /// written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy_protocol: Option<ProxyVersion>,
    /// Bounds on how long an answer of the DNS is used.
    #[serde(default)]
    pub(super) dns: At<Dns>,
}

fn max_connection_age() -> Duration {
    Duration::secs(3600)
}

/// An address, or a mapping with an address and a weight. The address is `IP:port`,
/// `[IPv6]:port`, `unix:PATH`, `HOST:port` (A and AAAA records) or `srv:NAME` (SRV records).
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Endpoint {
    Address(String),
    Weighted(WeightedEndpoint),
}

/// An address and its weight.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WeightedEndpoint {
    /// `IP:port`, `[IPv6]:port`, `unix:PATH`, `HOST:port` (A and AAAA records) or `srv:NAME` (SRV
    /// records).
    pub(super) address: At<String>,
    /// How much more than an endpoint of weight 1 it gets.
    #[serde(default = "endpoint_weight")]
    pub(super) weight: Count<1, 1000>,
}

fn endpoint_weight() -> Count<1, 1000> {
    Count(1)
}

/// serde's untagged enums forget why each variant was refused.
impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> de::Visitor<'de> for Either {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a mapping with an address and a weight,")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Endpoint, E> {
                Ok(Endpoint::Address(text.to_owned()))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let map = de::value::MapAccessDeserializer::new(map);
                WeightedEndpoint::deserialize(map).map(Endpoint::Weighted)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let weighted = generator.subschema_for::<WeightedEndpoint>();
        json_schema!({
            "description": "An address, or a mapping with an address and a weight. The address is \
                `IP:port`, `[IPv6]:port`, `unix:PATH`, `HOST:port` (A and AAAA records) or \
                `srv:NAME` (SRV records).",
            "anyOf": [{ "type": "string" }, weighted],
        })
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Balancer {
    /// The cheaper of two at random, by latency (peak EWMA) times requests in flight.
    #[default]
    PeakEwma,
    /// The one of two at random with fewer requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
}

/// Timeouts of the connections to an upstream.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct UpstreamTimeouts {
    /// To establish a connection. More than 0s.
    pub(super) connect: At<Duration>,
    /// A pooled connection that is unused for this long is closed. More than 0s. The default is
    /// a little less than the minute after which servers commonly close (a Pillion as well), so
    /// that this side lets go first and no request meets a closing connection.
    pub(super) idle: At<Duration>,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::secs(1).into(),
            idle: Duration::secs(55).into(),
        }
    }
}

/// Limits of an upstream, over all workers and endpoints. What is beyond is refused with 503.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Connections.
    pub(super) connections: Count<1, 10_000_000>,
    /// Requests that wait for a connection.
    pub(super) pending: Count<1, 10_000_000>,
    /// Requests in flight.
    pub(super) requests: Count<1, 10_000_000>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Count(10_000),
            pending: Count(10_000),
            requests: Count(10_000),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Bounds on the time to live of DNS answers. A last good answer is kept while the DNS fails.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Dns {
    /// Not asked again before this. More than 0s.
    pub(super) min_ttl: At<Duration>,
    /// Asked again after this at the latest. Not shorter than `minTtl`.
    pub(super) max_ttl: At<Duration>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            min_ttl: Duration::secs(1).into(),
            max_ttl: Duration::secs(300).into(),
        }
    }
}
