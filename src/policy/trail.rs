//! What the attempts of a request leave behind, for whoever asks why: also when they are cut short.
//!
//! An attempt that is well leaves a few numbers. One that fails leaves a [`Note`], and every one of a
//! request that is recorded does: they become the evidence in the access log and the spans of a
//! trace.

use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::Arc,
    time::Duration,
};

use http::Uri;
use opentelemetry::SpanId;
use tokio::time::Instant;

use super::{Answer, Held, Terms, retry::Withheld};
use crate::{
    error::Reason,
    http::message::Request,
    telemetry::{Record, TraceRef, trace::Place},
    tls::Proven,
    upstream::{Endpoint, EndpointId, InFlight, Upstream},
};

/// Of one request.
#[derive(Default)]
pub struct Trail {
    upstream: RefCell<Option<Arc<str>>>,
    endpoint: RefCell<Option<Arc<str>>>,
    endpoint_id: Cell<Option<EndpointId>>,
    attempts: Cell<u8>,
    /// What others behind the endpoints have spent beyond the one attempt each.
    behind: Cell<u8>,
    pub(super) sent_at: Cell<Option<Instant>>,
    took: Cell<Option<Duration>>,
    place: Cell<Option<Place>>,
    /// `tracestate`, of a request that is recorded.
    state: RefCell<Option<Box<[u8]>>>,
    notes: RefCell<Vec<Note>>,
    /// Where the failure is that was noted last.
    failed: Cell<Option<usize>>,
}

/// What one attempt met.
#[derive(Clone, Debug)]
pub struct Note {
    /// 1 for the first attempt made here.
    pub number: u8,
    /// Its span, where the request is recorded.
    pub span_id: Option<SpanId>,
    pub upstream: Arc<str>,
    /// `None`: there was nowhere to go.
    pub endpoint: Option<Arc<Endpoint>>,
    pub start: Instant,
    /// When its response had a head, or it failed. `None`: it is under way.
    pub end: Option<Instant>,
    pub outcome: Outcome,
    /// Why its response, of which the client has the head, is not whole.
    pub broke: Option<Reason>,
    /// What was sent, where the request is recorded.
    pub sent: Option<Sent>,
    pub line: Line,
    /// Whether its endpoint took requests when it ended.
    pub endpoint_takes: bool,
    /// What was left of the deadline for the head of the response, when it ended.
    pub left: Option<Duration>,
    /// What followed a failure.
    pub then: Option<Then>,
}

/// A request as an upstream gets it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub uri: Uri,
    /// Where it is not that of the request.
    pub host: Option<Box<[u8]>>,
    /// With TLS.
    pub secure: bool,
}

/// How an attempt went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    UnderWay,
    /// It brought a response; `failed`: one that counts as a failure.
    Status {
        code: u16,
        failed: bool,
    },
    /// The same for a call of gRPC that has ended.
    Grpc {
        code: u8,
        status: u16,
        failed: bool,
    },
    Failed(Reason),
    /// Nobody waited for it any more: another attempt was answered first, or the client left.
    Cut,
}

/// What followed a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Retried,
    Withheld(Withheld),
}

/// The connection that carried an attempt.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// It had been used before.
    pub reused: Option<bool>,
    /// HTTP/2, otherwise HTTP/1.1.
    pub http2: bool,
    /// What its handshake has shown, where there is TLS; known of recorded requests alone.
    pub proven: Option<Proven>,
}

/// An attempt under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) number: u8,
    pub(super) start: Instant,
    /// Where its note is, if the request is recorded.
    pub(super) note: Option<u8>,
}

impl Mark {
    pub(super) const fn is_recorded(self) -> bool {
        self.note.is_some()
    }
}

impl Trail {
    /// The request is for this upstream.
    pub fn upstream(&self, upstream: &Upstream) {
        *self.upstream.borrow_mut() = Some(Arc::clone(&upstream.config.name));
    }

    /// Its place in a trace.
    pub fn place(&self) -> Option<Place> {
        self.place.get()
    }

    /// Whether spans will be made of it, or may be.
    pub fn is_recorded(&self) -> bool {
        self.place.get().is_some_and(|place| place.is_recorded())
    }

    /// `tracestate` as it came.
    pub fn state(&self) -> Option<Box<[u8]>> {
        self.state.take()
    }

    pub fn set_place(&self, place: Option<Place>) {
        self.place.set(place);
    }

