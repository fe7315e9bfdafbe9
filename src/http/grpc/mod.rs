//! gRPC over HTTP: how its requests are known, its deadline read, its errors shaped.

pub(crate) mod call;

use std::time::Duration;

use super::{fields::Fields, name};
use crate::hex;

/// Status codes that say something of who answered.
pub const UNKNOWN: u8 = 2;
pub const RESOURCE_EXHAUSTED: u8 = 8;
pub const INTERNAL: u8 = 13;
pub const UNAVAILABLE: u8 = 14;
pub const DATA_LOSS: u8 = 15;

/// Trailers that a gRPC response may end with: declared where it goes on over HTTP/1.1.
pub const TRAILERS: &[u8] = b"grpc-status, grpc-message, grpc-status-details-bin";

/// `content-type: application/grpc`, alone or followed by `+` or `;`.
pub fn is_grpc(fields: &Fields) -> bool {
    fields.get(&name::CONTENT_TYPE).is_some_and(|value| {
        value
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';')
    })
}

/// The caller's patience: at most eight digits and a unit. What can't be read is no deadline.
pub fn timeout(fields: &Fields) -> Option<Duration> {
    let text = fields.get(&name::GRPC_TIMEOUT)?;
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount = std::str::from_utf8(digits).ok()?;
    let amount: u64 = amount
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| amount.parse().ok())??;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// How an attempt is told the time that it has: whole numbers of at most eight digits, rounded down.
pub fn write_timeout(left: Duration) -> String {
    const DIGITS: u128 = 99_999_999;
    match left.as_micros() {
        micros @ ..=DIGITS => format!("{}u", micros.max(1)),
        _ if left.as_millis() <= DIGITS => format!("{}m", left.as_millis()),
        _ => format!("{}S", u128::from(left.as_secs()).min(DIGITS)),
    }
}

/// The status that a call ended with, from its trailers, or from a head that is one with them.
pub fn status(fields: &Fields) -> Option<u8> {
    let value = fields.get(&name::GRPC_STATUS)?;
    // What is no number is UNKNOWN, as clients read it.
    Some(
        str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(UNKNOWN),
    )
}

/// By status code: the name that specifications have, and the one that people read in errors.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("CANCELLED", "Cancelled"),
    ("UNKNOWN", "Unknown"),
    ("INVALID_ARGUMENT", "InvalidArgument"),
    ("DEADLINE_EXCEEDED", "DeadlineExceeded"),
    ("NOT_FOUND", "NotFound"),
    ("ALREADY_EXISTS", "AlreadyExists"),
    ("PERMISSION_DENIED", "PermissionDenied"),
    ("RESOURCE_EXHAUSTED", "ResourceExhausted"),
    ("FAILED_PRECONDITION", "FailedPrecondition"),
    ("ABORTED", "Aborted"),
    ("OUT_OF_RANGE", "OutOfRange"),
    ("UNIMPLEMENTED", "Unimplemented"),
    ("INTERNAL", "Internal"),
    ("UNAVAILABLE", "Unavailable"),
    ("DATA_LOSS", "DataLoss"),
    ("UNAUTHENTICATED", "Unauthenticated"),
];

/// The name of a status code.
pub fn name(code: u8) -> &'static str {
    NAMES
        .get(usize::from(code))
        .map_or("UNKNOWN", |(name, _)| name)
}

/// The same as a word, `DataLoss`. `None`: nobody has defined this code.
fn camel_name(code: u32) -> Option<&'static str> {
    let (_, name) = NAMES.get(usize::try_from(code).ok()?)?;
    Some(name)
}

/// Whether a call that ended so failed on the server's side, as OpenTelemetry sees it: UNKNOWN,
/// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
pub const fn is_failure(code: u8) -> bool {
    matches!(code, 2 | 4 | 12 | 13 | 14 | 15)
}

/// A message as `grpc-message` carries it: percent-encoded but for printable ASCII.
pub fn message(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(hex::escape(byte).map(char::from));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let typed = |value| is_grpc(&Fields::from_iter([("content-type", value)]));
        assert!(typed("application/grpc"));
        assert!(typed("application/grpc+proto"));
        assert!(!typed("application/grpc-web"));
    }

    #[test]
    fn timeouts() {
        let read = |value| timeout(&Fields::from_iter([("grpc-timeout", value)]));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            read("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        for bad in ["", "m", "+1m", "1", "999999999S", "1x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(message("50% ü\n"), "50%25 %C3%BC%0A");
    }
}
