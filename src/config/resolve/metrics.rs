//! What is counted.

use std::{sync::Arc, time};

use super::Resolver;
use crate::{
    config::{
        decode::At,
        model::{Metrics, OtlpMetrics},
        otel::MIN_METRIC_INTERVAL,
        raw,
        report::Fault,
        units::Duration,
    },
    telemetry::otlp::Signal,
};

/// Each takes room in every histogram.
const MAX_BUCKETS: usize = 32;

impl Resolver<'_> {
    pub(super) fn metrics(&mut self, raw: &raw::Metrics) -> Metrics {
        Metrics {
            enabled: raw.enabled,
            buckets: self.buckets(&raw.buckets),
            max_series: raw.max_series.get(),
            exemplars: self.otel.exemplars.unwrap_or(raw.exemplars),
            otlp: self.otlp_metrics(raw.otlp.as_ref()),
        }
    }

    fn buckets(&mut self, written: &At<Vec<At<Duration>>>) -> Arc<[time::Duration]> {
        let bounds = &written.value;
        let refused = written
            .node
            .is_some_and(|node| self.tree.has_refused_part(node));
        let least = usize::from(!refused);
        if !(least..=MAX_BUCKETS).contains(&bounds.len()) {
            let fault = Fault::new(format!("{} buckets", bounds.len()));
            self.fault(written.node, fault.hint("1 to 32 are possible"));
        }
        let mut before = time::Duration::ZERO;
        for bound in bounds {
            if bound.value.0 <= before {
                let fault =
                    Fault::new(format!("{} is not longer than the one before", bound.value));
                self.fault(
                    bound.node,
                    fault.hint("bounds are written from the lowest on"),
                );
            }
            before = bound.value.0;
        }
        bounds.iter().map(|bound| bound.value.0).collect()
    }

    /// What the environment says goes before the file.
    fn otlp_metrics(&mut self, written: Option<&At<raw::OtlpMetrics>>) -> Option<OtlpMetrics> {
        let default = raw::OtlpMetrics::default();
        let settings = written.map_or(&default, |written| &written.value);
        let interval = self.interval(&settings.interval);
        let wanted = self.otel.exports(Signal::Metrics);
        if written.is_some() {
            self.overruled(Signal::Metrics);
        }
        let on = wanted.unwrap_or_else(|| written.is_some());
        on.then(|| OtlpMetrics {
            interval: self.otel.metric_interval.unwrap_or(interval),
        })
    }

    fn interval(&mut self, written: &At<Duration>) -> time::Duration {
        if written.value.0 < MIN_METRIC_INTERVAL {
            let fault = Fault::new(format!("{} is too short an interval", written.value));
            self.fault(written.node, fault.hint("at least 1s"));
        }
        written.value.0
    }
}
