//! Attributes of spans and log records as OTLP has them (`KeyValue`).

use std::borrow::Cow;

use crate::protobuf::Writer;

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

impl<'a, 'b> Attributes<'a, 'b> {
    pub(crate) fn new(writer: &'a mut Writer<'b>, field: u32) -> Self {
        Self { writer, field }
    }

    pub(crate) fn text(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.write(key, |any| any.bytes(TEXT, shown(value).as_bytes()))
    }

    /// Nothing where there is nothing to tell.
    pub(crate) fn some_text(&mut self, key: &str, value: Option<&[u8]>) -> &mut Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    pub(crate) fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.write(key, |any| any.varint(INT, value))
    }

    pub(crate) fn boolean(&mut self, key: &str, value: bool) -> &mut Self {
        self.write(key, |any| any.varint(BOOL, value.into()))
    }

    #[inline]
    fn write(&mut self, key: &str, value: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        self.writer.message(self.field, |pair| {
            pair.bytes(KEY, key.as_bytes());
            pair.message(VALUE, value);
        });
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
    fn texts_are_whole_characters_of_bounded_length() {
        assert_eq!(shown(b"abc"), "abc");
        assert_eq!(shown(b"a\xffc"), "a\u{fffd}c");
        let long = "\u{e9}".repeat(LONGEST);
        assert_eq!(shown(&long.as_bytes()[..]).len(), LONGEST);
        assert_eq!(shown(&format!("x{long}").as_bytes()[..]).len(), LONGEST - 1);
    }
}
