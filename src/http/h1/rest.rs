//! What an HTTP/1.1 connection does between requests: wait, at no cost but its place.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, timeout};

use crate::http::{Client, FIRST_REQUEST_GRACE, http_plan};

pin_project! {
    /// What ends a connection between requests. It lives as long as the connection, so that a
    /// busy one only moves its timer on instead of setting one for every request.
    pub(super) struct Rest<'c, E> {
        client: &'c Client,
        first: bool,
        over: bool,
        #[pin]
        patience: Sleep,
        #[pin]
        ended: E,
    }
}

impl<'c> Rest<'c, ()> {
    pub(super) fn new(client: &'c Client) -> Rest<'c, impl Future<Output = ()>> {
        let patience = http_plan(&client.plan()).http.head_timeout;
        Rest {
            client,
            first: true,
            over: false,
            patience: tokio::time::sleep(patience),
            ended: client.ended(),
        }
    }
}

impl<E: Future<Output = ()>> Rest<'_, E> {
    /// Waits for the next request. False when the connection is to be closed instead.
    ///
    /// `readable` is ready when the first byte of one is there.
    pub(super) async fn wait(
        mut self: Pin<&mut Self>,
        mut readable: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> bool {
        let mut this = self.as_mut().project();
        if !*this.first {
            let patience = http_plan(&this.client.plan()).http.keep_alive_timeout;
            this.patience.as_mut().reset(Instant::now() + patience);
        }
        let first = std::mem::take(this.first);
        let wake = poll_fn(|cx| {
            if readable(cx).is_ready() {
                return Poll::Ready(Wake::Input);
            }
            // Once it has ended it is not asked again.
            if *this.over || this.ended.as_mut().poll(cx).is_ready() {
                *this.over = true;
                return Poll::Ready(Wake::Ended);
            }
            this.patience.as_mut().poll(cx).map(|()| Wake::Patience)
        })
        .await;
        match wake {
            Wake::Input => true,
            Wake::Patience => false,
            // It may have its first request on the way: see `FIRST_REQUEST_GRACE`.
            Wake::Ended if first => timeout(FIRST_REQUEST_GRACE, poll_fn(readable))
                .await
                .is_ok(),
            Wake::Ended => false,
        }
    }
}

enum Wake {
    Input,
    Ended,
    Patience,
}
