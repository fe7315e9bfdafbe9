//! What an endpoint did in the last while: a ring of buckets, fed once a second.

use std::{ops::AddAssign, time::Duration};

use tokio::time::Instant;

use super::wilson::Rate;

const BUCKETS: usize = 10;

/// Counts of one endpoint over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests that began, without those of which nothing was learned.
    pub trials: u64,
    pub failures: u64,
    /// Answers that took longer than the others' usual time, several times over.
    pub slow: u64,
}

impl Counts {
    pub(super) fn success(self) -> Rate {
        self.without(self.failures)
    }

    pub(super) fn speed(self) -> Rate {
        self.without(self.slow)
    }

    /// A request may fail long after it began, in a bucket where nothing began.
    fn without(self, bad: u64) -> Rate {
        let of = self.trials.max(bad);
        Rate { good: of - bad, of }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.trials += other.trials;
        self.failures += other.failures;
        self.slow += other.slow;
    }
}

/// The counts of the last while, forgotten a tenth at a time.
#[derive(Clone, Debug)]
pub(super) struct Window {
    buckets: [Counts; BUCKETS],
    current: usize,
    /// Of the current bucket.
    since: Instant,
}

impl Window {
    pub(super) const fn new(now: Instant) -> Self {
        const NOTHING: Counts = Counts {
            trials: 0,
            failures: 0,
            slow: 0,
        };
        Self {
            buckets: [NOTHING; BUCKETS],
            current: 0,
            since: now,
        }
    }

    /// Adds what has happened until now; `length` is that of the whole window.
    pub(super) fn add(&mut self, counts: Counts, length: Duration, now: Instant) {
        let bucket = length / BUCKETS as u32;
        if now.saturating_duration_since(self.since) >= length {
            *self = Self::new(now);
        }
        while now.saturating_duration_since(self.since) >= bucket {
            self.since += bucket;
            self.current = (self.current + 1) % BUCKETS;
            self.buckets[self.current] = Counts::default();
        }
        self.buckets[self.current] += counts;
    }

    pub(super) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for &bucket in &self.buckets {
            sum += bucket;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_forgotten() {
        let start = Instant::now();
        let length = Duration::from_secs(30);
        let one = Counts {
            trials: 1,
            ..Counts::default()
        };
        let mut window = Window::new(start);
        for second in 0..1000 {
            window.add(one, length, start + Duration::from_secs(second));
            let trials = window.counts().trials;
            assert!(
                trials <= 30 && trials >= second.min(27),
                "{second}: {trials}"
            );
        }
        window.add(Counts::default(), length, start + Duration::from_secs(2000));
        assert_eq!(window.counts(), Counts::default());
    }

    #[test]
    fn more_failures_than_beginnings_are_no_less_than_nothing() {
        let counts = Counts {
            trials: 1,
            failures: 3,
            slow: 0,
        };
        assert_eq!(counts.success(), Rate { good: 0, of: 3 });
        assert_eq!(counts.speed(), Rate { good: 1, of: 1 });
    }
}
