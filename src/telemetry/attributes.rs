//! Attributes of spans and log records as OTLP has them (`KeyValue`).

use std::borrow::Cow;

use crate::protobuf::{Writer, length_of, varint_length};

/// Of a longer text the beginning is told: what clients send must not fill a collector.
const LONGEST: usize = 4096;

/// Writes attributes into one field of a message.
pub(crate) struct Attributes<'a, 'b> {
    writer: &'a mut Writer<'b>,
    field: u32,
}

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

impl<'a, 'b> Attributes<'a, 'b> {
    pub(crate) fn new(writer: &'a mut Writer<'b>, field: u32) -> Self {
        Self { writer, field }
    }

    pub(crate) fn text(&mut self, key: &str, value: &[u8]) -> &mut Self {
        let value = shown(value);
        let length = length_of(value.len());
        self.pair(key, length, |any| any.bytes(TEXT, value.as_bytes()))
    }

    /// Nothing where there is nothing to tell.
    pub(crate) fn some_text(&mut self, key: &str, value: Option<&[u8]>) -> &mut Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    pub(crate) fn number(&mut self, key: &str, value: u64) -> &mut Self {
        let length = 1 + varint_length(value);
        self.pair(key, length, |any| any.varint(INT, value))
    }

    pub(crate) fn boolean(&mut self, key: &str, value: bool) -> &mut Self {
        self.pair(key, 2, |any| any.varint(BOOL, value.into()))
    }

    pub(crate) fn double(&mut self, key: &str, value: f64) -> &mut Self {
        self.pair(key, 9, |any| any.double(DOUBLE, value))
    }

    /// A list of one text.
    pub(crate) fn list(&mut self, key: &str, value: &[u8]) -> &mut Self {
        let value = shown(value);
        let item = length_of(value.len());
        let array = length_of(item);
        self.pair(key, length_of(array), |any| {
            any.begin(ARRAY, array);
            any.begin(ITEM, item);
            any.bytes(TEXT, value.as_bytes());
        })
    }

    /// `length`: of what `value` writes.
    #[inline]
    fn pair(&mut self, key: &str, length: usize, value: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        let writer = &mut *self.writer;
        writer.begin(self.field, length_of(key.len()) + length_of(length));
        writer.bytes(KEY, key.as_bytes());
        writer.begin(VALUE, length);
        value(writer);
        self
    }
}

/// A text as it may stand in a message: UTF-8, and not too long.
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

    #[test]
    fn lengths_are_those_of_what_follows() {
        let mut out = Vec::new();
        let mut writer = Writer(&mut out);
        Attributes::new(&mut writer, 9)
            .text("a", b"xyz")
            .number("b", 300)
            .boolean("c", true)
            .double("d", 1.0)
            .list("e", b"xyz");
        assert_eq!(
            out,
            b"\x4a\x0a\x0a\x01a\x12\x05\x0a\x03xyz\
              \x4a\x08\x0a\x01b\x12\x03\x18\xac\x02\
              \x4a\x07\x0a\x01c\x12\x02\x10\x01\
              \x4a\x0e\x0a\x01d\x12\x09\x21\0\0\0\0\0\0\xf0\x3f\
              \x4a\x0e\x0a\x01e\x12\x09\x2a\x07\x0a\x05\x0a\x03xyz"
        );
    }

    #[test]
    fn texts_are_whole_characters_of_bounded_length() {
        assert_eq!(shown(b"abc"), "abc");
        assert_eq!(shown(b"a\xffc"), "a\u{fffd}c");
        let long = "\u{e9}".repeat(LONGEST);
        assert_eq!(shown(&long.as_bytes()[..]).len(), LONGEST);
        assert_eq!(shown(&format!("x{long}").as_bytes()[..]).len(), LONGEST - 1);
    }
}
