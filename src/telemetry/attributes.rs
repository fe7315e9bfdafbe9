//! Attributes of spans and log records as OTLP has them (`KeyValue`).
//!
//! Keys are known when this is compiled, so that with everything inlined a pair is a few stores and
//! one copy. What is the same for many requests is written once, as a [`Block`].

use std::borrow::Cow;

use crate::protobuf::{Writer, length_of, varint_length};

/// Of a longer text the beginning is told, in bytes: what clients send must not fill a collector.
pub(crate) const LONGEST: usize = 4096;

/// Writes attributes into one field of a message.
pub(crate) struct Attributes<'a> {
    writer: Writer<'a>,
    field: u32,
    longest: usize,
}

/// Attributes that were written beforehand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block(Box<[u8]>);

/// Of `KeyValue`.
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// Of `AnyValue`.
const TEXT: u32 = 1;
const BOOL: u32 = 2;
const INT: u32 = 3;
const DOUBLE: u32 = 4;
const ARRAY: u32 = 5;

/// Of `ArrayValue`.
const ITEM: u32 = 1;

impl Block {
    /// For spans and log records alike the field is the same message, but not the same number.
    pub(crate) fn new(field: u32, write: impl FnOnce(&mut Attributes<'_>)) -> Self {
        let mut out = Vec::new();
        write(&mut Attributes::new(&mut out, field));
        Self(out.into())
    }
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, field: u32) -> Self {
        Self {
            writer: Writer(out),
            field,
            longest: LONGEST,
        }
    }

    /// Cuts texts that have more characters than this, where that is less than [`LONGEST`].
    pub(crate) fn limit(&mut self, characters: usize) -> &mut Self {
        self.longest = characters.min(LONGEST);
        self
    }

    /// What was written for the same field.
    pub(crate) fn block(&mut self, block: &Block) -> &mut Self {
        self.writer.0.extend_from_slice(&block.0);
        self
    }

    #[inline(always)]
    pub(crate) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        let value = self.cut(value);
        let length = length_of(value.len());
        self.pair(key, length, |any| any.bytes(TEXT, value.as_bytes()))
    }

    /// Of a text that may be none.
    pub(crate) fn bytes(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.text(key, &shown(value))
    }

    /// Nothing where there is nothing to tell.
    #[inline(always)]
    pub(crate) fn some_text(&mut self, key: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    #[inline(always)]
    pub(crate) fn number(&mut self, key: &str, value: u64) -> &mut Self {
        let length = 1 + varint_length(value);
        self.pair(key, length, |any| any.varint(INT, value))
    }

    #[inline(always)]
    pub(crate) fn boolean(&mut self, key: &str, value: bool) -> &mut Self {
        self.pair(key, 2, |any| any.varint(BOOL, value.into()))
    }

    pub(crate) fn double(&mut self, key: &str, value: f64) -> &mut Self {
        self.pair(key, 9, |any| any.double(DOUBLE, value))
    }

    /// A list of one text.
    pub(crate) fn list(&mut self, key: &str, value: &[u8]) -> &mut Self {
        let value = shown(value);
        let value = self.cut(&value);
        let item = length_of(value.len());
        let array = length_of(item);
        self.pair(key, length_of(array), |any| {
            any.begin(ARRAY, array);
            any.begin(ITEM, item);
            any.bytes(TEXT, value.as_bytes());
        })
    }

    /// A text of several parts.
    pub(crate) fn parts<const N: usize>(&mut self, key: &str, parts: [&str; N]) -> &mut Self {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > self.longest {
            return self.text(key, &parts.concat());
        }
        self.pair(key, length_of(length), |any| {
            any.begin(TEXT, length);
            for part in parts {
                any.0.extend_from_slice(part.as_bytes());
            }
        })
    }

    #[inline(always)]
    fn cut<'t>(&self, text: &'t str) -> &'t str {
        match text.len() > self.longest {
            true => beginning(text, self.longest),
            false => text,
        }
    }

    /// `length`: of what `value` writes.
    #[inline(always)]
    fn pair(&mut self, key: &str, length: usize, value: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        let writer = &mut self.writer;
        let whole = length_of(key.len()) + length_of(length);
        writer.begin(self.field, whole);
        writer.bytes(KEY, key.as_bytes());
        writer.begin(VALUE, length);
        value(writer);
        self
    }
}

