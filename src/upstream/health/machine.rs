//! The state machine of one endpoint: closed, open until a moment, half open with one probe.
//!
//! Pure: time and chance are arguments. Why an endpoint is to open, and whether it may, others
//! decide.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::Backoff;

/// Openings this close to the time of health before them count as one story: the backoff grows.
/// So many times the longest backoff.
const MEMORY: u32 = 2;

/// Why an endpoint takes no requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The breaker: connecting failed so many times in a row.
    Unreachable,
    /// The breaker: so many requests failed in a row.
    Failures,
    /// Ejection: fails more often than the others.
    SuccessRate,
    /// Ejection: slow more often than the others.
    Latency,
}

impl Cause {
    pub const ALL: [Self; 4] = [
        Self::Unreachable,
        Self::Failures,
        Self::SuccessRate,
        Self::Latency,
    ];

    /// As logs, metrics and `GET /upstreams` have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Failures => "failures",
            Self::SuccessRate => "success_rate",
            Self::Latency => "latency",
        }
    }

    /// Whether it was compared with the others, rather than seen to be broken.
    pub const fn is_ejection(self) -> bool {
        matches!(self, Self::SuccessRate | Self::Latency)
    }
}

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Healthy,
    /// It failed, and for this the endpoint is open from now on.
    Failing(Cause),
    /// Nothing: the answer was neutral, or its client left. Another request may probe.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Takes requests.
    Closed,
    /// Takes none; a probe from `until` on.
    Open { cause: Cause, until: Instant },
    /// One request is on its way to find out. If it has found nothing by `until`, it has failed.
    HalfOpen { cause: Cause, until: Instant },
}

impl State {
    pub(super) const fn cause(self) -> Option<Cause> {
        match self {
            Self::Closed => None,
            Self::Open { cause, .. } | Self::HalfOpen { cause, .. } => Some(cause),
        }
    }
}

/// Names one probe, so that what comes of an earlier one is not taken for its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe(u32);

/// The state of one endpoint and what it takes to change it.
#[derive(Debug)]
pub(super) struct Machine {
    state: State,
    /// Of this state.
    since: Instant,
    /// Backoffs in a row, each twice the one before.
    doublings: u32,
    probes: u32,
}

impl Machine {
    /// Closed.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            state: State::Closed,
            since: now,
            doublings: 0,
            probes: 0,
        }
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// When it became so.
    pub(super) const fn since(&self) -> Instant {
        self.since
    }

    /// From closed to open; how long until a probe. `random` is uniform over all its values.
    pub(super) fn open(
        &mut self,
        cause: Cause,
        backoff: Backoff,
        random: u32,
        now: Instant,
    ) -> Duration {
        debug_assert_eq!(self.state, State::Closed);
        let healthy = now.saturating_duration_since(self.since);
        if healthy >= backoff.max * MEMORY {
            self.doublings = 0;
        }
        self.back_off(cause, backoff, random, now)
    }

    /// From open to half open, if it is time: the caller has to send one request.
    pub(super) fn probe(&mut self, patience: Duration, now: Instant) -> Option<Probe> {
        let State::Open { cause, until } = self.state else {
            return None;
        };
        if now < until {
            return None;
        }
        let until = now + patience;
        self.enter(State::HalfOpen { cause, until }, now);
        self.probes = self.probes.wrapping_add(1);
        Some(Probe(self.probes))
    }

    /// Takes what a probe found: `false`, and nothing changes, if it isn't the one that is awaited.
    pub(super) fn probed(
        &mut self,
        probe: Probe,
        found: Found,
        backoff: Backoff,
        random: u32,
        now: Instant,
    ) -> bool {
        let State::HalfOpen { cause, .. } = self.state else {
            return false;
        };
        if probe.0 != self.probes {
            return false;
        }
        match found {
            Found::Healthy => self.close(now),
            Found::Failing(cause) => {
                self.back_off(cause, backoff, random, now);
            }
            Found::Nothing => self.enter(State::Open { cause, until: now }, now),
        }
        true
    }

    /// A probe that has found nothing for too long has failed.
    pub(super) fn lapse(&mut self, backoff: Backoff, random: u32, now: Instant) -> bool {
        match self.state {
            State::HalfOpen { cause, until } if until <= now => {
                self.back_off(cause, backoff, random, now);
                true
            }
            _ => false,
        }
    }

    /// Takes requests again, whatever it was.
    pub(super) fn close(&mut self, now: Instant) {
        self.enter(State::Closed, now);
    }

    fn back_off(&mut self, cause: Cause, backoff: Backoff, random: u32, now: Instant) -> Duration {
        let wait = wait(backoff, self.doublings, random);
        self.doublings = self.doublings.saturating_add(1);
        let until = now + wait;
        self.enter(State::Open { cause, until }, now);
        wait
    }

    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
    }
}

