//! What there is one of in a process.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    time::SystemTime,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::runtime::RuntimeMetrics;

use super::{
    family::{Kind, Value},
    kernel,
    scrape::Scrape,
    workers::Workers,
};
use crate::{protect::Level, worker::Lifecycle};

/// Rare events: counters that any thread may write.
#[derive(Debug)]
pub struct ProcessMetrics {
    workers: Workers,
    started: SystemTime,
    generation: Gauge,
    reloads_accepted: Counter,
    reloads_rejected: Counter,
    last_accepted: AtomicBool,
    accept_errors: Counter,
    access_log_dropped: Counter,
    access_log_filtered: Counter,
    drain_cut: Counter,
    lifecycle: AtomicU8,
    pressure: AtomicU8,
}

const LIFECYCLES: [(&str, Lifecycle); 4] = [
    ("running", Lifecycle::Running),
    ("announced", Lifecycle::Announced),
    ("draining", Lifecycle::Draining),
    ("forced", Lifecycle::Forced),
];

impl ProcessMetrics {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers: Workers::new(workers),
            started: SystemTime::now(),
            generation: Gauge::default(),
            reloads_accepted: Counter::default(),
            reloads_rejected: Counter::default(),
            last_accepted: AtomicBool::new(true),
            accept_errors: Counter::default(),
            access_log_dropped: Counter::default(),
            access_log_filtered: Counter::default(),
            drain_cut: Counter::default(),
            lifecycle: AtomicU8::new(Lifecycle::Running as u8),
            pressure: AtomicU8::new(Level::None as u8),
        }
    }

    /// The first snapshot is live. It is no reload.
    pub fn started(&self, generation: u64) {
        self.set_generation(generation);
    }

    /// A reload made this generation live.
    pub fn reload_accepted(&self, generation: u64) {
        self.set_generation(generation);
        self.reloads_accepted.inc();
        self.last_accepted.store(true, Relaxed);
    }

    /// A reload was refused; the generation stays.
    pub fn reload_rejected(&self) {
        self.reloads_rejected.inc();
        self.last_accepted.store(false, Relaxed);
    }

    /// `accept` failed, most often for want of file descriptors.
    pub fn accept_error(&self) {
        self.accept_errors.inc();
    }

    /// Lines of the access log were dropped, as its writer was behind or could not write.
    pub fn access_log_dropped(&self, lines: u64) {
        self.access_log_dropped.inc_by(lines);
    }

    /// Requests had no line as the filter takes none of them.
    pub fn access_log_filtered(&self, lines: u64) {
        self.access_log_filtered.inc_by(lines);
    }

    /// The drain deadline cut connections that were in use.
    pub fn drain_cut(&self, connections: u64) {
        self.drain_cut.inc_by(connections);
    }

    /// The process moved on in its life.
    pub fn set_lifecycle(&self, state: Lifecycle) {
        self.lifecycle.store(state as u8, Relaxed);
    }

    /// How hard pressed the process is from now on.
    pub fn set_pressure(&self, level: Level) {
        self.pressure.store(level as u8, Relaxed);
    }

    /// A worker runs on this runtime.
    pub fn worker_runs(&self, worker: usize, runtime: RuntimeMetrics) {
        self.workers.runs(worker, runtime);
    }

    fn set_generation(&self, generation: u64) {
        self.generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
    }
}

impl ProcessMetrics {
    /// `connections`: those that each worker has.
    pub(super) fn describe(&self, scrape: &mut Scrape<'_>, connections: &[u64]) {
        scrape.family("pillion_build", Kind::Info, "What is running; always 1.");
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", option_env!("PILLION_COMMIT").unwrap_or("unknown")),
        ];
        scrape.series(&labels, Value::Integer(1));
        scrape.gauge(
            "pillion_config_generation",
            "Number of the configuration that is live; grows by one with each accepted reload.",
            Value::Integer(self.generation.get()),
        );
        scrape.counters(
            "pillion_config_reloads",
            "Reloads of the configuration, by what became of them.",
            "result",
            &[
                ("accepted", self.reloads_accepted.get()),
                ("rejected", self.reloads_rejected.get()),
            ],
        );
        scrape.gauge(
            "pillion_config_last_reload_accepted",
            "1 while what is live is what the newest reload asked for, or the start; 0 from a reload that is \
             rejected until one is accepted.",
            Value::Integer(self.last_accepted.load(Relaxed).into()),
        );
        let state = self.lifecycle.load(Relaxed);
        scrape.gauges(
            "pillion_lifecycle_state",
            "1 for the state that the process is in.",
            "state",
            &LIFECYCLES.map(|(name, each)| (name, u64::from(each as u8 == state))),
        );
        self.workers.describe(scrape, connections);
        scrape.counter(
            "pillion_accept_errors",
            "Failures to accept a connection, most often for want of file descriptors.",
            self.accept_errors.get(),
        );
        scrape.counter(
            "pillion_access_log_dropped",
            "Lines of the access log that were dropped because the output was behind or failed.",
            self.access_log_dropped.get(),
        );
        scrape.counter(
            "pillion_access_log_filtered",
            "Lines of the access log that were left out because `filter` takes none of them.",
            self.access_log_filtered.get(),
        );
        scrape.counter(
            "pillion_drain_cut_connections",
            "Connections in use that the drain deadline cut.",
            self.drain_cut.get(),
        );
        scrape.gauge(
            "pillion_pressure_level",
            "How hard pressed the process is: 0, 1 (requests of low priority are refused) or 2 (those of \
             normal priority too).",
            Value::Integer(self.pressure.load(Relaxed).into()),
        );
        kernel::describe_process(scrape, self.started);
        kernel::describe_surroundings(scrape);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Format, Registry};

    #[test]
    fn the_contract_s_names_are_there_from_the_start() {
        let registry = Registry::new(2);
        let text = registry.encode(Format::Prometheus);
        for line in [
            r#"pillion_config_reloads_total{result="accepted"} 0"#,
            r#"pillion_config_reloads_total{result="rejected"} 0"#,
            "pillion_config_generation 0",
            "pillion_config_last_reload_accepted 1",
            "pillion_workers 2",
            r#"pillion_lifecycle_state{state="running"} 1"#,
            "# TYPE pillion_build_info gauge",
        ] {
            assert!(
                text.contains(&format!("{line}\n")),
                "{line} is missing from:\n{text}"
            );
        }
        assert!(text.contains("pillion_build_info{version=\""));
    }

    #[test]
    fn events_are_counted() {
        let registry = Registry::new(1);
        let process = registry.process();
        process.started(1);
        process.reload_accepted(2);
        process.reload_rejected();
        process.accept_error();
        process.access_log_dropped(7);
        process.drain_cut(3);
        process.set_lifecycle(Lifecycle::Draining);
        let text = registry.encode(Format::Prometheus);
        for line in [
            r#"pillion_config_reloads_total{result="accepted"} 1"#,
            r#"pillion_config_reloads_total{result="rejected"} 1"#,
            "pillion_config_generation 2",
            "pillion_config_last_reload_accepted 0",
            "pillion_accept_errors_total 1",
            "pillion_access_log_dropped_total 7",
            "pillion_drain_cut_connections_total 3",
            r#"pillion_lifecycle_state{state="running"} 0"#,
            r#"pillion_lifecycle_state{state="draining"} 1"#,
        ] {
            assert!(
                text.contains(&format!("{line}\n")),
                "{line} is missing from:\n{text}"
            );
        }
    }
}
