//! `upstreams`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{
    Balancer, Breaker, Ejection, HealthCheck, OrOff, RetryBudget, UpstreamTls,
    either::{Shortened, either},
};
use crate::config::{
    decode::At,
    units::{Count, Duration},
};

/// A service: its endpoints, and how they are found, chosen, reached and limited.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Upstream {
    /// What listeners, rules, logs and metrics call it.
    pub(crate) name: At<String>,
    /// Where it is. At least one.
    pub(crate) endpoints: At<Vec<At<Endpoint>>>,
    /// What is spoken with it. Unless written, `http1`, or with `tls` what the endpoint chooses in
    /// the handshake (`auto`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<UpstreamProtocol>,
    /// TLS towards its endpoints. Plaintext unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<At<UpstreamTls>>,
    /// How an endpoint is chosen for a request.
    #[serde(default)]
    pub(crate) balancer: Balancer,
    /// An endpoint that joins others, or is back after it was broken, gets a tenth of its share at
    /// first and all of it after this long. Not where a key decides. 0s: all of it at once.
    #[serde(default)]
    pub(crate) slow_start: Duration,
    /// How long connecting and idling may take.
    #[serde(default)]
    pub(crate) timeouts: UpstreamTimeouts,
    /// A connection older than this takes no new request; each one's limit is shortened by up to
    /// a tenth at random, so that they don't end together. 0s: no limit.
    #[serde(default = "max_connection_age")]
    pub(crate) max_connection_age: Duration,
    /// How much it is sent at the same time, over all workers and endpoints.
    #[serde(default)]
    pub(crate) limits: Limits,
    /// How many retries and hedges it may be sent.
    #[serde(default)]
    pub(crate) retry_budget: RetryBudget,
    /// Sends nothing to endpoints that are broken, or `off`.
    #[serde(default)]
    pub(crate) breaker: OrOff<Breaker>,
    /// Sends nothing to endpoints that are worse than the others, or `off`.
    #[serde(default)]
    pub(crate) ejection: OrOff<Ejection>,
    /// Questions that Pillion asks the endpoints by itself; one that fails takes no requests. At
    /// most 8. None unless written.
    #[serde(default)]
    pub(crate) health_checks: At<Vec<At<HealthCheck>>>,
    /// Version of a PROXY protocol header that is sent first on each connection. None unless
    /// written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proxy_protocol: Option<ProxyVersion>,
    /// Bounds on how long an answer of the DNS is used.
    #[serde(default)]
    pub(crate) dns: At<Dns>,
}

fn max_connection_age() -> Duration {
    Duration::secs(3600)
}

/// An address, or a mapping with an address and a weight. The address is `IP:port`,
/// `[IPv6]:port`, `unix:PATH`, `HOST:port` (A and AAAA records) or `srv:NAME` (SRV records).
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Endpoint {
    Address(String),
    Weighted(WeightedEndpoint),
}

/// An address and its weight.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WeightedEndpoint {
    /// `IP:port`, `[IPv6]:port`, `unix:PATH`, `HOST:port` (A and AAAA records) or `srv:NAME` (SRV
    /// records).
    pub(crate) address: At<String>,
    /// How much more than an endpoint of weight 1 it gets.
    #[serde(default = "endpoint_weight")]
    pub(crate) weight: Count<1, 1000>,
    /// Endpoints of a lower number come first; the others get what is beyond those of them that
    /// are available.
    #[serde(default = "highest_priority")]
    pub(crate) priority: Count<0, 255>,
    /// Where it runs. Nowhere in particular unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<At<String>>,
}

fn endpoint_weight() -> Count<1, 1000> {
    Count(1)
}

fn highest_priority() -> Count<0, 255> {
    Count(0)
}

impl From<WeightedEndpoint> for Endpoint {
    fn from(endpoint: WeightedEndpoint) -> Self {
        Self::Weighted(endpoint)
    }
}

impl Shortened for Endpoint {
    type Full = WeightedEndpoint;
    const EXPECTED: &'static str = "an address, or a mapping with an address and a weight,";

    fn from_text<E: de::Error>(text: &str) -> Result<Self, E> {
        Ok(Self::Address(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        either(deserializer)
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

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; with prior knowledge where there is no `tls`.
    Http2,
    /// With `tls`, what the endpoint chooses by ALPN (RFC 7301), HTTP/2 if it can. In plaintext,
    /// the version in which the client speaks.
    Auto,
}

/// Timeouts of the connections to an upstream.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct UpstreamTimeouts {
    /// To establish a connection. More than 0s.
    pub(crate) connect: At<Duration>,
    /// A pooled connection that is unused for this long is closed. More than 0s. The default is
    /// a little less than the minute after which servers commonly close (a Pillion as well), so
    /// that this side lets go first and no request meets a closing connection. What a burst left
    /// behind, more than 32 to one endpoint unused for 5s, goes sooner, a third a second.
    pub(crate) idle: At<Duration>,
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
pub(crate) struct Limits {
    /// Connections.
    pub(crate) connections: Count<1, 10_000_000>,
    /// Requests that wait for a connection; 0 lets none wait.
    pub(crate) pending: Count<0, 10_000_000>,
    /// Requests in flight.
    pub(crate) requests: Count<1, 10_000_000>,
    /// Retries and hedges in flight; further ones are left out.
    pub(crate) retries: Count<0, 10_000_000>,
    /// Whether fewer requests than `requests` are let in where the upstream bears no more, which is
    /// found out from how long its answers take.
    pub(crate) adaptive: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Count(10_000),
            pending: Count(10_000),
            requests: Count(10_000),
            retries: Count(1000),
            adaptive: false,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Bounds on the time to live of DNS answers. A last good answer is kept while the DNS fails.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Dns {
    /// Not asked again before this. More than 0s.
    pub(crate) min_ttl: At<Duration>,
    /// Asked again after this at the latest. Not shorter than `minTtl`.
    pub(crate) max_ttl: At<Duration>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            min_ttl: Duration::secs(1).into(),
            max_ttl: Duration::secs(300).into(),
        }
    }
}
