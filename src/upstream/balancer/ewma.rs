//! Peak EWMA: how long an endpoint takes to answer, quick to believe bad news.
//!
//! A sample above the estimate becomes the estimate; one below it pulls it down over [`TAU`].
//! Workers update it without a lock: two samples at once may count as one, which an estimate bears.
//! Reading never writes.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// How long, in seconds, until old samples weigh a third (1/e).
const TAU: f64 = 10.0;

/// What a failure adds to the estimate, in seconds, and how fast that is forgotten: beside
/// endpoints of a millisecond, a failed one is asked again after about 20 s.
const PENALTY: f64 = 1.0;
const PENALTY_TAU: f64 = 3.0;

/// Estimates that differ by less than this factor are the same: the difference is chance, and
/// following it would send all of a light load to one endpoint, against the weights as well.
const NOISE: f64 = 1.25;

/// The estimate of one endpoint.
#[derive(Debug)]
pub(in crate::upstream) struct Ewma {
    /// What the stamps count from.
    born: Instant,
    /// Seconds, as the bits of an `f64`; 0: no sample yet.
    estimate: AtomicU64,
    /// When the last sample came, in nanoseconds.
    sampled: AtomicU64,
    /// When the last failure came, in nanoseconds; 0: none since the last sample.
    failed: AtomicU64,
}

/// What is known of an endpoint at a moment, in seconds.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// As of the last sample.
    estimate: Option<f64>,
    /// The same, aged: silence is no proof that it still is so.
    aged: f64,
    penalty: f64,
}

impl Ewma {
    pub(in crate::upstream) const fn new(now: Instant) -> Self {
        Self {
            born: now,
            estimate: AtomicU64::new(0),
            sampled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Takes a sample, and forgives failures before it.
    pub(in crate::upstream) fn observe(&self, rtt: Duration, now: Instant) {
        let now = self.stamp(now);
        let rtt = rtt.as_secs_f64().max(1e-9);
        let estimate = f64::from_bits(self.estimate.load(Relaxed));
        let new = if rtt >= estimate {
            rtt
        } else {
            let keep = decay(now, self.sampled.load(Relaxed), TAU);
            estimate * keep + rtt * (1.0 - keep)
        };
        self.estimate.store(new.to_bits(), Relaxed);
        self.sampled.store(now, Relaxed);
        if self.failed.load(Relaxed) != 0 {
            self.failed.store(0, Relaxed);
        }
    }

    pub(in crate::upstream) fn failed(&self, now: Instant) {
        self.failed.store(self.stamp(now).max(1), Relaxed);
    }

    /// As of the last sample.
    pub(in crate::upstream) fn estimate(&self) -> Option<Duration> {
        self.raw()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    fn raw(&self) -> Option<f64> {
        Some(f64::from_bits(self.estimate.load(Relaxed))).filter(|&seconds| seconds > 0.0)
    }

    fn read(&self, now: Instant) -> Reading {
        let now = self.stamp(now);
        let estimate = self.raw();
        let penalty = match self.failed.load(Relaxed) {
            0 => 0.0,
            at => PENALTY * decay(now, at, PENALTY_TAU),
        };
        let aged = estimate.unwrap_or(0.0) * decay(now, self.sampled.load(Relaxed), TAU);
        Reading {
            estimate,
            aged,
            penalty,
        }
    }

    fn stamp(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_nanos() as u64
    }
}

/// The latencies of two endpoints, in seconds, made fit to compare: an endpoint without a sample is
/// taken to be as fast as the other, and so, at best, is one whose bad samples have aged. Either is
/// thus tried again, but not flooded before it has answered.
pub(super) fn compare(a: &Ewma, b: &Ewma, now: Instant) -> (f64, f64) {
    let (a, b) = (a.read(now), b.read(now));
    let (x, y) = match (a.estimate, b.estimate) {
        (Some(x), Some(y)) => (a.aged.max(x.min(y)), b.aged.max(x.min(y))),
        (Some(known), None) | (None, Some(known)) => (known, known),
        (None, None) => (1e-3, 1e-3),
    };
    let (low, high) = (x.min(y), x.max(y));
    let (x, y) = if high < low * NOISE {
        (high, high)
    } else {
        (x, y)
    };
    (x + a.penalty, y + b.penalty)
}

/// What is left of 1 after the time between two stamps.
fn decay(now: u64, then: u64, tau: f64) -> f64 {
    (-(now.saturating_sub(then) as f64) / (tau * 1e9)).exp()
}