    /// Its lines are one list (Trace Context section 3.3.1). Kept if they are what they have to be: what
    /// is no text would spoil the message that spans are sent in. More than this need not be passed on.
    pub fn set_state<'a>(&self, lines: impl Iterator<Item = &'a [u8]>) {
        const LONGEST: usize = 512;
        let mut state = Vec::new();
        for line in lines {
            if !state.is_empty() {
                state.push(b',');
            }
            state.extend_from_slice(line);
            if state.len() > LONGEST || !state.is_ascii() {
                return;
            }
        }
        let state = (!state.is_empty()).then(|| state.into());
        self.state.replace(state);
    }

    /// An attempt begins. Where the request is recorded, the endpoint is told of a span of its own.
    pub(super) fn attempt(
        &self,
        terms: &Terms<'_>,
        request: &mut Request,
        in_flight: &InFlight,
        now: Instant,
    ) -> Mark {
        let endpoint = in_flight.endpoint();
        *self.endpoint.borrow_mut() = Some(Arc::clone(&endpoint.label));
        self.endpoint_id.set(Some(endpoint.id));
        let number = self.attempts.get().saturating_add(1);
        self.attempts.set(number);
        self.sent_at.set(Some(now));
        let mut mark = Mark {
            number,
            start: now,
            note: None,
        };
        if let (Some(tracing), Some(place)) = (terms.tracing, self.place.get())
            && place.is_recorded()
        {
            let span_id = place.child(&mut terms.client.worker.rng.borrow_mut());
            place.tell_span(span_id, &mut request.head.fields, &tracing.propagators);
            let mut notes = self.notes.borrow_mut();
            // There are hardly more of them than attempts.
            mark.note = u8::try_from(notes.len()).ok();
            // Nearly always it stays the only one.
            notes.reserve_exact(1);
            notes.push(Note {
                span_id: Some(span_id),
                sent: Some(Sent {
                    uri: request.head.uri.clone(),
                    host: terms.host(request),
                    secure: terms.upstream.tls.is_some(),
                }),
                ..Note::new(&terms.upstream.config.name, mark, Some(endpoint))
            });
        }
        mark
    }

    /// An attempt has ended so.
    pub(super) fn ended(
        &self,
        mark: Mark,
        terms: &Terms<'_>,
        endpoint: &Arc<Endpoint>,
        line: Line,
        outcome: Outcome,
    ) {
        let mut notes = self.notes.borrow_mut();
        let at = mark.note.map(usize::from).unwrap_or_else(|| {
            let upstream = &terms.upstream.config.name;
            notes.push(Note::new(upstream, mark, Some(endpoint)));
            notes.len() - 1
        });
        if outcome.is_failure() {
            self.failed.set(Some(at));
        }
        let note = &mut notes[at];
        note.outcome = outcome;
        note.line = line;
        note.endpoint_takes = endpoint.is_available();
        note.left = outcome.is_failure().then(|| left(terms)).flatten();
        note.end = Some(Instant::now());
    }

    /// Ids of the trace and of an attempt's span, if it is certain that they will be sent.
    #[inline]
    pub(super) fn exemplar(&self, mark: Mark) -> Option<(u128, u64)> {
        // First of all: most attempts have none.
        let at = usize::from(mark.note?);
        let place = self.place.get().filter(|place| !place.is_tentative())?;
        let notes = self.notes.borrow();
        let span_id = notes.get(at)?.span_id?;
        Some(TraceRef::new(place.trace_id(), span_id, true).ids())
    }

    /// The response that the client has the head of broke off at its endpoint.
    pub fn broke(&self, held: &Held, reason: Reason) {
        let now = Instant::now();
        let mut notes = self.notes.borrow_mut();
        let known = held.note().and_then(|at| notes.get_mut(at));
        if let Some(note) = known {
            (note.broke, note.end) = (Some(reason), Some(now));
            return;
        }
        let Some(in_flight) = &held.in_flight else {
            return;
        };
        let mark = Mark {
            number: held.attempt,
            start: in_flight.started(),
            note: None,
        };
        let upstream = self.upstream.borrow().clone().unwrap_or_default();
        notes.push(Note {
            end: Some(now),
            broke: Some(reason),
            endpoint_takes: in_flight.endpoint().is_available(),
            ..Note::new(&upstream, mark, Some(in_flight.endpoint()))
        });
    }

    /// There was nowhere to go.
    pub(super) fn nowhere(&self, terms: &Terms<'_>, reason: Reason, now: Instant) {
        let mark = Mark {
            number: self.attempts.get().saturating_add(1),
            start: now,
            note: None,
        };
        let mut notes = self.notes.borrow_mut();
        self.failed.set(Some(notes.len()));
        notes.push(Note {
            outcome: Outcome::Failed(reason),
            end: Some(now),
            left: left(terms),
            ..Note::new(&terms.upstream.config.name, mark, None)
        });
    }

    /// What followed the failure that was noted last.
    pub(super) fn then(&self, then: Then) {
        let mut notes = self.notes.borrow_mut();
        let failed = self.failed.get().and_then(|at| notes.get_mut(at));
        if let Some(note) = failed {
            note.then = Some(then);
        }
    }

    pub(super) fn spent_behind(&self, attempts: u8) {
        let more = attempts.saturating_sub(1);
        self.behind.set(self.behind.get().saturating_add(more));
    }

    pub(super) fn head(&self, now: Instant) {
        self.took.set(
            self.sent_at
                .get()
                .map(|sent| now.saturating_duration_since(sent)),
        );
    }

    /// An earlier answer than that of the last attempt is taken.
    pub(super) fn stands(&self, answer: &Answer) {
        if let Some(in_flight) = &answer.held.in_flight {
            *self.endpoint.borrow_mut() = Some(Arc::clone(&in_flight.endpoint().label));
        }
    }

    pub(super) fn endpoint_id(&self) -> Option<EndpointId> {
        self.endpoint_id.get()
    }

    /// How many attempts there were.
    pub fn attempts(&self) -> u8 {
        self.attempts.get()
    }

    /// The same with those of others behind: what the request has cost from here on.
    pub fn spent(&self) -> u8 {
        self.attempts.get().saturating_add(self.behind.get())
    }

    /// Where the last attempt went.
    pub fn endpoint(&self) -> Option<Arc<str>> {
        self.endpoint.borrow().clone()
    }

    /// Writes it into what is recorded of the request.
    pub fn tell(&self, record: &mut Record) {
        record.upstream = self.upstream.take();
        record.endpoint = self.endpoint.take();
        record.upstream_duration = self.took.get();
        record.attempts = self.attempts.get();
        record.evidence = self.notes.take();
        // Of a request that is not recorded they stand in the order in which they ended.
        record.evidence.sort_by_key(|note| note.number);
    }
}

