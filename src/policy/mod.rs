//! What a matched request passes on its way to an upstream: one policy a file, one stack.
//!
//! Policy is data: layers read what the route and the upstream say, so one stack type serves all.
//! Every layer is ready at all times; load is refused by counting, never by queueing in
//! `poll_ready`.

mod alarm;
mod attempt;
mod deadline;
mod limit;
mod stack;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

pub use self::{alarm::Timers, stack::stack};
use crate::{
    error::Reason,
    http::{
        Client,
        message::{Request, Response},
    },
    telemetry::Record,
    upstream::{InFlight, RequestPermit, Upstream},
};

/// A request on its way to an upstream, and all that decides about it.
pub struct Call<'a> {
    pub request: &'a mut Request,
    pub client: &'a Rc<Client>,
    pub upstream: &'a Arc<Upstream>,
    /// When the first attempt begins.
    pub start: Instant,
    /// The head of the response has to be here by then.
    pub deadline: Option<Deadline>,
    pub trail: &'a Trail,
}

/// A moment, and what has run out when it comes.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    pub at: Instant,
    /// [`Reason::RequestTimeout`] or [`Reason::TotalTimeout`].
    pub reason: Reason,
}

/// A response's head, and what is held until its body has ended.
pub struct Answer {
    pub response: Response,
    pub held: Held,
}

/// Places in the upstream's counts.
#[derive(Default)]
pub struct Held {
    _request: Option<RequestPermit>,
    _in_flight: Option<InFlight>,
}

/// What attempts leave behind, for whoever asks why: also when they are cut short.
#[derive(Default)]
pub struct Trail {
    upstream: RefCell<Option<Arc<str>>>,
    endpoint: RefCell<Option<Arc<str>>>,
    sent_at: Cell<Option<Instant>>,
    took: Cell<Option<Duration>>,
}

impl Trail {
    /// The request is for this upstream.
    pub fn upstream(&self, upstream: &Upstream) {
        *self.upstream.borrow_mut() = Some(Arc::clone(&upstream.config.name));
    }

    fn attempt(&self, in_flight: &InFlight, now: Instant) {
        *self.endpoint.borrow_mut() = Some(Arc::clone(&in_flight.endpoint().label));
        self.sent_at.set(Some(now));
    }

    fn head(&self, now: Instant) {
        self.took.set(
            self.sent_at
                .get()
                .map(|sent| now.saturating_duration_since(sent)),
        );
    }

    /// Where the last attempt went.
    pub fn endpoint(&self) -> Option<Arc<str>> {
        self.endpoint.borrow().clone()
    }

    /// Writes it into an access log line.
    pub fn tell(&self, record: &mut Record) {
        record.upstream = self.upstream.take();
        record.endpoint = self.endpoint.take();
        record.upstream_duration = self.took.get();
    }
}
