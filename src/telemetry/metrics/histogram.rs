//! A histogram of durations made of single-writer counts.

use std::time::Duration;

use super::cells::{Count, PerWorker};

/// Upper bounds in seconds, inclusive. They begin below the cost of a hop and end beyond the
/// default request timeout's half, where more detail tells nothing.
pub(super) const BOUNDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The same in nanoseconds, so that observing takes no floating point.
const BOUNDS_NANOS: [u64; BOUNDS.len()] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// One worker's part of a histogram.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Not cumulative; the last one is for what is beyond every bound.
    buckets: [Count; BOUNDS.len() + 1],
    /// Nanoseconds. Wraps after 584 years of waiting added up, which a scraper takes for a restart.
    sum: Count,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS
            .iter()
            .position(|&bound| nanos <= bound)
            .unwrap_or(BOUNDS.len());
        self.buckets[bucket].increment();
        self.sum.add(nanos);
    }
}

/// A histogram over all workers, in the form that the encoder takes.
#[derive(Debug, PartialEq)]
pub(super) struct Totals {
    pub(super) sum: f64,
    pub(super) count: u64,
    /// Upper bound and what fell between it and the bound before it.
    pub(super) buckets: [(f64, u64); BOUNDS.len() + 1],
}

impl<T> PerWorker<T> {
    pub(super) fn totals(&self, histogram: impl Fn(&T) -> &Histogram) -> Totals {
        let buckets = std::array::from_fn(|index| {
            let bound = BOUNDS.get(index).copied().unwrap_or(f64::INFINITY);
            (bound, self.sum(|block| &histogram(block).buckets[index]))
        });
        // The count is what the buckets hold, so that the two never disagree in a scrape.
        let count = buckets.iter().map(|&(_, count)| count).sum();
        let sum = Duration::from_nanos(self.sum(|block| &histogram(block).sum)).as_secs_f64();
        Totals {
            sum,
            count,
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(durations: &[Duration]) -> Totals {
        let cells = PerWorker::<Histogram>::new(2);
        for (index, &duration) in durations.iter().enumerate() {
            cells.of(index % 2).observe(duration);
        }
        cells.totals(|histogram| histogram)
    }

    #[test]
    fn bounds_agree_and_grow() {
        for (seconds, nanos) in BOUNDS.into_iter().zip(BOUNDS_NANOS) {
            assert_eq!(
                Duration::from_secs_f64(seconds),
                Duration::from_nanos(nanos)
            );
        }
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        for (index, nanos) in BOUNDS_NANOS.into_iter().enumerate() {
            let totals = observed(&[Duration::from_nanos(nanos), Duration::from_nanos(nanos + 1)]);
            assert_eq!(totals.buckets[index].1, 1, "at {nanos} ns");
            assert_eq!(totals.buckets[index + 1].1, 1, "above {nanos} ns");
        }
    }

    #[test]
    fn sums_over_workers() {
        let totals = observed(&[
            Duration::ZERO,
            Duration::from_millis(1500),
            Duration::from_secs(3600),
        ]);
        assert_eq!(totals.count, 3);
        assert!((totals.sum - 3601.5).abs() < 1e-9);
        assert_eq!(totals.buckets[0].1, 1);
        assert_eq!(totals.buckets[BOUNDS.len()], (f64::INFINITY, 1));
    }

    #[test]
    fn the_longest_duration_is_taken() {
        assert_eq!(observed(&[Duration::MAX]).count, 1);
    }
}
