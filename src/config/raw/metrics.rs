//! `metrics`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{
    decode::At,
    units::{Count, Duration},
};

/// What is counted, for `/metrics` and for a collector.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Metrics {
    /// Whether requests are counted. Without, figures of the process are left.
    pub(crate) enabled: bool,
    /// Upper bounds of the buckets of every histogram, 1 to 32 of them, each larger than the one
    /// before. When a reload changes them, histograms begin anew.
    pub(crate) buckets: At<Vec<At<Duration>>>,
    /// Series that there may be at most. What comes beyond is counted together in series named
    /// `_overflow`.
    pub(crate) max_series: Count<1000, 1_000_000>,
    /// Whether buckets tell the trace of the last sampled request in them, to scrapers that ask
    /// for OpenMetrics.
    pub(crate) exemplars: bool,
    /// Metrics are sent to the collector as well. Not unless written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) otlp: Option<At<OtlpMetrics>>,
}

/// Metrics by OTLP.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct OtlpMetrics {
    /// From one time that everything is sent to the next. At least `1s`.
    pub(crate) interval: At<Duration>,
}

impl Default for Metrics {
    fn default() -> Self {
        // What OpenTelemetry advises for requests, without its 7.5 s, and with three below 5 ms: a
        // hop on one machine is short.
        let micros = [
            500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000,
            750_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
        ];
        let buckets = micros.map(|micros| At::from(Duration::micros(micros)));
        Self {
            enabled: true,
            buckets: Vec::from(buckets).into(),
            max_series: Count(10_000),
            exemplars: true,
            otlp: None,
        }
    }
}

impl Default for OtlpMetrics {
    fn default() -> Self {
        let interval = Duration::secs(60).into();
        Self { interval }
    }
}
