//! A body that comes slowly on purpose.

use std::{
    fmt,
    num::NonZeroU32,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};

use super::message::{Body, Frame};
use crate::error::Result;

/// Bytes come in steps, at most so many a second.
const STEPS: u32 = 10;

/// Lets a body through at a rate.
pub struct Slow {
    pub(super) body: Body,
    /// What has come of it and was not let through yet.
    pending: Bytes,
    step: usize,
    every: Duration,
    /// What this step may still let through.
    left: usize,
    next: Pin<Box<Sleep>>,
}

impl Slow {
    pub fn body(body: Body, bytes_per_second: NonZeroU32) -> Body {
        let rate = bytes_per_second.get();
        let steps = rate.min(STEPS);
        let every = Duration::from_secs(1) / steps;
        Body::Slow(Box::new(Self {
            body,
            pending: Bytes::new(),
            step: (rate / steps) as usize,
            every,
            left: 0,
            next: Box::pin(sleep(every)),
        }))
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        while self.pending.is_empty() {
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => self.pending = data,
                other => return Poll::Ready(other),
            }
        }
        if self.left == 0 {
            ready!(self.next.as_mut().poll(cx));
            self.next.as_mut().reset(Instant::now() + self.every);
            self.left = self.step;
        }
        let length = self.left.min(self.pending.len());
        self.left -= length;
        Poll::Ready(Some(Ok(Frame::Data(self.pending.split_to(length)))))
    }

    pub fn length(&self) -> Option<u64> {
        Some(self.body.length()? + self.pending.len() as u64)
    }

    pub fn has_ended(&self) -> bool {
        self.pending.is_empty() && self.body.has_ended()
    }
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slow")
            .field("body", &self.body)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_the_time_it_is_given_and_loses_nothing() {
        for (rate, bytes) in [(1, 5), (7, 20), (100, 250), (1_000_000, 250)] {
            let text: Vec<u8> = (0..bytes).collect();
            let rate = NonZeroU32::new(rate).unwrap();
            let start = Instant::now();
            let mut body = Slow::body(Body::Full(text.clone().into()), rate);
            let mut got = Vec::new();
            assert_eq!(body.length(), Some(bytes.into()));
            while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
                let Ok(Frame::Data(data)) = frame else {
                    panic!("data only")
                };
                got.extend_from_slice(&data);
                assert_eq!(body.length(), Some(u64::from(bytes) - got.len() as u64));
            }
            assert_eq!(got, text);
            let least = f64::from(bytes) / f64::from(rate.get()) - 1.0;
            assert!(start.elapsed().as_secs_f64() >= least, "{rate}");
        }
    }
}