/// So many characters, and [`LONGEST`] bytes at most.
#[cold]
fn beginning(text: &str, characters: usize) -> &str {
    let starts = text.char_indices().map(|(at, _)| at);
    let ends = starts.chain([text.len()]).take_while(|&end| end <= LONGEST);
    &text[..ends.take(characters + 1).last().unwrap_or(0)]
}

/// A text as it may stand in a message: UTF-8, and not too long. What is no UTF-8 becomes U+FFFD.
pub(crate) fn shown(value: &[u8]) -> Cow<'_, str> {
    let cut = &value[..value.len().min(LONGEST)];
    match std::str::from_utf8(cut) {
        Ok(text) => Cow::Borrowed(text),
        // Only the cut is to blame.
        Err(error) if error.error_len().is_none() && cut.len() < value.len() => {
            String::from_utf8_lossy(&cut[..error.valid_up_to()])
        }
        Err(_) => String::from_utf8_lossy(cut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Attributes<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut Attributes::new(&mut out, 9));
        out
    }

    #[test]
    fn lengths_are_those_of_what_follows() {
        let expected = b"\x4a\x0a\x0a\x01a\x12\x05\x0a\x03xyz\
              \x4a\x08\x0a\x01b\x12\x03\x18\xac\x02\
              \x4a\x07\x0a\x01c\x12\x02\x10\x01";
        let write = |attributes: &mut Attributes<'_>| {
            attributes
                .text("a", "xyz")
                .number("b", 300)
                .boolean("c", true);
        };
        assert_eq!(written(write), expected);
        assert_eq!(
            written(|attributes| _ = attributes.block(&Block::new(9, write))),
            expected
        );
        assert_eq!(
            written(|attributes| _ = attributes.parts("a", ["x", "yz"])),
            expected[..12]
        );
    }

    #[test]
    fn texts_are_whole_characters_of_bounded_length() {
        assert_eq!(shown(b"abc"), "abc");
        assert_eq!(shown(b"a\xffc"), "a\u{fffd}c");
        let long = "\u{e9}".repeat(LONGEST);
        assert_eq!(shown(long.as_bytes()).len(), LONGEST);
        assert_eq!(shown(format!("x{long}").as_bytes()).len(), LONGEST - 1);
        let longer = format!("x{long}");
        let length = |text| written(|attributes| _ = attributes.text("k", text)).len();
        assert_eq!(length(&longer), length(&long) - 1);
    }

    #[test]
    fn a_limit_counts_characters() {
        let cut = |characters, text: &str| {
            let limited = written(|attributes| _ = attributes.limit(characters).text("k", text));
            let whole = |part: &&str| written(|attributes| _ = attributes.text("k", part));
            let mut ends = (0..=text.len()).filter_map(|end| text.get(..end));
            ends.find(|part| whole(part) == limited).unwrap().to_owned()
        };
        assert_eq!(cut(3, "abcd"), "abc");
        assert_eq!(cut(4, "abcd"), "abcd");
        assert_eq!(cut(2, "\u{e9}\u{e9}\u{e9}"), "\u{e9}\u{e9}");
        assert_eq!(cut(3, "\u{e9}\u{e9}\u{e9}"), "\u{e9}\u{e9}\u{e9}");
        assert_eq!(cut(usize::MAX, &"a".repeat(LONGEST + 1)).len(), LONGEST);
        for limited in [
            written(|attributes| _ = attributes.limit(2).parts("k", ["a", "bc"])),
            written(|attributes| _ = attributes.limit(2).bytes("k", b"abc")),
        ] {
            assert_eq!(
                limited,
                written(|attributes| _ = attributes.text("k", "ab"))
            );
        }
        let listed =
            |characters| written(|attributes| _ = attributes.limit(characters).list("k", b"abc"));
        assert_eq!(listed(2).len(), listed(3).len() - 1);
    }
}
