//! The head of the response has to come in time, whatever is waited for.
//!
//! Guards a client against an upstream that never answers. It cuts everything below it: the wait
//! for a connection, connecting, every attempt.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
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
            .map(|deadline| (timers.alarm(deadline.at), deadline));
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
        alarm: Option<(Alarm<'a>, Deadline)>,
    }
}

impl<F: Future<Output = Result<Answer>>> Future for Timed<'_, F> {
    type Output = Result<Answer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(answer) = this.inner.poll(cx) {
            return Poll::Ready(answer);
        }
        let Some((alarm, deadline)) = this.alarm else {
            return Poll::Pending;
        };
        ready!(alarm.poll(cx));
        Poll::Ready(Err(deadline.missed()))
    }
}

/// A moment, and what has run out when it comes.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    pub at: Instant,
    /// How long that was from the start.
    limit: Duration,
    bound: Bound,
}

/// Who has set a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The rule, for the head of the response.
    Request,
    /// The request, for the head of the response.
    Header,
    /// The rule, for the whole exchange.
    Total,
    /// A gRPC client, for the whole call.
    Grpc,
    /// We ourselves, for a copy that a mirror is sent.
    Copy,
}

impl Deadline {
    /// So long after `start`, which is the first byte of the request for all but copies.
    pub fn after(start: Instant, limit: Duration, bound: Bound) -> Self {
        Self {
            at: start + limit,
            limit,
            bound,
        }
    }

    /// What a request failed of when this has passed.
    pub const fn reason(self) -> Reason {
        match self.bound {
            Bound::Request | Bound::Header | Bound::Copy => Reason::RequestTimeout,
            Bound::Total | Bound::Grpc => Reason::TotalTimeout,
        }
    }

    /// The head of the response was not there in time.
    pub fn missed(self) -> Error {
        self.error("no response head")
    }

    /// The response was not over in time.
    pub fn overrun(self) -> Error {
        self.error("the exchange was not over")
    }

    fn error(self, what: &str) -> Error {
        let Self { limit, bound, .. } = self;
        let detail = format!("{what} within {limit:?} ({})", bound.name());
        Error::new(self.reason(), "").detail(detail)
    }
}

impl Bound {
    /// What a person looks for.
    const fn name(self) -> &'static str {
        match self {
            Self::Request => "timeouts.request",
            Self::Header => "asked for by the request, timeouts.header",
            Self::Total => "timeouts.total",
            Self::Grpc => "asked for by the client, grpc-timeout",
            Self::Copy => "the limit of a mirror's copy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_out_is_told_with_its_length() {
        let deadline = |bound| Deadline::after(Instant::now(), Duration::from_millis(1500), bound);
        assert_eq!(
            deadline(Bound::Request).missed().to_string(),
            "request_timeout: no response head within 1.5s (timeouts.request)"
        );
        assert_eq!(
            deadline(Bound::Grpc).overrun().to_string(),
            "total_timeout: the exchange was not over within 1.5s (asked for by the client, grpc-timeout)"
        );
    }
}
