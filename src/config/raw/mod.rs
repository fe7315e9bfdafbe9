//! What may be written: every key, its meaning, its unit, its default.
//!
//! The comments here are the descriptions of the JSON Schema and of `docs/configuration.md`, and
//! the `Default`s are the only place where a default stands.

mod access;
mod access_log;
mod balancing;
mod checks;
mod either;
mod fallback;
mod filter;
mod health;
mod listener;
mod metrics;
mod otlp;
mod protect;
mod redact;
mod retry;
mod route;
mod tls;
mod tracing;
mod upstream;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{decode::At, units::Duration};
pub(super) use access::*;
pub(super) use access_log::*;
pub(super) use balancing::*;
pub(super) use checks::*;
pub(super) use fallback::*;
pub(super) use filter::*;
pub(super) use health::*;
pub(super) use listener::*;
pub(super) use metrics::*;
pub(super) use otlp::*;
pub(super) use protect::*;
pub(super) use redact::*;
pub(super) use retry::*;
pub(super) use route::*;
pub(super) use tls::*;
pub(super) use tracing::*;
pub(super) use upstream::*;

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
    /// What is counted.
    #[serde(default)]
    pub(super) metrics: At<Metrics>,
    /// What the access log and spans do not show: credentials, unless written otherwise.
    #[serde(default)]
    pub(super) redact: At<Redact>,
    /// Where telemetry is sent.
    #[serde(default)]
    pub(super) otlp: At<Otlp>,
    /// Traces of requests. None unless written, or unless the environment names a collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tracing: Option<At<Tracing>>,
    /// How the process leaves after SIGTERM, SIGINT or `POST /drain`.
    #[serde(default)]
    pub(super) drain: At<Drain>,
    /// Where this process runs, such as `${ZONE:-}`: its requests go to endpoints of the same
    /// `zone` while that can bear them. Empty: no zone is preferred.
    #[serde(default)]
    pub(super) zone: At<String>,
    /// Who this process is towards others: its certificate and key. None unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<At<Identity>>,
    /// Whose certificates are believed.
    #[serde(default)]
    pub(super) trust: At<Vec<At<Trust>>>,
    /// The sockets that take connections. At least one, at most 256.
    pub(super) listeners: At<Vec<At<Listener>>>,
    /// What HTTP listeners do with requests: the rule semantics of a Gateway API HTTPRoute.
    #[serde(default)]
    pub(super) routes: At<Vec<At<Route>>>,
    /// Who may call what. Without rules whoever can connect may.
    #[serde(default)]
    pub(super) access: At<Vec<At<AccessRule>>>,
    /// Whose tokens `access` may ask for.
    #[serde(default)]
    pub(super) jwt_providers: At<Vec<At<JwtProvider>>>,
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
