//! What a rule of a route counts.

use std::{fmt, time::Duration};

use http::Method;

use super::{
    cells::{ByReason, Count, Level, PerWorker},
    histogram::Histogram,
    scrape::{Families, Scraped},
};
use crate::{
    error::Reason, http::fallback::FallbackKind, protect::FaultKind,
    telemetry::access_log::Protocol,
};

/// The handle of one rule. Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct RouteMetrics(PerWorker<Cells>);

/// How a request went.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    pub method: &'a Method,
    /// 0: there was no response.
    pub status: u16,
    pub reason: Option<Reason>,
    pub protocol: Protocol,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Ids of the trace and of the server span, where the request was sampled.
    pub trace: Option<(u128, u64)>,
}

#[derive(Debug, Default)]
struct Cells {
    requests: Level,
    /// By method, then by class of status.
    done: [[Count; STATUSES.len()]; METHODS.len()],
    reasons: ByReason,
    duration: Histogram,
    request_bytes: Count,
    response_bytes: Count,
    faults: [Count; FaultKind::ALL.len()],
    fallbacks: [Count; FallbackKind::ALL.len()],
}

/// Values of the `method` label; a client can't make more of them.
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other",
];

/// Values of the `status` label. `none`: the exchange ended before a response began.
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl RouteMetrics {
    /// A request has been matched to the rule.
    pub fn request_started(&self, worker: usize) {
        self.0.of(worker).requests.entered.increment();
    }

    /// That request is over: its response went out, or the exchange ended early. To be called once
    /// for each [`RouteMetrics::request_started`].
    pub fn request_done(&self, worker: usize, done: &Done<'_>) {
        let cells = self.0.of(worker);
        cells.requests.left.increment();
        cells.done[method_index(done.method)][status_index(done.status)].increment();
        if let Some(reason) = done.reason {
            cells.reasons.of(reason).increment();
        }
        cells.duration.observe(done.duration);
        cells.request_bytes.add(done.bytes_in);
        cells.response_bytes.add(done.bytes_out);
    }

    /// A request has met a fault that was injected.
    pub fn fault_injected(&self, worker: usize, kind: FaultKind) {
        self.0.of(worker).faults[kind as usize].increment();
    }

    /// The rule's fallback was called for.
    pub fn fell_back(&self, worker: usize, kind: FallbackKind) {
        self.0.of(worker).fallbacks[kind as usize].increment();
    }

    /// Requests running now.
    pub fn active(&self) -> u64 {
        self.0.level(|cells| &cells.requests)
    }

    /// What never happened is left out.
    fn faults(&self) -> Vec<([&'static str; 1], u64)> {
        let count = |kind: FaultKind| {
            let count = self.0.sum(|cells| &cells.faults[kind as usize]);
            ([kind.name()], count)
        };
        let all = FaultKind::ALL.into_iter().map(count);
        all.filter(|&(_, count)| count > 0).collect()
    }

    /// The same.
    fn fallbacks(&self) -> Vec<([&'static str; 1], u64)> {
        let count = |kind: FallbackKind| {
            let count = self.0.sum(|cells| &cells.fallbacks[kind as usize]);
            ([kind.name()], count)
        };
        let all = FallbackKind::ALL.into_iter().map(count);
        all.filter(|&(_, count)| count > 0).collect()
    }

    /// What never happened is left out.
    fn done(&self) -> Vec<([&'static str; 2], u64)> {
        let mut series = Vec::new();
        for (method_index, method) in METHODS.into_iter().enumerate() {
            for (status_index, status) in STATUSES.into_iter().enumerate() {
                let count = self.0.sum(|cells| &cells.done[method_index][status_index]);
                if count > 0 {
                    series.push(([method, status], count));
                }
            }
        }
        series
    }
}

fn method_index(method: &Method) -> usize {
    let name = method.as_str();
    METHODS
        .iter()
        .position(|&known| known == name)
        .unwrap_or(METHODS.len() - 1)
}

fn status_index(status: u16) -> usize {
    let class = usize::from(status / 100);
    if class < STATUSES.len() { class } else { 0 }
}

impl Scraped for RouteMetrics {
    const LABEL: &'static str = "route";

    fn new(workers: usize) -> Self {
        Self(PerWorker::new(workers))
    }

    fn encode(families: &mut Families<'_, '_, Self>) -> fmt::Result {
        families.counters(
            "pillion_http_requests",
            "Requests that are over, by method and class of status; none: there was no response.",
            ["method", "status"],
            Self::done,
        )?;
        families.counters(
            "pillion_http_requests_failed",
            "Requests that Pillion answered by itself or ended early, by reason.",
            ["reason"],
            |metrics| metrics.0.reasons(|cells| &cells.reasons),
        )?;
        families.counters(
            "pillion_http_faults_injected",
            "Faults injected on purpose, by kind: delay, abort, reset, slow_body.",
            ["kind"],
            Self::faults,
        )?;
        families.counters(
            "pillion_http_fallbacks",
            "Requests whose upstream failed so that the rule's fallback was called for, by what came of \
             it: upstream, failed (that one too), response, withheld.",
            ["kind"],
            Self::fallbacks,
        )?;
        families.gauge(
            "pillion_http_requests_active",
            "Requests running now.",
            Self::active,
        )?;
        families.histogram(
            "pillion_http_request_duration_seconds",
            "From the first byte of a request to the last of its response.",
            |metrics| metrics.0.totals(|cells| &cells.duration),
        )?;
        families.counter(
            "pillion_http_request_body_bytes",
            "Bytes of request bodies.",
            |metrics| metrics.0.sum(|cells| &cells.request_bytes),
        )?;
        families.counter(
            "pillion_http_response_body_bytes",
            "Bytes of response bodies.",
            |metrics| metrics.0.sum(|cells| &cells.response_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_method_class_and_reason() {
        let metrics = RouteMetrics::new(2);
        for worker in 0..2 {
            metrics.request_started(worker);
        }
        assert_eq!(metrics.active(), 2);
        let second = Duration::from_secs(1);
        let done = Done {
            method: &Method::GET,
            status: 204,
            reason: None,
            protocol: Protocol::Http11,
            duration: second,
            bytes_in: 0,
            bytes_out: 0,
            trace: None,
        };
        metrics.request_done(0, &done);
        let brew = Method::from_bytes(b"BREW").unwrap();
        let done = Done {
            method: &brew,
            status: 0,
            reason: Some(Reason::ClientClosed),
            ..done
        };
        metrics.request_done(1, &done);
        assert_eq!(metrics.active(), 0);
        assert_eq!(
            metrics.done(),
            [(["GET", "2xx"], 1), (["other", "none"], 1)]
        );
    }

    #[test]
    fn a_status_of_no_class_is_none() {
        for status in [0, 99, 600, 999, u16::MAX] {
            assert_eq!(STATUSES[status_index(status)], "none", "{status}");
        }
        assert_eq!(STATUSES[status_index(101)], "1xx");
        assert_eq!(STATUSES[status_index(599)], "5xx");
    }
}
