//! What was read from a connection and is not yet used.

use std::{
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio_util::io::poll_read_buf;

use super::buffers;
use crate::net::{ByteStream, Stream, pipe::Pipe};

/// A first read asks for this much: most heads fit.
const FIRST_READ: usize = 4 * 1024;
/// Reads that fill their buffer grow up to this; it bounds what one connection buffers.
const LARGEST_READ: usize = 64 * 1024;
/// A peer that fills reads of this size is worth a pipe.
const PIPED_READ: usize = 32 * 1024;

/// A buffer, and how much to read into it next.
///
/// Memory is held only while there is something in it: all connections of a worker then read into
/// the buffer that its caches know.
#[derive(Debug)]
pub struct Input {
    buffer: BytesMut,
    next_read: usize,
    /// The buffer is a large one, not to be kept for others.
    grown: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            next_read: FIRST_READ,
            grown: false,
        }
    }
}

impl Deref for Input {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.buffer
    }
}

impl DerefMut for Input {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }
}

impl Input {
    /// Reads once; 0 at the end of the stream.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            ready!(stream.poll_readable(cx))?;
        }
        if self.buffer.capacity() == 0 {
            self.buffer = buffers::lend(self.next_read);
        } else {
            self.buffer.reserve(self.next_read);
        }
        self.grown |= self.next_read > buffers::LARGEST;
        let room = self.buffer.capacity() - self.buffer.len();
        let read = poll_read_buf(Pin::new(stream), cx, &mut self.buffer);
        if read.is_pending() {
            self.release();
        }
        let read = ready!(read)?;
        self.learn(read, room);
        Poll::Ready(Ok(read))
    }

    /// Moves up to `most` bytes into a pipe, without a look at them. `None` where
    /// [`Self::poll_fill`] is the way to go: for small reads, for want of a pipe, at the end of the
    /// stream.
    pub fn poll_pipe(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
        most: u64,
    ) -> Poll<Option<io::Result<Pipe>>> {
        if !self.buffer.is_empty() || self.next_read < PIPED_READ || stream.socket().is_none() {
            return Poll::Ready(None);
        }
        let Some(mut pipe) = Pipe::lend() else {
            return Poll::Ready(None);
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Poll::Ready(match ready!(pipe.poll_fill(cx, stream, most)) {
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

    /// Gives the memory back if nothing is in it.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            if std::mem::take(&mut self.grown) {
                self.buffer = BytesMut::new();
            } else {
                buffers::give_back(&mut self.buffer);
            }
        }
    }

    /// The connection rests. If nothing is left of what came, no guess is kept either at what will.
    pub fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.release();
            self.next_read = FIRST_READ;
        }
    }

    pub fn into_bytes(self) -> Bytes {
        self.buffer.freeze()
    }
}
