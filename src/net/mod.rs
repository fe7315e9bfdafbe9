//! One type for every byte stream that a connection can be, so that the code above it is written
//! once and stays free of type parameters.

mod loss;
pub(crate) mod outbound;
pub mod pipe;
pub mod tls;

use std::{
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustix::net::SendFlags;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

pub use self::loss::Loss;
use self::tls::TlsStream;
use crate::tls::Leash;

/// What bytes can be carried to and from.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin {
    /// The kernel's end, where all that comes and goes are plain bytes of a socket.
    fn socket(&self) -> Option<&Stream> {
        None
    }
}

/// A connected byte stream.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed, since what has no TLS should not have its space.
    Tls(Box<TlsStream>),
    /// Two ends of one process: tests and instruction counts, where no kernel should be counted.
    Memory(DuplexStream),
}

impl Stream {
    /// Ready when a read would not wait. A memory stream can't tell, and says so at once.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_readable(cx),
            Self::Memory(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether a read would take what lies in our memory already, and cost no system call.
    pub fn holds_more(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.holds_more())
    }

    /// Whether the stream is open and nothing has come in: what an idle connection has to be
    /// before it may be used again.
    pub fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
            Self::Tls(stream) => return stream.is_silent(),
            Self::Memory(_) => return true,
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether a close is to be a reset: a peer must not take what was cut for what has ended.
    pub fn reset_on_close(&self, reset: bool) {
        if let Self::Tls(stream) = self {
            stream.socket().reset_on_close(reset);
        }
        if let Self::Tcp(stream) = self {
            // When it can't be set the close is an ordinary one.
            drop(SockRef::from(stream).set_linger(reset.then_some(Duration::ZERO)));
        }
    }

    /// Whether the peer has said that it sends no more, as far as the runtime has been told. A read
    /// that did not fill its room was the last one then.
    pub fn has_ended(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let interest = Interest::READABLE | Interest::ERROR;
        let ready = match self {
            Self::Tcp(stream) => pin!(stream.ready(interest)).poll(&mut cx),
            Self::Unix(stream) => pin!(stream.ready(interest)).poll(&mut cx),
            Self::Tls(_) | Self::Memory(_) => Poll::Pending,
        };
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed() && !ready.is_error())
    }

    /// A write to which more is added at once: that, or the end of the stream, may go in the same
    /// packet. Without it the bytes would stay for a fifth of a second.
    pub fn poll_write_more(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        pipe::transfer(cx, self, Interest::WRITABLE, |socket| {
            rustix::net::send(socket, bytes, flags)
        })
    }

    /// Lets the kernel find out when the peer is gone without a word. Four system calls.
    pub fn probe_when_silent(&self) {
        if let Self::Tls(stream) = self {
            stream.socket().probe_when_silent();
        }
        if let Self::Tcp(stream) = self {
            // The connection works without; a peer that is gone already makes it fail.
            drop(probe_when_silent(SockRef::from(stream)));
        }
    }
}

impl Stream {
    /// How it is held, where there is TLS.
    pub fn leash(&self) -> Option<Rc<Leash>> {
        match self {
            Self::Tls(stream) => stream.leash().cloned(),
            Self::Tcp(_) | Self::Unix(_) | Self::Memory(_) => None,
        }
    }

    /// Says that nothing more comes, where there is a word for it (RFC 8446 section 6.1): for a
    /// connection at rest that is about to be dropped. One that is dropped without it was cut.
    pub fn take_leave(&mut self) {
        if let Self::Tls(stream) = self {
            // Nobody waits on a connection at rest. What the socket doesn't take now stays unsaid.
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut **stream).poll_shutdown(&mut cx);
        }
    }

    /// Whether it is to take no new request: its identity or its trust has been replaced.
    pub fn is_retired(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.leash().is_some_and(|leash| leash.is_retired()))
    }
}

/// A silent peer is probed after this long, this often, and given up after so many probes.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// The same for a TCP socket of any kind; what a listening one accepts inherits it.
pub(crate) fn probe_when_silent(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// Why an address can't be listened on, and what the usual way out is.
pub fn explain_bind(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process listens there (`ss -lp` tells which): stop it or take another address"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address (`ip address` lists those it has)"
        }
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 needs CAP_NET_BIND_SERVICE, a Unix socket a folder to write to"
        }
        _ => return error.to_string(),
    };
    format!("{error}; {advice}")
}

impl ByteStream for Stream {
    fn socket(&self) -> Option<&Stream> {
        matches!(self, Self::Tcp(_) | Self::Unix(_)).then_some(self)
    }
}

impl ByteStream for DuplexStream {}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Memory($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Memory(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn an_end_is_known_before_it_is_read_and_follows_what_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, near) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut peer, mut near) = (peer.unwrap(), Stream::Tcp(near.unwrap().0));
        peer.write_all(b"all").await.unwrap();
        poll_fn(|cx| near.poll_readable(cx)).await.unwrap();
        assert!(!near.has_ended());
        peer.shutdown().await.unwrap();
        while !near.has_ended() {
            tokio::task::yield_now().await;
        }
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 3);
        let written = poll_fn(|cx| near.poll_write_more(cx, b"answer")).await;
        assert_eq!(written.unwrap(), 6);
        near.shutdown().await.unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }
}
