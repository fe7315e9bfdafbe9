//! Which of two shares is surely the smaller one, from however few trials.
//!
//! Wilson's score interval holds for small numbers and for shares near 0 and 1, where the usual
//! `p ± z·√(pq/n)` fails: nobody is condemned for one failure of one request. That two intervals
//! are apart is a strict test (for 2:1 trials as if with 1.4·[`Z`]), and has to be: it is asked
//! again every second.

/// Standard deviations of a bound: 99.9 % of all cases, both sides together.
const Z: f64 = 3.29;

/// How many of so many trials went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rate {
    pub good: u64,
    pub of: u64,
}

impl Rate {
    /// Without a trial it is unknown.
    pub(super) fn share(self) -> Option<f64> {
        (self.of > 0).then(|| self.good as f64 / self.of as f64)
    }

    /// What the true share may be, from and to.
    pub(super) fn bounds(self) -> (f64, f64) {
        let Some(share) = self.share() else {
            return (0.0, 1.0);
        };
        let n = self.of as f64;
        let z2 = Z * Z;
        let scale = 1.0 / (1.0 + z2 / n);
        let middle = (share + z2 / (2.0 * n)) * scale;
        let half = Z * scale * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }

    /// How far, at the least, the true share lies below that of `others`; negative where that is
    /// not sure.
    pub(super) fn below(self, others: Self) -> f64 {
        others.bounds().0 - self.bounds().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_the_share() {
        for of in 1..200 {
            for good in 0..=of {
                let rate = Rate { good, of };
                let (low, high) = rate.bounds();
                let share = rate.share().unwrap();
                assert!(0.0 <= low && low <= share + 1e-12);
                assert!(share <= high + 1e-12 && high <= 1.0);
            }
        }
    }

    #[test]
    fn few_trials_condemn_nobody() {
        let healthy = Rate {
            good: 1000,
            of: 1000,
        };
        assert_eq!(Rate::default().bounds(), (0.0, 1.0));
        for of in 0..4 {
            let failing = Rate { good: 0, of };
            assert!(failing.below(Rate { good: of, of }) < 0.0);
            assert!(failing.below(healthy) < if of < 1 { 0.0 } else { 1.0 });
        }
        assert!(Rate { good: 0, of: 12 }.below(Rate { good: 24, of: 24 }) > 0.0);
    }
}
