//! What an upstream counts of each of its endpoints.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use super::{
    cells::{ByReason, Count, PerWorker},
    common::Common,
    exemplar::now,
    family::{Kind, Value},
    group::OVERFLOW,
    ledger::Ledger,
    room::Share,
    route::{STATUSES, class_of},
    scrape::{Families, Series},
};
use crate::{
    error::Reason,
    upstream::{Board, Endpoint, EndpointId},
};

/// The handle of one endpoint, made for its first attempt: of thousands of endpoints a worker may
/// never ask more than a few. Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct EndpointMetrics {
    cells: PerWorker<Cells>,
    since: u64,
    ledger: Ledger,
}

#[derive(Debug, Default)]
struct Cells {
    /// By class of status; the first one is for attempts without.
    results: [Count; STATUSES.len()],
    /// Made for the first failure.
    failures: OnceLock<Box<ByReason>>,
}

impl Cells {
    fn failed(&self, reason: Reason) {
        let failures = self.failures.get_or_init(Box::default);
        failures.of(reason).increment();
    }
}

/// States, running attempts, the estimate, and the result of the first attempt. Others take a place
/// when they are first shown, as most endpoints never have all of them.
const PLACES: usize = STATES.len() + 3;

const RESULTS: &str = "pillion_endpoint_requests";

/// The family by reason.
const FAILURES: &str = "pillion_endpoint_failures";

/// Values of the `state` label.
pub(crate) const STATES: [&str; 4] = ["available", "open", "ejected", "unhealthy"];

impl EndpointMetrics {
    /// `results`: so many of the places are for results.
    fn new(common: &Common, places: Share, results: usize) -> Arc<Self> {
        Arc::new(Self {
            cells: PerWorker::new(common.workers),
            since: now(),
            ledger: Ledger::with(places, results),
        })
    }

    /// For all that there is no room for.
    fn of_others(common: &Common) -> Arc<Self> {
        let results = STATUSES.len();
        Self::new(common, common.room.insist(results), results)
    }

    /// An attempt has brought this status, or failed.
    pub fn attempted(&self, worker: usize, result: Result<u16, Reason>) {
        let cells = self.cells.of(worker);
        match result {
            Ok(status) => cells.results[class_of(status)].increment(),
            Err(reason) => {
                cells.results[0].increment();
                cells.failed(reason);
            }
        }
    }

    /// A response, of which the head was counted by its status, broke off.
    pub fn broke(&self, worker: usize, reason: Reason) {
        self.cells.of(worker).failed(reason);
    }

    fn show_results(&self, name: &str, series: &mut Series<'_, '_>) {
        self.show((RESULTS, "result"), self.results(), name, series);
    }

    fn show_failures(&self, name: &str, series: &mut Series<'_, '_>) {
        self.show((FAILURES, "reason"), self.failures(), name, series);
    }

    /// One family, by the values of this label.
    fn show(
        &self,
        (family, label): (&'static str, &'static str),
        counts: impl Iterator<Item = (&'static str, u64)>,
        name: &str,
        series: &mut Series<'_, '_>,
    ) {
        series.since(self.since);
        for (value, count) in counts {
            if let Some(count) = self.ledger.tell(family, [value, ""], count) {
                series.put(
                    &[("endpoint", name), (label, value)],
                    Value::Count(count, None),
                );
            }
        }
    }

    fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let result = |class| match class {
            0 => "failed",
            _ => STATUSES[class],
        };
        let count = move |class| {
            let count = self.cells.sum(|cells: &Cells| &cells.results[class]);
            (result(class), count)
        };
        (0..STATUSES.len())
            .map(count)
            .filter(|&(_, count)| count > 0)
    }

    fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |&reason: &Reason| {
            let counts = self.cells.iter().filter_map(|cells| cells.failures.get());
            let count = counts.map(|counts| counts.of(reason).get()).sum();
            (reason.name(), count)
        };
        Reason::ALL
            .iter()
            .map(count)
            .filter(|&(_, count)| count > 0)
    }
}

/// Those of one upstream that have been tried.
#[derive(Debug)]
pub(super) struct Endpoints {
    common: Arc<Common>,
    tried: Mutex<Tried>,
    board: Mutex<Weak<Board>>,
}

#[derive(Debug, Default)]
struct Tried {
    /// Weak, so that an endpoint that is gone takes its series along.
    endpoints: Vec<Weak<Endpoint>>,
    /// How many there were after the last look for those that are gone.
    live: usize,
}

impl Tried {
    /// Looks for those that are gone whenever the list has doubled: what that costs is spread over
    /// all that were added.
    fn add(&mut self, endpoint: &Arc<Endpoint>) {
        if self.endpoints.len() >= 2 * self.live {
            self.endpoints.retain(|known| known.strong_count() > 0);
            self.live = self.endpoints.len() + 1;
        }
        self.endpoints.push(Arc::downgrade(endpoint));
    }
}

