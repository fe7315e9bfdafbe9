//! What checks know of one endpoint. Pure, and kept apart from what its requests tell.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::config::model::HealthCheck;

/// What a check has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    Success,
    /// It answered, but not as a healthy endpoint does.
    Failure,
    Timeout,
    /// No connection could be made, or no TLS session.
    Unreachable,
}

impl CheckResult {
    pub const ALL: [Self; 4] = [
        Self::Success,
        Self::Failure,
        Self::Timeout,
        Self::Unreachable,
    ];

    /// As logs, metrics and `GET /upstreams` have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
        }
    }
}

/// One check that has ended.
#[derive(Clone, Debug)]
pub struct Finding {
    pub result: CheckResult,
    /// What was wrong.
    pub error: Option<Box<str>>,
    pub began: Instant,
    pub took: Duration,
}

/// What checks say of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// None has ended yet. It takes requests: to know nothing is no reason to refuse them.
    Unknown,
    Healthy,
    Unhealthy,
}

impl Opinion {
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Unhealthy, Self::Unknown];

    /// As logs, metrics and `GET /upstreams` have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What one check, asked over and over, says of one endpoint.
///
/// Thresholds keep one result from undoing what many have shown. Until a first success nothing was
/// shown, so that each result decides by itself: an endpoint that has not come up yet is out at once,
/// and in with its first good answer.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub(super) check: HealthCheck,
    opinion: Opinion,
    /// It has succeeded before.
    proven: bool,
    /// Results in a row that speak against the opinion.
    against: u32,
    last: Option<Finding>,
}

impl Checked {
    pub(super) const fn new(check: HealthCheck) -> Self {
        Self {
            check,
            opinion: Opinion::Unknown,
            proven: false,
            against: 0,
            last: None,
        }
    }

    /// When the last check began.
    pub(super) fn last_began(&self) -> Option<Instant> {
        self.last.as_ref().map(|last| last.began)
    }

    /// Takes what a check has found; whether that changes the opinion.
    pub(super) fn take(&mut self, finding: Finding) -> bool {
        let success = finding.result == CheckResult::Success;
        self.last = Some(finding);
        let (found, threshold) = match success {
            true => (Opinion::Healthy, self.check.healthy_threshold),
            false => (Opinion::Unhealthy, self.check.unhealthy_threshold),
        };
        let threshold = if self.proven { threshold } else { 1 };
        self.proven |= success;
        if self.opinion == found {
            self.against = 0;
            return false;
        }
        self.against += 1;
        if self.against < threshold {
            return false;
        }
        self.against = 0;
        self.opinion = found;
        true
    }

    /// For `GET /upstreams`.
    pub(super) fn describe(&self, now: Instant) -> Value {
        let last = self.last.as_ref();
        let age = last.map(|last| now.saturating_duration_since(last.began));
        json!({
            "type": self.check.question.name(),
            "port": self.check.port,
            "state": self.opinion.name(),
            "lastResult": last.map(|last| last.result.name()),
            "lastError": last.and_then(|last| last.error.as_deref()),
            "lastSecondsAgo": age.map(|age| age.as_secs_f64()),
            "lastMs": last.map(|last| last.took.as_secs_f64() * 1e3),
        })
    }
}

/// What all checks of an endpoint say together: each of them can take it out. `None`: there are none.
pub(super) fn together(checks: &[Checked]) -> Option<Opinion> {
    let any = |opinion| checks.iter().any(|checked| checked.opinion == opinion);
    if checks.is_empty() {
        None
    } else if any(Opinion::Unhealthy) {
        Some(Opinion::Unhealthy)
    } else if any(Opinion::Unknown) {
        Some(Opinion::Unknown)
    } else {
        Some(Opinion::Healthy)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::model::Question;

    pub(in super::super) fn check(unhealthy_threshold: u32, healthy_threshold: u32) -> HealthCheck {
        HealthCheck {
            question: Question::Tcp,
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_threshold,
            healthy_threshold,
        }
    }

    pub(in super::super) fn finding(success: bool) -> Finding {
        Finding {
            result: if success {
                CheckResult::Success
            } else {
                CheckResult::Unreachable
            },
            error: None,
            began: Instant::now(),
            took: Duration::ZERO,
        }
    }

    /// The opinions after each of these results: `+` and `-`.
    fn opinions(results: &str) -> String {
        let mut checked = Checked::new(check(3, 2));
        let opinion = |result| {
            let before = checked.opinion;
            let changed = checked.take(finding(result == '+'));
            assert_eq!(changed, before != checked.opinion);
            match checked.opinion {
                Opinion::Unknown => '?',
                Opinion::Healthy => 'h',
                Opinion::Unhealthy => 'u',
            }
        };
        results.chars().map(opinion).collect()
    }

    #[test]
    fn thresholds_hold_both_ways() {
        assert_eq!(opinions("+---+++"), "hhhuuhh");
        assert_eq!(opinions("+--+--+--+"), "hhhhhhhhhh");
        assert_eq!(opinions("+---+-+-+-"), "hhhuuuuuuu");
        assert_eq!(opinions("+----++"), "hhhuuuh");
    }

    #[test]
    fn until_a_first_success_each_result_decides() {
        assert_eq!(opinions("-"), "u");
        assert_eq!(opinions("---+--+"), "uuuhhhh");
        assert_eq!(opinions("-+---"), "uhhhu");
    }

    #[test]
    fn no_order_of_results_gets_past_the_thresholds() {
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (down, up) = (rng.u32(1..6), rng.u32(1..6));
            let mut checked = Checked::new(check(down, up));
            let mut results: Vec<bool> = Vec::new();
            for _ in 0..100 {
                let proven = results.contains(&true);
                let before = checked.opinion;
                results.push(rng.bool());
                let success = *results.last().unwrap();
                let changed = checked.take(finding(success));
                let row = results.iter().rev().take_while(|&&one| one == success);
                let threshold = match success {
                    _ if !proven => 1,
                    true => up,
                    false => down,
                };
                let found = if success {
                    Opinion::Healthy
                } else {
                    Opinion::Unhealthy
                };
                let expected = before != found && row.count() >= threshold as usize;
                assert_eq!(changed, expected, "{seed} {results:?}");
            }
        }
    }

    #[test]
    fn one_of_several_is_enough() {
        let mut checks = vec![Checked::new(check(3, 2)), Checked::new(check(3, 2))];
        assert_eq!(together(&[]), None);
        checks[0].take(finding(true));
        assert_eq!(together(&checks), Some(Opinion::Unknown));
        checks[1].take(finding(false));
        assert_eq!(together(&checks), Some(Opinion::Unhealthy));
        checks[1].take(finding(true));
        assert_eq!(together(&checks), Some(Opinion::Healthy));
    }
}
