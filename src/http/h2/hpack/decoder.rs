//! Field blocks, read.

use std::cell::RefCell;

use super::{
    Malformed, TABLE_SIZE, huffman,
    table::{Name, STATIC, STATIC_LENGTH, Table},
};

/// A worker's room for what Huffman strings stand for: needed while a field is read, by one
/// connection at a time.
#[derive(Default)]
struct Scratch {
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Scratch that has grown past this is freed.
const KEEP: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The reading side of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// A field of the block has been read.
    begun: bool,
}

/// Why reading stops inside a block.
enum Stop {
    CutOff,
    Malformed(Malformed),
}

impl From<Malformed> for Stop {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: Table::new(TABLE_SIZE),
            begun: false,
        }
    }
}

impl Decoder {
    /// Reads a field block, or a part of it, and hands each field to `sink`. Returns how much of
    /// `block` was read: all of it if this is the last part, else up to a field that is cut off,
    /// which has to come again with the part that follows.
    ///
    /// # Errors
    /// The two sides' tables have parted: a connection error COMPRESSION_ERROR (RFC 9113
    /// section 4.3). Fields before the fault have been handed out.
    pub fn decode(
        &mut self,
        block: &[u8],
        first: bool,
        last: bool,
        sink: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<usize, Malformed> {
        self.begun &= !first;
        SCRATCH.with_borrow_mut(|scratch| {
            let mut input = Input(block);
            let mut left = block.len();
            let result = loop {
                match self.next(&mut input, scratch, sink) {
                    Ok(true) => left = input.0.len(),
                    Ok(false) => break Ok(block.len()),
                    Err(Stop::CutOff) if !last => break Ok(block.len() - left),
                    Err(Stop::CutOff) => break Err(Malformed("a field that is cut off")),
                    Err(Stop::Malformed(error)) => break Err(error),
                }
            };
            if scratch.name.capacity() + scratch.value.capacity() > KEEP {
                *scratch = Scratch::default();
            }
            result
        })
    }

    /// Reads one field; false at the end.
    #[inline]
    fn next(
        &mut self,
        input: &mut Input<'_>,
        scratch: &mut Scratch,
        sink: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<bool, Stop> {
        let Ok(first) = input.next() else {
            return Ok(false);
        };
        match first {
            // Section 6.1: an indexed field.
            0x80.. => {
                let index = input.integer(first, 0x7f)?;
                let (name, value) = self.field(index)?;
                sink(name, value);
            }
            // Section 6.2.1: a literal that goes into the table.
            0x40.. => self.literal(input, first, 0x3f, scratch, sink)?,
            // Section 6.3.
            0x20.. => {
                let size = input.integer(first, 0x1f)?;
                if self.begun {
                    return Err(Malformed("a table size update inside a field block").into());
                }
                match u16::try_from(size) {
                    Ok(size) if size <= TABLE_SIZE => self.table.resize(size),
                    _ => return Err(Malformed("a table larger than was offered").into()),
                }
                return Ok(true);
            }
            // Sections 6.2.2 and 6.2.3: one that does not.
            _ => self.literal(input, first, 0x0f, scratch, sink)?,
        }
        self.begun = true;
        Ok(true)
    }

    fn literal(
        &mut self,
        input: &mut Input<'_>,
        first: u8,
        mask: u8,
        scratch: &mut Scratch,
        sink: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Stop> {
        let index = input.integer(first, mask)?;
        let literal = match index {
            0 => Some(input.string(&mut scratch.name)?),
            _ => None,
        };
        let value = input.string(&mut scratch.value)?;
        let name = match literal {
            Some(name) => name,
            None => self.field(index)?.0,
        };
        sink(name, value);
        if first >= 0x40 {
            let name = match literal {
                Some(name) => Name::Text(name),
                None => match index.checked_sub(STATIC_LENGTH + 1) {
                    Some(place) => Name::Of(place),
                    None => Name::Text(STATIC[index - 1].0),
                },
            };
            self.table.insert(name, value);
        }
        Ok(())
    }

    fn field(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        match index.checked_sub(1) {
            None => Err(Malformed("a field of index zero")),
            Some(place) if place < STATIC_LENGTH => Ok(STATIC[place]),
            Some(place) => self
                .table
                .get(place - STATIC_LENGTH)
                .ok_or(Malformed("a field beyond the table")),
        }
    }
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn next(&mut self) -> Result<u8, Stop> {
        let (first, rest) = self.0.split_first().ok_or(Stop::CutOff)?;
        self.0 = rest;
        Ok(*first)
    }

    /// RFC 7541 section 5.1. Nothing that is allowed needs more than 28 bits.
    #[inline]
    fn integer(&mut self, first: u8, mask: u8) -> Result<usize, Stop> {
        let value = first & mask;
        if value < mask {
            return Ok(usize::from(value));
        }
        let mut value = usize::from(mask);
        for shift in [0, 7, 14, 21] {
            let byte = self.next()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("an integer that is too large").into())
    }

    /// RFC 7541 section 5.2: as it lies in the block, or decoded into `scratch`.
    fn string<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Stop>
    where
        'a: 's,
    {
        let first = self.next()?;
        let length = self.integer(first, 0x7f)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Stop::CutOff)?;
        self.0 = rest;
        if first < 0x80 {
            return Ok(text);
        }
        scratch.clear();
        huffman::decode(text, scratch)?;
        Ok(scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::huffman::tests::encode, *};

    /// Hexadecimal as the RFC prints it.
    fn bytes(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text
            .chars()
            .filter_map(|c| c.to_digit(16).map(|digit| digit as u8))
            .collect();
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    }

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<String, Malformed> {
        let mut lines = String::new();
        decoder.decode(block, true, true, &mut |name, value| {
            lines += &String::from_utf8_lossy(name);
            lines += ": ";
            lines += &String::from_utf8_lossy(value);
            lines += "\n";
        })?;
        Ok(lines)
    }

    /// RFC 7541 appendix C: each sequence on one connection, the table's size after each block.
    fn appendix(size: u16, blocks: &[(&str, &str, usize)]) {
        let mut decoder = Decoder::default();
        decoder.table.resize(size);
        for (block, fields, size) in blocks {
            assert_eq!(decoded(&mut decoder, &bytes(block)).unwrap(), *fields);
            let table = &decoder.table;
            let counted: usize = (0..table.len())
                .map(|place| table.get(place).unwrap())
                .map(|(name, value)| super::super::field_size(name, value))
                .sum();
            assert_eq!(counted, *size, "after {block}");
        }
    }

    #[test]
    fn appendix_c_1_integers() {
        let read = |first, mask, rest: &[u8]| Input(rest).integer(first, mask).ok();
        assert_eq!(read(0x0a, 0x1f, b""), Some(10));
        assert_eq!(read(0x1f, 0x1f, b"\x9a\x0a"), Some(1337));
        assert_eq!(read(0x2a, 0xff, b""), Some(42));
    }

    #[test]
    fn appendix_c_2_single_fields() {
        appendix(
            4096,
            &[(
                "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
                "custom-key: custom-header\n",
                55,
            )],
        );
        appendix(
            4096,
            &[(
                "040c 2f73 616d 706c 652f 7061 7468",
                ":path: /sample/path\n",
                0,
            )],
        );
        appendix(
            4096,
            &[(
                "1008 7061 7373 776f 7264 0673 6563 7265 74",
                "password: secret\n",
                0,
            )],
        );
        appendix(4096, &[("82", ":method: GET\n", 0)]);
    }

    const FIRST: &str = ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n";
    const SECOND: &str = ":method: GET\n:scheme: http\n:path: /\n\
        :authority: www.example.com\ncache-control: no-cache\n";
    const THIRD: &str = ":method: GET\n:scheme: https\n:path: /index.html\n\
        :authority: www.example.com\ncustom-key: custom-value\n";

    #[test]
    fn appendix_c_3_requests() {
        appendix(
            4096,
            &[
                (
                    "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                    FIRST,
                    57,
                ),
                ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND, 110),
                (
                    "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                    THIRD,
                    164,
                ),
            ],
        );
    }

    #[test]
    fn appendix_c_4_requests_with_huffman() {
        appendix(
            4096,
            &[
                ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST, 57),
                ("8286 84be 5886 a8eb 1064 9cbf", SECOND, 110),
                (
                    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                    THIRD,
                    164,
                ),
            ],
        );
    }

    const MOVED: &str = "cache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\n\
        location: https://www.example.com\n";
    const GZIPPED: &str = ":status: 200\ncache-control: private\n\
        date: Mon, 21 Oct 2013 20:13:22 GMT\nlocation: https://www.example.com\n\
        content-encoding: gzip\n\
        set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n";

    #[test]
    fn appendix_c_5_responses() {
        appendix(
            256,
            &[
                (
                    "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230
                     3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65
                     7861 6d70 6c65 2e63 6f6d",
                    &format!(":status: 302\n{MOVED}"),
                    222,
                ),
                (
                    "4803 3330 37c1 c0bf",
                    &format!(":status: 307\n{MOVED}"),
                    222,
                ),
                (
                    "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220
                     474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157
                     454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076
                     6572 7369 6f6e 3d31",
                    GZIPPED,
                    215,
                ),
            ],
        );
    }

    #[test]
    fn appendix_c_6_responses_with_huffman() {
        appendix(
            256,
            &[
                (
                    "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0
                     82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                    &format!(":status: 302\n{MOVED}"),
                    222,
                ),
                (
                    "4883 640e ffc1 c0bf",
                    &format!(":status: 307\n{MOVED}"),
                    222,
                ),
                (
                    "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b
                     d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27
                     0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                    GZIPPED,
                    215,
                ),
            ],
        );
    }

    #[test]
    fn faults_are_told() {
        for block in [
            &b"\x80"[..],
            b"\xbe",
            b"\x7f\x80\x01\x01a",
            b"\xff\x80",
            b"\xff\xff\xff\xff\xff\x01",
            b"\x40\x05ab",
            b"\x40\x01a\x05ab",
            b"\x40\x01a",
            b"\x40\x01a\x84\xff\xff\xff\xff",
            b"\x82\x20",
            b"\x3f\xe2\x1f",
        ] {
            assert!(
                decoded(&mut Decoder::default(), block).is_err(),
                "{block:x?}"
            );
        }
        // Sizes within the limit may change more than once, before the first field.
        assert!(decoded(&mut Decoder::default(), b"\x20\x3f\xe1\x1f\x82").is_ok());
    }

    #[test]
    fn names_and_values_may_both_be_huffman_strings() {
        let (name, value) = (encode(b"x-name"), encode(b"value"));
        let block = [
            &[0x40, 0x80 | name.len() as u8][..],
            &name,
            &[0x80 | value.len() as u8],
            &value,
            b"\xbe",
        ];
        let lines = decoded(&mut Decoder::default(), &block.concat()).unwrap();
        assert_eq!(lines, "x-name: value\nx-name: value\n");
    }
}
