//! How it stands with the Workload API, for `/readyz?verbose`.

use tokio::time::Instant;

/// What was heard of the Workload API, and when.
#[derive(Clone, Debug)]
pub struct State {
    /// When the watch began.
    pub since: Instant,
    /// The last good update; `None` means that there is no identity yet.
    pub last_update: Option<Instant>,
    /// What went wrong last, unless an update has come since.
    pub last_error: Option<LastError>,
}

#[derive(Clone, Debug)]
pub struct LastError {
    pub at: Instant,
    pub text: Box<str>,
}

impl State {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            last_update: None,
            last_error: None,
        }
    }

    /// Whether there is an identity. It may have expired meanwhile: that is the credential's to
    /// tell.
    pub const fn has_identity(&self) -> bool {
        self.last_update.is_some()
    }

    /// One line for a person.
    pub fn describe(&self, now: Instant) -> String {
        let ago = |then: Instant| now.saturating_duration_since(then).as_secs();
        let mut text = match self.last_update {
            Some(then) => format!("last update {} s ago", ago(then)),
            None => format!("waiting since {} s", ago(self.since)),
        };
        if let Some(error) = &self.last_error {
            text += &format!("; last error {} s ago: {}", ago(error.at), error.text);
        }
        text
    }

    pub(super) fn updated(&mut self, now: Instant) {
        self.last_update = Some(now);
        self.last_error = None;
    }

    /// True if that error is news.
    pub(super) fn failed(&mut self, text: Box<str>, now: Instant) -> bool {
        let known = self.last_error.as_ref();
        let news = known.is_none_or(|error| error.text != text);
        self.last_error = Some(LastError { at: now, text });
        news
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_is_told_in_a_line() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::new(start);
        assert_eq!(state.describe(after(3)), "waiting since 3 s");
        assert!(state.failed("no".into(), after(4)));
        assert!(!state.failed("no".into(), after(6)));
        assert!(!state.has_identity());
        assert_eq!(
            state.describe(after(10)),
            "waiting since 10 s; last error 4 s ago: no"
        );
        state.updated(after(20));
        assert!(state.has_identity());
        assert_eq!(state.describe(after(21)), "last update 1 s ago");
        assert!(state.failed("no".into(), after(30)));
        assert_eq!(
            state.describe(after(30)),
            "last update 10 s ago; last error 0 s ago: no"
        );
    }
}
