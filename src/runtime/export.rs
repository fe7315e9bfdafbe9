//! Sends metrics to a collector, where the configuration asks for it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    telemetry::otlp::{Outlet, Signal},
    worker::Shared,
};

/// Between two looks at the configuration, at most: a reload may change the interval.
const LOOK: Duration = Duration::from_secs(1);

/// The control thread's end of the exporter.
pub(super) struct Export {
    shared: Arc<Shared>,
    outlet: Outlet,
}

impl Export {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            outlet: shared.otlp.outlet(Signal::Metrics),
            shared: Arc::clone(shared),
        }
    }

    /// Sends everything once an interval. Never ends.
    pub(super) async fn run(&self) {
        let mut sent = Instant::now();
        loop {
            let wanted = self.shared.snapshot.load().config.metrics.otlp;
            let interval = wanted.map(|otlp| otlp.interval);
            tokio::time::sleep(nap(interval, sent.elapsed())).await;
            if interval.is_some_and(|interval| sent.elapsed() >= interval) {
                self.send();
                sent = Instant::now();
            }
        }
    }

    /// Sends everything now, if it is wanted.
    pub(super) fn send(&self) {
        if self.outlet.is_open() {
            self.shared.registry.export(&self.outlet);
            self.outlet.flush();
        }
    }
}

/// How long there is nothing to do, `since` the last time that everything was sent.
fn nap(interval: Option<Duration>, since: Duration) -> Duration {
    interval.map_or(LOOK, |interval| interval.saturating_sub(since).min(LOOK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_not_rounded_to_looks() {
        let millis = Duration::from_millis;
        assert_eq!(nap(None, millis(5000)), LOOK);
        let interval = Some(millis(2500));
        assert_eq!(nap(interval, millis(0)), LOOK);
        assert_eq!(nap(interval, millis(2000)), millis(500));
        assert_eq!(nap(interval, millis(3000)), Duration::ZERO);
    }
}
