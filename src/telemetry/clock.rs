//! Dates of moments.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The two clocks read at once, so that a moment is known as a date without another read of the
/// clock. Read anew now and then, so that it follows corrections of the date.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: Instant,
    date: SystemTime,
}

/// How long a reading is good for.
const FRESH: Duration = Duration::from_secs(1);

impl Clock {
    pub fn now() -> Self {
        Self {
            instant: Instant::now(),
            date: SystemTime::now(),
        }
    }

    /// Read again, if it has become old at `now`.
    #[must_use]
    pub fn refreshed(self, now: Instant) -> Self {
        if now.saturating_duration_since(self.instant) < FRESH {
            self
        } else {
            Self::now()
        }
    }

    /// When `instant` is or was.
    pub fn date(self, instant: Instant) -> SystemTime {
        let date = if instant <= self.instant {
            self.date.checked_sub(self.instant - instant)
        } else {
            self.date.checked_add(instant - self.instant)
        };
        date.unwrap_or(self.date)
    }

    /// The same in nanoseconds since 1970, as OTLP wants it.
    pub fn unix_nanos(self, instant: Instant) -> u64 {
        let since = self.date(instant).duration_since(UNIX_EPOCH);
        let nanos = since.unwrap_or_default().as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_and_after_the_reading_are_dated() {
        let clock = Clock {
            instant: Instant::now() + Duration::from_secs(2),
            date: UNIX_EPOCH + Duration::from_secs(1),
        };
        let later = clock.instant + Duration::from_secs(1);
        assert_eq!(clock.date(later), UNIX_EPOCH + Duration::from_secs(2));
        assert_eq!(clock.unix_nanos(later), 2_000_000_000);
        let before = clock.instant - Duration::from_millis(1500);
        assert_eq!(clock.date(before), UNIX_EPOCH - Duration::from_millis(500));
        assert_eq!(clock.unix_nanos(before), 0, "nothing is before 1970");
    }
}
