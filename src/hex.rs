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

/// Writes the digits of an id, four bytes at once: every request has some to spell. The length of
/// `digits` is twice that of `id`, and eight divides it.
#[inline]
pub(crate) fn spell(id: &[u8], digits: &mut [u8]) {
    let (fours, _) = id.as_chunks();
    let (eights, _) = digits.as_chunks_mut();
    for (eight, &four) in eights.iter_mut().zip(fours) {
        *eight = lower_of_four(four);
    }
}

/// In lower case.
#[inline]
const fn lower_of_four(bytes: [u8; 4]) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Each half of a byte in a byte of its own.
    let spread = u32::from_be_bytes(bytes) as u64;
    let spread = (spread << 16 | spread) & 0x0000_ffff_0000_ffff;
    let spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
    let spread = (spread << 4 | spread) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 where it is 10 or more.
    let letters = (spread + 6 * EACH) >> 4 & EACH;
    let between = (b'a' - b'9' - 1) as u64;
    (spread + b'0' as u64 * EACH + letters * between).to_be_bytes()
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
    fn four_bytes_are_spelled_like_one_after_the_other() {
        for byte in 0..=u8::MAX {
            let bytes = [byte, !byte, byte.rotate_left(4), 0x9a];
            let one_by_one: Vec<u8> = bytes.into_iter().flat_map(lower).collect();
            assert_eq!(lower_of_four(bytes)[..], one_by_one);
        }
    }

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
