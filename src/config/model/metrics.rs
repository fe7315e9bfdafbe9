//! What the process counts.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, Serializer};

use super::duration;
use crate::config::{raw, units};

/// What is counted, and how much of it there may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Whether requests are counted.
    pub enabled: bool,
    /// Upper bounds, growing.
    #[serde(serialize_with = "durations")]
    pub buckets: Arc<[Duration]>,
    pub max_series: usize,
    pub exemplars: bool,
    /// `None`: they are not sent.
    pub otlp: Option<OtlpMetrics>,
}

/// Metrics that are sent to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OtlpMetrics {
    #[serde(serialize_with = "duration")]
    pub interval: Duration,
}

/// What holds when nothing is written.
impl Default for Metrics {
    fn default() -> Self {
        let raw = raw::Metrics::default();
        let buckets = raw.buckets.value.iter().map(|bound| bound.value.0);
        Self {
            enabled: raw.enabled,
            buckets: buckets.collect(),
            max_series: raw.max_series.get(),
            exemplars: raw.exemplars,
            otlp: None,
        }
    }
}

fn durations<S: Serializer>(values: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
    let text = |&value: &Duration| units::Duration(value).to_string();
    serializer.collect_seq(values.iter().map(text))
}
