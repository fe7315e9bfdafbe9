//! Spans, log records and metrics on their way to a collector: OTLP, over gRPC or HTTP.
//!
//! Workers write finished items as protobuf into a buffer of their own ([`Outlet`]) and hand full
//! ones over to a queue that is bounded in bytes; when it is full they are dropped and counted. A
//! thread of its own ([`Exporter`]) joins and sends them. It is started when something is exported
//! for the first time. Nothing on it passes the data path, so that no export is ever traced, logged
//! or counted as a request; and nothing that a collector does, or leaves undone, is ever waited for
//! by a worker.

mod client;
mod envelope;
mod exporter;
mod grpc;
mod http;
mod origin;
mod outlet;
mod queue;
mod retry;
mod sender;
mod throttle;

pub use exporter::Exporter;
pub use outlet::Outlet;

use crate::config::model::{Config, Export, LogOutput};

/// A kind of telemetry. Each has a queue, a connection and a destination of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// As in a URL of OTLP, and in the label of a metric.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// Where a signal is exported to under this configuration; `None`: it is not.
pub(crate) fn destination(config: &Config, signal: Signal) -> Option<&Export> {
    let (wanted, export) = match signal {
        Signal::Traces => (config.tracing.is_some(), &config.otlp.traces),
        Signal::Metrics => (config.metrics.otlp.is_some(), &config.otlp.metrics),
        Signal::Logs => {
            let log = &config.access_log;
            let wanted = log.enabled && log.output == LogOutput::Otlp;
            (wanted, &config.otlp.logs)
        }
    };
    wanted.then_some(export)
}
