//! What the process tells about itself: metrics, one access-log line a request, its own log.
//!
//! Workers pay as little as can be: a metric is a handle that was looked up when the snapshot was
//! compiled and a cell that only this worker writes ([`metrics`]); a line of the access log is
//! formatted into a buffer and handed over in batches, and dropped (and counted) rather than
//! waited for ([`access_log`]); what goes to a collector takes the same way ([`otlp`]).

pub mod access_log;
pub(crate) mod attributes;
pub mod clock;
pub mod logging;
pub mod method;
pub mod metrics;
pub mod otlp;
pub mod redact;
#[cfg(test)]
mod reference;
pub mod trace;

pub use access_log::{AccessLog, LogWriter, Record};
pub use metrics::{
    AccessDecision, AccessMetrics, Expiring, ListenerMetrics, ProcessMetrics, Registry,
    RouteMetrics, TlsMetrics, UpstreamMetrics,
};
pub use redact::Redaction;
pub use trace::TraceRef;
