//! Telemetry that is sent by OTLP: what was sent, what was dropped, what waits.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    family::{Kind, Value},
    scrape::Scrape,
};
use crate::telemetry::otlp::Signal;

/// Counters of all signals. They are written once a batch, by any thread.
#[derive(Debug, Default)]
pub struct OtlpMetrics([Arc<SignalMetrics>; Signal::ALL.len()]);

/// Those of one signal. Items are spans, log records or points of metrics.
#[derive(Debug, Default)]
pub struct SignalMetrics {
    exported: AtomicU64,
    dropped: [AtomicU64; DropCause::ALL.len()],
    exports: [AtomicU64; ExportResult::ALL.len()],
    queued: AtomicU64,
}

/// Why something was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropCause {
    /// More was waiting than may.
    QueueFull,
    /// The collector did not want it.
    Rejected,
    /// The collector could not be reached, or did not answer well, until the time was over.
    Failed,
    /// The process ended before it was sent.
    Shutdown,
}

impl DropCause {
    const ALL: [(Self, &'static str); 4] = [
        (Self::QueueFull, "queue_full"),
        (Self::Rejected, "rejected"),
        (Self::Failed, "failed"),
        (Self::Shutdown, "shutdown"),
    ];
}

/// What became of one request to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportResult {
    Ok,
    Failed,
    /// It failed, and was made again.
    Retried,
}

impl ExportResult {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Ok, "ok"),
        (Self::Failed, "failed"),
        (Self::Retried, "retried"),
    ];
}

impl OtlpMetrics {
    pub fn of(&self, signal: Signal) -> &Arc<SignalMetrics> {
        &self.0[signal as usize]
    }
}

impl SignalMetrics {
    /// The collector has taken so many.
    pub fn exported(&self, items: u64) {
        self.exported.fetch_add(items, Relaxed);
    }

    pub fn dropped(&self, cause: DropCause, items: u64) {
        self.dropped[cause as usize].fetch_add(items, Relaxed);
    }

    pub fn export(&self, result: ExportResult) {
        self.exports[result as usize].fetch_add(1, Relaxed);
    }

    /// So many bytes more wait, or are being sent; how many that are now.
    pub fn entered(&self, bytes: u64) -> u64 {
        bytes + self.queued.fetch_add(bytes, Relaxed)
    }

    /// So many wait no longer.
    pub fn left(&self, bytes: u64) {
        self.queued.fetch_sub(bytes, Relaxed);
    }
}

impl OtlpMetrics {
    pub(super) fn describe(&self, scrape: &mut Scrape<'_>) {
        let count = |count: &AtomicU64| Value::Count(count.load(Relaxed), None);
        scrape.family(
            "pillion_otlp_exported",
            Kind::Counter,
            "Spans, log records and points of metrics that a collector has taken.",
        );
        for signal in Signal::ALL {
            let labels = [("signal", signal.name())];
            scrape.series(&labels, count(&self.of(signal).exported));
        }
        scrape.family(
            "pillion_otlp_dropped",
            Kind::Counter,
            "The same that were dropped: too much was waiting, the collector rejected them, it \
             could not be reached in time, or the process ended.",
        );
        for signal in Signal::ALL {
            for (cause, name) in DropCause::ALL {
                let labels = [("signal", signal.name()), ("cause", name)];
                scrape.series(&labels, count(&self.of(signal).dropped[cause as usize]));
            }
        }
        scrape.family(
            "pillion_otlp_exports",
            Kind::Counter,
            "Requests to a collector, by what became of them.",
        );
        for signal in Signal::ALL {
            for (result, name) in ExportResult::ALL {
                let labels = [("signal", signal.name()), ("result", name)];
                scrape.series(&labels, count(&self.of(signal).exports[result as usize]));
            }
        }
        scrape.family(
            "pillion_otlp_queue_bytes",
            Kind::Gauge,
            "Bytes that wait for a collector, those that are being sent included.",
        );
        for signal in Signal::ALL {
            let queued = self.of(signal).queued.load(Relaxed);
            scrape.series(&[("signal", signal.name())], Value::level(queued));
        }
    }
}
