//! How long an endpoint keeps connections that are idle.
//!
//! Guards a request against being written to a connection that its endpoint is just closing: what
//! crosses the close on the wire is lost, and only some requests may be sent again. An endpoint
//! rarely says how long it keeps a connection, but it shows it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

/// An age that is not seen again doubles in so long: the endpoint may have become more patient.
const DOUBLES: Duration = Duration::from_secs(600);
/// Doubled more often it is longer than anybody keeps a connection.
const MAX_DOUBLINGS: f64 = 32.0;
/// Shorter than this is as good as not at all, and could not grow.
const SHORTEST: Duration = Duration::from_micros(100);

/// What is known of one endpoint, by all workers. Locked when a connection was lost or turns out
/// older than was expected, and by each worker once a second: never where all is well.
#[derive(Debug, Default)]
pub struct IdleAge(Mutex<Known>);

impl IdleAge {
    /// The endpoint closed a connection that had been idle for at least and at most so long.
    pub fn closed(&self, least: Duration, most: Duration, now: Instant) {
        self.known().closed(least, most, now);
    }

    /// A connection that had been idle for so long was still good.
    pub fn outlived(&self, age: Duration, now: Instant) {
        self.known().outlived(age, now);
    }

    /// The endpoint says that it keeps an idle connection for so long.
    pub fn told(&self, age: Duration) {
        self.known().told = Some(age);
    }

    /// When an idle connection is not to be used again: `configured`, or sooner.
    pub fn limit(&self, configured: Duration, now: Instant) -> Duration {
        let age = self.known().age(now);
        age.map_or(configured, |age| configured.min(retire_after(age)))
    }

    /// For `GET /upstreams`.
    pub fn describe(&self, now: Instant) -> [(&'static str, Value); 2] {
        let known = *self.known();
        let millis = |age: Option<Duration>| json!(age.map(|age| age.as_secs_f64() * 1e3));
        [
            ("idleCloseSeenMs", millis(known.seen(now))),
            ("idleCloseToldMs", millis(known.told)),
        ]
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change to it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an endpoint has said and shown.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    told: Option<Duration>,
    /// The youngest age at which it closed an idle connection, and when that was learnt.
    seen: Option<(Duration, Instant)>,
}

impl Known {
    /// It closed a connection that had been idle for `least` when it was last seen open, and for
    /// `most` when that was noticed.
    fn closed(&mut self, least: Duration, most: Duration, now: Instant) {
        // The half is for connections that were never looked at in between.
        let age = least.max(most / 2).max(SHORTEST);
        if self.seen(now).is_none_or(|seen| age < seen) {
            self.seen = Some((age, now));
        }
    }

    /// A connection was still open after it had been idle for so long: whatever closed a younger
    /// one, a restart say, it was not its age.
    fn outlived(&mut self, age: Duration, now: Instant) {
        if self.seen(now).is_some_and(|seen| seen < age) {
            self.seen = Some((age, now));
        }
    }

    fn age(&self, now: Instant) -> Option<Duration> {
        self.told.into_iter().chain(self.seen(now)).min()
    }

    fn seen(&self, now: Instant) -> Option<Duration> {
        let (age, at) = self.seen?;
        let doublings = now.saturating_duration_since(at).div_duration_f64(DOUBLES);
        Some(age.mul_f64(doublings.min(MAX_DOUBLINGS).exp2()))
    }
}

/// How long a connection may be idle that is closed at `age`. The request needs time to get there,
/// and the endpoint's clock began earlier than ours: a tenth and 100 ms are left for that, of a
/// short life its half.
fn retire_after(age: Duration) -> Duration {
    age - (age / 10 + Duration::from_millis(100)).min(age / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn connections_are_retired_before_they_are_closed() {
        for (age, expected) in [(60_000, 53_900), (5000, 4400), (200, 100), (20, 10), (0, 0)] {
            assert_eq!(retire_after(millis(age)), millis(expected), "{age}");
        }
    }

    #[test]
    fn the_sooner_of_what_is_told_and_seen() {
        let (now, age) = (Instant::now(), IdleAge::default());
        assert_eq!(age.limit(millis(60_000), now), millis(60_000));
        age.told(millis(5000));
        assert_eq!(age.limit(millis(60_000), now), millis(4400));
        assert_eq!(age.limit(millis(1000), now), millis(1000));
        age.closed(millis(3000), millis(3900), now);
        assert_eq!(age.limit(millis(60_000), now), millis(2600));
    }

    #[test]
    fn what_was_seen_once_is_forgotten() {
        let now = Instant::now();
        let mut known = Known::default();
        known.closed(millis(0), millis(2), now);
        assert_eq!(known.seen(now), Some(millis(1)));
        assert_eq!(known.seen(now + DOUBLES), Some(millis(2)));
        let later = now + 20 * DOUBLES;
        assert!(known.seen(later) > Some(millis(1_000_000)));
        known.closed(millis(4000), millis(5000), later);
        assert_eq!(known.seen(later), Some(millis(4000)), "news counts at once");
        assert!(known.seen(later + 1_000_000 * DOUBLES).is_some());
    }

    #[test]
    fn one_restart_does_not_make_an_endpoint_impatient() {
        let now = Instant::now();
        let mut known = Known::default();
        known.outlived(millis(900), now);
        assert_eq!(
            known.seen(now),
            None,
            "nothing is known, nothing is refuted"
        );
        known.closed(millis(0), millis(3), now);
        known.outlived(millis(900), now);
        assert_eq!(known.seen(now), Some(millis(900)));
    }

    /// Whatever the age is at which a server closes: looked at once a second, it is found out, and
    /// never taken for longer than it is.
    #[test]
    fn any_age_is_found_out_from_below() {
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let truth = millis([1, 50, 1000, 5000, 60_000][rng.usize(..5)]);
            let mut known = Known::default();
            let mut now = Instant::now();
            for _ in 0..50 {
                // Checked in somewhere between two looks, and looked at every second from then on.
                let first = Duration::from_micros(rng.u64(..1_000_000));
                let mut least = Duration::ZERO;
                let mut age = first;
                now += first;
                loop {
                    let limit = known.age(now).map_or(Duration::MAX, retire_after);
                    if age >= truth {
                        known.closed(least, age, now);
                        break;
                    }
                    if age >= limit {
                        known.outlived(age, now);
                        break;
                    }
                    least = age;
                    age += Duration::from_secs(1);
                    now += Duration::from_secs(1);
                }
            }
            let seen = known.seen(now).unwrap_or_default();
            let slack = truth / 5 + Duration::from_secs(1);
            // It is a little patient with what it saw last some minutes ago.
            assert!(
                retire_after(seen) < truth + slack,
                "seed {seed}: {seen:?} of {truth:?}"
            );
            assert!(
                seen + slack > truth / 2,
                "seed {seed}: {seen:?} of {truth:?}"
            );
        }
    }
}
