//! What there is one of in a process.

use std::{
    fs,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use rustix::time::{ClockId, clock_gettime};

use super::{
    family::{Kind, Value},
    scrape::Scrape,
};
use crate::worker::Lifecycle;

/// Rare events: counters that any thread may write.
#[derive(Debug)]
pub struct ProcessMetrics {
    workers: usize,
    started: SystemTime,
    generation: Gauge,
    reloads_accepted: Counter,
    reloads_rejected: Counter,
    accept_errors: Counter,
    access_log_dropped: Counter,
    access_log_filtered: Counter,
    drain_cut: Counter,
    lifecycle: AtomicU8,
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
            workers,
            started: SystemTime::now(),
            generation: Gauge::default(),
            reloads_accepted: Counter::default(),
            reloads_rejected: Counter::default(),
            accept_errors: Counter::default(),
            access_log_dropped: Counter::default(),
            access_log_filtered: Counter::default(),
            drain_cut: Counter::default(),
            lifecycle: AtomicU8::new(Lifecycle::Running as u8),
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
    }

    /// A reload was refused; the generation stays.
    pub fn reload_rejected(&self) {
        self.reloads_rejected.inc();
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

    fn set_generation(&self, generation: u64) {
        self.generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
    }
}

impl ProcessMetrics {
    pub(super) fn describe(&self, scrape: &mut Scrape<'_>) {
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
        let state = self.lifecycle.load(Relaxed);
        scrape.gauges(
            "pillion_lifecycle_state",
            "1 for the state that the process is in.",
            "state",
            &LIFECYCLES.map(|(name, each)| (name, u64::from(each as u8 == state))),
        );
        scrape.gauge(
            "pillion_workers",
            "Data-plane workers.",
            Value::level(self.workers as u64),
        );
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
        kernel(scrape, self.started);
    }
}

/// Processor time used by all threads, and by the kernel for them, since the process began.
pub fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// The names that every Prometheus client library gives to these. What the kernel doesn't tell is
/// left out.
fn kernel(scrape: &mut Scrape<'_>, started: SystemTime) {
    let since_epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    scrape.gauge(
        "process_start_time_seconds",
        "When the process started, as seconds since 1970.",
        Value::Float(since_epoch.as_secs_f64()),
    );
    scrape.family(
        "process_cpu_seconds",
        Kind::Counter,
        "Processor time used, by the kernel for us included.",
    );
    scrape.series(&[], Value::Float(processor_time().as_secs_f64()));
    if let Some(bytes) = resident_bytes() {
        let name = "process_resident_memory_bytes";
        scrape.gauge(name, "Resident memory.", Value::level(bytes));
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // One of them is the descriptor of the listing itself.
        let open = (files.count() as u64).saturating_sub(1);
        scrape.gauge(
            "process_open_fds",
            "File descriptors open now.",
            Value::level(open),
        );
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        scrape.gauge(
            "process_max_fds",
            "File descriptors that may be open.",
            Value::level(limit),
        );
    }
}

/// `VmRSS` of `/proc/self/status`, which the kernel gives in KiB.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
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

    #[test]
    fn the_kernel_is_asked() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
