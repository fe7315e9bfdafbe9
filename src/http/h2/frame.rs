//! Frames (RFC 9113 sections 4 and 6): their headers and the small payloads, as bytes and as what
//! they mean. DATA and field blocks are left to who moves them.

use std::fmt;

use bytes::{BufMut, BytesMut};

/// The size of every frame's header.
pub const HEADER: usize = 9;
/// The largest payload that we take: the initial SETTINGS_MAX_FRAME_SIZE.
pub const MAX_PAYLOAD: usize = 16 * 1024;
/// The initial window of a stream and of a connection (RFC 9113 section 6.9.2).
pub const DEFAULT_WINDOW: u32 = 65_535;
/// The largest window (RFC 9113 section 6.9.1).
pub const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The largest stream identifier.
pub const MAX_STREAM: u32 = (1 << 31) - 1;

/// An error code (RFC 9113 section 7). Those that nobody knows are carried on as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($name:ident = $value:literal;)*) => {
        impl Code {
            $(pub const $name: Self = Self($value);)*

            const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    NO_ERROR = 0;
    PROTOCOL_ERROR = 1;
    INTERNAL_ERROR = 2;
    FLOW_CONTROL_ERROR = 3;
    SETTINGS_TIMEOUT = 4;
    STREAM_CLOSED = 5;
    FRAME_SIZE_ERROR = 6;
    REFUSED_STREAM = 7;
    CANCEL = 8;
    COMPRESSION_ERROR = 9;
    CONNECT_ERROR = 10;
    ENHANCE_YOUR_CALM = 11;
    INADEQUATE_SECURITY = 12;
    HTTP_1_1_REQUIRED = 13;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A connection error: told in a GOAWAY, and the end of the connection (RFC 9113 section 5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: Code,
    pub what: &'static str,
}

impl Fault {
    /// What comes first is no HTTP/2 at all.
    pub const FOREIGN: Self = Self::protocol("the first frame is not SETTINGS");

    pub const fn new(code: Code, what: &'static str) -> Self {
        Self { code, what }
    }

    pub const fn protocol(what: &'static str) -> Self {
        Self::new(Code::PROTOCOL_ERROR, what)
    }

    pub const fn size(what: &'static str) -> Self {
        Self::new(Code::FRAME_SIZE_ERROR, what)
    }

    /// Too much of something that costs us more than the peer.
    pub const fn flood(what: &'static str) -> Self {
        Self::new(Code::ENHANCE_YOUR_CALM, what)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.what)
    }
}

/// A frame's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// To be ignored (RFC 9113 section 5.5).
    Unknown,
}

/// Flags, each of which has its meaning on some types only.
pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Octets of payload.
    pub length: usize,
    pub kind: Kind,
    pub flags: u8,
    /// Zero: the connection.
    pub stream: u32,
}

impl Header {
    /// Reads a header; `None` where it is not whole.
    pub fn parse(input: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = *input.first_chunk::<HEADER>()?;
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind: match kind {
                0 => Kind::Data,
                1 => Kind::Headers,
                2 => Kind::Priority,
                3 => Kind::RstStream,
                4 => Kind::Settings,
                5 => Kind::PushPromise,
                6 => Kind::Ping,
                7 => Kind::GoAway,
                8 => Kind::WindowUpdate,
                9 => Kind::Continuation,
                _ => Kind::Unknown,
            },
            flags,
            // The reserved bit means nothing.
            stream: u32::from_be_bytes(stream) & MAX_STREAM,
        })
    }

    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Writes a frame's header.
pub fn put_header(out: &mut BytesMut, length: usize, kind: Kind, flags: u8, stream: u32) {
    let kind = match kind {
        Kind::Data => 0,
        Kind::Headers => 1,
        Kind::Priority => 2,
        Kind::RstStream => 3,
        Kind::Settings => 4,
        Kind::PushPromise => 5,
        Kind::Ping => 6,
        Kind::GoAway => 7,
        Kind::WindowUpdate => 8,
        Kind::Continuation | Kind::Unknown => 9,
    };
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    out.put_slice(&[a, b, c, kind, flags, d, e, f, g]);
}

/// Writes a frame whose payload is one number: RST_STREAM, WINDOW_UPDATE.
pub fn put_number(out: &mut BytesMut, kind: Kind, stream: u32, number: u32) {
    put_header(out, 4, kind, 0, stream);
    out.put_u32(number);
}

pub fn put_ping(out: &mut BytesMut, flags: u8, payload: [u8; 8]) {
    put_header(out, 8, Kind::Ping, flags, 0);
    out.put_slice(&payload);
}

pub fn put_goaway(out: &mut BytesMut, last: u32, code: Code) {
    put_header(out, 8, Kind::GoAway, 0, 0);
    out.put_u32(last);
    out.put_u32(code.0);
}

/// Reads a payload that is one number, without its reserved bit where it has one.
///
/// # Errors
/// It has any other size.
pub fn number(payload: &[u8]) -> Result<u32, Fault> {
    payload
        .try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| Fault::size("a payload that is not four octets"))
}

