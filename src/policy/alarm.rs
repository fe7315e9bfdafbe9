//! Timers for what hardly ever happens.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers kept by a worker for the next who wait; more are dropped.
const KEPT: usize = 128;

/// A worker's spare timers.
///
/// Nearly every request waits under a deadline, and nearly none meets it. Setting a timer and
/// taking it back costs as much as reading a head, so a timer stays set when it is given back, and
/// the next who waits takes it as it is: it goes off too early for them, if at all, and is then
/// moved. Whom it was set for may be woken for nothing by that, once.
#[derive(Default)]
pub struct Timers(RefCell<Vec<Pin<Box<Sleep>>>>);

impl Timers {
    /// Goes off at `at`.
    pub const fn alarm(&self, at: Instant) -> Alarm<'_> {
        Alarm {
            at,
            timer: None,
            spare: self,
        }
    }

    /// A timer that goes off at `at` or before.
    fn take(&self, at: Instant) -> Pin<Box<Sleep>> {
        let Some(mut timer) = self.0.borrow_mut().pop() else {
            return Box::pin(sleep_until(at));
        };
        if timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        timer
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers").finish_non_exhaustive()
    }
}

/// One wait. It has a timer from its first poll on.
#[derive(Debug)]
pub struct Alarm<'t> {
    at: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    spare: &'t Timers,
}

impl Alarm<'_> {
    /// Ready when its time has come.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| self.spare.take(self.at));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= self.at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.at);
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        let mut spare = self.spare.0.borrow_mut();
        if let Some(timer) = self.timer.take()
            && spare.len() < KEPT
        {
            spare.push(timer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    const SHORT: Duration = Duration::from_secs(2);
    const LONG: Duration = Duration::from_secs(10);

    /// How long a wait takes that begins with a spare timer set to go off after `set`.
    async fn waited(set: Duration, passed: Duration, wait: Duration) -> Duration {
        let timers = Timers::default();
        let mut first = timers.alarm(Instant::now() + set);
        assert!(poll_fn(|cx| Poll::Ready(first.poll(cx))).await.is_pending());
        drop(first);
        tokio::time::sleep(passed).await;
        let start = Instant::now();
        let mut alarm = timers.alarm(start + wait);
        poll_fn(|cx| alarm.poll(cx)).await;
        drop(alarm);
        assert_eq!(timers.0.borrow().len(), 1, "it was the same timer");
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_spare_timer_goes_off_in_the_new_time() {
        let at_once = Duration::ZERO;
        // That goes off too early, too late, has gone off already.
        assert_eq!(waited(SHORT, at_once, LONG).await, LONG);
        assert_eq!(waited(LONG, at_once, SHORT).await, SHORT);
        assert_eq!(waited(SHORT, LONG, SHORT).await, SHORT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_was_never_polled_has_no_timer() {
        let timers = Timers::default();
        drop(timers.alarm(Instant::now()));
        assert!(timers.0.borrow().is_empty());
    }
}
