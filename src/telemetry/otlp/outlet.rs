//! One worker's end.

use std::{
    cell::{RefCell, RefMut},
    fmt,
    sync::Arc,
};

use tokio::sync::Notify;

use super::queue::{Batch, Inlet};
use crate::protobuf::Writer;

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
        let most = self.inlet.buffer_bytes();
        if pending.items == 0 {
            // Room for the item that goes beyond.
            pending.bytes.reserve(most + most / 4);
            self.begun.notify_one();
        }
        Writer(&mut pending.bytes).message(ITEM, |writer| encode(writer.0));
        pending.items += items;
        if pending.bytes.len() >= most || pending.items >= self.inlet.buffer_items() {
            self.hand_over(pending);
        }
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        let pending = self.pending.borrow_mut();
        if pending.items > 0 {
            self.hand_over(pending);
        }
    }

    fn hand_over(&self, mut pending: RefMut<'_, Batch>) {
        // A copy where that is small: what waits is no larger than what it holds, and the buffer is
        // here for the next items.
        let batch = match pending.bytes.len() < pending.bytes.capacity() / 2 {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        config::model::OtlpBatch,
        protobuf::Fields,
        telemetry::{
            Registry,
            metrics::Format,
            otlp::{Signal, queue::BUFFER_BYTES},
        },
    };

    const BATCH: OtlpBatch = OtlpBatch {
        delay: Duration::from_secs(1),
        max_bytes: 256 << 10,
        max_items: None,
        queue_bytes: 200 << 10,
        queue_items: None,
    };

    fn outlet(registry: &Registry, batch: &OtlpBatch) -> (Outlet, mpsc::UnboundedReceiver<Batch>) {
        let (inlet, batches) = Inlet::new(Arc::clone(registry.otlp().of(Signal::Traces)));
        inlet.open(batch);
        (Outlet::new(inlet), batches)
    }

    fn dropped(registry: &Registry) -> bool {
        let name = r#"pillion_otlp_dropped_total{signal="traces",cause="queue_full"}"#;
        let text = registry.encode(Format::Prometheus);
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim() != "0"
    }

    #[test]
    fn items_are_framed_and_full_buffers_handed_over() {
        let registry = Registry::new(1);
        let (outlet, mut batches) = outlet(&registry, &BATCH);
        outlet.push(|out| out.extend_from_slice(b"first"));
        assert!(batches.try_recv().is_err());
        outlet.push(|out| out.resize(out.len() + BUFFER_BYTES, 7));
        let batch = batches.try_recv().unwrap();
        assert_eq!(batch.items, 2);
        let mut fields = Fields(&batch.bytes);
        let first = fields.next().unwrap().unwrap();
        assert_eq!(
            (first.number, first.bytes().unwrap()),
            (ITEM, &b"first"[..])
        );
        let second = fields.next().unwrap().unwrap();
        assert_eq!(second.bytes().unwrap().len(), BUFFER_BYTES);
        assert!(fields.next().unwrap().is_none());
        outlet.push(|out| out.push(1));
        drop(outlet);
        assert_eq!(batches.try_recv().unwrap().items, 1, "the rest at the end");
    }

    #[test]
    fn nothing_is_encoded_for_a_signal_that_is_off() {
        let registry = Registry::new(1);
        let (outlet, mut batches) = outlet(&registry, &BATCH);
        outlet.inlet.close();
        assert!(!outlet.is_open());
        outlet.push(|_| panic!("not asked for"));
        outlet.flush();
        assert!(batches.try_recv().is_err());
    }

    #[test]
    fn what_does_not_fit_is_dropped_until_something_has_left() {
        let registry = Registry::new(1);
        let (outlet, mut batches) = outlet(&registry, &BATCH);
        let fill = || outlet.push(|out| out.resize(out.len() + 80_000, 0));
        fill();
        fill();
        assert!(!dropped(&registry));
        fill();
        assert!(dropped(&registry));
        let batch = batches.try_recv().unwrap();
        outlet.inlet.left(batch.cost(), batch.items);
        fill();
        assert_eq!(std::iter::from_fn(|| batches.try_recv().ok()).count(), 2);
    }

    #[test]
    fn bytes_bound_small_batches_too() {
        let registry = Registry::new(1);
        let batch = OtlpBatch {
            queue_bytes: 1 << 20,
            ..BATCH
        };
        let (outlet, mut batches) = outlet(&registry, &batch);
        let push = || {
            outlet.push(|out| out.extend_from_slice(&[0; 30]));
            outlet.flush();
        };
        (0..10_000).for_each(|_| push());
        assert!(!dropped(&registry));
        (0..10_000).for_each(|_| push());
        assert!(dropped(&registry));
        let handed = std::iter::from_fn(|| batches.try_recv().ok());
        assert!(handed.map(|batch| batch.cost()).sum::<u64>() <= 1 << 20);
    }

    #[test]
    fn items_can_be_bounded_too() {
        let registry = Registry::new(1);
        let batch = OtlpBatch {
            max_items: Some(2),
            queue_items: Some(17),
            ..BATCH
        };
        let (outlet, mut batches) = outlet(&registry, &batch);
        (0..18).for_each(|_| outlet.push(|out| out.push(1)));
        let handed: Vec<_> = std::iter::from_fn(|| batches.try_recv().ok()).collect();
        assert_eq!(
            handed.iter().map(|batch| batch.items).collect::<Vec<_>>(),
            [2; 8]
        );
        assert!(dropped(&registry));
        let room = handed.iter().map(|batch| batch.bytes.capacity());
        assert!(room.max() < Some(100));
    }

    #[test]
    fn a_small_queue_takes_what_it_has_room_for() {
        for (batch, push) in [
            (
                OtlpBatch {
                    queue_items: Some(10),
                    ..BATCH
                },
                1,
            ),
            (
                OtlpBatch {
                    max_bytes: 16 << 10,
                    queue_bytes: 16 << 10,
                    ..BATCH
                },
                1000,
            ),
        ] {
            let registry = Registry::new(1);
            let (outlet, mut batches) = outlet(&registry, &batch);
            (0..10).for_each(|_| outlet.push(|out| out.resize(out.len() + push, 0)));
            drop(outlet);
            assert!(!dropped(&registry));
            let handed = std::iter::from_fn(|| batches.try_recv().ok());
            assert_eq!(handed.map(|batch| batch.items).sum::<u64>(), 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_worker_s_item_goes_out_within_half_the_delay() {
        let registry = Registry::new(1);
        let (outlet, mut batches) = outlet(&registry, &BATCH);
        outlet.push(|out| out.push(1));
        let begun = tokio::time::Instant::now();
        let batch = tokio::select! {
            () = outlet.flush_when_idle() => unreachable!("it never ends"),
            batch = batches.recv() => batch.unwrap(),
        };
        assert_eq!(batch.items, 1);
        assert_eq!(begun.elapsed(), Duration::from_millis(500));
        assert!(
            batch.bytes.capacity() < 100,
            "what waits is as large as it must be"
        );
    }
}
