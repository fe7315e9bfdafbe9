//! The two clocks of a body: no progress for too long, and the whole taking too long.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

use crate::{
    error::Error,
    policy::{Deadline, IdleLimit},
};

/// What a route allows.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    pub idle: IdleLimit,
    pub deadline: Option<Deadline>,
}

/// Watches one exchange. It sets no timer before something has to be waited for, and reads no
/// clock in between: a body that never waits costs nothing.
#[derive(Debug)]
pub struct Pace {
    pacing: Pacing,
    timer: Option<Pin<Box<Sleep>>>,
    seen: u64,
}

impl Pace {
    pub const fn new(pacing: Pacing) -> Self {
        Self {
            pacing,
            timer: None,
            seen: 0,
        }
    }

    /// Ready when time is up. `progress` is any number that grows with every byte moved.
    ///
    /// An exchange is ended between one and two idle timeouts after its last byte.
    pub fn poll(&mut self, cx: &mut Context<'_>, progress: u64) -> Poll<Error> {
        if self.pacing.idle.limit.is_zero() && self.pacing.deadline.is_none() {
            return Poll::Pending;
        }
        loop {
            let timer = match &mut self.timer {
                Some(timer) => timer,
                none => {
                    self.seen = progress;
                    none.insert(Box::pin(tokio::time::sleep_until(self.pacing.next())))
                }
            };
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if let Some(deadline) = self.pacing.deadline
                && deadline.at <= now
            {
                return Poll::Ready(deadline.overrun());
            }
            if progress == self.seen {
                return Poll::Ready(self.pacing.idle.error());
            }
            self.timer = None;
        }
    }
}

impl Pacing {
    fn next(&self) -> Instant {
        let IdleLimit { limit, .. } = self.idle;
        let idle = (!limit.is_zero()).then(|| Instant::now() + limit);
        match (idle, self.deadline.map(|deadline| deadline.at)) {
            (Some(idle), Some(deadline)) => idle.min(deadline),
            (Some(only), None) | (None, Some(only)) => only,
            // `poll` has turned back before.
            (None, None) => Instant::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{error::Reason, policy::Bound};

    const IDLE: IdleLimit = IdleLimit {
        limit: Duration::from_secs(5),
        key: "timeouts.idle",
    };

    async fn ended(pacing: Pacing, mut progress: impl FnMut() -> u64) -> (Reason, Duration) {
        let start = Instant::now();
        let mut pace = Pace::new(pacing);
        let error = std::future::poll_fn(|cx| pace.poll(cx, progress())).await;
        (error.reason, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_an_exchange() {
        let pacing = Pacing {
            idle: IDLE,
            deadline: None,
        };
        let (reason, took) = ended(pacing, || 7).await;
        assert_eq!(reason, Reason::IdleTimeout);
        assert!(took >= Duration::from_secs(5) && took <= Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn progress_does_not_outrun_the_total() {
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(60), Bound::Total);
        let mut bytes = 0;
        let (reason, took) = ended(
            Pacing {
                idle: IDLE,
                deadline: Some(deadline),
            },
            || {
                bytes += 1;
                bytes
            },
        )
        .await;
        assert_eq!(reason, Reason::TotalTimeout);
        assert!(took >= Duration::from_secs(60));
    }
}
