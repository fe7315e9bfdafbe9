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

/// How long to wait for the next request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// As long as a busy client may take: what the connection needs for a request is kept meanwhile.
    Short,
    /// As long as the listener allows.
    Whole,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waited {
    /// The first byte of a request is there.
    Readable,
    /// Longer than was asked.
    Long,
    /// The connection is to be closed.
    Ended,
}

/// A client that has been silent for so long is not busy.
const SHORT: Duration = Duration::from_secs(1);

impl<E: Future<Output = ()>> Rest<'_, E> {
    /// Waits for the next request. The first one is not waited for here: its beginning told the
    /// protocol.
    ///
    /// `readable` is ready when the first byte of one is there.
    pub(super) async fn wait(
        mut self: Pin<&mut Self>,
        patience: Patience,
        mut readable: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Waited {
        let mut this = self.as_mut().project();
        let whole = http_plan(&this.client.plan()).http.keep_alive_timeout;
        let (limit, end) = match patience {
            Patience::Short if SHORT < whole => (SHORT, Waited::Long),
            Patience::Short => (whole, Waited::Ended),
            Patience::Whole => (whole.saturating_sub(SHORT), Waited::Ended),
        };
        let over = Instant::now() + limit;
        // A timer that is too early is moved when it fires: a busy client would move it with
        // every request.
        if this.patience.is_elapsed() || this.patience.deadline() > over {
            this.patience.as_mut().reset(over);
        }
        poll_fn(|cx| {
            if readable(cx).is_ready() {
                return Poll::Ready(Waited::Readable);
            }
            // Once it has ended it is not asked again.
            if *this.over || this.ended.as_mut().poll(cx).is_ready() {
                *this.over = true;
                return Poll::Ready(Waited::Ended);
            }
            loop {
                ready!(this.patience.as_mut().poll(cx));
                if this.patience.deadline() >= over {
                    return Poll::Ready(end);
                }
                this.patience.as_mut().reset(over);
            }
        })
        .await
    }
}
