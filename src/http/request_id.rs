//! The id that follows a request through every hop and every log.

use super::{fields::Fields, name};
use crate::hex;

/// An id that was brought is kept up to this many bytes.
const LONGEST: usize = 128;

/// Where in a UUID's text each byte's two digits stand, around the hyphens.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The value of `X-Request-Id`: what the client brought, or a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    Brought(Box<[u8]>),
    /// A random UUID (RFC 9562 version 4) as text.
    New([u8; 36]),
}

impl RequestId {
    /// The id that the request brought, if it can be kept: short and printable.
    pub fn brought(fields: &Fields) -> Option<Self> {
        let id = fields.get(&name::X_REQUEST_ID)?;
        let fits = !id.is_empty() && id.len() <= LONGEST && id.iter().all(u8::is_ascii_graphic);
        fits.then(|| Self::Brought(id.into()))
    }

    /// Made of 128 random bits.
    pub fn new(high: u64, low: u64) -> Self {
        let bits = (u128::from(high) << 64 | u128::from(low)) & !(0xf << 76) & !(0x3 << 62)
            | (0x4 << 76)
            | (0x2 << 62);
        let mut digits = [0; 32];
        hex::spell(&bits.to_be_bytes(), &mut digits);
        let mut text = [b'-'; 36];
        text[..8].copy_from_slice(&digits[..8]);
        text[9..13].copy_from_slice(&digits[8..12]);
        text[14..18].copy_from_slice(&digits[12..16]);
        text[19..23].copy_from_slice(&digits[16..20]);
        text[24..].copy_from_slice(&digits[20..]);
        Self::New(text)
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Brought(id) => id,
            Self::New(id) => id,
        }
    }

    /// Its 128 bits, if it is a UUID: what relates the log lines of a request at several hops where
    /// nothing else does.
    pub fn bits(&self) -> Option<u128> {
        let text: &[u8; 36] = self.as_bytes().try_into().ok()?;
        if [8, 13, 18, 23].iter().any(|&at| text[at] != b'-') {
            return None;
        }
        let bits = PLACES.into_iter().try_fold(0, |bits, at| {
            Some(bits << 8 | u128::from(hex::pair(text[at], text[at + 1])?))
        });
        bits.filter(|&bits| bits != 0)
    }

    pub fn is_new(&self) -> bool {
        matches!(self, Self::New(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids() {
        assert_eq!(
            RequestId::new(0, 0).as_bytes(),
            b"00000000-0000-4000-8000-000000000000"
        );
        assert_eq!(
            RequestId::new(u64::MAX, u64::MAX).as_bytes(),
            b"ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        assert_eq!(
            RequestId::new(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef).as_bytes(),
            b"01234567-89ab-4def-8123-456789abcdef"
        );
    }

    #[test]
    fn a_uuid_is_a_number_too() {
        let id = RequestId::new(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef);
        assert_eq!(id.bits(), Some(0x0123_4567_89ab_4def_8123_4567_89ab_cdef));
        for other in [
            &b"abc"[..],
            b"01234567-89ab-4def-8123-456789abcde",
            b"0123456789ab-4def-8123-456789abcdef-",
            b"+1234567-89ab-4def-8123-456789abcdef",
        ] {
            assert_eq!(RequestId::Brought(other.into()).bits(), None);
        }
    }

    #[test]
    fn only_what_can_be_passed_on_is_kept() {
        let brought = |id: &[u8]| {
            let mut fields = Fields::default();
            fields.push(b"X-Request-ID", id);
            RequestId::brought(&fields)
        };
        assert_eq!(brought(b"abc"), Some(RequestId::Brought(b"abc"[..].into())));
        assert_eq!(brought(b"a b"), None);
        assert_eq!(brought(b""), None);
        assert_eq!(brought(&[b'a'; LONGEST + 1]), None);
    }
}
