//! What everything that counts has in common.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;

use super::{
    cells::PerWorker,
    endpoint::EndpointMetrics,
    family::series_of_histogram,
    histogram::{Bounds, Histogram, Summary},
    room::Room,
};
use crate::config::model;

/// Shared by the registry and all its handles.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) workers: usize,
    pub(super) room: Arc<Room>,
    exemplars: AtomicBool,
    settings: ArcSwap<Settings>,
    /// For endpoints that there is no room for, of all upstreams.
    pub(super) other_endpoints: OnceLock<Arc<EndpointMetrics>>,
    /// Grows with each configuration: what it does not ask for was removed.
    epoch: AtomicU64,
}

/// What a handle is made for: under other settings there is another handle, which begins anew.
#[derive(Debug)]
pub(super) struct Settings {
    /// Whether requests are counted.
    pub(super) enabled: bool,
    pub(super) bounds: Arc<Bounds>,
    /// Durations that have no histogram of their own, by what they are of.
    rest: [PerWorker<Histogram>; 2],
}

/// What takes time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timed {
    Requests,
    Attempts,
}

impl Settings {
    fn of(config: &model::Metrics, workers: usize) -> Self {
        let bounds = Arc::new(Bounds::new(&config.buckets));
        let histograms = || PerWorker::from_fn(workers, || Histogram::new(&bounds));
        Self {
            enabled: config.enabled,
            rest: [histograms(), histograms()],
            bounds,
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.enabled == other.enabled && self.bounds == other.bounds
    }

    /// Where a worker counts what has no histogram of its own.
    pub(super) fn rest(&self, of: Timed, worker: usize) -> &Histogram {
        self.rest[of as usize].of(worker)
    }

    /// All of it, if there is any.
    pub(super) fn all_rest(&self, of: Timed) -> Option<Summary> {
        let summary = self.rest[of as usize].summary();
        (summary.count() > 0).then_some(summary)
    }

    /// Series of one histogram.
    pub(super) fn histogram(&self) -> usize {
        series_of_histogram(self.bounds.len())
    }
}

impl Common {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        let config = model::Metrics::default();
        Arc::new(Self {
            workers,
            room: Room::new(config.max_series),
            exemplars: AtomicBool::new(config.exemplars),
            settings: ArcSwap::from_pointee(Settings::of(&config, workers)),
            other_endpoints: OnceLock::new(),
            epoch: AtomicU64::new(0),
        })
    }

    pub(super) fn configure(&self, config: &model::Metrics) {
        self.epoch.fetch_add(1, Relaxed);
        self.room.set(config.max_series);
        self.exemplars.store(config.exemplars, Relaxed);
        let settings = Settings::of(config, self.workers);
        // The same ones stay what they are: nothing begins anew for them.
        if !settings.says_the_same(&self.settings.load()) {
            self.settings.store(Arc::new(settings));
        }
    }

    /// Which configuration is being compiled, or was last.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Whether these are the settings in force.
    pub(super) fn has(&self, settings: &Arc<Settings>) -> bool {
        Arc::ptr_eq(settings, &self.settings.load())
    }

    /// The trace, if it may be told.
    pub(super) fn told(&self, trace: Option<(u128, u64)>) -> Option<(u128, u64)> {
        trace.filter(|_| self.exemplars.load(Relaxed))
    }
}
