//! Slow start: a new endpoint, or one that is back, gets its load little by little.
//!
//! Caches, compilers and connection pools of a server that has just begun are cold; its whole share
//! at once would make it slow or take it down again.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// What an endpoint begins with. Not less: it has to see requests in order to warm up.
const FIRST: f64 = 0.1;

/// When one endpoint began.
#[derive(Debug)]
pub(in crate::upstream) struct Ramp {
    /// What the stamp counts from.
    born: Instant,
    /// In nanoseconds; 0: it is as warm as it gets.
    began: AtomicU64,
}

impl Ramp {
    pub(in crate::upstream) const fn new(now: Instant) -> Self {
        Self {
            born: now,
            began: AtomicU64::new(0),
        }
    }

    pub(in crate::upstream) fn begin(&self, now: Instant) {
        self.began.store(self.stamp(now).max(1), Relaxed);
    }

    /// The part of its weight that it has at a moment: a tenth at first, all of it after `window`,
    /// and a straight line between.
    pub(in crate::upstream) fn share(&self, window: Duration, now: Instant) -> f64 {
        let began = self.began.load(Relaxed);
        let window = window.as_nanos() as u64;
        let passed = self.stamp(now).saturating_sub(began);
        if began == 0 || passed >= window {
            return 1.0;
        }
        FIRST + (1.0 - FIRST) * (passed as f64 / window as f64)
    }

    fn stamp(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_then_a_straight_line() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let window = Duration::from_secs(30);
        let ramp = Ramp::new(now);
        assert_eq!(ramp.share(window, at(0)), 1.0);
        ramp.begin(at(100));
        for (second, share) in [(100, 0.1), (110, 0.4), (120, 0.7), (130, 1.0), (999, 1.0)] {
            assert!((ramp.share(window, at(second)) - share).abs() < 1e-6);
        }
        assert_eq!(ramp.share(Duration::ZERO, at(100)), 1.0);
        // A clock of another worker that is a little behind.
        assert!((ramp.share(window, at(99)) - 0.1).abs() < 1e-6);
    }
}
