//! How long a connection may last: two moments, moved only forward.

use std::time::Duration;

use tokio::time::Instant;

/// Connections made with the old identity are replaced over this long after a rotation, not all
/// at once.
const SPREAD: Duration = Duration::from_secs(10);
/// What can't be replaced may go on for this long after a rotation, or as long as its certificates
/// last if that is shorter.
const GRACE: Duration = Duration::from_secs(5 * 60);
/// The same when the peer is no longer trusted: enough for a short request to end.
const LAST_GRACE: Duration = Duration::from_secs(2);
/// A certificate that ends by itself is given up this much of its connection's life earlier,
const EARLY: u32 = 10;
/// and at most this long.
const EARLIEST: Duration = Duration::from_secs(5 * 60);
/// Certificates that last longer are as good as endless.
const LONG: Duration = Duration::from_secs(10 * 365 * 86_400);

/// When a connection takes no new request any more, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    retire: Instant,
    cut: Instant,
}

/// Where in its term a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serving,
    /// No new request.
    Retired,
    /// Nothing more.
    Cut,
}

impl Term {
    /// Of a connection whose certificates last for so long from `now`.
    pub fn new(now: Instant, lifetime: Duration) -> Self {
        let lifetime = lifetime.min(LONG);
        let early = (lifetime / EARLY).min(EARLIEST);
        Self {
            retire: now + (lifetime - early),
            cut: now + lifetime,
        }
    }

    /// Something newer was put in the place of what it was made with. `random` spreads the
    /// replacements.
    #[must_use]
    pub fn rotated(self, now: Instant, random: u32) -> Self {
        let share = f64::from(random) / f64::from(u32::MAX);
        Self {
            retire: self.retire.min(now + SPREAD.mul_f64(share)),
            cut: self.cut.min(now + GRACE),
        }
    }

    /// The peer is no longer trusted.
    #[must_use]
    pub fn refused(self, now: Instant) -> Self {
        Self {
            retire: self.retire.min(now),
            cut: self.cut.min(now + LAST_GRACE),
        }
    }

    pub fn stage(self, now: Instant) -> Stage {
        if now >= self.cut {
            Stage::Cut
        } else if now >= self.retire {
            Stage::Retired
        } else {
            Stage::Serving
        }
    }

    /// When the stage will be another one.
    pub fn next(self, stage: Stage) -> Option<Instant> {
        match stage {
            Stage::Serving => Some(self.retire.min(self.cut)),
            Stage::Retired => Some(self.cut),
            Stage::Cut => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_connection_is_replaced_before_its_certificate_ends() {
        let now = Instant::now();
        let term = Term::new(now, HOUR);
        assert_eq!(term.stage(now), Stage::Serving);
        assert_eq!(term.stage(now + HOUR - EARLIEST), Stage::Retired);
        assert_eq!(term.stage(now + HOUR), Stage::Cut);
        let short = Term::new(now, Duration::from_secs(10));
        assert_eq!(short.stage(now + Duration::from_secs(9)), Stage::Retired);
        // No overflow, whatever a certificate says.
        assert_eq!(Term::new(now, Duration::MAX).stage(now), Stage::Serving);
    }

    #[test]
    fn a_rotation_spreads_replacements_and_never_prolongs() {
        let now = Instant::now();
        let term = Term::new(now, HOUR);
        let first = term.rotated(now, 0);
        assert_eq!(first.stage(now), Stage::Retired);
        let last = term.rotated(now, u32::MAX);
        assert_eq!(last.stage(now + SPREAD / 2), Stage::Serving);
        assert_eq!(last.stage(now + SPREAD), Stage::Retired);
        assert_eq!(last.stage(now + GRACE), Stage::Cut);
        let again = last.rotated(now + SPREAD, u32::MAX);
        assert_eq!(again, last, "a second rotation changes nothing");
        let ending = Term::new(now, Duration::from_secs(1)).rotated(now, u32::MAX);
        assert_eq!(ending.stage(now + Duration::from_secs(1)), Stage::Cut);
    }

    #[test]
    fn who_is_no_longer_trusted_is_replaced_at_once() {
        let now = Instant::now();
        let term = Term::new(now, HOUR).refused(now);
        assert_eq!(term.stage(now), Stage::Retired);
        assert_eq!(term.stage(now + LAST_GRACE), Stage::Cut);
    }

    #[test]
    fn every_stage_says_when_the_next_begins() {
        let now = Instant::now();
        let term = Term::new(now, HOUR).rotated(now, u32::MAX);
        let mut stage = Stage::Serving;
        let mut seen = vec![stage];
        while let Some(at) = term.next(stage) {
            assert_eq!(term.stage(at - Duration::from_nanos(1)), stage);
            stage = term.stage(at);
            seen.push(stage);
        }
        assert_eq!(seen, [Stage::Serving, Stage::Retired, Stage::Cut]);
    }
}
