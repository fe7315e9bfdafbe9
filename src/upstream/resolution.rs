//! What discovery has found under one name, and what it keeps when the name service fails.
//!
//! A failure to ask (SERVFAIL, a timeout) says nothing about the endpoints: the last good answer
//! stays for as long as it takes. An answer that there is nothing (NXDOMAIN, no records) is
//! believed when it has come [`ABSENT_GRACE`] times in a row, since a name server that has just
//! started says so too; then the endpoints are dropped.

use tokio::time::Instant;

use super::set::Wanted;

/// Consecutive answers that a name has no addresses before its endpoints go. Asked about 1 s, 2 s
/// and so on apart.
pub const ABSENT_GRACE: u32 = 3;

/// Why a name gave no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LookupFailure {
    pub message: String,
    /// The name service answered, and the answer was that there is nothing.
    pub absent: bool,
}

/// What is known of one name.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    found: Vec<Wanted>,
    resolved: Option<Instant>,
    error: Option<String>,
    absences: u32,
}

impl Resolution {
    /// The last good answer; weights are those of SRV records, else 1.
    pub fn found(&self) -> &[Wanted] {
        &self.found
    }

    /// When the last good answer came.
    pub const fn resolved(&self) -> Option<Instant> {
        self.resolved
    }

    /// Why the latest attempt failed; `None` if it did not.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Takes the outcome of an attempt; true if `found` is different now.
    pub fn apply(&mut self, outcome: Result<Vec<Wanted>, LookupFailure>, now: Instant) -> bool {
        match outcome {
            Ok(found) => {
                let changed = self.found != found;
                *self = Self {
                    found,
                    resolved: Some(now),
                    error: None,
                    absences: 0,
                };
                changed
            }
            Err(failure) => {
                self.error = Some(failure.message);
                if !failure.absent {
                    return false;
                }
                self.absences = self.absences.saturating_add(1);
                let drop = self.absences >= ABSENT_GRACE && !self.found.is_empty();
                if drop {
                    self.found.clear();
                }
                drop
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::endpoint::Target;

    fn found() -> Vec<Wanted> {
        vec![Wanted::plain(Target::tcp(([127, 0, 0, 1], 80).into()), 1)]
    }

    fn failure(absent: bool) -> Result<Vec<Wanted>, LookupFailure> {
        Err(LookupFailure {
            message: "no".into(),
            absent,
        })
    }

    #[tokio::test]
    async fn failures_keep_the_last_answer_for_ever() {
        let mut resolution = Resolution::default();
        assert!(resolution.apply(Ok(found()), Instant::now()));
        for _ in 0..100 {
            assert!(!resolution.apply(failure(false), Instant::now()));
            assert_eq!(resolution.found(), found());
            assert_eq!(resolution.error(), Some("no"));
        }
        assert!(!resolution.apply(Ok(found()), Instant::now()));
        assert_eq!(resolution.error(), None);
    }

    #[tokio::test]
    async fn absence_is_believed_after_the_grace() {
        let mut resolution = Resolution::default();
        resolution.apply(Ok(found()), Instant::now());
        for _ in 1..ABSENT_GRACE {
            assert!(!resolution.apply(failure(true), Instant::now()));
            // A failure in between neither helps nor harms.
            assert!(!resolution.apply(failure(false), Instant::now()));
        }
        assert!(resolution.apply(failure(true), Instant::now()));
        assert!(resolution.found().is_empty());
        assert!(resolution.apply(Ok(found()), Instant::now()));
    }
}
