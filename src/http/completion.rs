//! The end of an exchange: counted and logged exactly once, however it ends.

use std::{borrow::Cow, num::NonZeroU32, rc::Rc, sync::Arc};

use http::Method;
use tokio::time::Instant;

use super::{
    Client, fields::Fields, message::ResponseHead, name, pace::Pacing, request_id::RequestId,
};
use crate::{
    access::Standing,
    config::model::{Sampling, Tracing},
    error::{Error, LocalReply, Origin, Reason},
    policy::{Deadline, Held, IdleLimit, Note, Trail},
    protect::FaultKind,
    snapshot::RoutePlan,
    telemetry::{Record, TraceRef, access_log::Protocol, metrics::Done, trace::Place},
};

/// Travels with a response to its last byte. Dropped before [`Completion::done`] or
/// [`Completion::failed`], it records that the client left.
///
/// Boxed: it moves through every stage of an exchange, and moves as a pointer.
pub struct Completion(Box<Inner>);

struct Inner {
    client: Rc<Client>,
    record: Record,
    trail: Trail,
    route: Option<Arc<RoutePlan>>,
    standing: Standing,
    held: Option<Held>,
    deadline: Option<Deadline>,
    /// Bytes of the response's body a second.
    slowness: Option<NonZeroU32>,
    /// The client is told nothing.
    cut: bool,
    open: bool,
}

impl Completion {
    pub fn new(client: Rc<Client>, protocol: Protocol, start: Instant) -> Self {
        // The newest name: a reload may have given the socket another one.
        let plan = client.plan();
        let record = Record::new(Arc::clone(&plan.config.name), protocol, start);
        Self(Box::new(Inner {
            client,
            record,
            trail: Trail::default(),
            route: None,
            standing: Standing::new(plan.generation),
            held: None,
            deadline: None,
            slowness: None,
            cut: false,
            open: true,
        }))
    }

    /// What is known of the request itself.
    pub fn record(&mut self) -> &mut Record {
        &mut self.0.record
    }

    /// What the attempts leave behind.
    pub fn trail(&self) -> &Trail {
        &self.0.trail
    }

    /// Finds the request's place in a trace.
    pub fn trace(&mut self, tracing: &Tracing, fields: &Fields) {
        let worker = &self.0.client.worker;
        let exports = worker.tracer.exports;
        let place = Place::begin(tracing, exports, fields, &mut worker.rng.borrow_mut());
        self.place(place, fields);
    }

    fn place(&mut self, place: Place, fields: &Fields) {
        let trail = &self.0.trail;
        trail.set_place(Some(place));
        if place.is_recorded() && place.has_state() {
            trail.set_state(fields.get_all(&name::TRACESTATE));
        }
    }

    /// Its rule has an own mind about which requests are recorded.
    pub fn resample(&mut self, tracing: &Tracing, sampling: Sampling, fields: &Fields) {
        if let Some(mut place) = self.0.trail.place() {
            place.decide(sampling, tracing);
            self.place(place, fields);
        }
    }

    /// The request met this rule.
    pub fn matched(&mut self, route: &Arc<RoutePlan>, deadline: Option<Deadline>) {
        route.metrics.request_started(self.0.client.worker.id);
        self.0.record.route = Some(Arc::clone(&route.name));
        self.0.route = Some(Arc::clone(route));
        self.0.deadline = deadline;
    }

    /// When the whole exchange has to be over.
    pub fn deadline(&self) -> Option<Deadline> {
        self.0.deadline
    }

    /// Under which policy the request was let in.
    pub fn standing(&mut self) -> &mut Standing {
        &mut self.0.standing
    }

    /// The same, for whoever asks while this is in other hands.
    pub fn take_standing(&mut self) -> Standing {
        let none = Standing::new(u64::MAX);
        std::mem::replace(&mut self.0.standing, none)
    }

    /// Gives it back.
    pub fn stand(&mut self, standing: Standing) {
        self.0.standing = standing;
    }

    /// Why the exchange may no longer go on, if the policy has changed so.
    pub fn refused(&mut self) -> Option<Error> {
        let inner = &mut *self.0;
        inner
            .standing
            .refused(&inner.client.conn, &inner.client.worker)
    }

    /// Keeps what the request holds of its upstream until the end.
    pub fn hold(&mut self, held: Held) {
        self.0.held = Some(held);
    }

    pub fn request_id(&self) -> Option<&RequestId> {
        self.0.record.request_id.as_ref()
    }

    /// The client is being told this.
    pub fn answered(&mut self, head: &ResponseHead) {
        let inner = &mut *self.0;
        if inner.cut {
            return;
        }
        let record = &mut inner.record;
        record.status = Some(head.status);
        let log = &inner.client.worker.access_log;
        log.take_response_headers(record, &head.fields);
    }

    /// Why Pillion answered by itself, or had to break off.
    pub fn blame(&mut self, error: &Error) {
        self.0.record.reason = Some(error.reason);
        self.0.record.detail = Cow::Owned(match &error.source {
            Some(source) if error.detail.is_empty() => source.to_string(),
            Some(source) => format!("{}: {source}", error.detail),
            None => error.detail.to_string(),
        });
    }

    /// A rule answers the request.
    pub fn replied(&mut self, reply: LocalReply) {
        let inner = &mut *self.0;
        inner.record.local_reply = Some(reply);
        if let Some(route) = &inner.route {
            route.metrics.replied(inner.client.worker.id, reply);
        }
    }

