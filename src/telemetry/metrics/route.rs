//! What a rule of a route counts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Method;

use super::{
    cells::{ByReason, Count, Level, PerWorker},
    common::{Common, Settings, Timed},
    exemplar::Exemplar,
    family::{Kind, Value},
    histogram::{Summary, newer},
    outcomes::{Outcome, Outcomes},
    scrape::{Event, Families, Scraped, Series},
};
use crate::{
    error::{LocalReply, Reason},
    http::fallback::FallbackKind,
    protect::FaultKind,
    telemetry::access_log::Protocol,
};

/// The handle of one rule. Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct RouteMetrics {
    common: Arc<Common>,
    cells: PerWorker<Cells>,
    /// How requests went, and how long they took.
    outcomes: Outcomes,
    /// Whether anything is counted.
    enabled: bool,
}

/// How a request went.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    pub method: &'a Method,
    /// 0: there was no response.
    pub status: u16,
    /// How a call of gRPC ended.
    pub grpc_status: Option<u8>,
    pub reason: Option<Reason>,
    pub protocol: Protocol,
    /// Whether the client's connection has TLS.
    pub secured: bool,
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
    reasons: ByReason,
    request_bytes: Count,
    response_bytes: Count,
    faults: [Count; FaultKind::ALL.len()],
    fallbacks: [Count; FallbackKind::ALL.len()],
    local_replies: [Count; LocalReply::ALL.len()],
}

