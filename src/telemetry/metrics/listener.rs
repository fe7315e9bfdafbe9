//! What a listener counts.

use std::sync::Arc;

use super::{
    cells::{ByFault, ByReason, Count, Level, PerWorker},
    common::{Common, Settings},
    scrape::{Families, Scraped},
};
use crate::{error::Reason, tls::FaultKind};

/// The handle of one listener. Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct ListenerMetrics(PerWorker<Cells>);

#[derive(Debug, Default)]
struct Cells {
    handshakes: Count,
    handshakes_failed: ByFault,
    connections: Level,
    refused: Count,
    received: Count,
    sent: Count,
    refused_heads: ByReason,
    failed: ByReason,
}

/// Series that are always there, and some reasons.
const PLACES: usize = 6 + 6;

impl ListenerMetrics {
    /// A TLS handshake with one of the clients came to its end.
    pub fn handshake(&self, worker: usize) {
        self.0.of(worker).handshakes.increment();
    }

    /// One came to nothing.
    pub fn handshake_failed(&self, worker: usize, kind: FaultKind) {
        self.0.of(worker).handshakes_failed.of(kind).increment();
    }

    /// A connection was accepted and will be served.
    pub fn accepted(&self, worker: usize) {
        self.0.of(worker).connections.entered.increment();
    }

    /// An accepted connection is gone; the worker need not be the one that accepted it.
    pub fn closed(&self, worker: usize) {
        self.0.of(worker).connections.left.increment();
    }

    /// A connection was closed as it came: the listener is at its limit, or its PROXY header was
    /// missing or wrong.
    pub fn refused(&self, worker: usize) {
        self.0.of(worker).refused.increment();
    }

    /// Bytes that went over the listener's connections.
    pub fn bytes(&self, worker: usize, received: u64, sent: u64) {
        let cells = self.0.of(worker);
        cells.received.add(received);
        cells.sent.add(sent);
    }

    /// A request head was refused before there was a request that a route could count.
    pub fn refused_head(&self, worker: usize, reason: Reason) {
        self.0.of(worker).refused_heads.of(reason).increment();
    }

    /// An opaque connection was not carried to an end of its own.
    pub fn failed(&self, worker: usize, reason: Reason) {
        self.0.of(worker).failed.of(reason).increment();
    }

    /// Connections open now.
    pub fn active(&self) -> u64 {
        self.0.level(|cells| &cells.connections)
    }
}

impl Scraped for ListenerMetrics {
    const LABEL: &'static str = "listener";

    fn new(common: &Arc<Common>) -> Self {
        Self(PerWorker::new(common.workers))
    }

    fn places(_: &Settings) -> usize {
        PLACES
    }

    fn describe(families: &mut Families<'_, '_, Self>) {
        families.counter(
            "pillion_listener_tls_handshakes",
            "TLS handshakes with clients.",
            |metrics| metrics.0.sum(|cells| &cells.handshakes),
        );
        families.counters(
            "pillion_listener_tls_handshakes_failed",
            "TLS handshakes with clients that came to nothing, by reason.",
            ["reason"],
            |metrics| metrics.0.faults(|cells| &cells.handshakes_failed),
        );
        families.counter(
            "pillion_listener_connections",
            "Connections accepted.",
            |metrics| metrics.0.sum(|cells| &cells.connections.entered),
        );
        families.gauge(
            "pillion_listener_connections_active",
            "Connections open now.",
            Self::active,
        );
        families.counter(
            "pillion_listener_connections_refused",
            "Connections closed as they came: too many, or a bad PROXY header.",
            |metrics| metrics.0.sum(|cells| &cells.refused),
        );
        families.counter(
            "pillion_listener_received_bytes",
            "Bytes received from clients.",
            |metrics| metrics.0.sum(|cells| &cells.received),
        );
        families.counter(
            "pillion_listener_sent_bytes",
            "Bytes sent to clients.",
            |metrics| metrics.0.sum(|cells| &cells.sent),
        );
        families.counters(
            "pillion_listener_heads_refused",
            "Request heads refused before any route was asked.",
            ["reason"],
            |metrics| metrics.0.reasons(|cells| &cells.refused_heads),
        );
        families.counters(
            "pillion_listener_connections_failed",
            "Opaque (TCP) connections that were not carried, or ended early, by reason.",
            ["reason"],
            |metrics| metrics.0.reasons(|cells| &cells.failed),
        );
    }
}
