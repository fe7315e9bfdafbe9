//! What a rule about who may call what has decided on a listener.

use std::sync::Arc;

use super::{
    cells::{Count, PerWorker},
    common::{Common, Settings},
    family::Label,
    scrape::{Families, Scraped},
};

/// The handle of one rule on one listener. Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct AccessMetrics(PerWorker<Cells>);

#[derive(Debug, Default)]
struct Cells([Count; DECISIONS.len()]);

/// What was decided, or would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessDecision {
    Allowed,
    Denied,
    /// With the rules in force that only look on.
    AuditAllowed,
    /// The same.
    AuditDenied,
}

/// Values of the `decision` label.
const DECISIONS: [&str; 4] = ["allowed", "denied", "audit_allowed", "audit_denied"];

/// One for each decision.
const PLACES: usize = DECISIONS.len();

impl AccessMetrics {
    /// The rule has decided something.
    pub fn decided(&self, worker: usize, decision: AccessDecision) {
        self.0.of(worker).0[decision as usize].increment();
    }

    /// What never happened is left out.
    fn decisions(&self) -> Vec<([&'static str; 1], u64)> {
        let count = |(index, name)| ([name], self.0.sum(|cells| &cells.0[index]));
        let all = DECISIONS.into_iter().enumerate().map(count);
        all.filter(|&(_, count)| count > 0).collect()
    }
}

impl Scraped for AccessMetrics {
    const LABEL: &'static str = "listener";

    fn new(common: &Arc<Common>) -> Self {
        Self(PerWorker::new(common.workers))
    }

    fn places(_: &Settings) -> usize {
        PLACES
    }

    /// Its name is that of the listener, then that of the rule, which have no blanks.
    fn labels(name: &str) -> Vec<Label<'_>> {
        let (listener, rule) = name.split_once(' ').unwrap_or((name, ""));
        vec![(Self::LABEL, listener), ("rule", rule)]
    }

    fn describe(families: &mut Families<'_, '_, Self>) {
        families.counters(
            "pillion_access_decisions",
            "Requests and TCP connections that `access` decided about, by the rule that did; \
             no rule: those that none held for. What starts with audit is what the decision would be \
             with audited rules in force.",
            ["decision"],
            Self::decisions,
        );
    }
}
