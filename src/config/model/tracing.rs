//! Which requests are traced, and how that is told on.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::duration;

/// Traces of requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    pub sampling: Sampling,
    /// In which headers a trace is read and written; without `baggage`, which needs no hand of
    /// ours.
    pub propagators: Vec<Propagator>,
    pub keep: Keep,
    /// Characters of a span's attribute; longer ones are cut.
    /// The environment alone says so: no key to show.
    #[serde(skip)]
    pub value_length: usize,
}

/// What is kept of requests that were not sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Keep {
    pub errors: bool,
    /// Zero: none.
    #[serde(serialize_with = "duration")]
    pub slower_than: Duration,
}

impl Keep {
    /// Whether it could take any.
    pub const fn is_on(self) -> bool {
        self.errors || !self.slower_than.is_zero()
    }

    /// Whether it takes a request that went so.
    pub fn takes(self, failed: bool, took: Duration) -> bool {
        self.errors && failed || !self.slower_than.is_zero() && took > self.slower_than
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagator {
    TraceContext,
    B3,
    B3Multi,
}

/// Which requests are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Of a million traces.
    pub share: u32,
    /// Of traces that began elsewhere the sender's decision holds.
    pub follows_parent: bool,
}

impl Sampling {
    pub const ALWAYS: Self = Self {
        share: 1_000_000,
        follows_parent: false,
    };
    pub const NEVER: Self = Self {
        share: 0,
        follows_parent: false,
    };

    /// Whether to sample a trace, of which the sender has decided so, if it has.
    ///
    /// By the trace's id, as OpenTelemetry's `TraceIdRatioBased` does it: every process with the same
    /// share takes the same traces.
    pub fn takes(self, parent: Option<bool>, trace_id: u128) -> bool {
        match parent {
            Some(decided) if self.follows_parent => decided,
            _ => {
                const MILLION: u64 = 1_000_000;
                let point = (trace_id as u64) >> 1;
                // Of 2^63 points; without loss for all of them.
                u128::from(point) * u128::from(MILLION) < u128::from(self.share) << 63
            }
        }
    }
}

impl Serialize for Sampling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let percent = f64::from(self.share) / 10_000.0;
        match *self {
            Self::ALWAYS => serializer.serialize_str("always"),
            Self::NEVER => serializer.serialize_str("never"),
            Self {
                follows_parent: true,
                ..
            } => serializer.collect_str(&format_args!("{percent}%")),
            _ => serializer.collect_str(&format_args!("{percent}% of all")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Sampling = Sampling {
        share: 0,
        follows_parent: true,
    };
    const ALL: Sampling = Sampling {
        share: 1_000_000,
        follows_parent: true,
    };

    #[test]
    fn the_parent_decides_unless_told_otherwise() {
        for id in [1, u128::MAX, u128::from(u64::MAX)] {
            assert!(ALL.takes(None, id) && NONE.takes(Some(true), id));
            assert!(!NONE.takes(None, id) && !ALL.takes(Some(false), id));
            assert!(Sampling::ALWAYS.takes(Some(false), id));
            assert!(!Sampling::NEVER.takes(Some(true), id));
        }
    }

    #[test]
    fn a_share_is_taken_by_the_id() {
        let tenth = Sampling {
            share: 100_000,
            follows_parent: true,
        };
        let mut rng = fastrand::Rng::with_seed(7);
        let taken = (0..100_000)
            .filter(|_| tenth.takes(None, rng.u128(..)))
            .count();
        assert!((9_500..10_500).contains(&taken), "{taken}");
        let id = rng.u128(..);
        assert_eq!(tenth.takes(None, id), tenth.takes(None, id));
    }

    #[test]
    fn what_is_kept() {
        let second = Duration::from_secs(1);
        let off = Keep::default();
        assert!(!off.is_on() && !off.takes(true, second * 100));
        let errors = Keep {
            errors: true,
            ..off
        };
        assert!(errors.takes(true, second) && !errors.takes(false, second));
        let slow = Keep {
            slower_than: second,
            ..off
        };
        assert!(slow.takes(false, second * 2) && !slow.takes(true, second));
    }
}