/// Up to a quarter shorter than its turn says, by chance: of many proxies not all shall probe at
/// the same moment.
fn wait(backoff: Backoff, doublings: u32, random: u32) -> Duration {
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    let longest = backoff.base.saturating_mul(factor).min(backoff.max);
    longest.mul_f64(1.0 - f64::from(random) / f64::from(u32::MAX) / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_secs(1),
        max: Duration::from_secs(30),
    };

    #[test]
    fn backoff_doubles_within_its_bounds() {
        for (doublings, longest) in [(0, 1), (1, 2), (4, 16), (5, 30), (31, 30), (u32::MAX, 30)] {
            let longest = Duration::from_secs(longest);
            assert_eq!(wait(BACKOFF, doublings, 0), longest);
            assert_eq!(wait(BACKOFF, doublings, u32::MAX), longest.mul_f64(0.75));
        }
    }

    #[test]
    fn a_while_of_health_forgets() {
        let start = Instant::now();
        let mut machine = Machine::new(start);
        let mut now = start;
        let mut open = |machine: &mut Machine, after: u64| {
            now += Duration::from_secs(after);
            let wait = machine.open(Cause::Failures, BACKOFF, 0, now);
            now += wait;
            let probe = machine.probe(BACKOFF.max, now).unwrap();
            assert!(machine.probed(probe, Found::Healthy, BACKOFF, 0, now));
            wait.as_secs()
        };
        assert_eq!(open(&mut machine, 1), 1);
        assert_eq!(open(&mut machine, 59), 2);
        assert_eq!(open(&mut machine, 59), 4);
        assert_eq!(open(&mut machine, 60), 1);
    }

    #[test]
    fn one_probe_at_a_time_and_only_its_result_counts() {
        let start = Instant::now();
        let mut machine = Machine::new(start);
        assert_eq!(machine.probe(BACKOFF.max, start), None);
        let wait = machine.open(Cause::Unreachable, BACKOFF, 0, start);
        assert_eq!(machine.probe(BACKOFF.max, start), None);
        let now = start + wait;
        let first = machine.probe(BACKOFF.max, now).unwrap();
        assert_eq!(machine.probe(BACKOFF.max, now), None);
        assert!(!machine.lapse(BACKOFF, 0, now));
        let now = now + BACKOFF.max;
        assert!(machine.lapse(BACKOFF, 0, now));
        assert!(!machine.probed(first, Found::Healthy, BACKOFF, 0, now));
        let now = now + 2 * BACKOFF.base;
        let second = machine.probe(BACKOFF.max, now).unwrap();
        assert!(!machine.probed(first, Found::Healthy, BACKOFF, 0, now));
        assert!(machine.probed(second, Found::Nothing, BACKOFF, 0, now));
        let third = machine.probe(BACKOFF.max, now).unwrap();
        assert!(machine.probed(third, Found::Healthy, BACKOFF, 0, now));
        assert_eq!(machine.state(), State::Closed);
    }
}