    /// The request has met a fault that was injected.
    pub fn injected(&mut self, kind: FaultKind) {
        let inner = &mut *self.0;
        if let Some(route) = &inner.route {
            route.metrics.fault_injected(inner.client.worker.id, kind);
        }
        inner.record.slowed |= matches!(kind, FaultKind::Delay | FaultKind::SlowBody);
    }

    /// The response's body is to come at this rate.
    pub fn slow_down(&mut self, bytes_per_second: NonZeroU32) {
        self.0.slowness = Some(bytes_per_second);
    }

    /// See [`Completion::slow_down`].
    pub fn slowness(&self) -> Option<NonZeroU32> {
        self.0.slowness
    }

    /// In place of a response the client gets a reset.
    pub fn cut(&mut self) {
        self.0.cut = true;
    }

    /// See [`Completion::cut`].
    pub fn is_cut(&self) -> bool {
        self.0.cut
    }

    /// Bytes of the two bodies.
    pub fn bytes(&mut self, received: u64, sent: u64) {
        self.0.record.bytes_received = received;
        self.0.record.bytes_sent = sent;
    }

    /// What the route allows the rest of the exchange.
    pub fn pacing(&self) -> Pacing {
        // An answer without a route is short, and to be taken in the time that a head may take.
        let idle = self.0.route.as_ref().map_or_else(
            || IdleLimit {
                limit: self.0.client.limits().head_timeout,
                key: "http.headTimeout",
            },
            |route| IdleLimit::of(&route.timeouts),
        );
        Pacing {
            idle,
            deadline: self.0.deadline,
        }
    }

    /// The gRPC status that trailers told, if there were any.
    pub fn ended(&mut self, status: Option<u8>) {
        self.0.record.grpc_status = status.or(self.0.record.grpc_status);
        if let (Some(code), Some(held)) = (status, &self.0.held) {
            held.ended(code);
        }
    }

    /// Everything has been written.
    pub fn done(mut self) {
        self.finish();
    }

    /// It broke off after the head. What the head has told of stays the reason.
    pub fn failed(mut self, error: &Error) {
        if self.0.record.reason.is_none() {
            self.blame(error);
        }
        if let (Origin::Upstream, Some(held)) = (error.reason.row().origin, &self.0.held) {
            held.broke(self.0.client.worker.id, error.reason);
            self.0.trail.broke(held, error.reason);
        }
        self.finish();
    }

    fn finish(&mut self) {
        let inner = &mut *self.0;
        if !std::mem::take(&mut inner.open) {
            return;
        }
        let worker = &inner.client.worker;
        let record = &mut inner.record;
        record.duration = record.start.elapsed();
        let place = inner.trail.place().map(|mut place| {
            let keep = place.is_tentative() && keeps(&inner.client, record);
            place.settle(keep);
            record.trace = Some(place.reference());
            place
        });
        let sampled = place.filter(Place::is_recorded);
        let trace = sampled.and(record.trace).map(TraceRef::ids);
        let status = record.status.map_or(0, |status| status.as_u16());
        if let Some(route) = &inner.route {
            let done = Done {
                method: record.method.as_ref().unwrap_or(&Method::GET),
                status,
                grpc_status: record.grpc_status,
                reason: record.reason,
                protocol: record.protocol,
                secured: inner.client.is_secured(),
                duration: record.duration,
                bytes_in: record.bytes_received,
                bytes_out: record.bytes_sent,
                trace,
            };
            route.metrics.request_done(worker.id, &done);
        } else if let Some(reason) = record.reason {
            inner
                .client
                .conn
                .plan
                .metrics
                .refused_head(worker.id, reason, trace);
        }
        if let Some(peer) = &inner.client.peer {
            peer.request_done(worker.id, status);
        }
        let logged = worker.access_log.is_enabled();
        if logged || sampled.is_some() {
            inner.trail.tell(record);
            record.peer = Some(inner.client.conn.source());
            record.identity = inner.client.conn.identity();
        }
        if let Some(place) = sampled {
            let (state, route) = (inner.trail.state(), inner.route.as_deref());
            let tracer = &worker.tracer;
            let answer = inner.held.as_ref().and_then(Held::note);
            let spans = (state.as_deref(), answer);
            tracer.write(&place, record, spans, &inner.client, route);
        }
        if logged {
            record.pattern = inner.route.as_ref().and_then(|route| route.pattern.clone());
            if !record.evidence.iter().any(Note::is_failure) {
                record.evidence.clear();
            }
            record.trace = record
                .trace
                .or_else(|| record.own_trace(&mut worker.rng.borrow_mut()));
            worker.access_log.write(record);
        }
        inner.held = None;
    }
}

/// The tail decision: whether a request that was not sampled is kept for how it went.
fn keeps(client: &Client, record: &Record) -> bool {
    let plan = client.plan();
    let keep = plan.tracing.as_ref().map(|tracing| tracing.keep);
    keep.is_some_and(|keep| keep.takes(record.error_type().is_some(), record.duration))
}

impl Drop for Completion {
    fn drop(&mut self) {
        if self.0.open {
            if self.0.record.reason.is_none() {
                let client = &self.0.client;
                let (reason, detail) = match client.worker.cuts(&client.conn) {
                    _ if client.is_cut() => (
                        Reason::IdentityRotated,
                        "cut: a certificate or the trust in the client came to its end",
                    ),
                    true => (Reason::Draining, "cut: the drain came to its end"),
                    false => (Reason::ClientClosed, "the client left"),
                };
                self.0.record.reason = Some(reason);
                self.0.record.detail = Cow::Borrowed(detail);
            }
            self.finish();
        }
    }
}
