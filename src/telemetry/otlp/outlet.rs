//! One worker's end.

use std::{cell::RefCell, fmt, sync::Arc};

use tokio::sync::Notify;

use super::queue::{Batch, Inlet};
use crate::protobuf::Writer;

/// A buffer of this many bytes goes to the exporter at once.
const BATCH_BYTES: usize = 16 * 1024;

/// The field of the items in `ScopeSpans`, `ScopeLogs` and `ScopeMetrics` alike.
const ITEM: u32 = 2;

/// What one worker writes the items of one signal to. Made by [`Exporter::outlet`] and moved to the
/// worker, which spawns [`Outlet::flush_when_idle`].
///
/// [`Exporter::outlet`]: super::Exporter::outlet
pub struct Outlet {
    inlet: Arc<Inlet>,
    pending: RefCell<Batch>,
    /// There is a first item in `pending`.
    begun: Notify,
}

impl Outlet {
    pub(super) fn new(inlet: Arc<Inlet>) -> Self {
        Self {
            inlet,
            pending: RefCell::default(),
            begun: Notify::new(),
        }
    }

    /// Whether this signal is exported at all: ask before an item is made. A reload may change it.
    pub fn is_open(&self) -> bool {
        self.inlet.is_open()
    }

    /// Takes a span or a log record. `encode` writes its fields; what frames it is written around.
    pub fn push(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.push_counted(1, encode);
    }

    /// Takes a message that stands for several items: a metric with its points.
    pub fn push_counted(&self, items: u64, encode: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_open() {
            return;
        }
        let mut pending = self.pending.borrow_mut();
        if pending.items == 0 {
            // Room for the item that goes beyond.
            pending.bytes.reserve(BATCH_BYTES + BATCH_BYTES / 4);
            self.begun.notify_one();
        }
        Writer(&mut pending.bytes).message(ITEM, |writer| encode(writer.0));
        pending.items += items;
        let is_full = pending.bytes.len() >= BATCH_BYTES || pending.items >= self.inlet.max_items();
        if is_full {
            let batch = std::mem::take(&mut *pending);
            drop(pending);
            self.inlet.hand_over(batch);
        }
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        let mut pending = self.pending.borrow_mut();
        if pending.items == 0 {
            return;
        }
        // A copy where that is small: what waits is no larger than what it holds, and the buffer is
        // here for the next items.
        let batch = match pending.bytes.len() < BATCH_BYTES / 2 {
            true => Batch {
                bytes: pending.bytes.as_slice().into(),
                items: std::mem::take(&mut pending.items),
            },
            false => std::mem::take(&mut *pending),
        };
        if pending.items == 0 {
            pending.bytes.clear();
        }
        drop(pending);
        self.inlet.hand_over(batch);
    }

    /// Hands over what a worker with too little to do for a full buffer has written. Never ends:
    /// each worker runs one as a task.
    pub async fn flush_when_idle(&self) {
        loop {
            self.begun.notified().await;
            tokio::time::sleep(self.inlet.patience()).await;
            self.flush();
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}
