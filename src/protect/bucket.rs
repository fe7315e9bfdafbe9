//! A token bucket in one number: the moment at which it would be full again (GCRA, the generic
//! cell rate algorithm of ITU-T I.371, as a virtual schedule).

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How fast tokens come back, and how many there may be. All times are in nanoseconds since any
/// one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// In which one token comes back.
    interval: u64,
    /// In which all of them do.
    depth: u64,
}

/// No token is left; one is back after so many nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Empty(pub(super) u64);

/// A century: longer than any process, and far from the end of the numbers.
const MAX: u64 = 100 * 365 * 86_400 * 1_000_000_000;

impl Rate {
    /// So many tokens in each `per`, evenly, and at most `burst` at once.
    pub(super) fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(MAX);
        // Rounded up: never more than was allowed.
        let interval = per.div_ceil(u64::from(requests).max(1)).max(1);
        let depth = interval.saturating_mul(u64::from(burst)).min(MAX);
        Self { interval, depth }
    }

    /// Takes a token from a bucket that would be full again at `full_at`: when it will be then.
    pub(super) fn take(self, full_at: u64, now: u64) -> Result<u64, Empty> {
        let next = full_at.max(now).saturating_add(self.interval);
        match (next - now).checked_sub(self.depth) {
            None | Some(0) => Ok(next),
            Some(early) => Err(Empty(early)),
        }
    }
}

/// A bucket that all workers share: one word, no lock. Full at first.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    pub(super) fn take(&self, rate: Rate, now: u64) -> Result<(), Empty> {
        let mut full_at = self.0.load(Relaxed);
        loop {
            let next = rate.take(full_at, now)?;
            // The word guards nothing but itself.
            match self
                .0
                .compare_exchange_weak(full_at, next, Relaxed, Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_goes_through_and_then_one_at_a_time() {
        let rate = Rate::new(10, Duration::from_secs(1), 3);
        let bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, SECOND), Ok(()));
        }
        assert_eq!(bucket.take(rate, SECOND), Err(Empty(SECOND / 10)));
        assert_eq!(
            bucket.take(rate, SECOND + SECOND / 10 - 1),
            Err(Empty(1)),
            "a refusal takes nothing"
        );
        assert_eq!(bucket.take(rate, SECOND + SECOND / 10), Ok(()));
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, 9 * SECOND), Ok(()));
        }
        assert!(bucket.take(rate, 9 * SECOND).is_err(), "never more at once");
    }

    #[test]
    fn the_longest_and_the_shortest_rates_hold() {
        let year = Duration::from_secs(366 * 86_400);
        let rate = Rate::new(1, year, 1_000_000);
        assert!(rate.take(0, MAX).is_ok());
        let rate = Rate::new(1_000_000, Duration::from_millis(1), 1);
        let full_at = rate.take(0, 5).unwrap();
        assert_eq!(rate.take(full_at, 5), Err(Empty(1)));
    }

    #[test]
    fn workers_share_what_there_is() {
        let rate = Rate::new(1, Duration::from_secs(1), 1000);
        let (bucket, granted) = (Bucket::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if bucket.take(rate, 7).is_ok() {
                            granted.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(granted.into_inner(), 1000);
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_the_burst_and_the_rate(
            requests in 1_u32..1000,
            millis in 1_u64..5000,
            burst in 1_u32..100,
            steps in prop::collection::vec(0_u64..SECOND / 50, 1..300),
        ) {
            let per = Duration::from_millis(millis);
            let rate = Rate::new(requests, per, burst);
            let (mut now, mut full_at, mut granted) = (0, 0, Vec::new());
            for step in steps {
                now += step;
                match rate.take(full_at, now) {
                    Ok(next) => {
                        full_at = next;
                        granted.push(now);
                    }
                    // What is told is neither too long nor too short.
                    Err(Empty(wait)) => {
                        prop_assert!(rate.take(full_at, now + wait).is_ok());
                        prop_assert!(rate.take(full_at, now + wait - 1).is_err());
                    }
                }
            }
            for (first, &from) in granted.iter().enumerate() {
                for (last, &to) in granted.iter().enumerate().skip(first) {
                    let window = u128::from(to - from);
                    let most = u128::from(burst) + window * u128::from(requests) / per.as_nanos();
                    prop_assert!((last - first + 1) as u128 <= most);
                }
            }
        }
    }
}
