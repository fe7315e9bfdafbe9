//! How long a connection may carry nothing.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// How long nothing may happen. Zero: for ever.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// No byte in either direction.
    pub idle: Duration,
    /// The same once one side has said that it sends no more.
    pub half_closed: Duration,
}

pin_project_lite::pin_project! {
    /// Runs out when nothing was active for long enough. Activity only notes the time: the timer
    /// itself is moved when it fires, since moving it for each read would cost more than the read.
    pub(super) struct IdleTimer {
        patience: Patience,
        last: Instant,
        half_closed: bool,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl IdleTimer {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            last: Instant::now(),
            half_closed: false,
            sleep: None,
        }
    }

    pub(super) fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        active: bool,
        half_closed: bool,
    ) -> Poll<()> {
        let mut this = self.project();
        if active {
            *this.last = Instant::now();
        }
        if half_closed != *this.half_closed {
            // The limit is another one now.
            *this.half_closed = half_closed;
            this.sleep.set(None);
        }
        let limit = if half_closed {
            this.patience.half_closed
        } else {
            this.patience.idle
        };
        if limit.is_zero() {
            return Poll::Pending;
        }
        let due = *this.last + limit;
        loop {
            match this.sleep.as_mut().as_pin_mut() {
                None => this.sleep.set(Some(sleep_until(due))),
                Some(sleep) => {
                    ready!(sleep.poll(cx));
                    if Instant::now() >= due {
                        return Poll::Ready(());
                    }
                    this.sleep.set(None);
                }
            }
        }
    }
}
