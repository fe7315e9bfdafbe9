//! Query parameters, read where they stand.

use std::borrow::Cow;

use crate::hex;

/// The parameters of a query string (without its `?`) in order, as they are spelled; one without
/// `=` has the empty value. Empty pieces (`a=1&&b=2`) are none.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| piece.split_once('=').unwrap_or((piece, "")))
}

/// The value, as it is spelled, of the first parameter called `name`.
///
/// ```
/// # use pillion::router::{decode, first};
/// let value = first("a=1&deb%75g=on+off&debug=2", "debug").unwrap();
/// assert_eq!(decode(value), "on off");
/// ```
pub fn first<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    pairs(query)
        .find(|(spelled, _)| decoded_eq(spelled, name))
        .map(|(_, value)| value)
}

/// Whether `spelled`, decoded, is `text`. Allocates nothing.
pub fn decoded_eq(spelled: &str, text: &str) -> bool {
    if is_plain(spelled) {
        spelled == text
    } else {
        bytes(spelled).eq(text.bytes())
    }
}

/// `spelled` with `%XX` and `+` decoded; borrowed if it has neither. A `%` that begins no escape
/// is itself, bytes that are not UTF-8 become U+FFFD.
pub fn decode(spelled: &str) -> Cow<'_, str> {
    if is_plain(spelled) {
        return Cow::Borrowed(spelled);
    }
    let decoded = String::from_utf8(bytes(spelled).collect());
    Cow::Owned(decoded.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into()))
}

fn is_plain(spelled: &str) -> bool {
    !spelled.bytes().any(|byte| matches!(byte, b'%' | b'+'))
}

fn bytes(spelled: &str) -> impl Iterator<Item = u8> {
    let mut rest = spelled.as_bytes();
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        let (byte, after) = match first {
            b'+' => (b' ', after),
            first => hex::escaped(rest).unwrap_or((first, after)),
        };
        rest = after;
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_split_and_the_first_counts() {
        let all: Vec<_> = pairs("a=1&b&&c==&=x&a=2").collect();
        assert_eq!(
            all,
            [("a", "1"), ("b", ""), ("c", "="), ("", "x"), ("a", "2")]
        );
        assert_eq!(first("a=1&a=2", "a"), Some("1"));
        assert_eq!(first("b", "b"), Some(""));
        assert_eq!(first("ab=1", "a"), None);
        assert_eq!(first("", ""), None);
        assert_eq!(first("a+b%3D=1", "a b="), Some("1"));
    }

    #[test]
    fn decoding_borrows_when_it_can_and_forgives() {
        assert!(matches!(decode("plain"), Cow::Borrowed("plain")));
        assert_eq!(decode("a%20b+c%2Bd"), "a b c+d");
        assert_eq!(decode("100%&%4"), "100%&%4");
        assert_eq!(decode("%ff"), "\u{fffd}");
        assert!(!decoded_eq("%ff", "\u{fffd}"));
    }

    proptest! {
        #[test]
        fn comparing_is_decoding_and_comparing(spelled in "[a%+24é]{0,12}", text in any::<String>()) {
            let decoded = decode(&spelled);
            if !decoded.contains('\u{fffd}') {
                prop_assert!(decoded_eq(&spelled, &decoded));
                prop_assert_eq!(decoded_eq(&spelled, &text), decoded == text);
            }
        }
    }
}
