//! The id that follows a request through every hop and every log.

use super::{fields::Fields, name};

/// An id that was brought is kept up to this many bytes.
const LONGEST: usize = 128;

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
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // Where each byte's two digits go, around the hyphens.
        const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
        let bits = (u128::from(high) << 64 | u128::from(low)) & !(0xf << 76) & !(0x3 << 62)
            | (0x4 << 76)
            | (0x2 << 62);
        let mut text = [b'-'; 36];
        for (at, byte) in PLACES.into_iter().zip(bits.to_be_bytes()) {
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 15)];
        }
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
        let text = std::str::from_utf8(self.as_bytes()).ok()?;
        if text.len() != 36
            || [8, 13, 18, 23]
                .iter()
                .any(|&at| text.as_bytes()[at] != b'-')
        {
            return None;
        }
        let digits = text.split('-').try_fold(0_u128, |bits, part| {
            let digits = u64::from_str_radix(part, 16).ok()?;
            Some(bits << (4 * part.len()) | u128::from(digits))
        });
        digits.filter(|&bits| bits != 0)
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
