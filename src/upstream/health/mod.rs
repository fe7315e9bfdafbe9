//! Which endpoints take requests: the breaker and outlier ejection, one state machine an endpoint
//! with two causes.
//!
//! Each endpoint has a `Health`: a gate that is looked at before it is picked, and counts. A
//! [`Board`] has the machines of all endpoints of an upstream, over all workers, and outlives
//! reloads as they do. Where all is well, a pick reads one word of the board and a good answer one
//! of its endpoint's, and nothing is written. Only a change of state takes the board's lock.
//!
//! The gate is a set of bits so that health from other sources can close it as well, kept apart.

mod board;
mod checked;
mod ejection;
mod machine;
mod members;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod wilson;
mod window;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

pub use self::{
    board::Board,
    checked::{CheckResult, Finding, Opinion},
    ejection::Tally,
    machine::{Cause, Found, Probe},
};
pub(super) use board::Urgency;

use super::endpoint::{EndpointId, Verdict};

/// What all workers know of the health of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    /// Bits; none: it takes requests.
    gate: AtomicU8,
    /// Failures in a row.
    streak: AtomicU32,
    /// Those at the end of the streak that were connects.
    unreachable: AtomicU32,
    /// When it last changed its state, on the board's clock: of requests from before nothing is
    /// learned.
    since: AtomicU64,
    failures: AtomicU32,
    /// Requests of which nothing was learned.
    silent: AtomicU32,
    slow: AtomicU32,
    /// Answers that take longer are slow, in nanoseconds.
    slow_above: AtomicU64,
    /// Given when it becomes part of an upstream.
    board: OnceLock<Arc<Board>>,
}

/// The bit of the gate that the state machine sets while it isn't closed.
const OPEN: u8 = 1;
/// The one that checks set.
const UNHEALTHY: u8 = 2;

impl Health {
    pub(super) const fn new() -> Self {
        Self {
            gate: AtomicU8::new(0),
            streak: AtomicU32::new(0),
            unreachable: AtomicU32::new(0),
            since: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            silent: AtomicU32::new(0),
            slow: AtomicU32::new(0),
            slow_above: AtomicU64::new(u64::MAX),
            board: OnceLock::new(),
        }
    }

    /// Whether it takes requests other than probes.
    pub(super) fn is_available(&self) -> bool {
        self.gate.load(Relaxed) == 0
    }

    #[cfg(test)]
    pub(super) fn set_available(&self, available: bool) {
        self.gate.store(if available { 0 } else { OPEN }, Relaxed);
    }

    /// Takes the time an answer took.
    pub(super) fn timed(&self, rtt: Duration) {
        if rtt.as_nanos() > u128::from(self.slow_above.load(Relaxed)) {
            self.slow.fetch_add(1, Relaxed);
        }
    }

    /// What came of a request that began at a time and was no probe; `None`: nothing was said.
    pub(super) fn settle(
        &self,
        id: EndpointId,
        began: Instant,
        verdict: Option<Verdict>,
        now: Instant,
    ) {
        match verdict {
            Some(Verdict::Success) => {
                if self.streak.load(Relaxed) != 0 && self.counts(began) {
                    self.forgive();
                }
            }
            Some(verdict @ (Verdict::Failure | Verdict::Unreachable)) => {
                if self.counts(began) {
                    self.fail(id, verdict == Verdict::Unreachable, now);
                } else {
                    self.silent.fetch_add(1, Relaxed);
                }
            }
            Some(Verdict::Neutral) | None => {
                self.silent.fetch_add(1, Relaxed);
            }
        }
    }

    /// What came of a probe.
    pub(super) fn probed(
        &self,
        id: EndpointId,
        probe: Probe,
        verdict: Option<Verdict>,
        now: Instant,
    ) {
        self.silent.fetch_add(1, Relaxed);
        let found = match verdict {
            Some(Verdict::Success) => Found::Healthy,
            Some(Verdict::Failure) => Found::Failing(Cause::Failures),
            Some(Verdict::Unreachable) => Found::Failing(Cause::Unreachable),
            Some(Verdict::Neutral) | None => Found::Nothing,
        };
        if let Some(board) = self.board.get() {
            board.probed(id, probe, found, now);
        }
    }

    /// Failures in a row.
    fn streak(&self) -> u32 {
        self.streak.load(Relaxed)
    }

    /// A request that began under another state says nothing about this one.
    fn counts(&self, began: Instant) -> bool {
        self.gate.load(Relaxed) & OPEN == 0
            && self
                .board
                .get()
                .is_some_and(|board| board.stamp(began) >= self.since.load(Relaxed))
    }

    fn fail(&self, id: EndpointId, connecting: bool, now: Instant) {
        self.failures.fetch_add(1, Relaxed);
        let streak = self.streak.fetch_add(1, Relaxed).saturating_add(1);
        let unreachable = if connecting {
            self.unreachable.fetch_add(1, Relaxed).saturating_add(1)
        } else {
            self.unreachable.store(0, Relaxed);
            0
        };
        if let Some(board) = self.board.get()
            && let Some(cause) = board.is_too_much(streak, unreachable)
        {
            board.trip(id, cause, now);
        }
    }

    fn forgive(&self) {
        self.streak.store(0, Relaxed);
        self.unreachable.store(0, Relaxed);
    }
}
