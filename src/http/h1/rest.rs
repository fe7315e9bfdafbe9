//! What an HTTP/1.1 connection does between requests: wait, at no cost but its place.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::http::{Client, http_plan};

pin_project! {
    /// What ends a connection between requests. It lives as long as the connection, so that a
    /// busy one sets its timer once in a while and not for every request.
    pub(super) struct Rest<'c, E> {
        client: &'c Client,
        over: bool,
        #[pin]
        patience: Sleep,
        #[pin]
        ended: E,
    }
}

impl<'c> Rest<'c, ()> {
    pub(super) fn new(client: &'c Client) -> Rest<'c, impl Future<Output = ()>> {
        Rest {
            client,
            over: false,
            // Set anew by each wait.
            patience: tokio::time::sleep(Duration::ZERO),
            ended: client.ended(),
        }
    }
}

impl<E: Future<Output = ()>> Rest<'_, E> {
    /// Waits for the next request. False when the connection is to be closed instead. The first
    /// one is not waited for here: its beginning told the protocol.
    ///
    /// `readable` is ready when the first byte of one is there.
    pub(super) async fn wait(
        mut self: Pin<&mut Self>,
        mut readable: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> bool {
        let mut this = self.as_mut().project();
        let patience = http_plan(&this.client.plan()).http.keep_alive_timeout;
        let over = Instant::now() + patience;
        // A timer that is too early is moved when it fires: a busy client would move it with
        // every request.
        if this.patience.is_elapsed() || this.patience.deadline() > over {
            this.patience.as_mut().reset(over);
        }
        poll_fn(|cx| {
            if readable(cx).is_ready() {
                return Poll::Ready(true);
            }
            // Once it has ended it is not asked again.
            if *this.over || this.ended.as_mut().poll(cx).is_ready() {
                *this.over = true;
                return Poll::Ready(false);
            }
            loop {
                ready!(this.patience.as_mut().poll(cx));
                if this.patience.deadline() >= over {
                    return Poll::Ready(false);
                }
                this.patience.as_mut().reset(over);
            }
        })
        .await
    }
}