/// Values of the `status` label. `none`: the exchange ended before a response began.
pub(super) const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl RouteMetrics {
    /// A request has been matched to the rule.
    pub fn request_started(&self, worker: usize) {
        if self.enabled {
            self.cells.of(worker).requests.entered.increment();
        }
    }

    /// That request is over: its response went out, or the exchange ended early. To be called once
    /// for each [`RouteMetrics::request_started`].
    pub fn request_done(&self, worker: usize, done: &Done<'_>) {
        if !self.enabled {
            return;
        }
        let cells = self.cells.of(worker);
        cells.requests.left.increment();
        if let Some(reason) = done.reason {
            cells.reasons.of(reason).increment();
        }
        cells.request_bytes.add(done.bytes_in);
        cells.response_bytes.add(done.bytes_out);
        let outcome = Outcome::new(done.method, done.status, Some(done.protocol), done.reason)
            .on_connection(done.secured)
            .of_call(done.grpc_status);
        self.outcomes
            .observe(worker, outcome, done.duration, done.trace);
    }

    /// A request has met a fault that was injected.
    pub fn fault_injected(&self, worker: usize, kind: FaultKind) {
        self.cells.of(worker).faults[kind as usize].increment();
    }

    /// The rule's fallback was called for.
    pub fn fell_back(&self, worker: usize, kind: FallbackKind) {
        self.cells.of(worker).fallbacks[kind as usize].increment();
    }

    /// A rule answered a request by itself.
    pub fn replied(&self, worker: usize, reply: LocalReply) {
        self.cells.of(worker).local_replies[reply as usize].increment();
    }

    /// Requests running now.
    pub fn active(&self) -> u64 {
        self.cells.level(|cells| &cells.requests)
    }

    fn faults(&self) -> Vec<([&'static str; 1], u64)> {
        let (all, name) = (&FaultKind::ALL, FaultKind::name);
        self.cells
            .happened(all, name, |cells, kind| &cells.faults[kind as usize])
    }

    fn fallbacks(&self) -> Vec<([&'static str; 1], u64)> {
        let (all, name) = (&FallbackKind::ALL, FallbackKind::name);
        self.cells
            .happened(all, name, |cells, kind| &cells.fallbacks[kind as usize])
    }

    fn local_replies(&self) -> Vec<([&'static str; 1], u64)> {
        let (all, name) = (&LocalReply::ALL, LocalReply::name);
        self.cells.happened(all, name, |cells, reply| {
            &cells.local_replies[reply as usize]
        })
    }

    /// Requests that are over, by method and class of status.
    fn done(&self) -> BTreeMap<[&'static str; 2], u64> {
        let mut series = BTreeMap::new();
        for (outcome, summary) in self.outcomes.summaries() {
            *series.entry(class(outcome)).or_default() += summary.count();
        }
        series
    }

    /// The last traced request for each reason.
    fn exemplars(&self) -> [Option<Exemplar>; Reason::COUNT] {
        let mut exemplars = [None; Reason::COUNT];
        for (outcome, summary) in self.outcomes.summaries() {
            if let Some(reason) = outcome.reason() {
                let newest = &mut exemplars[reason.index()];
                *newest = newer(*newest, summary.exemplar());
            }
        }
        exemplars
    }

    fn failed(&self) -> Vec<Event<1>> {
        let exemplars = self.exemplars();
        let event = |&reason: &Reason| {
            let count = self.cells.sum(|cells| cells.reasons.of(reason));
            // One event of as many as are counted, not what it took.
            let exemplar = exemplars[reason.index()];
            let exemplar = exemplar.map(|it| Exemplar { value: 1.0, ..it });
            ([reason.name()], count, exemplar)
        };
        let all = Reason::ALL.iter().map(event);
        all.filter(|&(_, count, _)| count > 0).collect()
    }
}

/// Method and class of status, as the `method` and `status` labels have them.
fn class(outcome: Outcome) -> [&'static str; 2] {
    if outcome.is_rest() {
        return [outcome.method(); 2];
    }
    let method = match outcome.method() {
        "_OTHER" => "other",
        known => known,
    };
    [method, STATUSES[class_of(outcome.status().unwrap_or(0))]]
}

/// The place of a status in [`STATUSES`].
pub(super) fn class_of(status: u16) -> usize {
    let class = usize::from(status / 100);
    if class < STATUSES.len() { class } else { 0 }
}

impl Scraped for RouteMetrics {
    const LABEL: &'static str = "route";

    fn new(common: &Arc<Common>) -> Self {
        let settings = common.settings();
        Self {
            common: Arc::clone(common),
            cells: PerWorker::new(common.workers),
            enabled: settings.enabled,
            outcomes: Outcomes::new(common, settings, Timed::Requests),
        }
    }

    fn places(_: &Settings) -> usize {
        3
    }

    fn is_current(&self) -> bool {
        self.common.has(self.outcomes.settings())
    }

    fn describe(families: &mut Families<'_, '_, Self>) {
        families.family(
            "http_server_request_duration_seconds",
            Kind::Histogram,
            "From the first byte of a request to the last of its response. error_type is the reason \
             of those that Pillion answered by itself or ended early, else the gRPC status where that is a \
             server's failure, else the status where it is 5xx.",
            |metrics, series| durations(&metrics.outcomes.summaries(), Timed::Requests, series),
        );
        let rest_of_requests = families.common.settings().all_rest(Timed::Requests);
        families.rest(|series| rest(rest_of_requests.clone(), Timed::Requests, series));
        families.gauge(
            "http_server_active_requests",
            "Requests running now.",
            Self::active,
        );
        families.family(
            "pillion_http_requests",
            Kind::Counter,
            "Requests that are over, by method and class of status; none: there was no response.",
            |metrics, series| {
                for ([method, status], count) in metrics.done() {
                    let labels = [("method", method), ("status", status)];
                    series.put(&labels, Value::Count(count, None));
                }
            },
        );
        let count = rest_of_requests.as_ref().map_or(0, Summary::count);
        if count > 0 {
            let [method, status] = class(Outcome::REST);
            let labels = [("method", method), ("status", status)];
            families.rest(|series| series.put(&labels, Value::Count(count, None)));
        }
        families.traced(
            "pillion_http_requests_failed",
            "Requests that Pillion answered with an error of its own or ended early, by reason.",
            ["reason"],
            Self::failed,
        );
        families.events(
            "pillion_http_local_replies",
            "Responses that rules made in place of an upstream, by reason: direct_response, redirect, \
             fallback_response.",
            ["reason"],
            Self::local_replies,
        );
        families.events(
            "pillion_http_faults_injected",
            "Faults injected on purpose, by kind: delay, abort, reset, slow_body.",
            ["kind"],
            Self::faults,
        );
        families.events(
            "pillion_http_fallbacks",
            "Requests whose upstream failed so that the rule's fallback was called for, by what came of \
             it: upstream, failed (that one too), response, withheld.",
            ["kind"],
            Self::fallbacks,
        );
        families.counter(
            "pillion_http_request_body_bytes",
            "Bytes of request bodies.",
            |metrics| metrics.cells.sum(|cells| &cells.request_bytes),
        );
        families.counter(
            "pillion_http_response_body_bytes",
            "Bytes of response bodies.",
            |metrics| metrics.cells.sum(|cells| &cells.response_bytes),
        );
    }
}

/// Histograms by outcome, with the labels that OpenTelemetry has for them.
pub(super) fn durations(
    summaries: &BTreeMap<Outcome, Summary>,
    of: Timed,
    series: &mut Series<'_, '_>,
) {
    for (outcome, summary) in summaries {
        let status = outcome.status().map(|status| status.to_string());
        let error = outcome.error(of);
        let labels = [
            Some(("http_request_method", outcome.method())),
            status
                .as_deref()
                .map(|status| ("http_response_status_code", status)),
            outcome.scheme().map(|scheme| ("url_scheme", scheme)),
            outcome
                .version()
                .map(|version| ("network_protocol_version", version)),
            error.as_deref().map(|error| ("error_type", error)),
        ];
        let labels: Vec<_> = labels.into_iter().flatten().collect();
        series.put(&labels, Value::Histogram(summary));
    }
}

/// The histogram of all that has none of its own.
pub(super) fn rest(summary: Option<Summary>, of: Timed, series: &mut Series<'_, '_>) {
    let rest = summary.map(|summary| (Outcome::REST, summary));
    durations(&rest.into_iter().collect(), of, series);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_method_class_and_reason() {
        let metrics = RouteMetrics::new(&Common::new(2));
        for worker in 0..2 {
            metrics.request_started(worker);
        }
        assert_eq!(metrics.active(), 2);
        let second = Duration::from_secs(1);
        let done = Done {
            method: &Method::GET,
            status: 204,
            grpc_status: None,
            reason: None,
            protocol: Protocol::Http11,
            secured: false,
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
            grpc_status: None,
            reason: Some(Reason::ClientClosed),
            ..done
        };
        metrics.request_done(1, &done);
        assert_eq!(metrics.active(), 0);
        assert_eq!(
            metrics.done().into_iter().collect::<Vec<_>>(),
            [(["GET", "2xx"], 1), (["other", "none"], 1)]
        );
    }

    #[test]
    fn a_status_of_no_class_is_none() {
        let class = |status| class(Outcome::new(&Method::PUT, status, None, None))[1];
        for status in [0, 99, 600, 999, u16::MAX] {
            assert_eq!(class(status), "none", "{status}");
        }
        assert_eq!(class(101), "1xx");
        assert_eq!(class(599), "5xx");
    }
}
