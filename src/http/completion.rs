//! The end of an exchange: counted and logged exactly once, however it ends.

use std::{borrow::Cow, rc::Rc};

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::{Client, pace::Pacing};
use crate::{
    error::{Error, Reason},
    policy::{Held, Trail},
    snapshot::RoutePlan,
    telemetry::{Record, access_log::Protocol},
};
use std::sync::Arc;

/// Travels with a response to its last byte. Dropped before [`Completion::done`] or
/// [`Completion::failed`], it records that the client left.
pub struct Completion {
    client: Rc<Client>,
    record: Record,
    /// What the attempts left behind.
    pub trail: Trail,
    route: Option<Arc<RoutePlan>>,
    held: Option<Held>,
    deadline: Option<Instant>,
    open: bool,
}

impl Completion {
    pub fn new(client: Rc<Client>, protocol: Protocol, start: Instant) -> Self {
        // The newest name: a reload may have given the socket another one.
        let record = Record::new(Arc::clone(&client.plan().config.name), protocol, start);
        Self {
            client,
            record,
            trail: Trail::default(),
            route: None,
            held: None,
            deadline: None,
            open: true,
        }
    }

    /// What is known of the request itself.
    pub fn record(&mut self) -> &mut Record {
        &mut self.record
    }

    /// The request met this rule.
    pub fn matched(&mut self, route: &Arc<RoutePlan>, deadline: Option<Instant>) {
        route.metrics.request_started(self.client.worker.id);
        self.record.route = Some(Arc::clone(&route.name));
        self.route = Some(Arc::clone(route));
        self.deadline = deadline;
    }

    /// Keeps what the request holds of its upstream until the end.
    pub fn hold(&mut self, held: Held) {
        self.held = Some(held);
    }

    pub fn request_id(&self) -> Option<&http::HeaderValue> {
        self.record.request_id.as_ref()
    }

    /// The client is being told this status.
    pub fn answered(&mut self, status: StatusCode) {
        self.record.status = Some(status);
    }

    /// Why Pillion answered by itself, or had to break off.
    pub fn blame(&mut self, error: &Error) {
        self.record.reason = Some(error.reason);
        self.record.detail = Cow::Owned(match &error.source {
            Some(source) if error.detail.is_empty() => source.to_string(),
            Some(source) => format!("{}: {source}", error.detail),
            None => error.detail.to_string(),
        });
    }

    /// Bytes of the two bodies.
    pub fn bytes(&mut self, received: u64, sent: u64) {
        self.record.bytes_received = received;
        self.record.bytes_sent = sent;
    }

    /// What the route allows the rest of the exchange.
    pub fn pacing(&self) -> Pacing {
        let idle = self
            .route
            .as_ref()
            .map_or_else(Default::default, |route| route.timeouts.idle);
        Pacing {
            idle,
            deadline: self.deadline,
        }
    }

    /// Everything has been written.
    pub fn done(mut self) {
        self.finish();
    }

    /// It broke off after the head.
    pub fn failed(mut self, error: &Error) {
        self.blame(error);
        self.finish();
    }

    fn finish(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let worker = &self.client.worker;
        let record = &mut self.record;
        record.duration = record.start.elapsed();
        if let Some(route) = &self.route {
            route.metrics.request_done(
                worker.id,
                record.method.as_ref().unwrap_or(&Method::GET),
                record.status.map_or(0, |status| status.as_u16()),
                record.reason,
                record.duration,
                record.bytes_received,
                record.bytes_sent,
            );
        } else if let Some(reason) = record.reason {
            self.client
                .conn
                .plan
                .metrics
                .refused_head(worker.id, reason);
        }
        if worker.access_log.is_enabled() {
            self.trail.tell(record);
            record.peer = Some(self.client.conn.source());
            worker.access_log.write(record);
        }
        self.held = None;
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if self.open {
            if self.record.reason.is_none() {
                let (reason, detail) = match self.client.worker.cuts(self.client.conn.listener) {
                    true => (Reason::Draining, "cut: the drain came to its end"),
                    false => (Reason::ClientClosed, "the client left"),
                };
                self.record.reason = Some(reason);
                self.record.detail = Cow::Borrowed(detail);
            }
            self.finish();
        }
    }
}
