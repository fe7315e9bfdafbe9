//! Hexadecimal digits, and what is made of them: percent-encoding (RFC 3986, section 2.1).

/// By value, in lower case.
pub(crate) const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The value of a digit, in either case.
#[inline]
pub(crate) const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The byte that two digits spell.
#[inline]
pub(crate) const fn pair(high: u8, low: u8) -> Option<u8> {
    // One after the other: a test of both at once costs more.
    let Some(high) = digit(high) else { return None };
    let Some(low) = digit(low) else { return None };
    Some(high << 4 | low)
}

/// The two digits of a byte, in lower case.
#[inline]
pub(crate) const fn lower(byte: u8) -> [u8; 2] {
    [DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]]
}

/// `%XX`, in upper case as the RFC wants it.
#[inline]
pub(crate) const fn escape(byte: u8) -> [u8; 3] {
    let [high, low] = lower(byte);
    [b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]
}

/// The byte that the escape at the start of `text` stands for, and what follows it; `None` if no
/// escape is there.
#[inline]
pub(crate) const fn escaped(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, after @ ..] = text else {
        return None;
    };
    match pair(*high, *low) {
        Some(byte) => Some((byte, after)),
        None => None,
    }
}

/// `text` with its escapes decoded. A `%` that begins none stands for itself.
pub(crate) fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let (byte, after) = escaped(rest).unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_and_their_digits() {
        for byte in 0..=u8::MAX {
            let [high, low] = lower(byte);
            assert_eq!([high, low], *format!("{byte:02x}").as_bytes());
            assert_eq!(pair(high, low), Some(byte));
            let escape = escape(byte);
            assert_eq!(escape, *format!("%{byte:02X}").as_bytes());
            assert_eq!(escaped(&escape), Some((byte, &b""[..])));
            let known = char::from(byte).to_digit(16);
            assert_eq!(digit(byte).map(u32::from), known, "{byte}");
        }
    }

    #[test]
    fn what_is_no_escape_stands_for_itself() {
        for (text, expected) in [
            ("", ""),
            ("%41%2c%2C", "A,,"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%4", "%zz%4"),
            ("%+1%-1% 1", "%+1%-1% 1"),
            ("%%41", "%A"),
            ("%2541", "%41"),
        ] {
            assert_eq!(decoded(text.as_bytes()), expected.as_bytes(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_decoded_again(bytes in prop::collection::vec(any::<u8>(), 0..32)) {
            let text: Vec<u8> = bytes.iter().flat_map(|&byte| escape(byte)).collect();
            prop_assert_eq!(decoded(&text), bytes);
        }
    }
}
