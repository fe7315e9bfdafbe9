//! How long to wait before the Workload API is asked again.

use std::time::Duration;

/// The longest wait.
const MOST: Duration = Duration::from_secs(30);

/// How urgent it is to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Nobody answers: whoever restarts is back soon.
    Brisk,
    /// The answer was no. A person has to change something, and does so at their own pace.
    Slow,
}

impl Pace {
    /// Twice the shortest wait.
    const fn first(self) -> Duration {
        match self {
            Self::Brisk => Duration::from_secs(2),
            Self::Slow => Duration::from_secs(10),
        }
    }
}

/// Waits that double, with jitter, so that a node's workloads don't all come at once when its
/// agent is back: from 1 s, or 5 s after a no, to 30 s.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: something between a half and all of what it has grown to.
    pub(super) fn next(&mut self, pace: Pace, rng: &mut fastrand::Rng) -> Duration {
        let grown = pace.first() * 2u32.saturating_pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        grown.min(MOST).mul_f64(0.5 + rng.f64() / 2.0)
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_differ() {
        for seed in 0..100 {
            let mut rng = fastrand::Rng::with_seed(seed);
            for (pace, steps) in [
                (Pace::Brisk, [2, 4, 8, 16, 30, 30]),
                (Pace::Slow, [10, 20, 30, 30, 30, 30]),
            ] {
                let mut backoff = Backoff::default();
                for step in steps.map(Duration::from_secs) {
                    let wait = backoff.next(pace, &mut rng);
                    assert!(wait >= step / 2 && wait <= step, "{wait:?} of {step:?}");
                }
                backoff.reset();
                assert!(backoff.next(pace, &mut rng) <= pace.first());
            }
        }
        let waits = [1, 2].map(|seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            Backoff::default().next(Pace::Brisk, &mut rng)
        });
        assert_ne!(waits[0], waits[1]);
    }

    #[test]
    fn it_never_overflows() {
        let mut backoff = Backoff { failures: 1 << 30 };
        let mut rng = fastrand::Rng::with_seed(1);
        assert!(backoff.next(Pace::Slow, &mut rng) <= MOST);
    }
}
