//! What everything that counts has in common.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;

use super::{family::series_of_histogram, histogram::Bounds, room::Room};
use crate::config::model;

/// Shared by the registry and all its handles.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) workers: usize,
    pub(super) room: Arc<Room>,
    exemplars: AtomicBool,
    settings: ArcSwap<Settings>,
    /// Grows with each configuration: what it does not ask for was removed.
    epoch: AtomicU64,
}

/// What a handle is made for: under other settings there is another handle, which begins anew.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    /// Whether requests are counted.
    pub(super) enabled: bool,
    pub(super) bounds: Arc<Bounds>,
}

impl Settings {
    fn of(config: &model::Metrics) -> Self {
        Self {
            enabled: config.enabled,
            bounds: Arc::new(Bounds::new(&config.buckets)),
        }
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
            settings: ArcSwap::from_pointee(Settings::of(&config)),
            epoch: AtomicU64::new(0),
        })
    }

    pub(super) fn configure(&self, config: &model::Metrics) {
        self.epoch.fetch_add(1, Relaxed);
        self.room.set(config.max_series);
        self.exemplars.store(config.exemplars, Relaxed);
        let settings = Settings::of(config);
        // The same ones stay what they are: nothing begins anew for them.
        if settings != **self.settings.load() {
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
