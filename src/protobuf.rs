//! Protocol Buffers by hand, since there is little of it: what is read of others, and what is
//! written as telemetry.
//!
//! [`Fields`] borrows from the message, so that private keys lie in one place only, which is wiped.
//! Fields that are not known are skipped, as the format wants it; what is broken is refused as a
//! whole. [`Writer`] appends to a buffer that is there already and allocates nothing of its own.

/// Why a message can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the message ends inside a field")]
    Truncated,
    #[error("a number of more than 64 bits")]
    Varint,
    #[error("a field without a valid number")]
    Number,
    #[error("a wire type that is not used any more, or never was")]
    WireType,
    #[error("a number where bytes belong")]
    NotBytes,
    #[error("a text that is not UTF-8")]
    Text,
    #[error("too many entries of a kind")]
    TooMany,
}

/// What is left of a message.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
}

pub(crate) enum Value<'a> {
    Varint(u64),
    /// Of four or eight bytes, which no field that we know is.
    Fixed,
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub(crate) fn bytes(&self) -> Result<&'a [u8], Malformed> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed => Err(Malformed::NotBytes),
        }
    }

    pub(crate) fn text(&self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Text)
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = u32::try_from(self.varint()?).map_err(|_| Malformed::Number)?;
        let number = tag >> 3;
        if number == 0 {
            return Err(Malformed::Number);
        }
        let value = match tag & 7 {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => {
                self.take(8)?;
                Value::Fixed
            }
            BYTES => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).map_err(|_| Malformed::Truncated)?)?)
            }
            FIXED32 => {
                self.take(4)?;
                Value::Fixed
            }
            _ => return Err(Malformed::WireType),
        };
        Ok(Some(Field { number, value }))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed::Varint);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed::Varint)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Appends the fields of a message to a buffer. What has its default is the caller's to leave out.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    /// `uint64`, `bool`, `enum`, and an `int64` as its two's complement.
    #[inline]
    pub(crate) fn varint(&mut self, field: u32, value: u64) {
        self.tag(field, VARINT);
        put_varint(self.0, value);
    }

    /// `fixed64`, and what lies in one.
    #[inline]
    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        self.tag(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn fixed32(&mut self, field: u32, value: u32) {
        self.tag(field, FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn double(&mut self, field: u32, value: f64) {
        self.fixed64(field, value.to_bits());
    }

    /// `bytes`, and a `string`, which has to be UTF-8.
    #[inline]
    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.tag(field, BYTES);
        put_varint(self.0, value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A message within, or a packed list. How long it is stands before it and is not known yet, so
    /// that three bytes are left free; a number that takes more of them than it needs is valid.
    #[inline]
    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Writer<'_>)) {
        self.tag(field, BYTES);
        let at = self.0.len();
        self.0.extend_from_slice(&[0; LENGTH]);
        write(&mut Writer(self.0));
        let length = self.0.len() - at - LENGTH;
        if length < 1 << (7 * LENGTH) {
            self.0[at..at + LENGTH].copy_from_slice(&[
                (length & 0x7f) as u8 | 0x80,
                (length >> 7 & 0x7f) as u8 | 0x80,
                (length >> 14) as u8,
            ]);
        } else {
            let mut prefix = Vec::new();
            put_varint(&mut prefix, length as u64);
            self.0.splice(at..at + LENGTH, prefix);
        }
    }

    /// Begins a message within of which the length is known; its fields are to follow.
    #[inline]
    pub(crate) fn begin(&mut self, field: u32, length: usize) {
        self.tag(field, BYTES);
        put_varint(self.0, length as u64);
    }

    #[inline]
    fn tag(&mut self, field: u32, wire_type: u32) {
        put_varint(self.0, u64::from(field << 3 | wire_type));
    }
}

/// The bytes of a length that is filled in afterwards: up to 2 MiB.
const LENGTH: usize = 3;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// Bytes of a field of this many bytes whose number is below 16.
#[inline]
pub(crate) const fn length_of(bytes: usize) -> usize {
    1 + varint_length(bytes as u64) + bytes
}

#[inline]
pub(crate) const fn varint_length(value: u64) -> usize {
    // Seven bits a byte, and one byte for nothing.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Nearly all are below 128.
#[inline]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut Writer(&mut out));
        out
    }

    /// Of a single field.
    fn read(message: &[u8]) -> (u32, Value<'_>) {
        let mut fields = Fields(message);
        let field = fields.next().unwrap().unwrap();
        assert!(fields.next().unwrap().is_none());
        (field.number, field.value)
    }

    #[test]
    fn scalars_are_written_as_the_format_has_them() {
        assert_eq!(written(|w| w.varint(1, 150)), b"\x08\x96\x01");
        assert_eq!(written(|w| w.bytes(2, b"testing")), b"\x12\x07testing");
        assert_eq!(written(|w| w.fixed32(16, 1)), b"\x85\x01\x01\0\0\0");
        assert_eq!(
            written(|w| w.double(3, 1.0)),
            [0x19, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]
        );
        assert_eq!(
            written(|w| w.varint(1, u64::MAX)),
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
        );
    }

    #[test]
    fn lengths_are_known_beforehand() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            assert_eq!(
                varint_length(value),
                written(|w| put_varint(w.0, value)).len()
            );
        }
        for length in [0, 127, 128] {
            let field = written(|w| w.bytes(15, &vec![0; length]));
            assert_eq!(length_of(length), field.len());
        }
        assert_eq!(written(|w| w.begin(1, 300)), b"\x0a\xac\x02");
    }

    #[test]
    fn lengths_are_filled_in() {
        assert_eq!(written(|w| w.message(1, |_| {})), b"\x0a\x80\x80\0");
        let nested = written(|w| w.message(1, |w| w.message(2, |w| w.varint(3, 7))));
        assert_eq!(nested, b"\x0a\x86\x80\0\x12\x82\x80\0\x18\x07");
        for length in [127, 128, 16_383, 16_384, (1 << 21) - 7, 1 << 21, 3 << 20] {
            let content = vec![7; length];
            let message = written(|w| w.message(9, |w| w.bytes(1, &content)));
            let (9, Value::Bytes(inside)) = read(&message) else {
                panic!("not what was written")
            };
            assert!(matches!(read(inside), (1, Value::Bytes(read)) if read == content));
        }
    }

    #[test]
    fn what_is_broken_is_refused() {
        let refused = |message| Fields(message).next().err();
        assert_eq!(refused(b"\x0a\x05ab"), Some(Malformed::Truncated));
        assert_eq!(refused(b"\x0a"), Some(Malformed::Truncated));
        assert_eq!(refused(b"\x80"), Some(Malformed::Truncated));
        assert_eq!(refused(&[0xff; 12]), Some(Malformed::Varint));
        assert_eq!(refused(b"\x02\x00"), Some(Malformed::Number));
        assert_eq!(refused(b"\x0b"), Some(Malformed::WireType));
        assert_eq!(refused(b"\x0f"), Some(Malformed::WireType));
        // A length of nearly 2^64.
        let endless = b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(refused(endless), Some(Malformed::Truncated));
    }

    proptest! {
        #[test]
        fn numbers_read_back(field in 1..1_u32 << 29, value: u64) {
            let message = written(|w| w.varint(field, value));
            prop_assert!(matches!(read(&message), (f, Value::Varint(v)) if f == field && v == value));
        }
    }
}
