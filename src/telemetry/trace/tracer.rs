//! Where a worker's spans are made.

use std::cell::Cell;

use super::{Place, span::Story};
use crate::{
    policy::{Note, Outcome},
    telemetry::{Record, Redaction, clock::Clock, otlp::Outlet},
    tls::Leash,
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
    /// had an endpoint. `state` is its `tracestate`, `peer` its client's address, `leash` how that
    /// one's connection is held.
    pub fn write(
        &self,
        place: &Place,
        record: &Record,
        state: Option<&[u8]>,
        (peer, leash): (&str, Option<&Leash>),
        redaction: &Redaction,
    ) {
        let clock = self.clock.get().refreshed(record.start + record.duration);
        self.clock.set(clock);
        let story = Story {
            place,
            record,
            state,
            peer,
            leash,
            redaction,
            clock,
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
