//! Whether an export is worth another try, and when (OTLP 1.x, "Failures"). Time and chance are
//! arguments.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use http::StatusCode;

use crate::protobuf::{Fields, Malformed, Value};

/// The first wait and the longest one, before chance makes them shorter.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);
/// No try takes longer. A timeout may be a day, and a peer that is dead says nothing: waiting for it
/// would silence the signal long after another one could answer.
const MOST_TRY: Duration = Duration::from_secs(60);

/// What a failure means for the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It would fail again.
    Final,
    /// It may go better later; where the collector said when, not before.
    Later(Option<Duration>),
}

/// Of a status of gRPC, with the delay that its details ask for. A collector whose resources are
/// exhausted may be asked again only if it says when.
pub(super) const fn of_grpc(code: u32, delay: Option<Duration>) -> Verdict {
    match (code, delay) {
        // RESOURCE_EXHAUSTED
        (8, None) => Verdict::Final,
        // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS
        (1 | 4 | 8 | 10 | 11 | 14 | 15, delay) => Verdict::Later(delay),
        _ => Verdict::Final,
    }
}

/// Of a status of HTTP, with `Retry-After`.
pub(super) const fn of_http(status: StatusCode, after: Option<Duration>) -> Verdict {
    match status.as_u16() {
        429 | 502 | 503 | 504 => Verdict::Later(after),
        _ => Verdict::Final,
    }
}

/// How long to wait before the next try, of which `failed` have failed, if the collector did not
/// say: doubling, and something between a half and all of that by chance, so that a fleet does not
/// come at once.
pub(super) fn wait(failed: u32, random: u32) -> Duration {
    let most = FIRST
        .saturating_mul(1 << failed.saturating_sub(1).min(10))
        .min(LONGEST);
    most / 2 + (most / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// How long one try may take of what is `left`: so much that another one has time. A connection that
/// was used before may lead to nobody. A minute at most.
pub(super) fn limit(left: Duration, reused: bool) -> Duration {
    (left / if reused { 3 } else { 2 }).min(MOST_TRY)
}

/// `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
pub(super) fn retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(now).unwrap_or_default())
        }
    }
}

/// The delay of a `google.rpc.RetryInfo` in `grpc-status-details-bin`, which is base64.
pub(super) fn retry_info(encoded: &[u8]) -> Option<Duration> {
    let end = encoded
        .iter()
        .rposition(|&byte| byte != b'=')
        .map_or(0, |last| last + 1);
    let status = STANDARD_NO_PAD.decode(&encoded[..end]).ok()?;
    delay_of(&status).ok()?
}

/// Of a `google.rpc.Status`.
fn delay_of(status: &[u8]) -> Result<Option<Duration>, Malformed> {
    const DETAILS: u32 = 3;
    let mut fields = Fields(status);
    while let Some(field) = fields.next()? {
        if field.number != DETAILS {
            continue;
        }
        // An `Any`.
        let (mut kind, mut content) = ("", &[][..]);
        let mut any = Fields(field.bytes()?);
        while let Some(field) = any.next()? {
            match field.number {
                1 => kind = field.text()?,
                2 => content = field.bytes()?,
                _ => {}
            }
        }
        if !kind.ends_with("/google.rpc.RetryInfo") {
            continue;
        }
        let mut info = Fields(content);
        while let Some(field) = info.next()? {
            if field.number == 1 {
                return duration(field.bytes()?).map(Some);
            }
        }
    }
    Ok(None)
}

/// A `google.protobuf.Duration`; a negative one is none.
fn duration(message: &[u8]) -> Result<Duration, Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Fields(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Varint(number)) => seconds = u64::try_from(number as i64).unwrap_or(0),
            (2, Value::Varint(number)) => nanos = u32::try_from(number).unwrap_or(0),
            _ => {}
        }
    }
    Ok(Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::Writer;

    #[test]
    fn what_passes_is_tried_again() {
        let later = Verdict::Later(None);
        for code in [1, 4, 10, 11, 14, 15] {
            assert_eq!(of_grpc(code, None), later, "{code}");
        }
        for code in [2, 3, 5, 6, 7, 8, 9, 12, 13, 16, 99] {
            assert_eq!(of_grpc(code, None), Verdict::Final, "{code}");
        }
        let delay = Some(Duration::from_secs(3));
        assert_eq!(of_grpc(8, delay), Verdict::Later(delay));
        for status in [429, 502, 503, 504] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of_http(status, delay), Verdict::Later(delay));
        }
        for status in [301, 400, 401, 404, 413, 500, 501] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of_http(status, delay), Verdict::Final, "{status}");
        }
    }

    #[test]
    fn waits_double_up_to_a_bound_and_scatter() {
        let bounds = |failed| {
            let range = (wait(failed, 0), wait(failed, u32::MAX));
            (range.0.as_millis(), range.1.as_millis())
        };
        assert_eq!(bounds(1), (125, 250));
        assert_eq!(bounds(2), (250, 500));
        assert_eq!(bounds(5), (2000, 4000));
        assert_eq!(bounds(6), (2500, 5000));
        assert_eq!(bounds(u32::MAX), (2500, 5000));
    }

    #[test]
    fn a_try_leaves_time_for_another_one() {
        let second = Duration::from_secs(1);
        assert_eq!(limit(10 * second, false), 5 * second);
        assert_eq!(limit(9 * second, true), 3 * second);
        let day = 24 * 60 * 60 * second;
        assert_eq!([limit(day, false), limit(day, true)], [60 * second; 2]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let after = |text: &str| retry_after(text.as_bytes(), now);
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        let date = after("Sun, 06 Nov 1994 08:49:47 GMT");
        assert_eq!(date, Some(Duration::from_secs(10)));
        let past = after("Sun, 06 Nov 1994 08:49:27 GMT");
        assert_eq!(past, Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
        assert_eq!(after("-1"), None);
        let most = after("18446744073709551615");
        assert_eq!(most, Some(Duration::from_secs(u64::MAX)));
    }

    #[test]
    fn a_negative_delay_is_none() {
        let read = |seconds: i64| {
            let mut message = Vec::new();
            Writer(&mut message).varint(1, seconds as u64);
            duration(&message)
        };
        assert_eq!(read(2), Ok(Duration::from_secs(2)));
        for negative in [-1, i64::MIN] {
            assert_eq!(read(negative), Ok(Duration::ZERO));
        }
    }

    #[test]
    fn a_delay_is_found_in_the_details() {
        let mut status = Vec::new();
        let mut writer = Writer(&mut status);
        writer.varint(1, 8);
        writer.message(3, |any| {
            any.bytes(1, b"type.googleapis.com/google.rpc.Help")
        });
        writer.message(3, |any| {
            any.bytes(1, b"type.googleapis.com/google.rpc.RetryInfo");
            any.message(2, |info| {
                info.message(1, |delay| {
                    delay.varint(1, 2);
                    delay.varint(2, 500_000_000);
                });
            });
        });
        let expected = Some(Duration::from_millis(2500));
        assert_eq!(
            retry_info(STANDARD_NO_PAD.encode(&status).as_bytes()),
            expected
        );
        let padded = base64::engine::general_purpose::STANDARD.encode(&status);
        assert_eq!(retry_info(padded.as_bytes()), expected);
        for broken in [&b""[..], b"=", b"!!", b"CAg", b"Cg"] {
            assert_eq!(retry_info(broken), None);
        }
    }
}
