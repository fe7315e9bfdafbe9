//! One HTTP/1.1 connection as bytes: what was read and not yet used, what waits to be written.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio_util::io::poll_read_buf;

use super::output::Output;
use crate::{
    http::buffers,
    net::{ByteStream, Stream, pipe::Pipe},
};

/// A first read asks for this much: most heads fit.
pub(super) const FIRST_READ: usize = 4 * 1024;
/// Reads that fill their buffer grow up to this; it bounds what one connection buffers.
const LARGEST_READ: usize = 64 * 1024;

/// A peer that fills reads of this size is worth a pipe.
const PIPED_READ: usize = 32 * 1024;

/// A stream and its two buffers.
#[derive(Debug)]
pub struct Wire {
    pub stream: Stream,
    pub input: BytesMut,
    pub output: Output,
    next_read: usize,
    /// The input buffer is a large one, not to be kept for others.
    grown: bool,
}

impl Wire {
    /// `input` holds what was read already.
    pub fn new(stream: Stream, input: BytesMut) -> Self {
        Self {
            stream,
            input,
            output: Output::default(),
            next_read: FIRST_READ,
            grown: false,
        }
    }

    /// Reads once into the input buffer; 0 at the end of the stream.
    ///
    /// A buffer is held only while there is something in it: all connections of a worker then
    /// read into the one that its caches know.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.is_empty() {
            ready!(self.stream.poll_readable(cx))?;
        }
        if self.input.capacity() == 0 {
            self.input = buffers::lend(self.next_read);
        } else {
            self.input.reserve(self.next_read);
        }
        self.grown |= self.next_read > buffers::LARGEST;
        let room = self.input.capacity() - self.input.len();
        let read = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input);
        if read.is_pending() {
            self.release_input();
        }
        let read = ready!(read)?;
        self.learn(read, room);
        Poll::Ready(Ok(read))
    }

    /// Gives the input buffer's memory back if nothing is in it.
    pub fn release_input(&mut self) {
        if self.input.is_empty() {
            let input = std::mem::take(&mut self.input);
            if !std::mem::take(&mut self.grown) {
                buffers::give_back(input);
            }
        }
    }

    /// Moves up to `most` bytes into a pipe, without a look at them. `None` where
    /// [`Self::poll_fill`] is the way to go: for small reads, for want of a pipe, at the end of the
    /// stream.
    pub fn poll_pipe(&mut self, cx: &mut Context<'_>, most: u64) -> Poll<Option<io::Result<Pipe>>> {
        if !self.input.is_empty() || self.next_read < PIPED_READ || self.stream.socket().is_none() {
            return Poll::Ready(None);
        }
        let Some(mut pipe) = Pipe::lend() else {
            return Poll::Ready(None);
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Poll::Ready(match ready!(pipe.poll_fill(cx, &self.stream, most)) {
            Ok(0) => None,
            Ok(moved) => {
                self.learn(moved, LARGEST_READ.min(most));
                Some(Ok(pipe))
            }
            Err(error) => Some(Err(error)),
        })
    }

    /// So many bytes will come: reads need not grow first.
    pub fn expect(&mut self, bytes: u64) {
        if bytes >= LARGEST_READ as u64 {
            self.next_read = LARGEST_READ;
        }
    }

    /// Grows reads while the peer keeps up with us, and shrinks them as soon as it doesn't.
    fn learn(&mut self, read: usize, room: usize) {
        self.next_read = if read >= room {
            (self.next_read * 2).min(LARGEST_READ)
        } else if read < self.next_read / 4 {
            (self.next_read / 2).max(FIRST_READ)
        } else {
            self.next_read
        };
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_flush(cx, &mut self.stream)
    }

    /// What is true between two exchanges: no memory is held for what will come, nor a guess at it.
    pub fn release(&mut self) {
        self.release_input();
        self.next_read = FIRST_READ;
    }
}
