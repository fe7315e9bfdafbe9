//! How long an upstream takes to answer, as a distribution.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// Four buckets for each doubling, from a microsecond to more than an hour.
const BUCKETS: usize = 128;
/// So many samples, and all counts are halved: what was long ago fades.
const HALVED: u32 = 1000;
/// Fewer tell nothing of a tail.
const ENOUGH: u32 = 20;

/// Lately seen times to a response head, of the requests that may be hedged. Shared by all workers
/// without a lock: samples that come at once may be lost, which a quantile bears.
#[derive(Debug)]
pub struct Latencies {
    counts: [AtomicU32; BUCKETS],
    total: AtomicU32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU32::new(0) }; BUCKETS],
            total: AtomicU32::new(0),
        }
    }
}

impl Latencies {
    pub fn observe(&self, took: Duration) {
        self.counts[bucket(took)].fetch_add(1, Relaxed);
        if self.total.fetch_add(1, Relaxed) + 1 == HALVED {
            let mut left = 0;
            for count in &self.counts {
                let half = count.load(Relaxed) / 2;
                count.store(half, Relaxed);
                left += half;
            }
            self.total.store(left, Relaxed);
        }
    }

    /// The time within which 95 of 100 came, a fifth too long at most; `None` where too little is
    /// known.
    pub fn p95(&self) -> Option<Duration> {
        let counts = self.counts.each_ref().map(|count| count.load(Relaxed));
        let total: u32 = counts.iter().sum();
        if total < ENOUGH {
            return None;
        }
        let beyond = total / 20;
        let mut above = 0;
        let at = counts.iter().rposition(|count| {
            above += count;
            above > beyond
        })?;
        Some(end(at))
    }
}

/// Which bucket a time falls into: the bits of its microseconds, and the two below the highest.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(4);
    let doublings = micros.ilog2() as usize;
    let quarter = (micros >> (doublings - 2)) as usize & 3;
    ((doublings - 2) * 4 + quarter).min(BUCKETS - 1)
}

/// Where a bucket ends.
fn end(bucket: usize) -> Duration {
    let (doublings, quarter) = (bucket / 4, bucket as u64 % 4);
    Duration::from_micros((5 + quarter) << doublings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        for micros in [4, 5, 7, 8, 100, 12_345, 1 << 30] {
            let took = Duration::from_micros(micros);
            let end = end(bucket(took));
            assert!(
                took < end && end <= took + took / 4 + Duration::from_micros(1),
                "{micros}"
            );
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_tail_is_found_and_the_past_forgotten() {
        let latencies = Latencies::default();
        let millis = |millis| Duration::from_millis(millis);
        (0..19).for_each(|_| latencies.observe(millis(1)));
        assert_eq!(latencies.p95(), None);
        for number in 0..2000 {
            latencies.observe(millis(if number % 10 == 0 { 100 } else { 1 }));
        }
        let tail = latencies.p95().unwrap();
        assert!(tail >= millis(100) && tail <= millis(125), "{tail:?}");
        (0..5000).for_each(|_| latencies.observe(millis(1)));
        assert!(latencies.p95().unwrap() < millis(2));
    }
}
