//! Where a head ends: found without looking at a byte twice, however it trickles in.

use bytes::{Buf, BytesMut};

use super::head::HeadError;

/// Finds the end of a head without looking at a byte twice, however it trickles in.
#[derive(Debug, Default)]
pub struct Scanner {
    seen: usize,
    line: usize,
}

impl Scanner {
    /// Whether nothing has been scanned yet.
    pub const fn is_fresh(&self) -> bool {
        self.seen == 0
    }

    /// The length of the head at the start of `buf`, once it is whole.
    ///
    /// # Errors
    /// A line that doesn't end in CRLF, or more than `limit` bytes.
    pub fn scan(&mut self, buf: &[u8], limit: usize) -> Result<Option<usize>, HeadError> {
        while let Some(at) = memchr::memchr(b'\n', &buf[self.seen..]) {
            let end = self.seen + at;
            if end >= limit {
                return Err(HeadError::TooLarge);
            }
            if end == 0 || buf[end - 1] != b'\r' {
                return Err(HeadError::Bad("a line does not end in CRLF"));
            }
            self.seen = end + 1;
            let blank = end - 1 == self.line;
            self.line = self.seen;
            if blank {
                let whole = self.seen;
                *self = Self::default();
                return Ok(Some(whole));
            }
        }
        self.seen = buf.len();
        if buf.len() >= limit {
            Err(HeadError::TooLarge)
        } else {
            Ok(None)
        }
    }
}

/// Drops empty lines before a request line (RFC 9112 section 2.2). `scanner` may have seen half of
/// one, and begins anew behind it.
///
/// # Errors
/// More than a few of them are not an accident.
pub fn skip_empty_lines(
    buf: &mut BytesMut,
    skipped: &mut u8,
    scanner: &mut Scanner,
) -> Result<(), HeadError> {
    while buf.starts_with(b"\r\n") {
        buf.advance(2);
        *scanner = Scanner::default();
        *skipped += 1;
        if *skipped > 4 {
            return Err(HeadError::Bad("empty lines instead of a request"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickling_head_is_scanned_once() {
        let text = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
        let mut scanner = Scanner::default();
        for end in 0..text.len() - 4 {
            assert_eq!(scanner.scan(&text[..end], 100), Ok(None), "{end}");
        }
        assert_eq!(scanner.scan(text, 100), Ok(Some(text.len() - 4)));
    }

    #[test]
    fn an_empty_line_may_come_in_two_pieces() {
        let (mut scanner, mut skipped, mut buf) = (Scanner::default(), 0, BytesMut::new());
        for byte in *b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r" {
            buf.extend_from_slice(&[byte]);
            skip_empty_lines(&mut buf, &mut skipped, &mut scanner).unwrap();
            assert_eq!(scanner.scan(&buf, 100), Ok(None));
        }
        buf.extend_from_slice(b"\n");
        assert_eq!(scanner.scan(&buf, 100), Ok(Some(buf.len())));
    }
}
