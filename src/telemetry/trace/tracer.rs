//! Where a worker's spans are made.

use std::{cell::Cell, sync::Arc};

use super::{Place, span::Story, told_of_connection};
use crate::{
    http::Client,
    policy::{Note, Outcome},
    snapshot::RoutePlan,
    telemetry::{Record, attributes::shown, clock::Clock, otlp::Outlet},
};

/// Of one worker.
#[derive(Debug)]
pub struct Tracer {
    pub outlet: Outlet,
    clock: Cell<Clock>,
}

impl Tracer {
    pub fn new(outlet: Outlet) -> Self {
        Self {
            outlet,
            clock: Cell::new(Clock::now()),
        }
    }

    /// Makes the spans of a request that has come to its end: its own, and one for each attempt that
    /// had an endpoint. `state` is its `tracestate`.
    pub fn write(
        &self,
        place: &Place,
        record: &Record,
        state: Option<&[u8]>,
        client: &Client,
        route: Option<&RoutePlan>,
    ) {
        let clock = self.clock.get().refreshed(record.start + record.duration);
        self.clock.set(clock);
        let redact = client
            .worker
            .with_snapshot(|snapshot| Arc::clone(&snapshot.config.redact));
        let host = record.authority().map(shown);
        let story = Story {
            place,
            record,
            state,
            connection: client.told.get_or_init(|| told_of_connection(client)),
            route,
            redaction: &redact,
            start: clock.unix_nanos(record.start),
            host: host.as_deref(),
        };
        self.outlet.push(|out| story.server(out));
        for note in &record.evidence {
            if let Some(span_id) = note.span_id {
                self.outlet
                    .push(|out| story.client(note, span_id, is_winner(note), out));
            }
        }
    }
}

/// Whether the client got this attempt's response: those that were not taken have ended before.
fn is_winner(note: &Note) -> bool {
    note.end.is_none() && note.outcome != Outcome::UnderWay
}
