//! At most so many requests of an upstream at once, over all workers.
//!
//! Guards the process and the upstream against a queue that only grows: beyond the limit a
//! request is refused while refusing is still cheap.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::{Answer, Call, Terms};
use crate::{
    error::{Error, Reason, Result},
    upstream::RequestPermit,
};

#[derive(Clone, Copy, Debug)]
pub(super) struct Limit<S>(pub(super) S);

impl<'a, S> Service<Call<'a>> for Limit<S>
where
    S: Service<Call<'a>, Response = Answer, Error = Error>,
{
    type Response = Answer;
    type Error = Error;
    type Future = Limited<'a, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, call: Call<'a>) -> Self::Future {
        match call.terms.upstream.limits.request() {
            Ok(permit) => Limited::Admitted {
                terms: call.terms,
                inner: self.0.call(call),
                permit: Some(permit),
            },
            Err(error) => {
                let Terms {
                    upstream, client, ..
                } = *call.terms;
                upstream
                    .metrics
                    .limit_refused(client.worker.id, error.reason);
                Limited::Refused { error: Some(error) }
            }
        }
    }
}

pin_project! {
    #[project = LimitedProj]
    pub(super) enum Limited<'a, F> {
        Admitted { #[pin] inner: F, permit: Option<RequestPermit>, terms: &'a Terms<'a> },
        Refused { error: Option<Error> },
    }
}

impl<F: Future<Output = Result<Answer>>> Future for Limited<'_, F> {
    type Output = Result<Answer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            LimitedProj::Admitted {
                inner,
                permit,
                terms,
            } => {
                let outcome = ready!(inner.poll(cx));
                if terms.upstream.limits.concurrency.limit().is_some() {
                    learn(terms, &outcome);
                }
                let mut answer = outcome?;
                // The place is held until the body has ended: a stream is a request too.
                answer.held._request = permit.take();
                Poll::Ready(Ok(answer))
            }
            LimitedProj::Refused { error } => Poll::Ready(Err(error
                .take()
                .expect("polled once: it was ready at once"))),
        }
    }
}

/// Tells how long an answer took, for the limit to follow. A failure that comes at once says nothing
/// of how busy the upstream is; one that comes of waiting too long does.
fn learn(terms: &Terms<'_>, outcome: &Result<Answer>) {
    let says = match outcome {
        Ok(answer) => !answer.response.head.status.is_server_error(),
        Err(error) => matches!(
            error.reason,
            Reason::RequestTimeout | Reason::TotalTimeout | Reason::AttemptTimeout
        ),
    };
    let Some(start) = terms.trail.sent_at.get().filter(|_| says) else {
        return;
    };
    let limits = &terms.upstream.limits;
    let random = terms.client.worker.rng.borrow_mut().u32(..);
    let now = Instant::now();
    limits
        .concurrency
        .answered(start, now, limits.requests(), random);
}