impl Endpoints {
    pub(super) fn new(common: &Arc<Common>) -> Self {
        Self {
            common: Arc::clone(common),
            tried: Mutex::default(),
            board: Mutex::default(),
        }
    }

    /// Shows the states of endpoints as this board has them.
    pub(super) fn stand_on(&self, board: &Arc<Board>) {
        *lock(&self.board) = Arc::downgrade(board);
    }

    /// The first attempt at an endpoint.
    pub(super) fn meet(&self, endpoint: &Arc<Endpoint>) -> Arc<EndpointMetrics> {
        let Some(places) = self.common.room.take(PLACES) else {
            self.common.room.refuse(PLACES);
            let others = || EndpointMetrics::of_others(&self.common);
            return Arc::clone(self.common.other_endpoints.get_or_init(others));
        };
        lock(&self.tried).add(endpoint);
        EndpointMetrics::new(&self.common, places, 1)
    }

    /// Those that are still wanted. Others may be held for a while, by connections or by who has not
    /// looked at the newest configuration.
    pub(super) fn live(&self) -> Live {
        let board = lock(&self.board).upgrade();
        let states = board.map(|board| board.states());
        let states: HashMap<EndpointId, &str> = states.into_iter().flatten().collect();
        let state = |endpoint: Arc<Endpoint>| {
            let state = states.get(&endpoint.id)?;
            Some((endpoint, *state))
        };
        let tried: Vec<_> = lock(&self.tried)
            .endpoints
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut live: Vec<_> = tried.into_iter().filter_map(state).collect();
        live.sort_unstable_by(|(one, _), (other, _)| one.label.cmp(&other.label));
        Live(live)
    }
}

