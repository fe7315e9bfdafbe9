//! What the lines of a head claim about the message's framing and the connection's life.

use http::{Uri, Version};

use super::head::HeadError;
use crate::{
    http::{
        fields::Fields,
        headers::members,
        name::{self, Kind},
    },
    router::host,
};

/// Kinds that claim something.
const TELLING: u32 = Kind::ContentLength.bit()
    | Kind::TransferEncoding.bit()
    | Kind::Connection.bit()
    | Kind::Expect.bit()
    | Kind::Host.bit();

#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) expects_continue: bool,
    close: bool,
    keep_alive: bool,
    hosts: usize,
    repeated_length: bool,
}

impl Claims {
    /// Takes the repetition of a length out of `fields`: RFC 9110 section 8.6 lets equal ones be one.
    pub(super) fn of(fields: &mut Fields) -> Result<Self, HeadError> {
        let mut claims = Self::default();
        for (kind, _, value) in fields.lines() {
            if kind.bit() & TELLING != 0 {
                claims.note(kind, value)?;
            }
        }
        if claims.repeated_length {
            fields.keep_first(Kind::ContentLength);
        }
        Ok(claims)
    }

    fn note(&mut self, kind: Kind, value: &[u8]) -> Result<(), HeadError> {
        match kind {
            Kind::ContentLength => {
                let length =
                    decimal(value).ok_or(HeadError::Bad("Content-Length is not a number"))?;
                match self.length.replace(length) {
                    Some(known) if known != length => {
                        return Err(HeadError::Bad("Content-Length values that differ"));
                    }
                    Some(_) => self.repeated_length = true,
                    None => {}
                }
            }
            Kind::TransferEncoding => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::Bad("Transfer-Encoding is not one chunked"));
                }
                self.chunked = true;
            }
            Kind::Connection => {
                for option in members(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            Kind::Expect => self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            Kind::Host => self.hosts += 1,
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 section 3.2: exactly one valid `Host`, though HTTP/1.0 may do without.
    pub(super) fn check_host(
        &self,
        fields: &Fields,
        version: Version,
        uri: &Uri,
    ) -> Result<(), HeadError> {
        match (self.hosts, fields.get(&name::HOST)) {
            (0, _) if version == Version::HTTP_10 => Ok(()),
            (0, _) => Err(HeadError::Bad("no Host")),
            (1, Some(value)) => {
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

/// Digits alone, without sign or blank; `None` also when they overflow.
pub(in crate::http) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}
