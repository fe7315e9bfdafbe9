//! The head of the response has to come in time, whatever is waited for.
//!
//! Guards a client against an upstream that never answers. It cuts everything below it: the wait
//! for a connection, connecting, every attempt.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};
use tower::Service;

use super::{Answer, Call, Deadline};
use crate::error::{Error, Reason, Result};

#[derive(Clone, Copy, Debug)]
pub(super) struct DeadlineService<S>(pub(super) S);

impl<'a, S> Service<Call<'a>> for DeadlineService<S>
where
    S: Service<Call<'a>, Response = Answer, Error = Error>,
{
    type Response = Answer;
    type Error = Error;
    type Future = Timed<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, call: Call<'a>) -> Self::Future {
        let deadline = call.deadline;
        Timed {
            inner: self.0.call(call),
            deadline,
            timer: None,
        }
    }
}

pin_project! {
    pub(super) struct Timed<F> {
        #[pin]
        inner: F,
        deadline: Option<Deadline>,
        // Made only when something has to be waited for.
        #[pin]
        timer: Option<Sleep>,
    }
}

impl<F: Future<Output = Result<Answer>>> Future for Timed<F> {
    type Output = Result<Answer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(answer) = this.inner.poll(cx) {
            return Poll::Ready(answer);
        }
        let Some(deadline) = *this.deadline else {
            return Poll::Pending;
        };
        if this.timer.is_none() {
            this.timer.set(Some(sleep_until(deadline.at)));
        }
        if let Some(timer) = this.timer.as_pin_mut() {
            ready!(timer.poll(cx));
        }
        Poll::Ready(Err(Error::new(
            deadline.reason,
            match deadline.reason {
                Reason::TotalTimeout => "no response head within the total timeout",
                _ => "no response head within the request timeout",
            },
        )))
    }
}
