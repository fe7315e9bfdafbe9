//! What lies between the workers and the exporter: batches of one signal, bounded in bytes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    config::model::OtlpBatch,
    telemetry::metrics::{DropCause, SignalMetrics},
};

/// What a batch is counted for beside its bytes: its place in the queue and what the allocator keeps,
/// so that the bytes bound the number of batches too, however small they are.
const HELD: u64 = 64;

/// A worker's buffer of this many bytes goes to the exporter at once.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;

/// And one that is this part of the queue: what is handed over is taken or dropped as a whole.
const BUFFERS: usize = 8;

/// Items, each framed as a field of the message that is to hold them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) items: u64,
}

impl Batch {
    /// Bytes that it takes while it waits.
    pub(super) fn cost(&self) -> u64 {
        self.bytes.len() as u64 + HELD
    }
}

/// The end that all workers share. What a reload changes is read with plain loads.
#[derive(Debug)]
pub(super) struct Inlet {
    open: AtomicBool,
    /// Milliseconds.
    delay: AtomicU64,
    /// How large a worker's buffer may grow.
    buffer_bytes: AtomicU64,
    buffer_items: AtomicU64,
    queue_bytes: AtomicU64,
    queue_items: AtomicU64,
    /// Items that wait, or are being sent.
    queued_items: AtomicU64,
    /// Bounded by `queue_bytes`: nothing is sent here that was not counted first.
    sender: mpsc::UnboundedSender<Batch>,
    /// Of bytes it knows how many wait.
    pub(super) metrics: Arc<SignalMetrics>,
}

impl Inlet {
    /// Closed, until [`Inlet::open`].
    pub(super) fn new(metrics: Arc<SignalMetrics>) -> (Arc<Self>, mpsc::UnboundedReceiver<Batch>) {
        let (sender, batches) = mpsc::unbounded_channel();
        let inlet = Self {
            open: AtomicBool::new(false),
            delay: AtomicU64::new(0),
            buffer_bytes: AtomicU64::new(BUFFER_BYTES as u64),
            buffer_items: AtomicU64::new(u64::MAX),
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
        let part_bytes = BUFFER_BYTES.min(batch.queue_bytes / BUFFERS);
        let part_items = batch.queue_items.map(|most| (most / BUFFERS).max(1));
        let buffer_items = items(batch.max_items).min(items(part_items));
        self.buffer_bytes.store(part_bytes as u64, Relaxed);
        self.buffer_items.store(buffer_items, Relaxed);
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

    /// Bytes at which a worker hands its buffer over.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes.load(Relaxed) as usize
    }

    /// Items at which it does.
    pub(super) fn buffer_items(&self) -> u64 {
        self.buffer_items.load(Relaxed)
    }

    /// How long a worker waits for a full buffer: half of the whole delay, the other half is the
    /// exporter's.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.delay.load(Relaxed).div_ceil(2))
    }

    /// Puts a batch into the queue, or drops and counts it.
    pub(super) fn hand_over(&self, batch: Batch) {
        let (bytes, items) = (batch.cost(), batch.items);
        let all_bytes = self.metrics.entered(bytes);
        let all_items = items + self.queued_items.fetch_add(items, Relaxed);
        let fits = all_bytes <= self.queue_bytes.load(Relaxed)
            && all_items <= self.queue_items.load(Relaxed);
        let cause = match fits {
            false => DropCause::QueueFull,
            true => match self.sender.send(batch) {
                Ok(()) => return,
                // Nobody sends any more.
                Err(_) => DropCause::Failed,
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
