//! How busy the workers are.

use std::{sync::OnceLock, time::Duration};

use tokio::runtime::RuntimeMetrics;

use super::{
    family::{Kind, Value},
    scrape::Scrape,
};

/// The runtimes of all workers, once they run.
#[derive(Debug)]
pub(super) struct Workers(Box<[OnceLock<RuntimeMetrics>]>);

impl Workers {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| OnceLock::new()).collect())
    }

    pub(super) fn runs(&self, worker: usize, runtime: RuntimeMetrics) {
        // A worker starts once.
        drop(self.0[worker].set(runtime));
    }

    /// `connections`: those that each worker has.
    pub(super) fn describe(&self, scrape: &mut Scrape<'_>, connections: &[u64]) {
        scrape.gauge(
            "pillion_workers",
            "Data-plane workers.",
            Value::level(self.0.len() as u64),
        );
        scrape.family(
            "pillion_worker_busy_seconds",
            Kind::Counter,
            "Time that a worker had something to do; a second of it a second is all there is.",
        );
        for (worker, runtime) in self.0.iter().enumerate() {
            let busy = runtime.get().map_or(Duration::ZERO, |runtime| {
                runtime.worker_total_busy_duration(0)
            });
            let labels = [("worker", &*worker.to_string())];
            scrape.series(&labels, Value::Float(busy.as_secs_f64()));
        }
        scrape.family(
            "pillion_worker_connections",
            Kind::Gauge,
            "Client connections that a worker serves now.",
        );
        for (worker, &connections) in connections.iter().enumerate() {
            let labels = [("worker", &*worker.to_string())];
            scrape.series(&labels, Value::level(connections));
        }
    }
}