/// Reads the payload of a GOAWAY: the last stream that the peer will look at, and why it goes.
///
/// # Errors
/// It is too short.
pub fn goaway(payload: &[u8]) -> Result<(u32, Code), Fault> {
    match *payload {
        [a, b, c, d, e, f, g, h, ..] => Ok((
            u32::from_be_bytes([a, b, c, d]) & MAX_STREAM,
            Code(u32::from_be_bytes([e, f, g, h])),
        )),
        _ => Err(Fault::size("a GOAWAY that is too short")),
    }
}

/// Where in a HEADERS payload its field block lies: neither padding nor the deprecated priority.
///
/// # Errors
/// Padding, or those fields, do not fit.
pub fn field_block(header: &Header, payload: &[u8]) -> Result<std::ops::Range<usize>, Fault> {
    let (mut start, mut padding) = (0, 0);
    if header.has(flag::PADDED) {
        let first = payload.first();
        padding = usize::from(*first.ok_or(Fault::size("HEADERS too short for its padding"))?);
        start = 1;
    }
    if header.has(flag::PRIORITY) {
        start += 5;
        if start > payload.len() {
            return Err(Fault::size("HEADERS too short for its priority"));
        }
    }
    match payload.len().checked_sub(padding) {
        Some(end) if end >= start => Ok(start..end),
        _ => Err(Fault::protocol("more padding than payload")),
    }
}

/// A setting (RFC 9113 section 6.5.2), by its identifier.
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// RFC 8441 section 3.
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

pub fn put_settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    put_header(out, 6 * settings.len(), Kind::Settings, 0, 0);
    for &(identifier, value) in settings {
        out.put_u16(identifier);
        out.put_u32(value);
    }
}

/// The settings of a payload, in their order.
///
/// # Errors
/// It is not made of whole settings.
pub fn settings(payload: &[u8]) -> Result<impl Iterator<Item = (u16, u32)>, Fault> {
    let (settings, rest) = payload.as_chunks::<6>();
    if !rest.is_empty() {
        return Err(Fault::size("SETTINGS that are cut off"));
    }
    Ok(settings
        .iter()
        .map(|&[a, b, value @ ..]| (u16::from_be_bytes([a, b]), u32::from_be_bytes(value))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_come_back_without_the_reserved_bit() {
        let mut out = BytesMut::new();
        put_header(&mut out, 0x012345, Kind::Ping, flag::ACK, 1 << 31 | 7);
        assert_eq!(out[..], *b"\x01\x23\x45\x06\x01\x80\0\0\x07");
        let header = Header::parse(&out).unwrap();
        assert_eq!((header.length, header.kind), (0x012345, Kind::Ping));
        assert_eq!((header.flags, header.stream), (flag::ACK, 7));
        assert_eq!(Header::parse(&out[..8]), None);
    }

    #[test]
    fn padding_and_priority_are_left_out() {
        let block = |flags, payload: &[u8]| {
            let length = payload.len();
            let header = Header {
                length,
                kind: Kind::Headers,
                flags,
                stream: 1,
            };
            field_block(&header, payload).map(|range| payload[range].to_vec())
        };
        assert_eq!(block(0, b"abc"), Ok(b"abc".to_vec()));
        assert_eq!(block(flag::PADDED, b"\x02abc\0\0"), Ok(b"abc".to_vec()));
        assert_eq!(block(flag::PADDED, b"\x02\0\0"), Ok(vec![]));
        assert_eq!(block(flag::PRIORITY, b"\0\0\0\x01\x10a"), Ok(b"a".to_vec()));
        let both = flag::PADDED | flag::PRIORITY;
        assert_eq!(block(both, b"\x01\0\0\0\x01\x10a\0"), Ok(b"a".to_vec()));
        assert_eq!(
            block(flag::PADDED, b"\x03\0\0").unwrap_err().code,
            Code::PROTOCOL_ERROR
        );
        assert_eq!(
            block(flag::PADDED, b"").unwrap_err().code,
            Code::FRAME_SIZE_ERROR
        );
        assert_eq!(
            block(flag::PRIORITY, b"1234").unwrap_err().code,
            Code::FRAME_SIZE_ERROR
        );
    }

    proptest! {
        #[test]
        fn settings_come_back(all: Vec<(u16, u32)>) {
            let mut out = BytesMut::new();
            put_settings(&mut out, &all);
            let read: Vec<_> = settings(&out[HEADER..]).unwrap().collect();
            prop_assert_eq!(read, all);
        }

        #[test]
        fn hostile_payloads_are_refused_or_read(payload: Vec<u8>, flags: u8) {
            let length = payload.len();
            let header = Header { length, kind: Kind::Headers, flags, stream: 1 };
            if let Ok(range) = field_block(&header, &payload) {
                prop_assert!(payload.get(range).is_some());
            }
            let _ = (goaway(&payload), number(&payload), settings(&payload).map(Iterator::count));
        }
    }
}
