//! Bodies of HTTP/1.1, read strictly (RFC 9112 sections 6.3 and 7.1).

use bytes::{Buf, Bytes, BytesMut};

use super::{
    head::{Framing, HeadError},
    scan::Scanner,
    trailers::trailers,
};
use crate::http::trailers::Trailers;

/// A chunk-size line, its extensions included, may be this long.
const MAX_SIZE_LINE: usize = 256;
/// A trailer section may be this long.
const MAX_TRAILERS: usize = 16 * 1024;

/// Reads one body out of a connection's buffer.
#[derive(Debug)]
pub struct Decoder {
    state: State,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Chunk(Chunk),
    UntilClose,
    Done,
}

#[derive(Debug)]
enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    Trailers(Scanner),
}

/// One step of reading a body.
#[derive(Debug)]
pub enum Step {
    Data(Bytes),
    Trailers(Trailers),
    /// The buffer holds nothing that can be given out.
    More,
    End,
}

impl Decoder {
    pub const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunk(Chunk::Size),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state }
    }

    /// Whether the whole body has been given out.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Bytes still to come, where the head told.
    pub const fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            State::Chunk(_) | State::UntilClose => None,
        }
    }

    /// Bytes to come that need no look at them.
    pub const fn opaque(&self) -> u64 {
        match self.state {
            State::Length(left) => left,
            _ => 0,
        }
    }

    /// So many of [`Self::opaque`] bytes went another way than by [`Self::step`].
    pub const fn passed(&mut self, bytes: usize) {
        if let State::Length(left) = &mut self.state {
            *left = left.saturating_sub(bytes as u64);
            if *left == 0 {
                self.state = State::Done;
            }
        }
    }

    /// Takes the next piece out of `buf`.
    ///
    /// # Errors
    /// Framing that is not exactly what the RFC writes; the message is then incomplete for ever.
    pub fn step(&mut self, buf: &mut BytesMut) -> Result<Step, HeadError> {
        match &mut self.state {
            State::Done => Ok(Step::End),
            _ if buf.is_empty() => Ok(Step::More),
            State::UntilClose => Ok(Step::Data(buf.split().freeze())),
            State::Length(left) => {
                let data = take(buf, left);
                if *left == 0 {
                    self.state = State::Done;
                }
                Ok(Step::Data(data))
            }
            State::Chunk(chunk) => {
                let step = chunk.step(buf)?;
                if matches!(step, Step::Trailers(_) | Step::End) {
                    self.state = State::Done;
                }
                Ok(step)
            }
        }
    }

    /// The connection ended. Whether that was the body's proper end.
    pub fn end_of_input(&mut self) -> bool {
        if matches!(self.state, State::UntilClose) {
            self.state = State::Done;
        }
        self.is_done()
    }
}

