//! Dates as RFC 3339 writes them, in UTC with milliseconds.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const DAY: i64 = 24 * 60 * 60;

/// A moment that is written as `2026-11-22T07:27:01.123Z`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timestamp {
    seconds: i64,
    millis: u32,
}

impl Timestamp {
    pub(super) fn new(date: SystemTime) -> Self {
        let (seconds, nanos) = match date.duration_since(UNIX_EPOCH) {
            Ok(after) => split(after),
            Err(error) => {
                let (seconds, nanos) = split(error.duration());
                if nanos == 0 {
                    (-seconds, 0)
                } else {
                    (-seconds - 1, 1_000_000_000 - nanos)
                }
            }
        };
        Self {
            seconds,
            millis: nanos / 1_000_000,
        }
    }

    /// Year, month and day.
    fn date(self) -> (i64, i64, i64) {
        // Years that begin in March put the leap day last, and the lengths of their months follow
        // a line: the first day of month m is (153 m + 2) / 5. Eras of 400 years are all alike.
        let days = self.seconds.div_euclid(DAY) + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (year, month) = if month < 10 {
            (0, month + 3)
        } else {
            (1, month - 9)
        };
        (era * 400 + year_of_era + year, month, day)
    }

    /// Appends it: by hand, as every line has one and the formatting machinery is slow.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let (year, month, day) = self.date();
        let second = self.seconds.rem_euclid(DAY);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], second / 3600);
        digits(&mut text[14..16], second / 60 % 60);
        digits(&mut text[17..19], second % 60);
        digits(&mut text[20..23], i64::from(self.millis));
        out.extend_from_slice(&text);
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.write(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

fn split(duration: Duration) -> (i64, u32) {
    // No clock gets beyond it; 2^62 seconds are 146 thousand million years.
    (
        i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 2),
        duration.subsec_nanos(),
    )
}

/// The last digits of a number, as many as there is room for.
fn digits(room: &mut [u8], mut number: i64) {
    for place in room.iter_mut().rev() {
        // A remainder by ten is one digit.
        *place = b'0' + number.rem_euclid(10) as u8;
        number = number.div_euclid(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> String {
        Timestamp::new(UNIX_EPOCH + Duration::new(seconds, nanos)).to_string()
    }

    #[test]
    fn known_moments() {
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400, 999_999_999), "2000-02-29T00:00:00.999Z");
        assert_eq!(at(1_763_796_421, 123_000_000), "2025-11-22T07:27:01.123Z");
        assert_eq!(at(4_107_542_399, 0), "2100-02-28T23:59:59.000Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn before_1970() {
        let date = UNIX_EPOCH - Duration::from_millis(1);
        assert_eq!(Timestamp::new(date).to_string(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn agrees_with_httpdate() {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let date = UNIX_EPOCH + Duration::from_secs(rng.u64(..253_402_300_800));
            let expected = httpdate::fmt_http_date(date);
            let parts: Vec<_> = expected.split(' ').collect();
            let month = MONTHS.iter().position(|&name| name == parts[2]).unwrap() + 1;
            let expected = format!("{}-{month:02}-{}T{}.000Z", parts[3], parts[1], parts[4]);
            assert_eq!(Timestamp::new(date).to_string(), expected);
        }
    }
}
