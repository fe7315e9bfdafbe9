//! What an upstream counts of each of its endpoints.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use super::{
    cells::{ByReason, Count, PerWorker},
    common::Common,
    exemplar::now,
    family::Value,
    group::OVERFLOW,
    room::Share,
    route::{STATUSES, class_of},
    scrape::Series,
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
    _places: Option<Share>,
}

#[derive(Debug, Default)]
struct Cells {
    /// By class of status; the first one is for attempts without.
    results: [Count; STATUSES.len()],
    /// Made for the first failure.
    failures: OnceLock<Box<ByReason>>,
}

/// Results, states, running attempts and the estimate; some reasons.
const PLACES: usize = 2 + STATES.len() + 2 + 1;

/// Values of the `state` label.
pub(crate) const STATES: [&str; 4] = ["available", "open", "ejected", "unhealthy"];

impl EndpointMetrics {
    fn new(common: &Common, places: Option<Share>) -> Arc<Self> {
        Arc::new(Self {
            cells: PerWorker::new(common.workers),
            since: now(),
            _places: places,
        })
    }

    /// An attempt has brought this status, or failed.
    pub fn attempted(&self, worker: usize, result: Result<u16, Reason>) {
        let cells = self.cells.of(worker);
        match result {
            Ok(status) => cells.results[class_of(status)].increment(),
            Err(reason) => {
                cells.results[0].increment();
                cells
                    .failures
                    .get_or_init(Box::default)
                    .of(reason)
                    .increment();
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
    /// Weak, so that an endpoint that is gone takes its series along.
    tried: Mutex<Vec<Weak<Endpoint>>>,
    /// For all that there is no room for.
    rest: OnceLock<Arc<EndpointMetrics>>,
    board: Mutex<Weak<Board>>,
}

impl Endpoints {
    pub(super) fn new(common: &Arc<Common>) -> Self {
        Self {
            common: Arc::clone(common),
            tried: Mutex::default(),
            rest: OnceLock::new(),
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
            let new = || EndpointMetrics::new(&self.common, None);
            return Arc::clone(self.rest.get_or_init(new));
        };
        let mut tried = lock(&self.tried);
        tried.retain(|endpoint| endpoint.strong_count() > 0);
        tried.push(Arc::downgrade(endpoint));
        EndpointMetrics::new(&self.common, Some(places))
    }

    fn live(&self) -> Vec<Arc<Endpoint>> {
        let mut live: Vec<_> = lock(&self.tried).iter().filter_map(Weak::upgrade).collect();
        live.sort_unstable_by(|one, other| one.label.cmp(&other.label));
        // An address that went and came back may be here twice for as long as connections to the
        // first of the two last; the later one is meant.
        live.dedup_by(|later, earlier| {
            let is_same = later.label == earlier.label;
            if is_same && later.id > earlier.id {
                std::mem::swap(later, earlier);
            }
            is_same
        });
        live
    }

    fn each(&self, mut show: impl FnMut(&str, &EndpointMetrics)) {
        for endpoint in self.live() {
            if let Some(metrics) = endpoint.metrics.get() {
                show(&endpoint.label, metrics);
            }
        }
        if let Some(rest) = self.rest.get() {
            show(OVERFLOW, rest);
        }
    }

    pub(super) fn show_results(&self, series: &mut Series<'_, '_>) {
        self.each(|name, metrics| {
            series.since(metrics.since);
            for (result, count) in metrics.results() {
                let labels = [("endpoint", name), ("result", result)];
                series.put(&labels, Value::Count(count, None));
            }
        });
    }

    pub(super) fn show_failures(&self, series: &mut Series<'_, '_>) {
        self.each(|name, metrics| {
            series.since(metrics.since);
            for (reason, count) in metrics.failures() {
                let labels = [("endpoint", name), ("reason", reason)];
                series.put(&labels, Value::Count(count, None));
            }
        });
    }

    pub(super) fn show_active(&self, series: &mut Series<'_, '_>) {
        for endpoint in self.live() {
            let active = Value::level(endpoint.active().into());
            series.put(&[("endpoint", &*endpoint.label)], active);
        }
    }

    pub(super) fn show_latency(&self, series: &mut Series<'_, '_>) {
        for endpoint in self.live() {
            if let Some(latency) = endpoint.latency() {
                let latency = Value::Float(latency.as_secs_f64());
                series.put(&[("endpoint", &*endpoint.label)], latency);
            }
        }
    }

    pub(super) fn show_states(&self, series: &mut Series<'_, '_>) {
        let board = lock(&self.board).upgrade();
        let states: HashMap<EndpointId, &str> = board
            .map(|board| board.states())
            .into_iter()
            .flatten()
            .collect();
        for endpoint in self.live() {
            let Some(&state) = states.get(&endpoint.id) else {
                continue;
            };
            for each in STATES {
                let labels = [("endpoint", &*endpoint.label), ("state", each)];
                series.put(&labels, Value::level(u64::from(each == state)));
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
    use tokio::time::Instant;

    use super::*;
    use crate::upstream::Target;

    fn endpoint(last: u8) -> Arc<Endpoint> {
        Endpoint::new(Target::tcp(([127, 0, 0, last], 80).into()), Instant::now())
    }

    fn meet(endpoints: &Endpoints, endpoint: &Arc<Endpoint>) {
        endpoint.metrics.get_or_init(|| endpoints.meet(endpoint));
    }

    fn names(endpoints: &Endpoints) -> Vec<String> {
        let mut names = Vec::new();
        endpoints.each(|name, _| names.push(name.to_owned()));
        names
    }

    #[test]
    fn attempts_are_counted_by_result_and_reason() {
        let metrics = EndpointMetrics::new(&Common::new(2), None);
        for result in [Ok(200), Ok(204), Ok(503), Err(Reason::ConnectFailed)] {
            metrics.attempted(0, result);
            metrics.attempted(1, result);
        }
        let results: Vec<_> = metrics.results().collect();
        assert_eq!(results, [("failed", 2), ("2xx", 4), ("5xx", 2)]);
        let failures: Vec<_> = metrics.failures().collect();
        assert_eq!(failures, [(Reason::ConnectFailed.name(), 2)]);
    }

    #[test]
    fn endpoints_that_are_gone_are_not_shown() {
        let endpoints = Endpoints::new(&Common::new(1));
        let (first, second) = (endpoint(1), endpoint(2));
        meet(&endpoints, &second);
        meet(&endpoints, &first);
        assert_eq!(names(&endpoints), ["127.0.0.1:80", "127.0.0.2:80"]);
        drop(second);
        assert_eq!(names(&endpoints), ["127.0.0.1:80"]);
    }

    #[test]
    fn an_address_that_came_back_is_shown_once() {
        let endpoints = Endpoints::new(&Common::new(1));
        let (before, after) = (endpoint(1), endpoint(1));
        meet(&endpoints, &before);
        meet(&endpoints, &after);
        let live = endpoints.live();
        assert_eq!(live.len(), 1);
        assert!(Arc::ptr_eq(&live[0], &after));
    }

    #[test]
    fn what_finds_no_place_is_counted_together() {
        let common = Common::new(1);
        common.room.set(PLACES);
        let endpoints = Endpoints::new(&common);
        let all = [endpoint(1), endpoint(2), endpoint(3)];
        all.iter().for_each(|endpoint| meet(&endpoints, endpoint));
        assert_eq!(names(&endpoints), ["127.0.0.1:80", OVERFLOW]);
        let metrics = |index: usize| all[index].metrics.get().unwrap();
        assert!(Arc::ptr_eq(metrics(1), metrics(2)));
        drop(all);
        assert!(common.room.take(PLACES).is_some());
    }
}
