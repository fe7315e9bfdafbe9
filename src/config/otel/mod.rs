//! What the `OTEL_*` variables say, in one place: read once, typed, asked by everything that
//! resolves a piece of telemetry. The environment goes before the files.
//!
//! The rules are those of OpenTelemetry's "Environment Variable Specification": an empty
//! variable is unset; of a number, a name or a URL that can't be read it is told, and it is ignored.
//! None of them ever keeps the process from starting.

mod header;
mod process;
mod signal;
#[cfg(test)]
mod tests;
mod variables;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::{
    HeaderName, HeaderValue, Uri,
    uri::{Authority, Scheme},
};

pub(super) use self::header::collector_header;
use self::variables::Reader;
use super::{
    env::Environment,
    model::{KeyPair, OtlpProtocol},
    raw::Propagator,
    report::quote,
    secret::may_hold_secret,
};
use crate::telemetry::{attributes::LONGEST, otlp::Signal};

/// Metrics are not sent more often.
pub(super) const MIN_METRIC_INTERVAL: Duration = Duration::from_secs(1);

/// Everything that was said.
#[derive(Debug, Default)]
pub(super) struct Otel {
    /// `OTEL_SDK_DISABLED`: no span, no export, whatever else is written.
    pub(super) disabled: bool,
    pub(super) sampler: Option<Sampler>,
    /// `OTEL_PROPAGATORS`; empty for `none`.
    pub(super) propagators: Option<Vec<Propagator>>,
    /// `OTEL_METRICS_EXEMPLAR_FILTER`: whether there are any.
    pub(super) exemplars: Option<bool>,
    /// `OTEL_METRIC_EXPORT_INTERVAL`.
    pub(super) metric_interval: Option<Duration>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, and `OTEL_SERVICE_NAME`, which goes before them.
    pub(super) resource: BTreeMap<Arc<str>, Arc<str>>,
    /// Where in a Kubernetes cluster the process runs, by the names that its pods commonly have for
    /// it. Goes behind everything that was written.
    pub(super) place: BTreeMap<Arc<str>, Arc<str>>,
    /// What was ignored, for a person.
    pub(super) warnings: Vec<String>,
    /// The variables that mean something here.
    known: BTreeSet<String>,
    traces: Of,
    metrics: Of,
    logs: Of,
}

/// What concerns one signal. Where there is a variable for this signal and one for all, this is
/// what comes of both.
#[derive(Debug, Default)]
pub(super) struct Of {
    /// `OTEL_*_EXPORTER`.
    exporter: Option<Exporter>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) protocol: Option<OtlpProtocol>,
    pub(super) headers: Option<Vec<(HeaderName, HeaderValue)>>,
    pub(super) timeout: Option<Duration>,
    pub(super) gzip: Option<bool>,
    pub(super) certificate: Option<PathBuf>,
    /// What the collector is shown.
    pub(super) identity: Option<KeyPair>,
    /// `SCHEDULE_DELAY` of batches.
    pub(super) delay: Option<Duration>,
    pub(super) queue_items: Option<usize>,
    pub(super) batch_items: Option<usize>,
    pub(super) export_timeout: Option<Duration>,
    /// Characters of an attribute's value.
    value_length: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exporter {
    Otlp,
    /// `none`; and of metrics `prometheus`, since `/metrics` is always there.
    None,
}

/// Where a signal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// With a scheme.
    pub(super) uri: Uri,
    /// It was given for this signal: over HTTP nothing is added to its path.
    pub(super) exact: bool,
}

/// `OTEL_TRACES_SAMPLER` with its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampler {
    /// What a parent decided holds; the ratio is for traces that begin here.
    pub(super) parent_based: bool,
    /// From 0 to 1.
    pub(super) ratio: f64,
}

