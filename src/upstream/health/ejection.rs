//! Which endpoint is surely worse than the others, and how many may be taken out.
//!
//! One test for everything: the share of requests that went well, by success or by time, has
//! [Wilson bounds](super::wilson) that lie wholly below those of all other endpoints together.

use super::{machine::Cause, window::Counts};
use crate::config::model::Ejection;

/// How the endpoints of an upstream stand; weightless ones don't count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub total: usize,
    /// By the breaker.
    pub open: usize,
    pub ejected: usize,
    /// By checks, of the others.
    pub unhealthy: usize,
}

impl Tally {
    pub const fn available(self) -> usize {
        self.total - self.open - self.ejected - self.unhealthy
    }

    /// Whether one more may be ejected. Those that the breaker or a check took out are counted as
    /// well, and the last available one stays.
    pub const fn may_eject(self, percent: u8) -> bool {
        self.available() > 1 && self.total - self.available() < share(self.total, percent)
    }

    /// Whether one of those ejected has to come back: endpoints went, or all the others were taken
    /// out.
    pub const fn must_readmit(self, percent: u8) -> bool {
        self.ejected > 0 && (self.available() == 0 || self.ejected > share(self.total, percent))
    }

    /// Whether fewer are available than the share below which requests go to all.
    pub const fn is_panic(self, percent: u8) -> bool {
        self.available() * 100 < self.total * percent as usize
    }
}

/// Whole endpoints, rounded down.
const fn share(total: usize, percent: u8) -> usize {
    total * percent as usize / 100
}

/// Who of these is to be ejected first, if any: the one that is worst by the most.
pub(super) fn worst(counts: &[Counts], ejection: &Ejection) -> Option<(usize, Cause)> {
    let mut all = Counts::default();
    for &one in counts {
        all += one;
    }
    let tolerance = f64::from(ejection.tolerance) / 100.0;
    let mut worst: Option<(usize, Cause, f64)> = None;
    for (index, &one) in counts.iter().enumerate() {
        let others = Counts {
            trials: all.trials - one.trials,
            failures: all.failures - one.failures,
            slow: all.slow - one.slow,
        };
        let tests = [
            (
                ejection.success_rate,
                Cause::SuccessRate,
                one.success().below(others.success()),
            ),
            (
                ejection.latency,
                Cause::Latency,
                one.speed().below(others.speed()),
            ),
        ];
        for (on, cause, below) in tests {
            if on && below > tolerance && worst.is_none_or(|(.., most)| below > most) {
                worst = Some((index, cause, below));
            }
        }
    }
    worst.map(|(index, cause, _)| (index, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_exact() {
        for (total, percent, most) in [
            (1, 50, 0),
            (2, 50, 1),
            (3, 50, 1),
            (5, 50, 2),
            (3, 33, 0),
            (3, 34, 1),
            (10, 10, 1),
            (2, 100, 1),
            (1, 100, 0),
            (4, 0, 0),
        ] {
            for open in 0..=total {
                let mut tally = Tally {
                    total,
                    open,
                    ..Tally::default()
                };
                while tally.may_eject(percent) {
                    tally.ejected += 1;
                }
                let expected =
                    usize::saturating_sub(most, open).min((total - open).saturating_sub(1));
                assert_eq!(tally.ejected, expected, "{total} {percent} {open}");
                assert!(!tally.must_readmit(percent));
            }
        }
    }

    #[test]
    fn those_ejected_come_back_when_no_other_is_left() {
        let tally = |total, open, ejected| Tally {
            total,
            open,
            ejected,
            ..Tally::default()
        };
        assert!(tally(2, 1, 1).must_readmit(50));
        assert!(tally(2, 0, 2).must_readmit(50));
        assert!(tally(3, 0, 2).must_readmit(50));
        assert!(!tally(3, 1, 1).must_readmit(50));
        assert!(!tally(3, 3, 0).must_readmit(50));
    }

    #[test]
    fn panic_is_below_the_share_not_at_it() {
        let tally = |open| Tally {
            total: 4,
            open,
            ..Tally::default()
        };
        assert!(!tally(2).is_panic(50));
        assert!(tally(3).is_panic(50));
        assert!(!tally(4).is_panic(0));
    }
}