impl Chunk {
    fn step(&mut self, buf: &mut BytesMut) -> Result<Step, HeadError> {
        loop {
            match self {
                Self::Size => {
                    let Some((size, line)) = size_line(buf)? else {
                        return Ok(Step::More);
                    };
                    buf.advance(line);
                    *self = if size == 0 {
                        Self::Trailers(Scanner::default())
                    } else {
                        Self::Data(size)
                    };
                }
                Self::Data(left) => {
                    if buf.is_empty() {
                        return Ok(Step::More);
                    }
                    let data = take(buf, left);
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(Step::Data(data));
                }
                Self::DataEnd => {
                    if !b"\r\n".starts_with(&buf[..buf.len().min(2)]) {
                        return Err(HeadError::Bad("a chunk does not end in CRLF"));
                    }
                    if buf.len() < 2 {
                        return Ok(Step::More);
                    }
                    buf.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers(scanner) => {
                    let Some(length) = scanner.scan(buf, MAX_TRAILERS)? else {
                        return Ok(Step::More);
                    };
                    let section = buf.split_to(length);
                    if section.len() == 2 {
                        return Ok(Step::End);
                    }
                    let fields = trailers(&section)?;
                    return Ok(if fields.is_empty() {
                        Step::End
                    } else {
                        Step::Trailers(fields)
                    });
                }
            }
        }
    }
}

/// Up to `left` bytes, all at once when the buffer is only those.
fn take(buf: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
    *left -= length as u64;
    buf.split_to(length).freeze()
}

/// The size of the next chunk and the length of the line that told it.
fn size_line(buf: &[u8]) -> Result<Option<(u64, usize)>, HeadError> {
    const BAD: HeadError = HeadError::Bad("an invalid chunk size");
    let window = &buf[..buf.len().min(MAX_SIZE_LINE)];
    let Some(lf) = memchr::memchr(b'\n', window) else {
        return if window.len() == MAX_SIZE_LINE {
            Err(BAD)
        } else {
            Ok(None)
        };
    };
    let line = window[..lf].strip_suffix(b"\r").ok_or(BAD)?;
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    // 15 hexadecimal digits can't overflow, and no chunk is larger.
    if digits == 0 || digits > 15 {
        return Err(BAD);
    }
    // Extensions are dropped (section 7.1.1), but not what could be one to a laxer reader only.
    let blanks = line[digits..]
        .iter()
        .take_while(|&&byte| byte == b' ' || byte == b'\t')
        .count();
    let extension = &line[digits + blanks..];
    let clean = extension
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    if !(extension.is_empty() && digits == line.len() || extension.starts_with(b";")) || !clean {
        return Err(BAD);
    }
    let size = line[..digits].iter().fold(0, |size, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => (digit | 0x20) - b'a' + 10,
        };
        size << 4 | u64::from(value)
    });
    Ok(Some((size, lf + 1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, bool), HeadError> {
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut buf = BytesMut::new();
        let (mut data, mut trailers) = (Vec::new(), false);
        for piece in pieces {
            buf.extend_from_slice(piece);
            loop {
                match decoder.step(&mut buf)? {
                    Step::Data(bytes) => data.extend_from_slice(&bytes),
                    Step::Trailers(_) => trailers = true,
                    Step::More | Step::End => break,
                }
            }
        }
        Ok((data, trailers, decoder.is_done()))
    }

    #[test]
    fn chunks_and_trailers() {
        let text = b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n";
        let whole = decode(&[text]).unwrap();
        assert_eq!(whole, (b"abc0123456789".to_vec(), true, true));
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(decode(&bytes).unwrap(), whole);
    }

    #[test]
    fn bad_chunks_are_refused() {
        for text in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\na",
            "1 \r\na",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "FFFFFFFFFFFFFFFFF\r\n",
            "1;\0\r\n",
            "1\r;x\r\n",
            "1\x0c;x\r\n",
            "0\r\nA b\r\n\r\n",
            "0\r\nA: b\n\r\n",
        ] {
            assert!(decode(&[text.as_bytes()]).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_body_ends_where_the_length_says() {
        let mut decoder = Decoder::new(Framing::Length(3));
        let mut buf = BytesMut::from(&b"abcGET /"[..]);
        assert!(matches!(decoder.step(&mut buf), Ok(Step::Data(data)) if data == "abc"));
        assert!(decoder.is_done());
        assert_eq!(buf, "GET /");
        assert!(!Decoder::new(Framing::Length(3)).end_of_input());
        assert!(Decoder::new(Framing::UntilClose).end_of_input());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            sizes in proptest::collection::vec(1usize..40, 0..8),
            cuts in proptest::collection::vec(1usize..20, 1..60),
        ) {
            let (mut text, mut plain) = (Vec::new(), Vec::new());
            for size in sizes {
                text.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                text.extend(std::iter::repeat_n(b'x', size));
                text.extend_from_slice(b"\r\n");
                plain.extend(std::iter::repeat_n(b'x', size));
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let (mut rest, mut pieces) = (&text[..], Vec::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            prop_assert_eq!(decode(&pieces).unwrap(), (plain, false, true));
        }

        #[test]
        fn hostile_bodies_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&bytes]);
        }
    }
}
