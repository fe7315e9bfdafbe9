//! One HTTP/1.1 connection as bytes: what was read and not yet used, what waits to be written.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio_util::io::poll_read_buf;

use super::{buffers, output::Output};
use crate::net::Stream;

/// A first read asks for this much: most heads fit.
pub(super) const FIRST_READ: usize = 4 * 1024;
/// Reads that fill their buffer grow up to this; it bounds what one connection buffers.
const LARGEST_READ: usize = 64 * 1024;

/// A stream and its two buffers.
#[derive(Debug)]
pub struct Wire {
    pub stream: Stream,
    pub input: BytesMut,
    pub output: Output,
    next_read: usize,
}

impl Wire {
    /// `input` holds what was read already.
    pub fn new(stream: Stream, input: BytesMut) -> Self {
        Self {
            stream,
            input,
            output: Output::default(),
            next_read: FIRST_READ,
        }
    }

    /// Reads once into the input buffer; 0 at the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            self.input = buffers::lend(self.next_read);
        } else {
            self.input.reserve(self.next_read);
        }
        let room = self.input.capacity() - self.input.len();
        let read = ready!(poll_read_buf(
            Pin::new(&mut self.stream),
            cx,
            &mut self.input
        ))?;
        // Grow while the peer keeps up with us, shrink as soon as it doesn't.
        self.next_read = if read == room {
            (self.next_read * 2).min(LARGEST_READ)
        } else if read < self.next_read / 4 {
            (self.next_read / 2).max(FIRST_READ)
        } else {
            self.next_read
        };
        Poll::Ready(Ok(read))
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_flush(cx, &mut self.stream)
    }

    /// Gives back the memory of both buffers where they are empty: an idle connection needs none.
    pub fn release(&mut self) {
        if self.input.is_empty() {
            buffers::give_back(std::mem::take(&mut self.input));
        }
        if self.output.is_empty() {
            self.output.release();
        }
        self.next_read = FIRST_READ;
    }
}
