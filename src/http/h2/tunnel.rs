//! A stream of HTTP/2 as a byte stream: what a tunnel (CONNECT, RFC 8441) is made of.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{client::Slot, frame::Code, link::StreamHandle, streams::Broken};

/// What is taken at once for sending.
const PIECE: usize = 64 * 1024;

/// Both directions of a stream after its head.
#[derive(Debug)]
pub struct StreamIo {
    stream: StreamHandle,
    unread: Bytes,
    /// Keeps the connection counted as busy while the tunnel lives.
    _held: Option<Slot>,
}

impl StreamIo {
    pub const fn new(stream: StreamHandle, held: Option<Slot>) -> Self {
        Self {
            stream,
            unread: Bytes::new(),
            _held: held,
        }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread.is_empty() {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                Some(Err(Broken::Reset(Code::NO_ERROR | Code::CANCEL))) | None => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let length = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..length]);
        this.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.stream.poll_sent(cx)).map_err(broken)?;
        let piece = &buf[..buf.len().min(PIECE)];
        if !piece.is_empty() {
            self.stream.data(Bytes::copy_from_slice(piece), false);
        }
        Poll::Ready(Ok(piece.len()))
    }

    /// The connection's own task flushes.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if ready!(self.stream.poll_sent(cx)).is_ok() {
            self.stream.data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}

fn broken(error: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
