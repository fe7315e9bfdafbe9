//! The control world's end.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::{
    Outlet, Signal, destination,
    queue::{Batch, Inlet},
};
use crate::{config::model::Config, telemetry::metrics::OtlpMetrics};

/// Steers what is exported, and where to: one a process.
#[derive(Debug)]
pub struct Exporter {
    inlets: [Arc<Inlet>; Signal::ALL.len()],
    /// The other ends, until a thread takes them.
    waiting: Mutex<Option<[mpsc::Receiver<Batch>; Signal::ALL.len()]>>,
}

impl Exporter {
    /// Nothing is exported yet, and no thread runs.
    pub fn new(metrics: &OtlpMetrics) -> Self {
        let queues = Signal::ALL.map(|signal| Inlet::new(Arc::clone(metrics.of(signal))));
        let inlets = queues.each_ref().map(|(inlet, _)| Arc::clone(inlet));
        Self {
            inlets,
            waiting: Mutex::new(Some(queues.map(|(_, batches)| batches))),
        }
    }

    /// What one worker writes to.
    pub fn outlet(&self, signal: Signal) -> Outlet {
        Outlet::new(Arc::clone(&self.inlets[signal as usize]))
    }

    /// Does as this configuration says from now on.
    pub fn apply(&self, config: &Config) {
        for signal in Signal::ALL {
            let inlet = &self.inlets[signal as usize];
            match destination(config, signal) {
                Some(export) => inlet.open(&export.batch),
                None => inlet.close(),
            }
        }
    }
}
