//! Prometheus metrics without a shared lock or a lookup on the path of a request.
//!
//! A snapshot resolves its handles by name from the [`Registry`] once; a worker then writes only
//! cells of its own ([`cells`]); a scrape sums them ([`Registry::encode`]).

mod access;
pub mod cells;
mod common;
mod durations;
mod endpoint;
mod exemplar;
mod family;
mod group;
mod health;
mod histogram;
mod kernel;
mod ledger;
mod listener;
mod otlp;
mod outcomes;
mod peers;
mod points;
mod process;
mod queues;
mod registry;
mod room;
mod route;
mod scrape;
mod text;
mod tls;
mod upstream;
mod workers;

pub use access::{AccessDecision, AccessMetrics};
pub use durations::{Attempted, Durations};
pub use endpoint::EndpointMetrics;
pub(crate) use endpoint::STATES;
pub use health::HealthMetrics;
pub use kernel::processor_time;
pub use listener::ListenerMetrics;
pub use otlp::{DropCause, ExportResult, OtlpMetrics, SignalMetrics};
pub use peers::PeerMetrics;
pub use process::ProcessMetrics;
pub use registry::Registry;
pub use route::{Done, RouteMetrics};
pub use text::Format;
pub use tls::{Expiring, TlsMetrics};
pub use upstream::{CopyFate, UpstreamMetrics};
