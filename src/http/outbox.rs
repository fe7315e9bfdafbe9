//! What waits to be written to a connection.
//!
//! Heads, frames and small pieces are gathered in one buffer; a large piece stays where it lies. All
//! of them together are one write.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::buffers::{self, COPY_LIMIT};

/// What a buffer begins with: a usual head and a small body.
const ROOM: usize = 4 * 1024;
/// A buffer that grew past this is sealed as it is, and the next one begun.
const LARGEST: usize = 16 * 1024;
/// Elements of one write.
const SLICES: usize = 32;

/// Bytes to be written, in order: the sealed parts, then the open one.
#[derive(Debug, Default)]
pub struct Outbox {
    sealed: VecDeque<Bytes>,
    sealed_len: usize,
    open: BytesMut,
}

impl Outbox {
    pub fn len(&self) -> usize {
        self.sealed_len + self.open.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where heads and frames are written.
    pub fn tail(&mut self) -> &mut BytesMut {
        if self.open.capacity() == 0 {
            self.open = buffers::lend(ROOM);
        } else if self.open.len() > LARGEST {
            self.seal();
            self.open = buffers::lend(ROOM);
        }
        &mut self.open
    }

    /// Adds a piece of content.
    pub fn data(&mut self, data: Bytes) {
        if data.len() <= COPY_LIMIT {
            return self.tail().extend_from_slice(&data);
        }
        self.seal();
        self.sealed_len += data.len();
        self.sealed.push_back(data);
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            let part = self.open.split().freeze();
            self.sealed_len += part.len();
            self.sealed.push_back(part);
        }
    }

    /// Writes until nothing is left.
    pub fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = if self.sealed.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.open))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut count = 0;
                let parts = self.sealed.iter().map(|part| &part[..]);
                for (slice, part) in slices.iter_mut().zip(parts.chain([&self.open[..]])) {
                    *slice = IoSlice::new(part);
                    count += 1;
                }
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(part) = self.sealed.front_mut() {
            let step = written.min(part.len());
            self.sealed_len -= step;
            written -= step;
            part.advance(step);
            if !part.is_empty() {
                return;
            }
            self.sealed.pop_front();
        }
        if written == self.open.len() {
            self.open.clear();
        } else {
            self.open.advance(written);
        }
    }

    /// Gives the memory back where nothing is left to be written.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.sealed = VecDeque::new();
            buffers::give_back(&mut self.open);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn pieces_arrive_in_order_through_a_narrow_pipe() {
        let (mut writer, mut reader) = tokio::io::duplex(7);
        let mut output = Outbox::default();
        let mut expected = Vec::new();
        for at in 0..100u8 {
            let piece = vec![at; usize::from(at) * 97];
            output.tail().extend_from_slice(b"frame");
            output.data(Bytes::from(piece.clone()));
            expected.extend_from_slice(b"frame");
            expected.extend_from_slice(&piece);
            assert_eq!(output.len(), expected.len());
        }
        let write = async {
            std::future::poll_fn(|cx| output.poll_flush(cx, &mut writer))
                .await
                .unwrap();
            drop(writer);
            output.release();
            assert_eq!((output.len(), output.open.capacity()), (0, 0));
        };
        let mut got = Vec::new();
        let ((), read) = tokio::join!(write, reader.read_to_end(&mut got));
        read.unwrap();
        assert!(got == expected);
    }
}