impl Note {
    fn new(upstream: &Arc<str>, mark: Mark, endpoint: Option<&Arc<Endpoint>>) -> Self {
        Self {
            number: mark.number,
            span_id: None,
            upstream: Arc::clone(upstream),
            endpoint: endpoint.cloned(),
            start: mark.start,
            end: None,
            outcome: Outcome::UnderWay,
            broke: None,
            sent: None,
            line: Line::default(),
            endpoint_takes: true,
            left: None,
            then: None,
        }
    }

    /// Whether it is evidence of why the request went as it did.
    pub const fn is_failure(&self) -> bool {
        self.outcome.is_failure() || self.broke.is_some()
    }

    /// The word in logs: how it went in the end.
    pub fn word(&self) -> String {
        match self.broke {
            Some(reason) => reason.name().to_owned(),
            None => self.outcome.to_string(),
        }
    }

    /// How long it took until there was the head of a response, or a failure.
    pub fn took(&self) -> Option<Duration> {
        self.end
            .map(|end| end.saturating_duration_since(self.start))
    }
}

/// Until the deadline for the head of the response.
fn left(terms: &Terms<'_>) -> Option<Duration> {
    let left = |deadline: super::Deadline| deadline.at.saturating_duration_since(Instant::now());
    terms.deadline.map(left)
}

impl Outcome {
    /// Whether it is evidence of why a request went as it did.
    pub const fn is_failure(self) -> bool {
        match self {
            Self::UnderWay => false,
            Self::Status { failed, .. } | Self::Grpc { failed, .. } => failed,
            Self::Failed(_) | Self::Cut => true,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnderWay => f.write_str("under_way"),
            Self::Status { code, .. } => write!(f, "status_{code}"),
            Self::Grpc { code, .. } => write!(f, "grpc_status_{code}"),
            Self::Failed(reason) => reason.fmt(f),
            Self::Cut => f.write_str("cut"),
        }
    }
}

impl Then {
    /// The word in logs: `retried`, or what spoke against it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::Withheld(cause) => cause.name(),
        }
    }
}
