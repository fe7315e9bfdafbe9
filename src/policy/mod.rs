//! What a matched request passes on its way to an upstream: one policy a file, one stack.
//!
//! Policy is data: layers read what the route and the upstream say, so one stack type serves all.
//! Every layer is ready at all times; load is refused by counting, never by queueing in
//! `poll_ready`.

mod alarm;
mod attempt;
mod attempts;
mod deadline;
mod hedge;
mod idle;
mod limit;
pub mod retry;
mod spare;
mod stack;
mod trail;

use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::HeaderName;
use tokio::time::Instant;

use self::retry::Withheld;
pub use self::{
    alarm::Timers,
    deadline::{Bound, Deadline},
    idle::IdleLimit,
    spare::Spare,
    stack::stack,
    trail::{Line, Note, Outcome, Sent, Then, Trail},
};
use crate::{
    config::model::{Retry, Tracing},
    error::Reason,
    http::{
        Client, grpc,
        message::{Frame, Request, Response},
        name,
    },
    upstream::{InFlight, RequestPermit, Upstream, Verdict},
};

/// A request on its way to an upstream, and all that decides about it.
pub struct Call<'a> {
    pub request: &'a mut Request,
    pub terms: &'a Terms<'a>,
}

/// On which terms a request goes to an upstream: the same for all its attempts.
pub struct Terms<'a> {
    pub client: &'a Rc<Client>,
    pub upstream: &'a Arc<Upstream>,
    /// When the first attempt begins.
    pub start: Instant,
    /// The head of the response has to be here by then.
    pub deadline: Option<Deadline>,
    /// The whole exchange has to be over by then.
    pub total: Option<Instant>,
    /// How long one attempt may take to the head of its response. Zero: none.
    pub attempt_timeout: Duration,
    /// A header that tells the upstream what is left of the deadline.
    pub deadline_header: Option<&'a HeaderName>,
    pub retry: &'a Retry,
    /// Attempts that others on the way have spent on the request.
    pub spent: u8,
    /// It is a gRPC call.
    pub grpc: bool,
    /// See [`Wish::key`](crate::upstream::Wish::key).
    pub key: Option<u64>,
    /// `None`: nobody asks for traces.
    pub tracing: Option<&'a Tracing>,
    /// The rule rewrites the host.
    pub other_host: bool,
    pub trail: &'a Trail,
}

impl Terms<'_> {
    fn is_idempotent(&self, request: &Request) -> bool {
        retry::is_idempotent(self.retry, &request.head, self.grpc)
    }

    /// No attempt follows the one that failed last, for this reason.
    fn withheld(&self, cause: Withheld) {
        self.trail.then(Then::Withheld(cause));
        let metrics = &self.upstream.metrics;
        metrics.retry_withheld(self.client.worker.id, cause);
    }

    /// The host that the request is sent with, if it is not the one that it came with.
    fn host(&self, request: &Request) -> Option<Box<[u8]>> {
        let host = || request.head.fields.get(&name::HOST).map(Box::from);
        self.other_host.then(host).flatten()
    }

    /// Tells the upstream the time that it has, as of this attempt.
    fn tell_deadline(&self, request: &mut Request, now: Instant) {
        let fields = &mut request.head.fields;
        if self.grpc
            && let Some(total) = self.total
        {
            let left = total.saturating_duration_since(now);
            fields.insert(&name::GRPC_TIMEOUT, grpc::write_timeout(left).as_bytes());
        }
        if let (Some(header), Some(deadline)) = (self.deadline_header, self.deadline) {
            let left = deadline.at.saturating_duration_since(now).as_millis();
            fields.insert(header, left.to_string().as_bytes());
        }
    }
}

/// A response's head, and what is held until its body has ended.
#[derive(Debug)]
pub struct Answer {
    pub response: Response,
    pub held: Held,
}

impl Answer {
    /// Lets go of a response that nobody wants: what has come of it is read, so that its connection
    /// can be used again if that was all.
    pub fn let_go(answer: Option<Self>) {
        let Some(mut answer) = answer else { return };
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = 0;
        while read < LET_GO
            && let Poll::Ready(Some(Ok(frame))) = answer.response.body.poll_frame(&mut cx)
        {
            if let Frame::Data(data) = frame {
                read += data.len();
            }
        }
    }
}

/// Bytes of a response that are read for its connection's sake.
const LET_GO: usize = 64 * 1024;

/// Places in the upstream's counts.
#[derive(Debug, Default)]
pub struct Held {
    _request: Option<RequestPermit>,
    in_flight: Option<InFlight>,
    /// The number of the attempt that brought the answer.
    attempt: u8,
    /// Where its note is, if the request is recorded.
    note: Option<u8>,
    /// The endpoint waits for a verdict: a gRPC call tells how it went at its end.
    is_open: bool,
}

impl Held {
    /// Which of the attempts' notes is that of the answer.
    pub fn note(&self) -> Option<usize> {
        self.note.map(usize::from)
    }

    /// The call that is answered ended with this gRPC status.
    pub fn ended(&self, code: u8) {
        if let Some(in_flight) = self.in_flight.as_ref().filter(|_| self.is_open) {
            in_flight.settle(retry::verdict_of_grpc(code), Instant::now());
        }
    }

    /// The response broke off and it was not us who failed, which a worker counts as the endpoint's
    /// failure. Where time ran out it may have been the client who took nothing more.
    pub fn broke(&self, worker: usize, reason: Reason) {
        let Some(in_flight) = &self.in_flight else {
            return;
        };
        in_flight.settle(Verdict::Failure, Instant::now());
        let ran_out = matches!(reason, Reason::IdleTimeout | Reason::TotalTimeout);
        if let Some(metrics) = in_flight.endpoint().metrics.get()
            && !ran_out
        {
            metrics.broke(worker, reason);
        }
    }
}
