//! What lies between the workers and the exporter: batches of one signal, bounded in bytes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    config::model::OtlpBatch,
    telemetry::metrics::{DropCause, SignalMetrics},
};

/// Batches that wait, however small they are.
const MAX_BATCHES: usize = 4096;

/// Items, each framed as a field of the message that is to hold them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) items: u64,
}

/// The end that all workers share. What a reload changes is read with plain loads.
#[derive(Debug)]
pub(super) struct Inlet {
    open: AtomicBool,
    /// Milliseconds.
    delay: AtomicU64,
    /// Items of one export.
    max_items: AtomicU64,
    queue_bytes: AtomicU64,
    queue_items: AtomicU64,
    /// Items that wait, or are being sent.
    queued_items: AtomicU64,
    sender: mpsc::Sender<Batch>,
    /// Of bytes it knows how many wait.
    pub(super) metrics: Arc<SignalMetrics>,
}

impl Inlet {
    /// Closed, until [`Inlet::open`].
    pub(super) fn new(metrics: Arc<SignalMetrics>) -> (Arc<Self>, mpsc::Receiver<Batch>) {
        let (sender, batches) = mpsc::channel(MAX_BATCHES);
        let inlet = Self {
            open: AtomicBool::new(false),
            delay: AtomicU64::new(0),
            max_items: AtomicU64::new(u64::MAX),
            queue_bytes: AtomicU64::new(0),
            queue_items: AtomicU64::new(0),
            queued_items: AtomicU64::new(0),
            sender,
            metrics,
        };
        (Arc::new(inlet), batches)
    }

    pub(super) fn open(&self, batch: &OtlpBatch) {
        let items = |most: Option<usize>| most.map_or(u64::MAX, |most| most as u64);
        let delay = u64::try_from(batch.delay.as_millis()).unwrap_or(u64::MAX);
        self.delay.store(delay, Relaxed);
        self.max_items.store(items(batch.max_items), Relaxed);
        self.queue_bytes.store(batch.queue_bytes as u64, Relaxed);
        self.queue_items.store(items(batch.queue_items), Relaxed);
        self.open.store(true, Relaxed);
    }

    /// What waits is sent nevertheless.
    pub(super) fn close(&self) {
        self.open.store(false, Relaxed);
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    pub(super) fn max_items(&self) -> u64 {
        self.max_items.load(Relaxed)
    }

    /// How long a worker waits for a full buffer: half of the whole delay, the other half is the
    /// exporter's.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.delay.load(Relaxed).div_ceil(2))
    }

    /// Puts a batch into the queue, or drops and counts it.
    pub(super) fn hand_over(&self, batch: Batch) {
        let (bytes, items) = (batch.bytes.len() as u64, batch.items);
        let all_bytes = self.metrics.entered(bytes);
        let all_items = items + self.queued_items.fetch_add(items, Relaxed);
        let fits = all_bytes <= self.queue_bytes.load(Relaxed)
            && all_items <= self.queue_items.load(Relaxed);
        let cause = match fits {
            false => DropCause::QueueFull,
            true => match self.sender.try_send(batch) {
                Ok(()) => return,
                Err(TrySendError::Full(_)) => DropCause::QueueFull,
                // Nobody sends any more.
                Err(TrySendError::Closed(_)) => DropCause::Failed,
            },
        };
        self.left(bytes, items);
        self.metrics.dropped(cause, items);
    }

    /// So much waits no longer.
    pub(super) fn left(&self, bytes: u64, items: u64) {
        self.metrics.left(bytes);
        self.queued_items.fetch_sub(items, Relaxed);
    }
}
