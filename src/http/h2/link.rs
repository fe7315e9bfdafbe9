//! The stream under an HTTP/2 connection, written once a turn.
//!
//! h2 writes as soon as its own buffer can't take one more frame, and a DATA frame of 256 bytes
//! fills it: every small message would be a write. Here such writes are gathered until the
//! connection's task has nothing more to say, and then go out as one.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::h1::buffers;

/// Writes up to this size are gathered; a copy of more costs as much as the write that it saves.
const SMALL: usize = 4 * 1024;
/// What is gathered at most; a peer that reads slower than that stops the connection as ever.
const LIMIT: usize = 16 * 1024;

/// One end goes to h2, the other stays with the task that drives the connection and calls
/// [`Self::poll_write_out`] at the end of each turn.
pub(super) struct Link<S>(Rc<RefCell<Inner<S>>>);

struct Inner<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
    gathers: bool,
    heard: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// `input` was read already. Nothing is gathered before [`Self::gather`].
    pub(super) fn new(stream: S, input: BytesMut) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            stream,
            input,
            output: BytesMut::new(),
            gathers: false,
            heard: 0,
        })))
    }

    /// From now on somebody calls [`Self::poll_write_out`].
    pub(super) fn gather(&self) {
        self.0.borrow_mut().gathers = true;
    }

    /// Grows whenever the peer has said something.
    pub(super) fn heard(&self) -> u64 {
        self.0.borrow().heard
    }

    /// Writes what was gathered; ready when nothing is left.
    pub(super) fn poll_write_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_write_out(cx)
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        // An idle connection holds no buffer.
        if self.output.capacity() > 0 {
            buffers::give_back(mem::take(&mut self.output));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> Clone for Link<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Link<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.input.is_empty() {
            let before = buf.filled().len();
            let read = Pin::new(&mut inner.stream).poll_read(cx, buf);
            inner.heard += (buf.filled().len() - before) as u64;
            return read;
        }
        let length = inner.input.len().min(buf.remaining());
        buf.put_slice(&inner.input[..length]);
        inner.input.advance(length);
        if inner.input.is_empty() {
            inner.input = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Link<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if inner.gathers && length <= SMALL && inner.output.len() + length <= LIMIT {
            if inner.output.capacity() == 0 {
                inner.output = buffers::lend(LIMIT);
            }
            for buf in bufs {
                inner.output.extend_from_slice(buf);
            }
            return Poll::Ready(Ok(length));
        }
        ready!(inner.poll_write_out(cx))?;
        Pin::new(&mut inner.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.gathers {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut inner.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_write_out(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn small_writes_go_out_together_and_in_order() {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let link = Link::new(near, BytesMut::new());
        let mut h2 = link.clone();
        h2.write_all(b"preface").await.unwrap();
        link.gather();
        let large = vec![b'x'; SMALL + 1];
        for piece in [&b"one"[..], b"two", &large, b"three"] {
            h2.write_all(piece).await.unwrap();
            h2.flush().await.unwrap();
        }
        let mut got = vec![0; 7 + 6 + large.len()];
        far.read_exact(&mut got).await.unwrap();
        assert!(got.starts_with(b"prefaceonetwox"));

        assert_eq!(link.0.borrow().output, b"three"[..]);
        poll_fn(|cx| link.poll_write_out(cx)).await.unwrap();
        assert_eq!(link.0.borrow().output.capacity(), 0);
        h2.write_all(b"end").await.unwrap();
        h2.shutdown().await.unwrap();
        drop((h2, link));
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"threeend");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_stops_the_writer() {
        let (near, far) = tokio::io::duplex(1);
        let link = Link::new(near, BytesMut::new());
        link.gather();
        let mut h2 = link.clone();
        let fill = async {
            loop {
                h2.write_all(&[0; SMALL]).await.unwrap();
            }
        };
        tokio::select! {
            biased;
            () = fill => {}
            () = std::future::ready(()) => {}
        }
        assert!(link.0.borrow().output.len() <= LIMIT);
        drop(far);
        assert!(poll_fn(|cx| link.poll_write_out(cx)).await.is_err());
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut link = Link::new(near, BytesMut::from(&b"early"[..]));
        far.write_all(b"late").await.unwrap();
        drop(far);
        let mut got = Vec::new();
        link.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"earlylate");
    }
}
