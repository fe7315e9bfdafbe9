//! When an endpoint is taken to be broken, or worse than the others.

use std::time::Duration;

use serde::Serialize;

use super::duration;

/// Opens an endpoint that is unreachable or fails all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// Requests that failed in a row.
    pub consecutive_failures: u32,
    /// Connects that failed in a row.
    pub connect_failures: u32,
    #[serde(flatten)]
    pub backoff: Backoff,
}

/// Ejects an endpoint that is worse than the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ejection {
    pub success_rate: bool,
    pub latency: bool,
    /// Percent of the endpoints, rounded down.
    pub max_ejected: u8,
    /// How far back is looked.
    #[serde(serialize_with = "duration")]
    pub window: Duration,
    /// Percent of all requests: a difference up to this is borne.
    pub tolerance: u8,
    #[serde(flatten)]
    pub backoff: Backoff,
    /// Only count what would be ejected.
    pub dry_run: bool,
    /// Below this percentage of available endpoints requests go to all. 0: never.
    pub panic_threshold: u8,
}

/// Time without requests before a probe, doubled up to `max` with each probe that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Backoff {
    #[serde(rename = "backoff", serialize_with = "duration")]
    pub base: Duration,
    #[serde(rename = "maxBackoff", serialize_with = "duration")]
    pub max: Duration,
}

/// Those of an upstream that says nothing.
impl Default for Breaker {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            connect_failures: 3,
            // An application that starts anew is back soon, and a probe costs it next to nothing.
            backoff: Backoff {
                base: Duration::from_millis(250),
                ..Backoff::default()
            },
        }
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            success_rate: true,
            latency: false,
            max_ejected: 50,
            window: Duration::from_secs(30),
            tolerance: 1,
            backoff: Backoff::default(),
            dry_run: false,
            panic_threshold: 0,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            max: Duration::from_secs(30),
        }
    }
}