/// Endpoints of one upstream as a scrape finds them, by name, each with its state.
#[derive(Debug)]
pub(super) struct Live(Vec<(Arc<Endpoint>, &'static str)>);

impl Live {
    pub(super) fn describe(families: &mut Families<'_, '_, Self>) {
        // Those that there is no room for, of all upstreams.
        let others = families.common.other_endpoints.get();
        families.family(
            RESULTS,
            Kind::Counter,
            "Attempts, by class of status; failed: those that brought no response.",
            |live, series| live.show_results(series),
        );
        families.rest(|series| {
            if let Some(others) = others {
                others.show_results(OVERFLOW, series);
            }
        });
        families.rest_of_events(RESULTS, ["endpoint", "result"]);
        families.family(
            FAILURES,
            Kind::Counter,
            "Attempts that brought no response, or broke off in it, by reason; those that broke off have the \
             `result` of their status.",
            |live, series| live.show_failures(series),
        );
        families.rest(|series| {
            if let Some(others) = others {
                others.show_failures(OVERFLOW, series);
            }
        });
        families.rest_of_events(FAILURES, ["endpoint", "reason"]);
        families.family(
            "pillion_endpoint_requests_active",
            Kind::Gauge,
            "Attempts running now, and their responses' bodies.",
            |live, series| live.show_active(series),
        );
        families.family(
            "pillion_endpoint_latency_seconds",
            Kind::Gauge,
            "The time to the head of a response, as the balancer estimates it.",
            |live, series| live.show_latency(series),
        );
        families.family(
            "pillion_endpoint_state",
            Kind::Gauge,
            "1 for the state that an endpoint is in, of those that `pillion_upstream_endpoints` counts.",
            |live, series| live.show_states(series),
        );
    }

    fn each(&self, mut show: impl FnMut(&str, &EndpointMetrics)) {
        for (endpoint, _) in &self.0 {
            if let Some(metrics) = endpoint.metrics.get() {
                show(&endpoint.label, metrics);
            }
        }
    }

    fn show_results(&self, series: &mut Series<'_, '_>) {
        self.each(|name, metrics| metrics.show_results(name, series));
    }

    fn show_failures(&self, series: &mut Series<'_, '_>) {
        self.each(|name, metrics| metrics.show_failures(name, series));
    }

    fn show_active(&self, series: &mut Series<'_, '_>) {
        for (endpoint, _) in &self.0 {
            let active = Value::level(endpoint.active().into());
            series.put(&[("endpoint", &*endpoint.label)], active);
        }
    }

    fn show_latency(&self, series: &mut Series<'_, '_>) {
        for (endpoint, _) in &self.0 {
            if let Some(latency) = endpoint.latency() {
                let latency = Value::Float(latency.as_secs_f64());
                series.put(&[("endpoint", &*endpoint.label)], latency);
            }
        }
    }

    fn show_states(&self, series: &mut Series<'_, '_>) {
        for (endpoint, state) in &self.0 {
            for each in STATES {
                let labels = [("endpoint", &*endpoint.label), ("state", each)];
                series.put(&labels, Value::level(u64::from(each == *state)));
            }
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change to it is one call, so that a panic elsewhere leaves it whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::model::{self, EndpointAddress},
        telemetry::{
            Registry,
            metrics::{Attempted, Format},
        },
        tls::Materials,
        upstream::{Upstream, tests::upstream_config},
    };

    fn upstream(registry: &Registry, endpoints: &[u8]) -> Arc<Upstream> {
        let config = config(endpoints);
        Upstream::new(config, registry.upstream("app"), &Materials::default())
    }

    fn config(endpoints: &[u8]) -> Arc<model::Upstream> {
        let address = |last: &u8| EndpointAddress::Ip(([127, 0, 0, *last], 80).into());
        let endpoints: Vec<_> = endpoints.iter().map(address).collect();
        Arc::new(upstream_config(&endpoints))
    }

    fn ask(upstream: &Upstream) {
        let attempt = Attempted {
            method: &http::Method::GET,
            result: Ok(200),
            took: std::time::Duration::ZERO,
            trace: None,
        };
        for endpoint in upstream.endpoints().endpoints() {
            upstream.attempted(0, endpoint, &attempt);
        }
    }

    /// The endpoints that are shown.
    fn shown(registry: &Registry) -> Vec<String> {
        let text = registry.encode(Format::Prometheus);
        let series = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("pillion_endpoint_requests_total{")?;
            rest.split_once("endpoint=\"")?.1.split_once('"')
        });
        series.map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn attempts_are_counted_by_result_and_reason() {
        let metrics = EndpointMetrics::of_others(&Common::new(2));
        for result in [Ok(200), Ok(204), Ok(503), Err(Reason::ConnectFailed)] {
            metrics.attempted(0, result);
            metrics.attempted(1, result);
        }
        metrics.broke(1, Reason::ResponseIncomplete);
        let results: Vec<_> = metrics.results().collect();
        assert_eq!(results, [("failed", 2), ("2xx", 4), ("5xx", 2)]);
        let failures: Vec<_> = metrics.failures().collect();
        let expected = [(Reason::ConnectFailed, 2), (Reason::ResponseIncomplete, 1)];
        assert_eq!(failures, expected.map(|(reason, n)| (reason.name(), n)));
    }

    #[test]
    fn endpoints_are_shown_from_their_first_attempt_until_they_are_removed() {
        let registry = Registry::new(1);
        let before = upstream(&registry, &[2, 1]);
        assert!(shown(&registry).is_empty());
        ask(&before);
        assert_eq!(shown(&registry), ["127.0.0.1:80", "127.0.0.2:80"]);
        let after = before.successor(config(&[1, 3]), &Materials::default());
        assert_eq!(shown(&registry), ["127.0.0.1:80"]);
        ask(&after);
        assert_eq!(shown(&registry), ["127.0.0.1:80", "127.0.0.3:80"]);
        let text = registry.encode(Format::Prometheus);
        assert!(text.contains(
            "pillion_endpoint_state{upstream=\"app\",endpoint=\"127.0.0.3:80\",state=\"available\"} 1"
        ));
    }

    #[test]
    fn endpoints_that_are_gone_are_forgotten_before_long() {
        let registry = Registry::new(1);
        let mut tried = Tried::default();
        let kept = upstream(&registry, &[1, 2, 3]);
        for last in 4..=250 {
            let gone = upstream(&registry, &[last]);
            tried.add(&gone.endpoints().endpoints()[0]);
        }
        for endpoint in kept.endpoints().endpoints() {
            tried.add(endpoint);
        }
        assert!(tried.endpoints.len() <= 8, "{}", tried.endpoints.len());
        let live = tried
            .endpoints
            .iter()
            .filter(|known| known.strong_count() > 0);
        assert_eq!(live.count(), 3);
    }

    #[test]
    fn what_finds_no_place_is_counted_together() {
        let registry = Registry::new(1);
        registry.configure(&model::Metrics {
            max_series: 400,
            ..model::Metrics::default()
        });
        let upstream = upstream(&registry, &(1..=100).collect::<Vec<_>>());
        ask(&upstream);
        let shown = shown(&registry);
        assert!((2..20).contains(&shown.len()), "{shown:?}");
        assert_eq!(shown.last().unwrap(), OVERFLOW);
    }

    #[test]
    fn nearly_all_places_are_shown_before_one_is_missing() {
        let registry = Registry::new(1);
        registry.configure(&model::Metrics {
            max_series: 1000,
            ..model::Metrics::default()
        });
        let upstream = upstream(&registry, &(1..=250).collect::<Vec<_>>());
        ask(&upstream);
        let told = registry.encode(Format::Prometheus);
        let series = told.lines().filter(|line| !line.starts_with('#')).count();
        let shown = shown(&registry);
        assert_eq!(shown.last().unwrap(), OVERFLOW);
        let text = "pillion_endpoint_requests_total{upstream=\"_overflow\",endpoint=\"_overflow\",\
                    result=\"2xx\"}";
        assert!(told.contains(text));
        assert!((600..=1000).contains(&series), "{series}");
    }
}
