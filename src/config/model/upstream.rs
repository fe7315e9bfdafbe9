//! Services: where they are, and how they are spoken to.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use super::{Balancer, Breaker, Ejection, HealthCheck, RetryBudget, UpstreamTls, duration};

/// A service: endpoints, how they are found, chosen, reached and limited.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    pub name: Arc<str>,
    pub endpoints: Vec<EndpointConfig>,
    pub protocol: UpstreamProtocol,
    pub tls: Option<UpstreamTls>,
    pub balancer: Balancer,
    /// How long an endpoint that is new, or back, takes to get its whole share. Zero: no time.
    #[serde(serialize_with = "duration")]
    pub slow_start: Duration,
    /// That of this process.
    pub zone: Option<Arc<str>>,
    #[serde(serialize_with = "duration")]
    pub connect_timeout: Duration,
    /// A pooled connection unused for this long is closed.
    #[serde(serialize_with = "duration")]
    pub idle_timeout: Duration,
    /// A connection older than this is not used again; each one's limit is shortened by up to a
    /// tenth at random, so that they don't end together. Zero: no limit.
    #[serde(serialize_with = "duration")]
    pub max_connection_age: Duration,
    pub limits: Limits,
    pub retry_budget: RetryBudget,
    /// `None`: off.
    pub breaker: Option<Breaker>,
    /// `None`: off.
    pub ejection: Option<Ejection>,
    /// None: nothing but requests tells how endpoints are.
    pub health_checks: Vec<HealthCheck>,
    /// A PROXY protocol header sent first on each new connection.
    pub proxy_protocol: Option<ProxyVersion>,
    pub dns: DnsPolicy,
}

impl Upstream {
    /// One of endpoints with weight 1 that says nothing else.
    pub fn plain(name: &str, endpoints: impl IntoIterator<Item = EndpointAddress>) -> Self {
        let endpoint = |address| EndpointConfig {
            address,
            weight: 1,
            priority: 0,
            zone: None,
        };
        Self {
            name: name.into(),
            endpoints: endpoints.into_iter().map(endpoint).collect(),
            protocol: UpstreamProtocol::Http1,
            tls: None,
            balancer: Balancer::PeakEwma,
            slow_start: Duration::ZERO,
            zone: None,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(55),
            max_connection_age: Duration::from_secs(3600),
            limits: Limits {
                connections: 10_000,
                pending: 10_000,
                requests: 10_000,
                retries: 1000,
                adaptive: false,
            },
            retry_budget: RetryBudget::default(),
            breaker: Some(Breaker::default()),
            ejection: Some(Ejection::default()),
            health_checks: Vec::new(),
            proxy_protocol: None,
            dns: DnsPolicy {
                min_ttl: Duration::from_secs(1),
                max_ttl: Duration::from_secs(300),
            },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointConfig {
    pub address: EndpointAddress,
    pub weight: u32,
    /// Those of the lowest number come first.
    pub priority: u32,
    pub zone: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointAddress {
    Ip(SocketAddr),
    Unix(PathBuf),
    /// A and AAAA.
    Dns {
        host: Arc<str>,
        port: u16,
    },
    /// SRV, its targets' A and AAAA.
    Srv {
        name: Arc<str>,
    },
}

impl EndpointAddress {
    /// The name of what is behind it: of an SRV record the domain that the service is for.
    pub fn host(&self) -> Option<Arc<str>> {
        match self {
            Self::Ip(_) | Self::Unix(_) => None,
            Self::Dns { host, .. } => Some(Arc::clone(host)),
            Self::Srv { name } => {
                let labels = name.split('.').skip_while(|label| label.starts_with('_'));
                Some(labels.collect::<Vec<_>>().join(".").into())
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamProtocol {
    Http1,
    /// With prior knowledge where there is no TLS.
    Http2,
    /// With TLS what the endpoint chooses, else what the client speaks.
    Auto,
}

/// Per upstream, over all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    pub connections: usize,
    /// Requests waiting for a connection.
    pub pending: usize,
    pub requests: usize,
    /// Retries and hedges.
    pub retries: usize,
    /// Fewer requests where the upstream bears no more.
    pub adaptive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProxyVersion {
    V1,
    V2,
}

/// Bounds on what an answer's TTL may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsPolicy {
    #[serde(serialize_with = "duration")]
    pub min_ttl: Duration,
    #[serde(serialize_with = "duration")]
    pub max_ttl: Duration,
}
