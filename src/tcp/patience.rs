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

/// A connection that is open for so long will stay: what only such ones need is done then.
const SETTLES: Duration = Duration::from_secs(10);

/// What comes with time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// The connection is one that stays. Told once.
    Settled,
    /// Nothing was active for long enough.
    Overdue,
}

pin_project_lite::pin_project! {
    /// Tells how a connection ages. Activity only notes the time: the timer itself is moved when it
    /// fires, since moving it for each read would cost more than the read.
    pub(super) struct IdleTimer {
        patience: Patience,
        last: Instant,
        settles: Option<Instant>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl IdleTimer {
    pub(super) fn new(patience: Patience) -> Self {
        let now = Instant::now();
        Self {
            patience,
            last: now,
            settles: Some(now + SETTLES),
            sleep: None,
        }
    }

    pub(super) fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        active: bool,
        half_closed: bool,
    ) -> Poll<Moment> {
        let mut this = self.project();
        if active {
            *this.last = Instant::now();
        }
        let limit = if half_closed {
            this.patience.half_closed
        } else {
            this.patience.idle
        };
        let due = (!limit.is_zero()).then(|| *this.last + limit);
        loop {
            let Some(next) = due.into_iter().chain(*this.settles).min() else {
                return Poll::Pending;
            };
            match this.sleep.as_mut().as_pin_mut() {
                // One that is too early is moved when it fires.
                Some(sleep) if sleep.deadline() <= next => {
                    ready!(sleep.poll(cx));
                    let now = Instant::now();
                    if due.is_some_and(|due| now >= due) {
                        return Poll::Ready(Moment::Overdue);
                    }
                    this.sleep.set(None);
                    if this.settles.take_if(|settles| now >= *settles).is_some() {
                        return Poll::Ready(Moment::Settled);
                    }
                }
                _ => this.sleep.set(Some(sleep_until(next))),
            }
        }
    }
}
