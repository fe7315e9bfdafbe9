//! Which trace a request belongs to, whether it is recorded, and its spans.
//!
//! A context is read of every request once tracing is on. One that is not sampled costs no more than
//! that: there is no span object, and its spans are never made. Of one that is, spans are written at
//! its end from what the access log would say and from what its attempts noted
//! ([`Trail`](crate::policy::Trail)), straight into the bytes that a collector gets.

mod context;
pub(super) mod span;
mod tracer;

use opentelemetry::{SpanId, TraceId};

pub(crate) use self::span::{told_of_connection, told_of_route};
pub use self::{
    context::{Incoming, Outgoing},
    tracer::Tracer,
};
use crate::{
    config::model::{Propagator, Sampling, Tracing},
    http::fields::Fields,
};

/// A place in a trace: the request's own span, or, where it is not recorded, that of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRef {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
}

impl TraceRef {
    pub(crate) fn new(trace_id: TraceId, span_id: SpanId, sampled: bool) -> Self {
        Self {
            trace_id: u128::from_be_bytes(trace_id.to_bytes()),
            span_id: u64::from_be_bytes(span_id.to_bytes()),
            sampled,
        }
    }

    /// As exemplars have them.
    pub(crate) const fn ids(self) -> (u128, u64) {
        (self.trace_id, self.span_id)
    }
}

/// Where a request stands in a trace.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    incoming: Option<Incoming>,
    trace_id: TraceId,
    /// The span of the request itself.
    own: SpanId,
    sampled: bool,
    /// Recorded all the same, until it is known how it went.
    tentative: bool,
    /// An export of this very process: spans of it would be exported, and so on for ever.
    own_export: bool,
}

impl Place {
    /// Reads what the request brings, or begins a trace. `exports`: the trace of our own exports.
    pub fn begin(
        tracing: &Tracing,
        exports: TraceId,
        fields: &Fields,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let incoming = Incoming::read(fields, &tracing.propagators);
        let trace_id = match incoming.and_then(|incoming| incoming.parent) {
            Some((trace_id, _)) => trace_id,
            None => TraceId::from_bytes(rng.u128(1..).to_be_bytes()),
        };
        let mut place = Self {
            incoming,
            trace_id,
            own: span_id(rng),
            sampled: false,
            tentative: false,
            own_export: trace_id == exports || is_export(tracing, exports, fields),
        };
        place.decide(tracing.sampling, tracing);
        place
    }

    /// Decides whether it is recorded.
    pub fn decide(&mut self, sampling: Sampling, tracing: &Tracing) {
        let parent = self.incoming.and_then(|incoming| incoming.sampled);
        let trace_id = u128::from_be_bytes(self.trace_id.to_bytes());
        self.sampled = !self.own_export && sampling.takes(parent, trace_id);
        let may_keep = tracing.keep.is_on() && sampling != Sampling::NEVER;
        self.tentative = !self.sampled && !self.own_export && may_keep;
    }

    /// It is known how the request went: whether one that was not sampled is kept all the same.
    pub fn settle(&mut self, keep: bool) {
        self.sampled |= keep;
        self.tentative = false;
    }

    pub const fn is_recorded(&self) -> bool {
        self.sampled || self.tentative
    }

    /// Whether it is to be recorded only if it goes wrong.
    pub const fn is_tentative(&self) -> bool {
        self.tentative
    }

    pub const fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    pub const fn span_id(&self) -> SpanId {
        self.own
    }

    /// The sender's span.
    pub fn parent(&self) -> Option<SpanId> {
        let (_, span_id) = self.incoming?.parent?;
        Some(span_id)
    }

    /// Whether `tracestate` belongs to this trace.
    pub fn has_state(&self) -> bool {
        let form = self.incoming.map(|incoming| incoming.form);
        form == Some(Propagator::TraceContext)
    }

    /// The id of a span below this one.
    pub fn child(&self, rng: &mut fastrand::Rng) -> SpanId {
        span_id(rng)
    }

    /// Tells the next hop, before there is an attempt with a span of its own: of a recorded request
    /// that is only for those who get a copy of it.
    pub fn tell(&self, fields: &mut Fields, forms: &[Propagator], copied: bool) {
        if forms.contains(&Propagator::TraceContext) && !self.has_state() {
            // It belonged to a context that is broken, or to another trace than this one.
            context::forget_state(fields);
        }
        if self.is_recorded() {
            if copied {
                self.tell_span(self.own, fields, forms);
            }
            return;
        }
        match self.incoming {
            // Nobody here takes part: what came goes on as it is.
            Some(incoming) if forms == [incoming.form] && incoming.sampled.is_some() => {}
            _ => {
                let passed_on = self.incoming.and_then(|incoming| incoming.sampled);
                let outgoing = self.outgoing(self.parent().unwrap_or(self.own));
                let sampled = passed_on.unwrap_or(false);
                Outgoing {
                    sampled,
                    ..outgoing
                }
                .write(fields, forms);
            }
        }
    }

    /// Tells the next hop of the span that sends to it.
    pub fn tell_span(&self, span_id: SpanId, fields: &mut Fields, forms: &[Propagator]) {
        self.outgoing(span_id).write(fields, forms);
    }

    fn outgoing(&self, span_id: SpanId) -> Outgoing {
        let incoming = self.incoming.as_ref();
        Outgoing {
            trace_id: self.trace_id,
            span_id,
            sampled: self.sampled,
            debug: incoming.is_some_and(|incoming| incoming.debug),
            // An id of our own is.
            random: match incoming {
                Some(incoming) if incoming.parent.is_some() => incoming.is_random(),
                _ => true,
            },
        }
    }

    /// The flags of its spans (OTLP): those of the trace, that it is known where the parent is, and
    /// whether it is `remote`.
    pub fn flags(&self, remote: bool) -> u32 {
        const PARENT_IS_KNOWN: u32 = 0x100;
        const PARENT_IS_REMOTE: u32 = 0x200;
        let flags = u32::from(self.outgoing(self.own).flags()) | PARENT_IS_KNOWN;
        flags | if remote { PARENT_IS_REMOTE } else { 0 }
    }

    /// What the access log and exemplars say of it.
    pub fn reference(&self) -> TraceRef {
        let span_id = match self.parent() {
            Some(parent) if !self.is_recorded() => parent,
            _ => self.own,
        };
        TraceRef::new(self.trace_id, span_id, self.sampled)
    }
}

/// Where no context is read, those of our own exports are still to be known.
fn is_export(tracing: &Tracing, exports: TraceId, fields: &Fields) -> bool {
    let read = |fields| Incoming::read_any(fields)?.parent;
    tracing.propagators.is_empty() && read(fields).is_some_and(|(trace, _)| trace == exports)
}

fn span_id(rng: &mut fastrand::Rng) -> SpanId {
    SpanId::from_bytes(rng.u64(1..).to_be_bytes())
}
