//! Values that a peer chose, made harmless: a value can end neither its quotes nor its line, nor
//! speak to the terminal that shows it.

use std::{io::Write, os::unix::ffi::OsStrExt};

use crate::{config::model::Address, hex};

/// Of a longer value only this many bytes are shown, and `...`; a line stays below what log
/// collectors cut.
pub(super) const MAX_VALUE: usize = 4096;

/// How a character that can't stand for itself is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// `\u001b`, RFC 8259 section 7. Bytes that are no UTF-8 become U+FFFD: JSON can't hold them.
    Json,
    /// `\x1b`, for each byte.
    Text,
}

/// Appends the value without quotes around it.
pub(super) fn escape(out: &mut Vec<u8>, value: &[u8], style: Style) {
    let shown = value.get(..MAX_VALUE).unwrap_or(value);
    // Nearly every value: nothing in it needs care.
    if shown.iter().all(|&byte| is_plain(byte)) {
        out.extend_from_slice(shown);
    } else {
        escape_chunks(out, shown, style);
    }
    if shown.len() < value.len() {
        out.extend_from_slice(b"...");
    }
}

/// Appends an address as it prints; of a socket's path the bytes are anybody's.
pub(super) fn address(out: &mut Vec<u8>, address: &Address, style: Style) {
    match address {
        // Writing to a Vec cannot fail.
        Address::Tcp(address) => drop(write!(out, "{address}")),
        Address::Unix(path) => {
            out.extend_from_slice(b"unix:");
            escape(out, path.as_os_str().as_bytes(), style);
        }
    }
}

/// Printable ASCII that means nothing in a quoted string.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn escape_chunks(out: &mut Vec<u8>, value: &[u8], style: Style) {
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            escape_char(out, character, style);
        }
        match style {
            Style::Json if !chunk.invalid().is_empty() => {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
            Style::Json => {}
            Style::Text => chunk
                .invalid()
                .iter()
                .for_each(|&byte| put_hex(out, b"\\x", &[byte])),
        }
    }
}

fn escape_char(out: &mut Vec<u8>, character: char, style: Style) {
    let mut buffer = [0; 4];
    let encoded = character.encode_utf8(&mut buffer).as_bytes();
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        // Controls, C1 and the line and paragraph separators included. All are below U+10000.
        _ if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') => {
            match style {
                Style::Json => put_hex(out, b"\\u", &(character as u16).to_be_bytes()),
                Style::Text => encoded
                    .iter()
                    .for_each(|&byte| put_hex(out, b"\\x", &[byte])),
            }
        }
        _ => out.extend_from_slice(encoded),
    }
}

/// Appends the prefix and two digits a byte.
pub(super) fn put_hex(out: &mut Vec<u8>, prefix: &[u8], bytes: &[u8]) {
    out.extend_from_slice(prefix);
    for &byte in bytes {
        out.extend_from_slice(&hex::lower(byte));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(value: &[u8], style: Style) -> String {
        let mut out = Vec::new();
        escape(&mut out, value, style);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn hostile_values() {
        let value = b"a\"b\\c\n\x1b[31m\x7f\xc2\x9b\xff\xe2\x80\xa8\xc3\xa9";
        assert_eq!(
            escaped(value, Style::Json),
            "a\\\"b\\\\c\\u000a\\u001b[31m\\u007f\\u009b\u{fffd}\\u2028\u{e9}"
        );
        assert_eq!(
            escaped(value, Style::Text),
            "a\\\"b\\\\c\\x0a\\x1b[31m\\x7f\\xc2\\x9b\\xff\\xe2\\x80\\xa8\u{e9}"
        );
    }

    #[test]
    fn addresses() {
        let written = |value: Address| {
            let mut out = Vec::new();
            address(&mut out, &value, Style::Json);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(Address::Tcp("[::1]:80".parse().unwrap())),
            "[::1]:80"
        );
        assert_eq!(written(Address::Unix("/run/\"a".into())), "unix:/run/\\\"a");
    }

    #[test]
    fn long_values_are_cut() {
        let cut = escaped(&[b'a'; MAX_VALUE + 1], Style::Json);
        assert_eq!(cut.len(), MAX_VALUE + 3);
        assert!(cut.ends_with("a..."));
        // In the middle of a character: the half of it is no UTF-8.
        let cut = escaped("\u{e9}".repeat(MAX_VALUE).as_bytes(), Style::Json);
        assert!(cut.ends_with("\u{e9}..."));
        assert_eq!(escaped(&[b'a'; MAX_VALUE], Style::Json).len(), MAX_VALUE);
    }

    proptest! {
        #[test]
        fn json_reads_back_what_was_utf8(value in prop::collection::vec(any::<u8>(), 0..64)) {
            let quoted = format!("\"{}\"", escaped(&value, Style::Json));
            let read: String = serde_json::from_str(&quoted).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&value));
        }

        #[test]
        fn text_never_ends_its_quotes(value in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = escaped(&value, Style::Text);
            prop_assert!(!text.contains(char::is_control));
            prop_assert!(!text.replace("\\\\", "").replace("\\\"", "").contains('"'));
        }
    }
}
