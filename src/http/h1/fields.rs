//! The header lines of a head, and those that decide about framing read on the way.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header};

use super::head::HeadError;
use crate::{
    http::spelling::{Observer, Spelling},
    router::host,
};

/// The header lines of a head, and those that decide about framing read on the way.
pub(super) struct Fields {
    pub(super) map: HeaderMap,
    pub(super) spelling: Spelling,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) hosts: usize,
}

impl Fields {
    /// `room` is for the headers that will be added on the way.
    pub(super) fn read(
        head: &Bytes,
        lines: &[httparse::Header<'_>],
        room: usize,
    ) -> Result<Self, HeadError> {
        let mut observer = Observer::new();
        let mut fields = Self {
            map: HeaderMap::with_capacity(lines.len() + room),
            spelling: Spelling::default(),
            length: None,
            chunked: false,
            close: false,
            keep_alive: false,
            expects_continue: false,
            hosts: 0,
        };
        for line in lines {
            let raw = line.name.as_bytes();
            let name = HeaderName::from_bytes(raw)
                .map_err(|_| HeadError::Bad("a header name is not a token"))?;
            let value = HeaderValue::from_maybe_shared(slice_of(head, line.value))
                .map_err(|_| HeadError::Bad("an invalid header value"))?;
            observer.see(&name, raw);
            if fields.note(&name, &value)? {
                fields.map.append(name, value);
            }
        }
        fields.spelling = observer.finish(head, || {
            lines
                .iter()
                .map(|line| place(head, line.name.as_bytes()))
                .collect()
        });
        Ok(fields)
    }

    /// Takes in one line; false if it repeats what is known and is not to be kept.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, HeadError> {
        match *name {
            header::CONTENT_LENGTH => {
                let length = decimal(value.as_bytes())
                    .ok_or(HeadError::Bad("Content-Length is not a number"))?;
                match self.length.replace(length) {
                    Some(known) if known != length => {
                        return Err(HeadError::Bad("Content-Length values that differ"));
                    }
                    // RFC 9110 section 8.6 lets equal ones be one.
                    Some(_) => return Ok(false),
                    None => {}
                }
            }
            header::TRANSFER_ENCODING => {
                if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::Bad("Transfer-Encoding is not one chunked"));
                }
                self.chunked = true;
            }
            header::CONNECTION => {
                for option in options(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            header::EXPECT => {
                self.expects_continue |= value.as_bytes().eq_ignore_ascii_case(b"100-continue");
            }
            header::HOST => self.hosts += 1,
            _ => {}
        }
        Ok(true)
    }

    /// RFC 9112 section 3.2: exactly one valid `Host`, though HTTP/1.0 may do without.
    pub(super) fn check_host(&self, version: Version, uri: &Uri) -> Result<(), HeadError> {
        match (self.hosts, self.map.get(header::HOST)) {
            (0, _) if version == Version::HTTP_10 => Ok(()),
            (0, _) => Err(HeadError::Bad("no Host")),
            (1, Some(value)) => {
                let value = value.as_bytes();
                // An absolute target overrides it (section 3.2.2), so it may be empty there.
                if host::valid_host(value) || (value.is_empty() && uri.authority().is_some()) {
                    Ok(())
                } else {
                    Err(HeadError::Bad("an invalid Host"))
                }
            }
            _ => Err(HeadError::Bad("more than one Host")),
        }
    }

    /// RFC 9112 section 9.3.
    pub(super) fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

/// The options of a `Connection` value.
pub fn options(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|o| !o.is_empty())
}

/// Digits alone, without sign or blank; `None` also when they overflow.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// The part of `head` that `part` points into, without a copy.
fn slice_of(head: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() {
        Bytes::new()
    } else {
        head.slice_ref(part)
    }
}

fn place(head: &Bytes, name: &[u8]) -> (u32, u32) {
    let start = name.as_ptr().addr() - head.as_ptr().addr();
    // A head is bounded far below 4 GiB by its limit.
    (start as u32, name.len() as u32)
}
