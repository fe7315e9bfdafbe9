//! HTTP/2 (RFC 9113) on both sides, on the h2 crate: its connections are driven by our own tasks,
//! so that all streams that are ready in one turn queue their frames before one flush.

pub mod body;
pub mod client;
pub mod connection;
mod flow;
pub mod frame;
pub mod hpack;
mod keepalive;
mod link;
pub mod output;
pub mod receive;
pub mod server;
#[cfg(test)]
mod simulation;
pub mod streams;
pub mod tunnel;

use h2::Reason as Code;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::fields::{Fields, Spelling};

/// What a peer may send on one stream before we have passed it on, in bytes.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// And on a connection. Larger than a stream's, or one stream that nobody reads would stop all.
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes that one stream may have queued for sending.
pub const SEND_BUFFER: usize = 64 * 1024;
/// DATA frames that were received and not yet taken may cost so much memory beyond their payload,
/// which is all that windows count: about 16,000 frames of a few bytes. h2's own default would end
/// connections of honest gRPC streams of tiny messages when we are slow for a moment.
pub const DATA_FRAME_BUDGET: usize = 4 * 1024 * 1024;
/// Largest header list, uncompressed, in an upstream's response.
pub const MAX_RESPONSE_HEAD: u32 = 64 * 1024;
/// Streams that the peer has reset and we have not yet looked at; more end the connection
/// (rapid reset, CVE-2023-44487).
pub const MAX_PENDING_RESETS: usize = 20;
/// Streams that we had to reset for the peer's faults; more end the connection.
pub const MAX_FAULTY_STREAMS: usize = 256;

/// Streams that the peer has reset before we looked at them, more than were served well since;
/// beyond this the connection ends (rapid reset, CVE-2023-44487).
pub const MAX_UNSEEN_RESETS: u32 = 100;
/// Streams that were at fault, more than were served well since; beyond this the connection ends.
pub const MAX_FAULTS: u32 = 256;
/// DATA frames without content or end, more than had some since; beyond this the connection ends.
pub const MAX_EMPTY: u32 = 1000;

/// Whether a value begins or ends with a space or tab, which makes a message malformed (RFC 9113
/// section 8.2.1); h2 lets it pass.
fn has_padded_value(headers: &HeaderMap) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers
        .values()
        .map(http::HeaderValue::as_bytes)
        .any(|value| blank(value.first()) || blank(value.last()))
}

/// Fields as `h2` hands them out.
fn fields_of(map: &HeaderMap) -> Fields {
    let mut fields = Fields::new(Spelling::Caseless);
    for (name, value) in map {
        fields.push(name.as_str().as_bytes(), value.as_bytes());
    }
    fields
}

/// Fields as `h2` takes them, but for those of the kinds in `without`.
fn map_of(fields: &Fields, without: u32) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (kind, name, value) in fields.lines() {
        if kind.bit() & without == 0
            && let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    map
}

/// Whether the end of a stream or connection means no more than that the peer is done.
fn is_quiet(error: &h2::Error) -> bool {
    matches!(error.reason(), Some(Code::NO_ERROR | Code::CANCEL)) || error.is_io()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_whitespace_at_either_end() {
        let padded = |value: &'static str| {
            let value = http::HeaderValue::from_static(value);
            has_padded_value(&HeaderMap::from_iter([(http::header::ACCEPT, value)]))
        };
        assert!(padded(" a") && padded("a ") && padded("\ta") && padded("a\t") && padded(" "));
        assert!(!padded("a b\tc") && !padded(""));
    }
}
