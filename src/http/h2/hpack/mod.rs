//! HPACK, the compression of header fields (RFC 7541): names and values as bytes in, bytes out.

mod decoder;
mod encoder;
mod huffman;
mod table;

use std::fmt;

pub use self::{decoder::Decoder, encoder::Encoder};

/// The size of the dynamic table that we offer and at most use, in octets: the initial value of
/// SETTINGS_HEADER_TABLE_SIZE.
pub const TABLE_SIZE: u16 = 4096;

/// Why a field block can't be read; the connection's state is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What a field counts against the limit on header lists (RFC 9113 section 6.5.2).
pub const fn field_size(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + table::OVERHEAD
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Malformed> {
        let mut fields = Vec::new();
        decoder.decode(block, true, true, &mut |name, value| {
            fields.push((name.to_vec(), value.to_vec()));
        })?;
        Ok(fields)
    }

    /// The same, with the block in parts.
    fn decoded_in_parts(decoder: &mut Decoder, block: &[u8], part: usize) -> Fields {
        let mut fields = Vec::new();
        let mut sink = |name: &[u8], value: &[u8]| fields.push((name.to_vec(), value.to_vec()));
        let (mut rest, mut first) = (Vec::new(), true);
        for piece in block.chunks(part) {
            rest.extend_from_slice(piece);
            let taken = decoder.decode(&rest, first, false, &mut sink).unwrap();
            rest.drain(..taken);
            first = false;
        }
        decoder.decode(&rest, first, true, &mut sink).unwrap();
        fields
    }

    /// A mix in which the tables matter: few names and values, some new ones, some large ones.
    fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let name = prop_oneof![
            "[a-z-]{1,12}",
            prop::sample::select(vec![":path", "via", "x-a", "cookie", "server"])
                .prop_map(str::to_owned),
        ];
        let value = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            prop::sample::select(vec![&b"one"[..], b"two", b"", &[b'v'; 1500]])
                .prop_map(<[u8]>::to_vec),
        ];
        (name.prop_map(String::into_bytes), value)
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(
            blocks in prop::collection::vec(
                (prop::collection::vec(field(), 0..12), prop::option::of(0u32..9000)),
                0..40,
            ),
            part in 1usize..100,
        ) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            let mut patient = Decoder::default();
            let mut out = Vec::new();
            for (fields, resized) in blocks {
                if let Some(size) = resized {
                    encoder.resize(size / 2);
                    encoder.resize(size);
                }
                out.clear();
                encoder.begin(&mut out);
                for (name, value) in &fields {
                    encoder.field(&mut out, name, value);
                }
                prop_assert_eq!(&decoded_in_parts(&mut patient, &out, part), &fields);
                prop_assert_eq!(decoded(&mut decoder, &out).unwrap(), fields);
            }
        }

        #[test]
        fn hostile_blocks_are_refused_or_read(blocks: Vec<Vec<u8>>) {
            let mut decoder = Decoder::default();
            for block in blocks {
                let _ = decoded(&mut decoder, &block);
            }
        }
    }
}
