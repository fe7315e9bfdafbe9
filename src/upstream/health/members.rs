//! The endpoints of one upstream with their machines and what they did lately.

use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    checked::{self, Checked, Opinion},
    ejection::{self, Tally},
    machine::{Cause, Machine, State},
    window::{Counts, Window},
};
use crate::{
    config::model::{Backoff, Breaker, Ejection, HealthCheck},
    upstream::endpoint::{Endpoint, EndpointId, Started},
};

/// A probe that has found nothing for so long, or for the longest backoff, has failed.
const LONGEST_PROBE: Duration = Duration::from_secs(30);
/// An answer is slow from so many times the usual time on.
const SLOW: u32 = 3;

/// What the board keeps under its lock.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) breaker: Option<Breaker>,
    pub(super) ejection: Option<Ejection>,
    pub(super) checks: Vec<HealthCheck>,
    pub(super) members: Vec<Member>,
    pub(super) rng: fastrand::Rng,
}

/// An endpoint that can take requests.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: EndpointId,
    /// Weak, as the endpoint has the board.
    pub(super) endpoint: Weak<Endpoint>,
    pub(super) machine: Machine,
    /// One for each check of the upstream, in their order.
    pub(super) checks: Vec<Checked>,
    pub(super) window: Window,
    seen: Seen,
    /// A dry run takes it to be ejected until then.
    pub(super) would_be_ejected: Option<Instant>,
}

/// The counters of an endpoint as they were last read; they wrap.
#[derive(Clone, Copy, Debug)]
struct Seen {
    started: Started,
    failures: u32,
    silent: u32,
    slow: u32,
}

impl Members {
    pub(super) fn index(&self, id: EndpointId) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    pub(super) const fn is_on(&self, cause: Cause) -> bool {
        match (cause, &self.ejection) {
            (Cause::Unreachable | Cause::Failures, _) => self.breaker.is_some(),
            (_, None) => false,
            (Cause::SuccessRate, Some(ejection)) => ejection.success_rate && !ejection.dry_run,
            (Cause::Latency, Some(ejection)) => ejection.latency && !ejection.dry_run,
        }
    }

    /// The backoff of what a member is open for.
    pub(super) fn backoff(&self, index: usize) -> Backoff {
        self.backoff_for(self.members[index].cause().unwrap_or(Cause::Failures))
    }

    pub(super) fn backoff_for(&self, cause: Cause) -> Backoff {
        let breaker = self.breaker.map(|breaker| breaker.backoff);
        let ejection = self.ejection.map(|ejection| ejection.backoff);
        let (first, second) = if cause.is_ejection() {
            (ejection, breaker)
        } else {
            (breaker, ejection)
        };
        first.or(second).unwrap_or_default()
    }

    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally {
            total: self.members.len(),
            ..Tally::default()
        };
        for member in &self.members {
            match member.cause() {
                Some(cause) if cause.is_ejection() => tally.ejected += 1,
                Some(_) => tally.open += 1,
                None if member.is_unhealthy() => tally.unhealthy += 1,
                None => {}
            }
        }
        tally
    }

    pub(super) fn longest_ejected(&self) -> Option<usize> {
        let ejected = |member: &Member| member.cause().is_some_and(Cause::is_ejection);
        (0..self.members.len())
            .filter(|&index| ejected(&self.members[index]))
            .min_by_key(|&index| self.members[index].machine.since())
    }

    /// The next to be ejected, where one may be.
    pub(super) fn worst(&self, ejection: &Ejection, now: Instant) -> Option<(usize, Cause)> {
        let mut tally = self.tally();
        let compared: Vec<usize> = (0..self.members.len())
            .filter(|&index| self.members[index].is_compared(now))
            .collect();
        if ejection.dry_run {
            tally.ejected = tally.available() - compared.len();
        }
        if !tally.may_eject(ejection.max_ejected) {
            return None;
        }
        let counts: Vec<Counts> = compared
            .iter()
            .map(|&index| self.members[index].window.counts())
            .collect();
        let (position, cause) = ejection::worst(&counts, ejection)?;
        Some((compared[position], cause))
    }

    /// Several times what an answer usually takes: of half of the endpoints, the faster half.
    pub(super) fn slow_above(&self) -> u64 {
        let mut usual: Vec<Duration> = self
            .members
            .iter()
            .filter(|member| member.machine.state() == State::Closed)
            .filter_map(|member| member.endpoint.upgrade()?.latency())
            .collect();
        usual.sort();
        let middle = usual.len().saturating_sub(1) / 2;
        let slow = usual.get(middle).map(|&usual| usual * SLOW);
        slow.map_or(u64::MAX, |slow| slow.as_nanos() as u64)
    }
}

