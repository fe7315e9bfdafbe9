//! Finds out whether a silent peer is still there.
//!
//! While streams are open a peer may be silent for good reason, or because it is gone without a
//! word: a machine that lost its power, a path that lost its state. TCP's own probes take minutes
//! and are answered by a kernel whose process hangs; a PING is answered by the HTTP/2 on the other
//! side.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// A peer with open streams that has been silent for so long is asked,
const SILENCE: Duration = Duration::from_secs(30);
/// and has so long to say anything at all.
const ANSWER: Duration = Duration::from_secs(20);

/// Watches one connection. It has no timer while no stream is open, and sets one twice a minute
/// at most.
pub(crate) struct KeepAlive {
    silence: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    heard: u64,
    asked: bool,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::after(SILENCE)
    }
}

impl KeepAlive {
    /// Asks a peer that has been silent for so long.
    pub(crate) const fn after(silence: Duration) -> Self {
        Self {
            silence,
            timer: None,
            heard: 0,
            asked: false,
        }
    }

    /// Whether no stream has been open for a while.
    pub(super) const fn is_at_rest(&self) -> bool {
        self.timer.is_none()
    }

    /// Ready when the peer is gone. `heard` is any number that grows with every byte from it,
    /// `busy` whether streams are open; `ping` asks it.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        heard: u64,
        busy: bool,
        mut ping: impl FnMut(),
    ) -> Poll<()> {
        let timer = match &mut self.timer {
            Some(timer) => timer,
            none if busy => {
                self.heard = heard;
                none.insert(Box::pin(sleep(self.silence)))
            }
            None => return Poll::Pending,
        };
        loop {
            ready!(timer.as_mut().poll(cx));
            if !busy {
                self.timer = None;
                self.asked = false;
                return Poll::Pending;
            }
            let silent = heard == self.heard;
            if silent && self.asked {
                return Poll::Ready(());
            }
            self.heard = heard;
            self.asked = silent;
            if silent {
                ping();
            }
            let patience = if silent { ANSWER } else { self.silence };
            timer.as_mut().reset(Instant::now() + patience);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use super::*;

    /// How long the peer was believed in; it speaks `words` times, `pause` apart.
    async fn lived(pause: Duration, words: u32, busy: bool) -> Option<Duration> {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::default();
        let heard = Cell::new(0);
        let speak = async {
            for _ in 0..words {
                sleep(pause).await;
                heard.set(heard.get() + 1);
            }
            sleep(Duration::from_secs(600)).await;
        };
        tokio::select! {
            biased;
            () = poll_fn(|cx| keep_alive.poll(cx, heard.get(), busy, || ())) => Some(start.elapsed()),
            () = speak => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_gone() {
        let took = lived(Duration::ZERO, 0, true).await.unwrap();
        assert!(took >= SILENCE + ANSWER && took < SILENCE + 2 * ANSWER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_something_lives() {
        let pause = Duration::from_secs(40);
        let took = lived(pause, 10, true).await.unwrap();
        assert!(took > 10 * pause);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_for_nothing() {
        assert_eq!(lived(Duration::ZERO, 0, false).await, None);
    }
}
