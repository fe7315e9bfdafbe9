//! Where a worker's spans are made.

use std::{cell::Cell, sync::Arc};

use opentelemetry::TraceId;

use super::{Place, span::Story, told_of_connection};
use crate::{
    http::Client,
    snapshot::RoutePlan,
    telemetry::{Record, attributes::shown, clock::Clock, otlp::Outlet},
};

/// Of one worker.
#[derive(Debug)]
pub struct Tracer {
    pub outlet: Outlet,
    /// The trace that exports of this process are in.
    pub exports: TraceId,
    clock: Cell<Clock>,
}

impl Tracer {
    pub fn new(outlet: Outlet, exports: TraceId) -> Self {
        Self {
            outlet,
            exports,
            clock: Cell::new(Clock::now()),
        }
    }

    /// Makes the spans of a request that has come to its end: its own, and one for each attempt that
    /// had an endpoint. `state` is its `tracestate`, `answer` the place of the attempt whose response
    /// the client got.
    pub fn write(
        &self,
        place: &Place,
        record: &Record,
        (state, answer): (Option<&[u8]>, Option<usize>),
        client: &Client,
        route: Option<&RoutePlan>,
    ) {
        let clock = self.clock.get().refreshed(record.start + record.duration);
        self.clock.set(clock);
        let (redact, value_length) = client.worker.with_snapshot(|snapshot| {
            let config = &snapshot.config;
            (Arc::clone(&config.redact), config.span_value_length())
        });
        let host = record.authority().map(shown);
        let story = Story {
            place,
            record,
            state,
            connection: client
                .told
                .get_or_init(|| told_of_connection(client, value_length)),
            peer: client.address.is_some().then_some(&*client.address_text),
            route,
            redaction: &redact,
            start: clock.unix_nanos(record.start),
            host: host.as_deref(),
            value_length,
        };
        self.outlet.push(|out| story.server(out));
        for (at, note) in record.evidence.iter().enumerate() {
            if let Some(span_id) = note.span_id {
                let stands = answer == Some(at);
                self.outlet
                    .push(|out| story.client(note, span_id, stands, out));
            }
        }
    }
}
