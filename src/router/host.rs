//! The authority of a request: `host`, `host:port`, `[v6]:port`.

use std::{borrow::Cow, net::Ipv6Addr};

use crate::error::{Error, Reason};

/// Longest host, in bytes (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 255;

/// Where a request wants to go, ready to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// In lower case, an IPv6 address in brackets, without the root's dot; borrowed if it was
    /// written so. Never empty.
    pub host: Cow<'a, str>,
    /// `None` if absent, or empty as RFC 3986 section 3.2.3 allows.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads the value of `Host` or `:authority`. No user information (RFC 9110 section 4.2.4).
    ///
    /// ```
    /// # use pillion::router::Authority;
    /// let authority = Authority::parse(b"Shop.Example.:8080").unwrap();
    /// assert_eq!((&*authority.host, authority.port), ("shop.example", Some(8080)));
    /// ```
    pub fn parse(authority: &'a [u8]) -> Result<Self, HostError> {
        if let Some(usual) = usual(authority) {
            return Ok(usual);
        }
        let text = str::from_utf8(authority).map_err(|_| HostError::Invalid)?;
        let end = match text.strip_prefix('[') {
            Some(rest) => rest.find(']').ok_or(HostError::Invalid)? + 2,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, port) = text.split_at(end);
        let port = parse_port(port)?;
        Ok(Self {
            host: parse_host(host)?,
            port,
        })
    }
}

/// Why an authority is none. Both are the client's fault: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// An http URI has a host (RFC 9110 section 4.2.1).
    #[error("empty host")]
    Empty,
    #[error("invalid host")]
    Invalid,
}

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        let detail = match error {
            HostError::Empty => "empty host",
            HostError::Invalid => "invalid host",
        };
        Self::new(Reason::BadRequest, detail)
    }
}

/// A host in lower case, perhaps with a port: next to all of them, read in one pass.
fn usual(authority: &[u8]) -> Option<Authority<'_>> {
    let end = authority
        .iter()
        .position(|&byte| !USUAL[usize::from(byte)])
        .unwrap_or(authority.len());
    let (host, port) = authority.split_at(end);
    let port = match port {
        [] => None,
        [b':', digits @ ..] if !digits.is_empty() && digits.len() <= 4 => {
            let mut port = 0;
            for digit in digits {
                if !digit.is_ascii_digit() {
                    return None;
                }
                port = port * 10 + u16::from(digit - b'0');
            }
            Some(port)
        }
        _ => return None,
    };
    if host.is_empty() || host.len() > MAX_HOST || host.ends_with(b".") {
        return None;
    }
    let host = Cow::Borrowed(str::from_utf8(host).ok()?);
    Some(Authority { host, port })
}

/// What a host in lower case is made of.
static USUAL: [bool; 256] = {
    let mut usual = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let is = byte as u8;
        usual[byte] = is.is_ascii_lowercase()
            || is.is_ascii_digit()
            || matches!(is, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    usual
};

/// Whether [`Authority::parse`] takes it.
pub fn valid_host(authority: &[u8]) -> bool {
    Authority::parse(authority).is_ok()
}

/// RFC 3986 would allow escapes and `!$&'()*+,;=` as well. No name in use has them, and servers
/// disagree about what they mean (a `,` is what two merged Host lines look like), so they are
/// refused.
fn parse_host(host: &str) -> Result<Cow<'_, str>, HostError> {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or(HostError::Invalid)?;
        address
            .parse::<Ipv6Addr>()
            .map_err(|_| HostError::Invalid)?;
        return Ok(lower_case(host));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(HostError::Empty);
    }
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if host.len() > MAX_HOST || !host.bytes().all(allowed) {
        return Err(HostError::Invalid);
    }
    Ok(lower_case(host))
}

/// `""`, `":"` or `":PORT"`.
fn parse_port(port: &str) -> Result<Option<u16>, HostError> {
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(None),
        Some("") => Ok(None),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map(Some).map_err(|_| HostError::Invalid)
        }
        _ => Err(HostError::Invalid),
    }
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_form() {
        for (text, host, port) in [
            ("a", "a", None),
            ("a.example:80", "a.example", Some(80)),
            ("A.Example.", "a.example", None),
            ("a:", "a", None),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[FE80::1]:8080", "[fe80::1]", Some(8080)),
            ("snake_case", "snake_case", None),
        ] {
            let authority = Authority::parse(text.as_bytes()).unwrap();
            assert_eq!((&*authority.host, authority.port), (host, port), "{text}");
            let borrowed = matches!(authority.host, Cow::Borrowed(_));
            assert_eq!(borrowed, text == text.to_ascii_lowercase());
        }
    }

    #[test]
    fn refuses_what_is_no_host() {
        for text in [
            "a b",
            "a,b",
            "a/b",
            "user@a",
            "a:b",
            "a:1:2",
            "a:65536",
            "a:+1",
            "::1",
            "[::1",
            "[a]",
            "[::1]x",
            "[::1%25lo]",
            "a%41",
            "é",
            "a\0",
            "a?",
            "a#",
            "a\\b",
        ] {
            assert_eq!(
                Authority::parse(text.as_bytes()),
                Err(HostError::Invalid),
                "{text}"
            );
        }
        for text in ["", ".", ":80"] {
            assert_eq!(
                Authority::parse(text.as_bytes()),
                Err(HostError::Empty),
                "{text}"
            );
        }
        assert!(!valid_host(b"\xff"));
        assert!(!valid_host(&[b'a'; 256]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            valid_host(&bytes);
        }
    }
}
