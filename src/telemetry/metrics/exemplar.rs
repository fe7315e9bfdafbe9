//! The last traced event of its kind: written by one worker, read by a scrape, with no lock.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A traced event that stands for the others in its series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace_id: u128,
    pub(super) span_id: u64,
    /// In the unit of its family.
    pub(super) value: f64,
    /// Nanoseconds since 1970.
    pub(super) at: u64,
}

/// Holds one. Several words can't be written at once, so that a reader might see half of one event
/// and half of another; the version, odd while somebody writes, tells it to look again.
#[derive(Debug, Default)]
pub(super) struct Slot {
    version: AtomicU64,
    trace_id: [AtomicU64; 2],
    span_id: AtomicU64,
    nanos: AtomicU64,
    at: AtomicU64,
}

/// A reader that is met by a writer so often in a row does without.
const TRIES: usize = 8;

impl Slot {
    /// For one writer at a time; two would leave a mixture, and nothing worse.
    pub(super) fn write(&self, (trace_id, span_id): (u128, u64), took: Duration) {
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        fence(Release);
        self.trace_id[0].store((trace_id >> 64) as u64, Relaxed);
        self.trace_id[1].store(trace_id as u64, Relaxed);
        self.span_id.store(span_id, Relaxed);
        self.nanos.store(nanos(took), Relaxed);
        self.at.store(now(), Relaxed);
        self.version.store(version.wrapping_add(2), Release);
    }

    pub(super) fn read(&self) -> Option<Exemplar> {
        for _ in 0..TRIES {
            let version = self.version.load(Acquire);
            let high = self.trace_id[0].load(Relaxed);
            let low = self.trace_id[1].load(Relaxed);
            let exemplar = Exemplar {
                trace_id: u128::from(high) << 64 | u128::from(low),
                span_id: self.span_id.load(Relaxed),
                value: Duration::from_nanos(self.nanos.load(Relaxed)).as_secs_f64(),
                at: self.at.load(Relaxed),
            };
            fence(Acquire);
            if version.is_multiple_of(2) && self.version.load(Relaxed) == version {
                return (version > 0).then_some(exemplar);
            }
        }
        None
    }
}

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    nanos(since.unwrap_or_default())
}

/// As many as there are; the longest are no longer than what fits.
pub(super) fn nanos(duration: Duration) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    let whole = duration.as_secs().saturating_mul(SECOND);
    whole.saturating_add(duration.subsec_nanos().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_has_none() {
        assert_eq!(Slot::default().read(), None);
    }

    #[test]
    fn what_is_read_was_written_in_one_piece() {
        let slot = Slot::default();
        let writes = if cfg!(miri) { 100 } else { 100_000_u64 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..=writes {
                    let trace_id = u128::from(n) << 64 | u128::from(n);
                    slot.write((trace_id, n), Duration::from_nanos(n));
                }
            });
            let mut last = 0;
            while last < writes {
                let Some(exemplar) = slot.read() else {
                    continue;
                };
                let id = exemplar.span_id;
                assert_eq!(exemplar.trace_id, u128::from(id) << 64 | u128::from(id));
                assert_eq!(exemplar.value, Duration::from_nanos(id).as_secs_f64());
                assert!(exemplar.at > 0 && id >= last);
                last = id;
            }
        });
    }
}
