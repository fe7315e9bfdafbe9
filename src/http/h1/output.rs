//! What waits to be written to a connection.
//!
//! Pieces are gathered for as long as the body has some at hand, so that they are one write; what
//! lies in a pipe is moved on by the kernel.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    hex,
    http::outbox::Outbox,
    net::{Stream, pipe::Pipe},
};

/// More than this is not gathered before a flush.
const GATHERED: usize = 64 * 1024;

/// Bytes to be written, in order: the gathered ones, then those in `pipe`.
#[derive(Debug, Default)]
pub struct Output {
    gathered: Outbox,
    /// Never empty.
    pipe: Option<Pipe>,
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.pipe.is_none()
    }

    /// Where a head is written. Not behind a pipe: see [`Self::accepts`].
    pub fn head(&mut self) -> &mut BytesMut {
        debug_assert!(self.accepts());
        self.gathered.tail()
    }

    /// Whether another piece can be taken before a flush.
    pub fn accepts(&self) -> bool {
        self.pipe.is_none() && self.gathered.len() < GATHERED
    }

    /// Adds a piece as it is.
    pub fn data(&mut self, data: Bytes) {
        debug_assert!(self.pipe.is_none());
        self.gathered.data(data);
    }

    /// Adds what lies in `pipe`. Only for a stream that is a socket.
    pub fn piped(&mut self, pipe: Pipe) {
        debug_assert!(self.pipe.is_none());
        self.pipe = (!pipe.is_empty()).then_some(pipe);
    }

    /// Adds a piece as one chunk (RFC 9112 section 7.1). An empty one would end the body, and is
    /// left out.
    pub fn chunk(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        put_hex(self.head(), data.len());
        self.gathered.data(data);
        self.gathered.tail().put_slice(b"\r\n");
    }

    /// Writes until nothing is left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, io: &mut Stream) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() {
            ready!(self.gathered.poll_flush(cx, io))?;
            // The next to write is most likely another connection.
            self.gathered.release();
        }
        while let Some(pipe) = &mut self.pipe {
            ready!(pipe.poll_drain(cx, io))?;
            if pipe.is_empty() {
                self.pipe = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn put_hex(out: &mut BytesMut, mut value: usize) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = hex::DIGITS[value & 15];
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
    fn what_is_gathered_is_bounded() {
        let mut output = Output::default();
        let piece = Bytes::from(vec![b'x'; GATHERED / 4]);
        for _ in 0..4 {
            assert!(output.accepts());
            output.chunk(piece.clone());
        }
        assert!(!output.accepts());
    }

    #[tokio::test]
    async fn pieces_arrive_in_order_through_a_narrow_pipe() {
        let (writer, mut reader) = tokio::io::duplex(7);
        let mut writer = Stream::Memory(writer);
        let large = Bytes::from(vec![b'x'; 0x1001]);
        let mut output = Output::default();
        output.head().put_slice(b"head\r\n\r\n");
        output.chunk(Bytes::from_static(b"abc"));
        output.chunk(Bytes::new());
        output.chunk(large.clone());
        output.chunk(large.clone());
        output.head().put_slice(b"0\r\n\r\n");
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
        let mut expected = b"head\r\n\r\n3\r\nabc\r\n".to_vec();
        for _ in 0..2 {
            expected.extend_from_slice(b"1001\r\n");
            expected.extend_from_slice(&large);
            expected.extend_from_slice(b"\r\n");
        }
        expected.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(got, expected);
    }
}
