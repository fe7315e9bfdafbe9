//! The Huffman code of RFC 7541 appendix B, read.
//!
//! The code is canonical: codes of one length count upwards in the order of their symbols, and
//! longer ones follow shorter ones. So the lengths alone are the whole table.

use super::Malformed;

/// The length of each symbol's code in bits; the last one is the end of string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
const END_OF_STRING: u16 = 256;
const LONGEST: usize = 30;

/// What the next eight bits say: the symbol and the length of its code, zero where that is longer.
const SHORT: [(u8, u8); 256] = short();
/// The codes of each length, left-aligned in 32 bits: all below this and not shorter, and the
/// first of them in [`SYMBOLS`].
const LONG: ([u64; LONGEST + 1], [u16; LONGEST + 1]) = long();
/// All symbols in the order of their codes.
const SYMBOLS: [u16; 257] = symbols();

/// Appends what `text` stands for to `out`.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.reserve(text.len() * 8 / 5);
    // The next bits, left-aligned, and how many of them there are.
    let (mut bits, mut count) = (0u64, 0u32);
    let mut rest = text.iter();
    loop {
        while count <= 56 {
            let Some(&byte) = rest.next() else { break };
            bits |= u64::from(byte) << (56 - count);
            count += 8;
        }
        let (symbol, length) = match SHORT[(bits >> 56) as usize] {
            (_, 0) => long_symbol((bits >> 32) as u32),
            (symbol, length) => (u16::from(symbol), u32::from(length)),
        };
        if length > count {
            // Only the beginning of the end of string, all ones, may fill the last octet.
            let padding = count < 8 && bits == !(u64::MAX >> count);
            return if padding {
                Ok(())
            } else {
                Err(Malformed("wrong padding of a Huffman string"))
            };
        }
        if symbol == END_OF_STRING {
            return Err(Malformed("the end of string inside a Huffman string"));
        }
        out.push(symbol as u8);
        bits <<= length;
        count -= length;
    }
}

#[cold]
fn long_symbol(bits: u32) -> (u16, u32) {
    let (limits, firsts) = LONG;
    let mut length = 9;
    while length < LONGEST && u64::from(bits) >= limits[length] {
        length += 1;
    }
    // Codes of this length end just below the limit, so that one counts back from there.
    let behind = (limits[length] - 1 - u64::from(bits)) >> (32 - length);
    let last = firsts[length];
    (SYMBOLS[usize::from(last) - behind as usize], length as u32)
}

const fn symbols() -> [u16; 257] {
    let mut all = [0; 257];
    let (mut length, mut at) = (1, 0);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                all[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    all
}

/// For each length the end of its codes, and the place of the last one.
const fn long() -> ([u64; LONGEST + 1], [u16; LONGEST + 1]) {
    let (mut limits, mut lasts) = ([0; LONGEST + 1], [0; LONGEST + 1]);
    let (mut length, mut end, mut seen) = (1, 0u64, 0u16);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                end += 1 << (32 - length);
                seen += 1;
            }
            symbol += 1;
        }
        limits[length] = end;
        lasts[length] = seen.saturating_sub(1);
        length += 1;
    }
    (limits, lasts)
}

const fn short() -> [(u8, u8); 256] {
    let mut table = [(0, 0); 256];
    let (mut at, mut next) = (0, 0);
    while next < 256 {
        let symbol = SYMBOLS[at] as usize;
        let length = LENGTHS[symbol];
        if length > 8 {
            break;
        }
        let end = next + (1 << (8 - length));
        while next < end {
            table[next] = (symbol as u8, length);
            next += 1;
        }
        at += 1;
    }
    table
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Only tests encode: see the encoder.
    pub(in super::super) fn encode(text: &[u8]) -> Vec<u8> {
        let mut codes = [(0u64, 0u32); 257];
        let mut code = 0u64;
        for &symbol in &SYMBOLS {
            let length = u32::from(LENGTHS[usize::from(symbol)]);
            codes[usize::from(symbol)] = (code >> (32 - length), length);
            code += 1 << (32 - length);
        }
        let (mut out, mut bits, mut count) = (Vec::new(), 0u64, 0);
        for &byte in text {
            let (code, length) = codes[usize::from(byte)];
            bits = bits << length | code;
            count += length;
            while count >= 8 {
                count -= 8;
                out.push((bits >> count) as u8);
            }
        }
        if count > 0 {
            out.push((bits << (8 - count)) as u8 | 0xff >> count);
        }
        out
    }

    fn decoded(text: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        decode(text, &mut out).map(|()| out)
    }

    #[test]
    fn the_codes_fill_their_space() {
        let (limits, _) = LONG;
        assert_eq!(limits[LONGEST], 1 << 32);
        assert_eq!(SYMBOLS[256], END_OF_STRING);
    }

    #[test]
    fn every_symbol_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encode(&all)).unwrap(), all);
        for byte in all {
            assert_eq!(decoded(&encode(&[byte])).unwrap(), [byte]);
        }
        assert_eq!(decoded(b"").unwrap(), b"");
    }

    #[test]
    fn padding_is_short_and_all_ones() {
        assert_eq!(decoded(b"\x1f").unwrap(), b"a");
        for wrong in [&b"\x1f\xff"[..], b"\x18", b"\xff", b"\xff\xff\xff\xff"] {
            assert!(decoded(wrong).is_err(), "{wrong:x?}");
        }
    }

    proptest! {
        #[test]
        fn anything_comes_back(text: Vec<u8>) {
            prop_assert_eq!(decoded(&encode(&text)).unwrap(), text);
        }

        #[test]
        fn hostile_bytes_mean_one_thing_or_nothing(text: Vec<u8>) {
            if let Ok(out) = decoded(&text) {
                prop_assert_eq!(encode(&out), text);
            }
        }
    }
}
