//! Field blocks, written.
//!
//! Strings are written as they are: a Huffman code would save a third of what is new in a head,
//! and cost both sides more than the bytes do. What is sent again and again goes into the table,
//! and that is most of a head.

use super::{
    TABLE_SIZE,
    table::{Name, OVERHEAD, STATIC, STATIC_LENGTH, Table, static_name},
};

/// Places in which fields are looked for by their hash; a power of two.
const PLACES: usize = 64;
/// A field that would fill more of the table than this is never put there.
const WORTH: usize = TABLE_SIZE as usize / 8;

/// The writing side of a connection.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// Made with the first field that might be worth a place.
    memory: Option<Box<Memory>>,
    /// The smallest and the last size that were asked for since the last block.
    resized: Option<(u16, u16)>,
}

/// A field gets a place in the table when it is sent for the second time: those that are never
/// the same, ids and dates, don't push out those that are.
#[derive(Debug)]
struct Memory {
    /// Hashes of fields that were sent.
    sent: [u32; PLACES],
    /// Numbers of entries in the table, one more than they are; by the same hashes.
    entries: [u32; PLACES],
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: Table::new(TABLE_SIZE),
            memory: None,
            resized: None,
        }
    }
}

impl Encoder {
    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub fn resize(&mut self, size: u32) {
        let size = u16::try_from(size).map_or(TABLE_SIZE, |size| size.min(TABLE_SIZE));
        match &mut self.resized {
            Some((smallest, last)) => {
                *smallest = size.min(*smallest);
                *last = size;
            }
            None if usize::from(size) != self.table.limit() => {
                self.resized = Some((size, size));
            }
            None => {}
        }
    }

    /// Begins a field block.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        // RFC 7541 section 4.2: the smallest size in between is told too.
        if let Some((smallest, last)) = self.resized.take() {
            for size in [Some(smallest), (last != smallest).then_some(last)] {
                let Some(size) = size else { continue };
                self.table.resize(size);
                integer(out, 0x20, 0x1f, usize::from(size));
            }
        }
    }

    /// Writes a field.
    pub fn field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        let index = static_name(name);
        if let Some(index) = index {
            // Equal names lie side by side in the static table.
            let same = STATIC[index - 1..]
                .iter()
                .take_while(|entry| entry.0.len() == name.len())
                .take(SAME_NAMES)
                .position(|entry| entry.1 == value && entry.0 == name);
            if let Some(at) = same {
                return integer(out, 0x80, 0x7f, index + at);
            }
            if is_secret(index) {
                return literal(out, 0x10, 0x0f, Some(index), name, value);
            }
        }
        let size = name.len() + value.len() + OVERHEAD;
        if size > WORTH || size > self.table.limit() {
            return literal(out, 0, 0x0f, index, name, value);
        }
        let memory = self.memory.get_or_insert_with(|| {
            Box::new(Memory {
                sent: [0; PLACES],
                entries: [0; PLACES],
            })
        });
        let hash = hash(name, value);
        // The upper bits depend on all that went in.
        let place = (hash >> (32 - PLACES.ilog2())) as usize;
        let entry = memory.entries[place].wrapping_sub(1);
        if let Some(at) = self.table.place(entry)
            && self.table.get(at) == Some((name, value))
        {
            return integer(out, 0x80, 0x7f, STATIC_LENGTH + 1 + at);
        }
        if memory.sent[place] != hash {
            memory.sent[place] = hash;
            return literal(out, 0, 0x0f, index, name, value);
        }
        memory.entries[place] = self.table.next_number().wrapping_add(1);
        self.table.insert(Name::Text(name), value);
        literal(out, 0x40, 0x3f, index, name, value);
    }
}

/// As many entries of the static table share a name at most.
const SAME_NAMES: usize = 7;

/// What must not be guessed by watching lengths (RFC 7541 section 7.1): `authorization`, `cookie`,
/// `proxy-authorization`, `set-cookie`.
const fn is_secret(index: usize) -> bool {
    matches!(index, 23 | 32 | 49 | 55)
}

fn literal(out: &mut Vec<u8>, kind: u8, mask: u8, index: Option<usize>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 16);
    integer(out, kind, mask, index.unwrap_or(0));
    if index.is_none() {
        string(out, name);
    }
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    integer(out, 0, 0x7f, text.len());
    out.extend_from_slice(text);
}

fn integer(out: &mut Vec<u8>, kind: u8, mask: u8, value: usize) {
    if value < usize::from(mask) {
        return out.push(kind | value as u8);
    }
    out.push(kind | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Eight bytes at a time, the last ones twice where they don't come out even; fields that collide
/// only share a place.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    let state = (name.len() as u64) << 32 | value.len() as u64;
    (mix(mix(state, name), value).wrapping_mul(FACTOR) >> 32) as u32
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut state: u64, text: &[u8]) -> u64 {
    let Some(last) = text.last_chunk::<8>() else {
        let word = text
            .iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte));
        return (state ^ word).wrapping_mul(FACTOR).rotate_left(29);
    };
    let (words, _) = text.as_chunks::<8>();
    for word in words.iter().chain([last]) {
        state = (state ^ u64::from_le_bytes(*word))
            .wrapping_mul(FACTOR)
            .rotate_left(29);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(encoder: &mut Encoder, name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.field(&mut out, name, value);
        out
    }

    #[test]
    fn fields_of_the_static_table_are_one_octet() {
        let mut encoder = Encoder::default();
        for (at, (name, value)) in STATIC.iter().enumerate() {
            if at < 14 && !value.is_empty() || at == 15 {
                let octets = encoded(&mut encoder, name, value);
                assert_eq!(octets, [0x81 + at as u8], "{at}");
            }
        }
    }

    #[test]
    fn what_is_sent_twice_is_in_the_table_from_then_on() {
        let mut encoder = Encoder::default();
        assert_eq!(encoded(&mut encoder, b"x-a", b"1"), b"\x00\x03x-a\x011");
        assert_eq!(encoded(&mut encoder, b"x-a", b"1"), b"\x40\x03x-a\x011");
        assert_eq!(encoded(&mut encoder, b"x-a", b"1"), b"\xbe");
        assert_eq!(encoded(&mut encoder, b"via", b"2 a"), b"\x0f\x2d\x032 a");
        assert_eq!(encoded(&mut encoder, b"via", b"2 a"), b"\x7c\x032 a");
        assert_eq!(encoded(&mut encoder, b"via", b"2 a"), b"\xbe");
        assert_eq!(encoded(&mut encoder, b"x-a", b"1"), b"\xbf");
    }

    #[test]
    fn secrets_are_never_indexed() {
        let mut encoder = Encoder::default();
        for _ in 0..3 {
            assert_eq!(encoded(&mut encoder, b"cookie", b"a"), b"\x1f\x11\x01a");
        }
    }

    #[test]
    fn a_smaller_table_is_told_once() {
        let mut encoder = Encoder::default();
        encoder.resize(4096);
        assert_eq!(encoded(&mut encoder, b":method", b"GET"), b"\x82");
        encoder.resize(0);
        encoder.resize(1 << 24);
        let octets = encoded(&mut encoder, b":method", b"GET");
        assert_eq!(octets, b"\x20\x3f\xe1\x1f\x82");
        assert_eq!(encoded(&mut encoder, b":method", b"GET"), b"\x82");
    }
}
