//! What waits to be written to a connection.
//!
//! Heads and small pieces are gathered in one buffer, so that a small message is one write; a
//! large piece is written from where it lies, together with what goes around it, and what lies in
//! a pipe is moved on by the kernel.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::{
    http::buffers::{self, COPY_LIMIT},
    net::{Stream, pipe::Pipe},
};

/// Room for a usual head and a small body.
const HEAD: usize = 2 * 1024;
/// More than this is not gathered before a flush.
const GATHERED: usize = 16 * 1024;

/// Bytes to be written, in order: `buf`, then `large`, then `end`, or `buf`, then `pipe`.
#[derive(Debug, Default)]
pub struct Output {
    buf: BytesMut,
    large: Bytes,
    end: &'static [u8],
    /// Never empty.
    pipe: Option<Pipe>,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty() && !self.is_closed()
    }

    /// Where a head is written. Only before a large piece: see [`Self::accepts`].
    pub fn head(&mut self) -> &mut BytesMut {
        debug_assert!(self.accepts());
        self.gathered()
    }

    fn gathered(&mut self) -> &mut BytesMut {
        if self.buf.capacity() == 0 {
            self.buf = buffers::lend(HEAD);
        }
        &mut self.buf
    }

    /// Whether another piece can be taken before a flush.
    pub fn accepts(&self) -> bool {
        !self.is_closed() && self.buf.len() < GATHERED
    }

    /// Whether something lies behind the buffer already.
    fn is_closed(&self) -> bool {
        !self.large.is_empty() || !self.end.is_empty() || self.pipe.is_some()
    }

    /// Adds a piece as it is.
    pub fn data(&mut self, data: Bytes) {
        self.push(data, b"");
    }

    /// Adds what lies in `pipe`. Only for a stream that is a socket.
    pub fn piped(&mut self, pipe: Pipe) {
        debug_assert!(!self.is_closed());
        self.pipe = (!pipe.is_empty()).then_some(pipe);
    }

    /// Adds a piece as one chunk (RFC 9112 section 7.1). An empty one would end the body, and is
    /// left out.
    pub fn chunk(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        put_hex(self.head(), data.len());
        self.push(data, b"\r\n");
    }

    fn push(&mut self, data: Bytes, end: &'static [u8]) {
        // Not `accepts`: the line with a chunk's size may just have filled the buffer.
        debug_assert!(!self.is_closed());
        if data.len() <= COPY_LIMIT {
            let gathered = self.gathered();
            gathered.put_slice(&data);
            gathered.put_slice(end);
        } else {
            self.large = data;
            self.end = end;
        }
    }

    /// Writes until nothing is left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, io: &mut Stream) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            if self.buf.is_empty()
                && let Some(pipe) = &mut self.pipe
            {
                ready!(pipe.poll_drain(cx, io))?;
                if pipe.is_empty() {
                    self.pipe = None;
                }
                continue;
            }
            let written = if self.large.is_empty() && self.end.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.buf))?
            } else {
                let slices = [
                    IoSlice::new(&self.buf),
                    IoSlice::new(&self.large),
                    IoSlice::new(self.end),
                ];
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let part = written.min(self.buf.len());
        self.buf.advance(part);
        written -= part;
        let part = written.min(self.large.len());
        self.large.advance(part);
        written -= part;
        self.end = &self.end[written.min(self.end.len())..];
        if self.large.is_empty() {
            self.large = Bytes::new();
        }
        if self.buf.is_empty() {
            // The next to write is most likely another connection.
            buffers::give_back(&mut self.buf);
        }
    }
}

fn put_hex(out: &mut BytesMut, mut value: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[value & 15];
        value >>= 4;
        if value == 0 {
            break;
        }
    }
    out.reserve(18);
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn the_size_line_of_a_chunk_may_fill_the_buffer() {
        let mut output = Output::default();
        output.head().put_bytes(b'x', GATHERED - 1);
        assert!(output.accepts());
        output.chunk(Bytes::from_static(b"abc"));
        assert!(!output.accepts());
    }

    #[tokio::test]
    async fn pieces_arrive_in_order_through_a_narrow_pipe() {
        let (writer, mut reader) = tokio::io::duplex(7);
        let mut writer = Stream::Memory(writer);
        let large = Bytes::from(vec![b'x'; COPY_LIMIT + 1]);
        let mut output = Output::default();
        output.head().put_slice(b"head\r\n\r\n");
        output.chunk(Bytes::from_static(b"abc"));
        output.chunk(Bytes::new());
        output.chunk(large.clone());
        assert!(!output.accepts());
        let write = async {
            std::future::poll_fn(|cx| output.poll_flush(cx, &mut writer))
                .await
                .unwrap();
            drop(writer);
            output
        };
        let mut got = Vec::new();
        let (output, read) = tokio::join!(write, reader.read_to_end(&mut got));
        read.unwrap();
        assert!(output.is_empty() && output.accepts());
        let mut expected = b"head\r\n\r\n3\r\nabc\r\n1001\r\n".to_vec();
        expected.extend_from_slice(&large);
        expected.extend_from_slice(b"\r\n");
        assert_eq!(got, expected);
    }
}
