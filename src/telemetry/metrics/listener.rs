//! What a listener counts.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use super::{
    cells::{ByFault, ByReason, Count, Level, PerWorker},
    common::{Common, Settings},
    exemplar::Slot,
    family::{Kind, Value},
    histogram::newer,
    peers::{self, PeerMetrics, Peers},
    queues,
    route::STATUSES,
    scrape::{Event, Families, Scraped},
};
use crate::{config::model::Address, error::Reason, tls::FaultKind};

/// The handle of one listener. Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct ListenerMetrics {
    common: Arc<Common>,
    cells: PerWorker<Cells>,
    peers: Peers,
    /// Where it listens. Locked by the control thread alone.
    address: Mutex<Option<SocketAddr>>,
}

#[derive(Debug, Default)]
struct Cells {
    handshakes: Count,
    handshakes_failed: ByFault,
    connections: Level,
    refused: Count,
    received: Count,
    sent: Count,
    refused_heads: ByReason,
    /// The last traced one for each reason; made for the first.
    refused_traces: OnceLock<Box<[Slot; Reason::COUNT]>>,
    failed: ByReason,
}

/// Series that are always there, and those of callers that have none of their own.
const PLACES: usize = 7 + STATUSES.len();

impl ListenerMetrics {
    /// A TLS handshake with one of the clients came to its end.
    pub fn handshake(&self, worker: usize) {
        self.cells.of(worker).handshakes.increment();
    }

    /// One came to nothing.
    pub fn handshake_failed(&self, worker: usize, kind: FaultKind) {
        self.cells.of(worker).handshakes_failed.of(kind).increment();
    }

    /// A connection was accepted and will be served.
    pub fn accepted(&self, worker: usize) {
        self.cells.of(worker).connections.entered.increment();
    }

    /// An accepted connection is gone; the worker need not be the one that accepted it.
    pub fn closed(&self, worker: usize) {
        self.cells.of(worker).connections.left.increment();
    }

    /// A connection was closed as it came: the listener is at its limit, or its PROXY header was
    /// missing or wrong.
    pub fn refused(&self, worker: usize) {
        self.cells.of(worker).refused.increment();
    }

    /// Bytes that went over the listener's connections.
    pub fn bytes(&self, worker: usize, received: u64, sent: u64) {
        let cells = self.cells.of(worker);
        cells.received.add(received);
        cells.sent.add(sent);
    }

    /// A request head was refused before there was a request that a route could count.
    /// `trace`: ids of the trace and of the server span, where the request was sampled.
    pub fn refused_head(&self, worker: usize, reason: Reason, trace: Option<(u128, u64)>) {
        let cells = self.cells.of(worker);
        cells.refused_heads.of(reason).increment();
        if let Some(trace) = self.common.told(trace) {
            let slots = || Box::new(std::array::from_fn(|_| Slot::default()));
            let slots = cells.refused_traces.get_or_init(slots);
            // One event of as many as are counted.
            slots[reason.index()].write(trace, Duration::from_secs(1));
        }
    }

    fn refused_heads(&self) -> Vec<Event<1>> {
        let event = |&reason: &Reason| {
            let count = self.cells.sum(|cells| cells.refused_heads.of(reason));
            let slots = self.cells.iter().filter_map(|it| it.refused_traces.get());
            let exemplar = slots.map(|slots| slots[reason.index()].read());
            ([reason.name()], count, exemplar.fold(None, newer))
        };
        let all = Reason::ALL.iter().map(event);
        all.filter(|&(_, count, _)| count > 0).collect()
    }

    /// An opaque connection was not carried to an end of its own.
    pub fn failed(&self, worker: usize, reason: Reason) {
        self.cells.of(worker).failed.of(reason).increment();
    }

