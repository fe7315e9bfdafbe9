//! What the kernel knows of the process. What it doesn't tell is left out.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

use super::{
    family::{Kind, Value},
    queues,
    scrape::Scrape,
};
use crate::cgroup::{self, Usage};

/// Processor time used by all threads, and by the kernel for them, since the process began.
pub fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// The names that every Prometheus client library gives to these.
pub(super) fn describe_process(scrape: &mut Scrape<'_>, started: SystemTime) {
    let since_epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    scrape.gauge(
        "process_start_time_seconds",
        "When the process started, as seconds since 1970.",
        Value::Float(since_epoch.as_secs_f64()),
    );
    scrape.seconds(
        "process_cpu_seconds",
        "Processor time used, by the kernel for us included.",
        processor_time(),
    );
    show(
        scrape,
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory.",
        resident_bytes().map(Value::level),
    );
    let files = fs::read_dir("/proc/self/fd").ok();
    // One of them is the descriptor of the listing itself.
    let open = files.map(|files| (files.count() as u64).saturating_sub(1));
    show(
        scrape,
        "process_open_fds",
        Kind::Gauge,
        "File descriptors open now.",
        open.map(Value::level),
    );
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    show(
        scrape,
        "process_max_fds",
        Kind::Gauge,
        "File descriptors that may be open.",
        limit.map(Value::level),
    );
}

/// What lies around the process.
pub(super) fn describe_surroundings(scrape: &mut Scrape<'_>) {
    let count = |count| Value::Count(count, None);
    show(
        scrape,
        "pillion_accept_queue_overflows",
        Kind::Counter,
        "Connections that the kernel dropped because an accept queue was full, of all sockets in the \
         network namespace.",
        queues::overflows().map(count),
    );
    let usage = Usage::read(Path::new(cgroup::ROOT), &cgroup::own());
    show(
        scrape,
        "pillion_cgroup_cpu_periods",
        Kind::Counter,
        "Periods in which the control group wanted to run, where its processor time is limited.",
        usage.periods.map(count),
    );
    show(
        scrape,
        "pillion_cgroup_cpu_throttled_periods",
        Kind::Counter,
        "Those of them in which it had to wait, as its time was used up.",
        usage.throttled_periods.map(count),
    );
    let throttled = usage.throttled.map(|throttled| throttled.as_secs_f64());
    show(
        scrape,
        "pillion_cgroup_cpu_throttled_seconds",
        Kind::Counter,
        "How long it had to wait, summed over processors.",
        throttled.map(Value::Float),
    );
    show(
        scrape,
        "pillion_cgroup_memory_bytes",
        Kind::Gauge,
        "Memory that the control group uses, caches of files included.",
        usage.memory.map(Value::level),
    );
    show(
        scrape,
        "pillion_cgroup_memory_limit_bytes",
        Kind::Gauge,
        "Memory that it may use at most, where that is limited.",
        usage.memory_limit.map(Value::level),
    );
}

/// A family of one series, or of none.
fn show(scrape: &mut Scrape<'_>, name: &str, kind: Kind, help: &str, value: Option<Value<'_>>) {
    scrape.family(name, kind, help);
    if let Some(value) = value {
        scrape.series(&[], value);
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

    #[test]
    fn the_kernel_is_asked() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
