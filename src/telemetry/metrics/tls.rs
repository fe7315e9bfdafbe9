//! TLS connections by how they are held, and how long what they were made with lasts.

use std::{
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::metrics::counter::Counter;

use super::{
    cells::{Level, PerWorker},
    family::{Kind, Value},
    scrape::Scrape,
};

/// Something in use that ends at a known time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    /// `identity`, `certificate` (of a listener), `authority` or `crl`.
    pub kind: &'static str,
    /// Whose it is, in the words of its own.
    pub name: Box<str>,
    /// Seconds since 1970.
    pub at: u64,
}

/// The handle. Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct TlsMetrics {
    workers: PerWorker<Cells>,
    expiring: Mutex<Vec<Expiring>>,
    rotations: Counter,
}

#[derive(Debug, Default)]
struct Cells {
    open: Level,
    retired: Level,
}

impl TlsMetrics {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers: PerWorker::new(workers),
            expiring: Mutex::default(),
            rotations: Counter::default(),
        }
    }

    /// A connection's handshake is done.
    pub fn opened(&self, worker: usize) {
        self.workers.of(worker).open.entered.increment();
    }

    /// A connection is to take no new request.
    pub fn retired(&self, worker: usize) {
        self.workers.of(worker).retired.entered.increment();
    }

    /// A connection is gone; whether it was retired before.
    pub fn closed(&self, worker: usize, retired: bool) {
        let cells = self.workers.of(worker);
        cells.open.left.increment();
        if retired {
            cells.retired.left.increment();
        }
    }

    /// What is in use from now on.
    pub fn set_expiring(&self, expiring: Vec<Expiring>) {
        // Every change to it is whole, so that a panic elsewhere leaves nothing half done.
        *self.expiring.lock().unwrap_or_else(PoisonError::into_inner) = expiring;
    }

    /// Other material than before was taken into use.
    pub fn rotated(&self) {
        self.rotations.inc();
    }

    /// What is in use.
    pub fn expiring(&self) -> Vec<Expiring> {
        self.expiring
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl TlsMetrics {
    pub(super) fn describe(&self, scrape: &mut Scrape<'_>) {
        let retired = self.workers.level(|cells| &cells.retired);
        let open = self.workers.level(|cells| &cells.open);
        scrape.gauges(
            "pillion_tls_connections",
            "TLS connections open now; retired ones take no new request, as a certificate or the \
             trust that they were made with was replaced or ends soon.",
            "state",
            &[
                ("serving", open.saturating_sub(retired)),
                ("retired", retired),
            ],
        );
        scrape.counter(
            "pillion_tls_rotations",
            "Times that certificates, authorities or revocation lists were replaced by new ones.",
            self.rotations.get(),
        );
        scrape.family(
            "pillion_certificate_expiry_seconds",
            Kind::Gauge,
            "Seconds until what is in use expires, less than nothing once it has.",
        );
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        for Expiring { kind, name, at } in self.expiring() {
            let left = i64::try_from(at).unwrap_or(i64::MAX) - i64::try_from(now).unwrap_or(0);
            scrape.series(&[("kind", kind), ("name", &name)], Value::Integer(left));
        }
    }
}
