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
        return linger(inbound, || {}).await;
    }
    let _ = poll_fn(|cx| Pin::new(&mut inbound.borrow_mut().wire.stream).poll_shutdown(cx)).await;
}

/// Writes what is left, says that nothing follows, and reads on for a while. `written` is called
/// before that while, if the peer takes what there is to write; else it is dropped.
pub(super) async fn linger(inbound: &RefCell<Inbound>, written: impl FnOnce()) {
    let mut written = Some(written);
    farewell::linger(|cx, farewell| {
        let wire = &mut inbound.borrow_mut().wire;
        ready!(wire.poll_flush(cx))?;
        if let Some(written) = written.take() {
            written();
        }
        farewell.poll(cx, &mut wire.stream, &mut wire.input)
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::BufMut;
    use tokio::{io::AsyncReadExt, time::Instant};

    use super::*;
    use crate::{http::input::Input, net::Stream};

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_told_of_when_it_is_written_and_not_when_the_peer_leaves() {
        let (near, mut far) = tokio::io::duplex(1024);
        let inbound = Inbound::new(Wire::new(Stream::Memory(near), Input::default()));
        let inbound = RefCell::new(inbound);
        inbound.borrow_mut().wire.output.head().put_slice(b"no");
        let (start, told) = (Instant::now(), Cell::new(None));
        // The peer neither says anything more nor closes.
        linger(&inbound, || told.set(Some(start.elapsed()))).await;
        assert_eq!(told.get(), Some(std::time::Duration::ZERO));
        assert!(!start.elapsed().is_zero());
        assert_eq!(far.read_u16().await.unwrap().to_be_bytes(), *b"no");
    }
}