    /// It listens here from now on.
    pub fn listens(&self, address: &Address) {
        let address = match address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        };
        *self.address() = address;
    }

    fn address(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handle of a caller by the name in its certificate, for one connection; `None` where
    /// nothing about requests is counted. Locks: ask when the connection is made.
    pub fn peer(&self, identity: &str) -> Option<Arc<PeerMetrics>> {
        self.peers.get(identity)
    }

    /// Connections open now that a worker serves.
    pub(super) fn active_at(&self, worker: usize) -> u64 {
        let connections = &self.cells.of(worker).connections;
        let left = connections.left.get();
        connections.entered.get().saturating_sub(left)
    }

    /// Connections open now.
    pub fn active(&self) -> u64 {
        self.cells.level(|cells| &cells.connections)
    }
}

impl Scraped for ListenerMetrics {
    const LABEL: &'static str = "listener";

    fn new(common: &Arc<Common>) -> Self {
        Self {
            common: Arc::clone(common),
            cells: PerWorker::new(common.workers),
            peers: Peers::new(common),
            address: Mutex::default(),
        }
    }

    fn places(_: &Settings) -> usize {
        PLACES
    }

    fn describe(families: &mut Families<'_, '_, Self>) {
        families.counter(
            "pillion_listener_tls_handshakes",
            "TLS handshakes with clients.",
            |metrics| metrics.cells.sum(|cells| &cells.handshakes),
        );
        families.events(
            "pillion_listener_tls_handshakes_failed",
            "TLS handshakes with clients that came to nothing, by reason.",
            ["reason"],
            |metrics| metrics.cells.faults(|cells| &cells.handshakes_failed),
        );
        families.counter(
            "pillion_listener_connections",
            "Connections accepted.",
            |metrics| metrics.cells.sum(|cells| &cells.connections.entered),
        );
        families.gauge(
            "pillion_listener_connections_active",
            "Connections open now.",
            Self::active,
        );
        let waiting = queues::waiting();
        families.family(
            "pillion_listener_accept_queue",
            Kind::Gauge,
            "Connections that the kernel has made and no worker has accepted yet.",
            |metrics, series| {
                let address = *metrics.address();
                if let Some(&count) = address.and_then(|address| waiting.get(&address)) {
                    series.put(&[], Value::level(count));
                }
            },
        );
        families.family(
            peers::REQUESTS,
            Kind::Counter,
            "Requests that are over, by the name in the certificate of the client and by class of status.",
            |metrics, series| metrics.peers.show(series),
        );
        families.rest_of_events(peers::REQUESTS, ["peer_identity", "status"]);
        families.counter(
            "pillion_listener_connections_refused",
            "Connections closed as they came: too many, or a bad PROXY header.",
            |metrics| metrics.cells.sum(|cells| &cells.refused),
        );
        families.counter(
            "pillion_listener_received_bytes",
            "Bytes received from clients.",
            |metrics| metrics.cells.sum(|cells| &cells.received),
        );
        families.counter(
            "pillion_listener_sent_bytes",
            "Bytes sent to clients.",
            |metrics| metrics.cells.sum(|cells| &cells.sent),
        );
        families.traced(
            "pillion_listener_heads_refused",
            "Request heads refused before any route was asked.",
            ["reason"],
            Self::refused_heads,
        );
        families.events(
            "pillion_listener_connections_failed",
            "Opaque (TCP) connections that were not carried, or ended early, by reason.",
            ["reason"],
            |metrics| metrics.cells.reasons(|cells| &cells.failed),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_head_shows_its_trace() {
        let metrics = ListenerMetrics::new(&Common::new(2));
        metrics.refused_head(0, Reason::NoRoute, Some((7, 8)));
        metrics.refused_head(1, Reason::NoRoute, None);
        let [([reason], count, Some(exemplar))] = metrics.refused_heads()[..] else {
            panic!("one reason with an exemplar");
        };
        assert_eq!((reason, count), (Reason::NoRoute.name(), 2));
        assert_eq!((exemplar.trace_id, exemplar.value), (7, 1.0));
    }
}
