//! The end of a connection from a client.

use std::{cell::RefCell, future::poll_fn, pin::Pin, task::ready};

use tokio::io::AsyncWrite;

use super::{server::Inbound, wire::Wire};
use crate::http::farewell;

/// Says that nothing follows.
pub(super) async fn close(inbound: &RefCell<Inbound>) {
    let unread = {
        let mut inbound = inbound.borrow_mut();
        let done = inbound.decoder.is_done();
        let Wire { stream, input, .. } = &mut inbound.wire;
        !done || !input.is_empty() || !stream.is_silent()
    };
    if unread {
        return linger(inbound).await;
    }
    let _ = poll_fn(|cx| Pin::new(&mut inbound.borrow_mut().wire.stream).poll_shutdown(cx)).await;
}

/// Writes what is left, says that nothing follows, and reads on for a while.
pub(super) async fn linger(inbound: &RefCell<Inbound>) {
    farewell::linger(|cx, farewell| {
        let wire = &mut inbound.borrow_mut().wire;
        ready!(wire.poll_flush(cx))?;
        farewell.poll(cx, &mut wire.stream, &mut wire.input)
    })
    .await;
}
