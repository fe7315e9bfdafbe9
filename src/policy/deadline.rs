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
use tower::Service;

use super::{Answer, Call, alarm::Alarm};
use crate::error::{Error, Reason, Result};

#[derive(Clone, Copy, Debug)]
pub(super) struct DeadlineService<S>(pub(super) S);

impl<'a, S> Service<Call<'a>> for DeadlineService<S>
where
    S: Service<Call<'a>, Response = Answer, Error = Error>,
{
    type Response = Answer;
    type Error = Error;
    type Future = Timed<'a, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, call: Call<'a>) -> Self::Future {
        let timers = &call.terms.client.worker.timers;
        let alarm = call
            .terms
            .deadline
            .map(|deadline| (timers.alarm(deadline.at), deadline.reason));
        Timed {
            inner: self.0.call(call),
            alarm,
        }
    }
}

pin_project! {
    pub(super) struct Timed<'a, F> {
        #[pin]
        inner: F,
        // Polled only when something has to be waited for.
        alarm: Option<(Alarm<'a>, Reason)>,
    }
}

impl<F: Future<Output = Result<Answer>>> Future for Timed<'_, F> {
    type Output = Result<Answer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.inner.poll(cx) {
            return Poll::Ready(answer);
        }
        let Some((alarm, reason)) = this.alarm else {
            return Poll::Pending;
        };
        ready!(alarm.poll(cx));
        Poll::Ready(Err(missed(*reason)))
    }
}

/// What is told where a deadline has passed.
pub fn missed(reason: Reason) -> Error {
    Error::new(
        reason,
        match reason {
            Reason::TotalTimeout => "no response head within the total timeout",
            _ => "no response head within the request timeout",
        },
    )
}