impl Otel {
    pub(super) fn read(env: Environment<'_>) -> Self {
        let mut reader = Reader {
            env,
            warnings: Vec::new(),
            known: BTreeSet::new(),
        };
        reader.form_of_metrics();
        let mut otel = Self {
            disabled: reader.flag("OTEL_SDK_DISABLED").unwrap_or(false),
            sampler: reader.sampler(),
            propagators: reader.propagators(),
            exemplars: reader.exemplars(),
            metric_interval: reader.metric_interval(),
            resource: reader.resource(),
            place: reader.place(),
            traces: reader.signal(Signal::Traces),
            metrics: reader.signal(Signal::Metrics),
            logs: reader.signal(Signal::Logs),
            warnings: Vec::new(),
            known: BTreeSet::new(),
        };
        otel.warnings = reader.warnings;
        otel.known = reader.known;
        otel
    }

    /// Of the variables that are set those that look as if they meant something here, for a person.
    /// `used`: those that the files ask for.
    pub(super) fn unread(
        &self,
        set: impl IntoIterator<Item = String>,
        used: &BTreeSet<String>,
    ) -> Vec<String> {
        let names = set.into_iter().filter(|name| name.starts_with("OTEL_"));
        let unread = names.filter(|name| !self.known.contains(name) && !used.contains(name));
        let unread: BTreeSet<String> = unread.collect();
        let told = unread.iter().map(|name| format!("{name} is not read"));
        told.collect()
    }

    pub(super) const fn of(&self, signal: Signal) -> &Of {
        match signal {
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
        }
    }

    /// Characters that an attribute's value may have.
    pub(super) fn value_length(&self, signal: Signal) -> usize {
        let written = self.of(signal).value_length;
        written.map_or(LONGEST, |written| written.min(LONGEST))
    }

    /// The variable by which the environment wants a signal not exported.
    pub(super) fn forbidden_by(&self, signal: Signal) -> Option<String> {
        let by = match self.disabled {
            true => "OTEL_SDK_DISABLED".to_owned(),
            false => signal::exporter_variable(signal),
        };
        (self.exports(signal) == Some(false)).then_some(by)
    }

    /// Whether the environment wants a signal exported. `None`: it leaves that to the files. Naming
    /// a collector for a signal is wish enough; one for all of them is for spans, which go nowhere
    /// else, while metrics and logs have to be asked for by name.
    pub(super) fn exports(&self, signal: Signal) -> Option<bool> {
        let of = self.of(signal);
        match of.exporter {
            _ if self.disabled => Some(false),
            Some(exporter) => Some(exporter == Exporter::Otlp),
            None => {
                let endpoint = of.endpoint.as_ref();
                let meant = |endpoint: &Endpoint| endpoint.exact || signal == Signal::Traces;
                endpoint.is_some_and(meant).then_some(true)
            }
        }
    }
}

/// Why [`collector_url`] did not take this.
pub(super) fn no_collector(text: &str) -> String {
    if may_hold_secret(text) {
        return "a collector's URL has neither a user nor a query".to_owned();
    }
    let uri: Option<Uri> = text.parse().ok();
    match uri.as_ref().and_then(Uri::authority).map(written_port) {
        Some(Err(port)) => format!("{} is not a port: those are 1 to 65535", quote(port)),
        _ => format!("{} is not the URL of a collector", quote(text)),
    }
}

/// An absolute URL, or `host:port`, without a user and with nothing behind its path.
pub(super) fn collector_url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let scheme = uri
        .scheme()
        .is_none_or(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    let authority = uri.authority()?;
    let plain = !authority.host().is_empty() && !authority.as_str().contains('@');
    let port = written_port(authority).is_ok();
    (scheme && plain && port && uri.query().is_none()).then_some(uri)
}

/// The port, which `http` takes any digits for; or what stands in its place.
fn written_port(authority: &Authority) -> Result<Option<NonZeroU16>, &str> {
    let rest = authority.as_str().strip_prefix(authority.host());
    match rest.and_then(|rest| rest.strip_prefix(':')) {
        None => Ok(None),
        Some(port) => port.parse().map(Some).map_err(|_| port),
    }
}
