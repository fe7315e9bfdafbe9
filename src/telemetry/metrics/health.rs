//! What an upstream counts of the health of its endpoints.

use super::cells::Count;
use crate::{
    config::model::Question,
    upstream::health::{Cause, CheckResult, Opinion, Tally},
};

/// Written under the lock of the upstream's health board: one writer at a time.
#[derive(Debug, Default)]
pub struct HealthMetrics {
    available: Count,
    open: Count,
    ejected: Count,
    unhealthy: Count,
    opened: ByCause,
    reopened: ByCause,
    probed: ByCause,
    closed: ByCause,
    would_eject: ByCause,
    checks: [[Count; CheckResult::ALL.len()]; Question::NAMES.len()],
    opinions: [Count; Opinion::ALL.len()],
}

type ByCause = [Count; Cause::ALL.len()];

impl HealthMetrics {
    /// An endpoint takes no more requests.
    pub fn opened(&self, cause: Cause) {
        self.opened[cause as usize].increment();
    }

    /// A probe has failed, and for this it takes none.
    pub fn reopened(&self, cause: Option<Cause>) {
        count(&self.reopened, cause);
    }

    /// A probe was sent.
    pub fn probed(&self, cause: Option<Cause>) {
        count(&self.probed, cause);
    }

    /// An endpoint takes requests again.
    pub fn closed(&self, cause: Option<Cause>) {
        count(&self.closed, cause);
    }

    /// An endpoint would be ejected if it weren't for the dry run.
    pub fn would_eject(&self, cause: Cause) {
        self.would_eject[cause as usize].increment();
    }

    /// How the endpoints stand.
    pub fn set(&self, tally: Tally) {
        self.available.set(tally.available() as u64);
        self.open.set(tally.open as u64);
        self.ejected.set(tally.ejected as u64);
        self.unhealthy.set(tally.unhealthy as u64);
    }

    /// A check has ended.
    pub fn checked(&self, question: &Question, result: CheckResult) {
        self.checks[question.index()][result as usize].increment();
    }

    /// What checks say of each endpoint that is checked.
    pub fn set_checked(&self, opinions: impl Iterator<Item = Opinion>) {
        let mut counts = [0; Opinion::ALL.len()];
        opinions.for_each(|opinion| counts[opinion as usize] += 1);
        for (shown, count) in self.opinions.iter().zip(counts) {
            shown.set(count);
        }
    }

    /// What a dry run would have ejected.
    #[cfg(test)]
    pub fn ejected_in_dry_run(&self) -> u64 {
        self.would_eject.iter().map(Count::get).sum()
    }

    /// Endpoints by state.
    pub(super) fn endpoints(&self) -> Vec<([&'static str; 1], u64)> {
        vec![
            (["available"], self.available.get()),
            (["open"], self.open.get()),
            (["ejected"], self.ejected.get()),
            (["unhealthy"], self.unhealthy.get()),
        ]
    }

    /// Endpoints by what checks say; nothing where there are none.
    pub(super) fn opinions(&self) -> Vec<([&'static str; 1], u64)> {
        let counts = Opinion::ALL.map(|opinion| {
            let count = self.opinions[opinion as usize].get();
            ([opinion.name()], count)
        });
        match counts.iter().any(|&(_, count)| count > 0) {
            true => counts.into(),
            false => Vec::new(),
        }
    }

    /// Checks by type and result; what never happened is left out.
    pub(super) fn checks(&self) -> Vec<([&'static str; 2], u64)> {
        let types = Question::NAMES.into_iter().zip(&self.checks);
        types
            .flat_map(|(name, counts)| {
                CheckResult::ALL
                    .map(|result| ([name, result.name()], counts[result as usize].get()))
            })
            .filter(|&(_, count)| count > 0)
            .collect()
    }

    /// Changes by new state and cause; what never happened is left out.
    pub(super) fn transitions(&self) -> Vec<([&'static str; 2], u64)> {
        [
            ("open", &self.opened),
            ("reopened", &self.reopened),
            ("half_open", &self.probed),
            ("closed", &self.closed),
        ]
        .into_iter()
        .flat_map(|(to, counts)| {
            let causes = Cause::ALL.iter().zip(counts);
            causes.map(move |(cause, count)| ([to, cause.name()], count.get()))
        })
        .filter(|&(_, count)| count > 0)
        .collect()
    }

    /// Ejections by cause, those of a dry run apart.
    pub(super) fn ejections(&self) -> Vec<([&'static str; 2], u64)> {
        let mut series = Vec::new();
        for &cause in Cause::ALL.iter().filter(|cause| cause.is_ejection()) {
            let index = cause as usize;
            series.push((["enforced", cause.name()], self.opened[index].get()));
            series.push((["dry_run", cause.name()], self.would_eject[index].get()));
        }
        series
    }
}

fn count(counts: &ByCause, cause: Option<Cause>) {
    if let Some(cause) = cause {
        counts[cause as usize].increment();
    }
}
