//! The end of a connection whose peer may still be sending: what was written shall arrive.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{io::AsyncWrite, time::timeout};

use super::input::Input;
use crate::net::Stream;

/// A connection that must be closed with input unread is read on for so much and so long, lest a
/// reset destroys what was said last (RFC 9112 section 9.6). What is read is dropped, so that the
/// time is the true limit; the bytes bound what a fast sender can make us read.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// How far the end of a connection has come.
pub(super) struct Farewell {
    said: bool,
    /// Bytes that may still come.
    left: usize,
}

/// Ends a connection. `poll` writes what is left to be written, then calls [`Farewell::poll`].
pub(super) async fn linger(
    mut poll: impl FnMut(&mut Context<'_>, &mut Farewell) -> Poll<io::Result<()>>,
) {
    let mut farewell = Farewell {
        said: false,
        left: LINGER_BYTES,
    };
    let _ = timeout(LINGER_TIME, poll_fn(|cx| poll(cx, &mut farewell))).await;
}

impl Farewell {
    /// Says that nothing follows, and reads on for a while.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        input: &mut Input,
    ) -> Poll<io::Result<()>> {
        if !self.said {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            self.said = true;
        }
        while self.left > 0 {
            input.clear();
            match ready!(input.poll_fill(cx, stream))? {
                0 => break,
                read => self.left = self.left.saturating_sub(read),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_stops_is_left_after_so_much() {
        let (near, far) = tokio::io::duplex(1024 * 1024);
        let (mut stream, mut input) = (Stream::Memory(near), Input::default());
        let (mut ear, mut mouth) = tokio::io::split(far);
        let sending = async {
            let piece = vec![b'x'; 64 * 1024];
            let mut sent = 0;
            while mouth.write_all(&piece).await.is_ok() {
                sent += piece.len();
            }
            sent
        };
        let ending = async {
            linger(|cx, farewell| farewell.poll(cx, &mut stream, &mut input)).await;
            drop(stream);
        };
        let (sent, (), heard) = tokio::join!(sending, ending, ear.read_u8());
        assert!((LINGER_BYTES..LINGER_BYTES * 2).contains(&sent));
        assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
