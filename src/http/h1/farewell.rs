//! The end of a connection from a client: what was written shall arrive.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use tokio::{io::AsyncWrite, time::timeout};

use super::{server::Inbound, wire::Wire};

/// A connection that must be closed with input unread is read on for so much and so long, lest a
/// reset destroys the responses on their way (RFC 9112 section 9.6). What is read is dropped, so
/// that the time is the true limit; the bytes bound what a fast sender can make us read.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Says that nothing follows.
pub(super) async fn close(inbound: &RefCell<Inbound>) {
    let unread = {
        let inbound = inbound.borrow();
        let Wire { stream, input, .. } = &inbound.wire;
        !inbound.decoder.is_done() || !input.is_empty() || !stream.is_silent()
    };
    if unread {
        return linger(inbound).await;
    }
    let _ = poll_fn(|cx| Pin::new(&mut inbound.borrow_mut().wire.stream).poll_shutdown(cx)).await;
}

/// Writes what is left, says that nothing follows, and reads on for a while.
pub(super) async fn linger(inbound: &RefCell<Inbound>) {
    let farewell = async {
        poll_fn(|cx| inbound.borrow_mut().wire.poll_flush(cx)).await?;
        // Nothing else runs on this connection any more: the borrow meets no other.
        poll_fn(|cx| {
            let wire = &mut inbound.borrow_mut().wire;
            Pin::new(&mut wire.stream).poll_shutdown(cx)
        })
        .await?;
        let mut left = LINGER_BYTES;
        poll_fn(|cx| {
            let wire = &mut inbound.borrow_mut().wire;
            loop {
                wire.input.clear();
                match ready!(wire.poll_fill(cx))? {
                    0 => return Poll::Ready(Ok(())),
                    read if read >= left => return Poll::Ready(Ok(())),
                    read => left -= read,
                }
            }
        })
        .await
    };
    let _: std::result::Result<std::io::Result<()>, _> = timeout(LINGER_TIME, farewell).await;
}
