//! Counts with one writer each, kept apart by worker and summed when somebody asks.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{error::Reason, tls::FaultKind};

/// A value for each worker, none sharing a cache line with another's.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[Padded<T>]>);

/// Two lines of 64 bytes: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

impl<T: Default> PerWorker<T> {
    pub fn new(workers: usize) -> Self {
        Self::from_fn(workers, T::default)
    }
}

impl<T> PerWorker<T> {
    /// For what is made by more than its type.
    pub fn from_fn(workers: usize, make: impl Fn() -> T) -> Self {
        Self((0..workers).map(|_| Padded(make())).collect())
    }

    /// What belongs to this worker.
    ///
    /// # Panics
    /// When there is no such worker: the number is ours, never a peer's.
    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    /// One count over all workers.
    pub fn sum(&self, count: impl Fn(&T) -> &Count) -> u64 {
        self.iter()
            .map(|block| count(block).get())
            .fold(0, u64::wrapping_add)
    }

    /// How many there are.
    pub fn workers(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }
}

/// A number that grows, written by one thread and read by any.
///
/// As nobody else writes it, adding is a plain load and a plain store; `fetch_add` would lock the
/// line (some twenty cycles) to guard against a writer that isn't there. Should two threads write
/// it all the same, counts are lost and nothing worse happens.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn increment(&self) {
        self.add(1);
    }

    /// For one that doesn't only grow.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How many are there now, as two counts that only grow: a thing may then enter at one worker and
/// leave at another.
#[derive(Debug, Default)]
pub struct Level {
    pub entered: Count,
    pub left: Count,
}

impl Level {
    /// Counts until what is returned is dropped, which a cancelled future does too.
    pub fn enter(&self) -> Entered<'_> {
        self.entered.increment();
        Entered(self)
    }
}

/// One that has entered a [`Level`] and leaves it when dropped.
#[derive(Debug)]
pub struct Entered<'a>(&'a Level);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.left.increment();
    }
}

impl<T> PerWorker<T> {
    /// How many have entered and not left, over all workers.
    pub fn level(&self, level: impl Fn(&T) -> &Level) -> u64 {
        // Leavers first: what leaves between the two sums then counts as present, never as less
        // than nothing.
        let left = self.sum(|block| &level(block).left);
        self.sum(|block| &level(block).entered).saturating_sub(left)
    }

    /// Counts by name over all workers; what never happened is left out.
    pub fn happened<K: Copy>(
        &self,
        all: &[K],
        name: impl Fn(K) -> &'static str,
        count: impl Fn(&T, K) -> &Count,
    ) -> Vec<([&'static str; 1], u64)> {
        all.iter()
            .map(|&kind| ([name(kind)], self.sum(|block| count(block, kind))))
            .filter(|&(_, count)| count > 0)
            .collect()
    }

    /// The same by reason.
    pub fn reasons(&self, table: impl Fn(&T) -> &ByReason) -> Vec<([&'static str; 1], u64)> {
        self.happened(Reason::ALL, Reason::name, |block, reason| {
            table(block).of(reason)
        })
    }

    /// The same by what handshakes failed for.
    pub fn faults(&self, table: impl Fn(&T) -> &ByFault) -> Vec<([&'static str; 1], u64)> {
        self.happened(FaultKind::ALL, FaultKind::name, |block, kind| {
            table(block).of(kind)
        })
    }
}

/// A count for each kind of fault, made when the first one happens: few listeners and upstreams
/// have TLS.
#[derive(Debug, Default)]
pub struct ByFault(OnceLock<Box<[Count; FaultKind::COUNT]>>);

impl ByFault {
    pub fn of(&self, kind: FaultKind) -> &Count {
        let counts = self
            .0
            .get_or_init(|| Box::new(std::array::from_fn(|_| Count::default())));
        &counts[kind.index()]
    }
}

/// A count for each reason.
#[derive(Debug)]
pub struct ByReason([Count; Reason::COUNT]);

impl ByReason {
    pub fn of(&self, reason: Reason) -> &Count {
        &self.0[reason.index()]
    }
}

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Block {
        count: Count,
        level: Level,
        reasons: ByReason,
    }

    #[test]
    fn workers_write_apart_and_are_summed() {
        let cells = PerWorker::<Block>::new(4);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let cells = &cells;
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        cells.of(worker).count.increment();
                    }
                });
            }
        });
        assert_eq!(cells.sum(|block| &block.count), 40_000);
    }

    #[test]
    fn blocks_share_no_cache_line() {
        let cells = PerWorker::<Count>::new(2);
        let distance =
            std::ptr::from_ref(cells.of(1)).addr() - std::ptr::from_ref(cells.of(0)).addr();
        assert!(distance >= 128, "{distance}");
    }

    #[test]
    fn what_enters_here_may_leave_there() {
        let cells = PerWorker::<Block>::new(2);
        cells.of(0).level.entered.add(3);
        cells.of(1).level.left.add(2);
        assert_eq!(cells.level(|block| &block.level), 1);
        cells.of(1).level.left.add(2);
        assert_eq!(
            cells.level(|block| &block.level),
            0,
            "never less than nothing"
        );
    }

    #[test]
    fn reasons_that_never_happened_are_left_out() {
        let cells = PerWorker::<Block>::new(2);
        cells.of(0).reasons.of(Reason::NoRoute).add(1);
        cells.of(1).reasons.of(Reason::NoRoute).add(2);
        assert_eq!(cells.reasons(|block| &block.reasons), [(["no_route"], 3)]);
    }
}