impl Member {
    pub(super) fn new(endpoint: &Arc<Endpoint>, now: Instant) -> Self {
        Self {
            id: endpoint.id,
            endpoint: Arc::downgrade(endpoint),
            machine: Machine::new(now),
            checks: Vec::new(),
            window: Window::new(now),
            seen: Seen::of(endpoint),
            would_be_ejected: None,
        }
    }

    pub(super) const fn cause(&self) -> Option<Cause> {
        self.machine.state().cause()
    }

    /// What checks say; `None`: there are none.
    pub(super) fn opinion(&self) -> Option<Opinion> {
        checked::together(&self.checks)
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.opinion() == Some(Opinion::Unhealthy)
    }

    /// From now on by these checks. What those of before have found is kept.
    pub(super) fn check_by(&mut self, checks: &[HealthCheck]) {
        let mut before = std::mem::take(&mut self.checks);
        let known = |check: &HealthCheck| {
            let index = before.iter().position(|checked| checked.check == *check);
            index.map_or_else(
                || Checked::new(check.clone()),
                |index| before.swap_remove(index),
            )
        };
        self.checks = checks.iter().map(known).collect();
    }

    pub(super) fn label(&self) -> Arc<str> {
        let endpoint = self.endpoint.upgrade();
        endpoint.map_or_else(|| "(gone)".into(), |endpoint| Arc::clone(&endpoint.label))
    }

    pub(super) fn is_compared(&self, now: Instant) -> bool {
        self.machine.state() == State::Closed
            && !self.is_unhealthy()
            && self.would_be_ejected.is_none_or(|until| until <= now)
    }

    /// What came before is not held against it.
    pub(super) fn begin_anew(&mut self, stamp: u64, now: Instant) {
        self.window = Window::new(now);
        if let Some(endpoint) = self.endpoint.upgrade() {
            self.seen = Seen::of(&endpoint);
            endpoint.health.since.store(stamp, Relaxed);
            endpoint.ramp.begin(now);
        }
    }

    /// Reads the counters of its endpoint into the window.
    pub(super) fn count(&mut self, length: Duration, now: Instant) {
        let Some(endpoint) = self.endpoint.upgrade() else {
            return;
        };
        let seen = Seen::of(&endpoint);
        let before = std::mem::replace(&mut self.seen, seen);
        if self.machine.state() == State::Closed {
            self.window.add(seen.since(before), length, now);
        }
    }
}

impl Seen {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let health = &endpoint.health;
        Self {
            started: endpoint.started(),
            failures: health.failures.load(Relaxed),
            silent: health.silent.load(Relaxed),
            slow: health.slow.load(Relaxed),
        }
    }

    pub(super) fn since(self, before: Self) -> Counts {
        let grown = |now: u32, before: u32| u64::from(now.wrapping_sub(before));
        let started = grown(self.started.0, before.started.0);
        Counts {
            trials: started.saturating_sub(grown(self.silent, before.silent)),
            failures: grown(self.failures, before.failures),
            slow: grown(self.slow, before.slow),
        }
    }
}

/// How long a probe may find nothing: also with short backoffs a slow answer is one.
pub(super) fn longest_probe(breaker: Option<Breaker>, ejection: Option<Ejection>) -> Duration {
    let breaker = breaker.map_or(Duration::ZERO, |breaker| breaker.backoff.max);
    let ejection = ejection.map_or(Duration::ZERO, |ejection| ejection.backoff.max);
    breaker.max(ejection).max(LONGEST_PROBE)
}
