//! How long an upstream takes: to answer attempts, and to be connected with.

use std::{sync::Arc, time::Duration};

use http::Method;

use super::{
    cells::PerWorker,
    common::{Common, Timed},
    exemplar::now,
    family::Value,
    histogram::Histogram,
    outcomes::{Outcome, Outcomes},
    route,
    scrape::Series,
};
use crate::error::Reason;

/// The handle, apart from that of the upstream's other metrics: it begins anew with other buckets.
/// Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct Durations {
    common: Arc<Common>,
    attempts: Outcomes,
    connecting: PerWorker<Histogram>,
    enabled: bool,
    since: u64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempted<'a> {
    pub method: &'a Method,
    /// The status that came, or why none did.
    pub result: Result<u16, Reason>,
    /// From the choice of the endpoint to the head of the response.
    pub took: Duration,
    /// Ids of the trace and of the attempt's span, where the request was sampled.
    pub trace: Option<(u128, u64)>,
}

impl Durations {
    pub(super) fn new(common: &Arc<Common>) -> Arc<Self> {
        let settings = common.settings();
        Arc::new(Self {
            common: Arc::clone(common),
            connecting: PerWorker::from_fn(common.workers, || Histogram::new(&settings.bounds)),
            enabled: settings.enabled,
            since: now(),
            attempts: Outcomes::new(common, settings, Timed::Attempts),
        })
    }

    /// Whether it was made for the settings in force.
    pub fn is_current(&self) -> bool {
        self.common.has(self.attempts.settings())
    }

    /// Whether attempts are counted.
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// An attempt has brought the head of a response, or failed.
    pub fn attempted(&self, worker: usize, attempt: &Attempted<'_>) {
        let (status, reason) = match attempt.result {
            Ok(status) => (status, None),
            Err(reason) => (0, Some(reason)),
        };
        let outcome = Outcome::new(attempt.method, status, None, reason);
        self.attempts
            .observe(worker, outcome, attempt.took, attempt.trace);
    }

    /// A connection was made.
    pub fn connected(&self, worker: usize, took: Duration) {
        self.connecting.of(worker).observe(took, None);
    }

    pub(super) fn show_attempts(&self, series: &mut Series<'_, '_>) {
        series.since(self.since);
        route::durations(&self.attempts.summaries(), Timed::Attempts, series);
    }

    pub(super) fn show_connecting(&self, series: &mut Series<'_, '_>) {
        series.since(self.since);
        series.put(&[], Value::Histogram(&self.connecting.summary()));
    }
}
