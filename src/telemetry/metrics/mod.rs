//! Prometheus metrics without a shared lock or a lookup on the path of a request.
//!
//! A snapshot resolves its handles by name from the [`Registry`] once; a worker then writes only
//! cells of its own ([`cells`]); a scrape sums them ([`Registry::encode`]).

mod access;
pub mod cells;
mod exposition;
mod health;
mod histogram;
mod listener;
mod otlp;
mod process;
mod registry;
mod route;
mod scrape;
mod tls;
mod upstream;

pub use access::{AccessDecision, AccessMetrics};
pub use exposition::Format;
pub use health::HealthMetrics;
pub use listener::ListenerMetrics;
pub use otlp::{DropCause, ExportResult, OtlpMetrics, SignalMetrics};
pub use process::{ProcessMetrics, processor_time};
pub use registry::Registry;
pub use route::{Done, RouteMetrics};
pub use tls::{Expiring, TlsMetrics};
pub use upstream::{CopyFate, UpstreamMetrics};
