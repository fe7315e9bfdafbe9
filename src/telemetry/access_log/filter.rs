//! Which requests have a line.

use super::Record;
use crate::{config::model::LogFilter, http::grpc};

/// Bits of a trace id that are random for sure (W3C Trace Context, level 2, section 3.2.2.3).
const RANDOM_BITS: u32 = 56;

impl LogFilter {
    /// Whether the request has a line. `random` is uniform over all its values.
    pub(super) fn takes(&self, record: &Record, random: impl FnOnce() -> u64) -> bool {
        self.errors && is_error(record)
            || self
                .slower_than
                .is_some_and(|limit| record.duration > limit)
            || self.percent > 0 && self.is_of_the_share(record, random)
    }

    /// Decided by the trace where there is one, so that every hop shows the same requests, and a
    /// smaller share is part of a larger one.
    fn is_of_the_share(&self, record: &Record, random: impl FnOnce() -> u64) -> bool {
        // The low bits are meant to be lost.
        let number = record
            .trace
            .map_or_else(random, |trace| trace.trace_id as u64);
        let number = u128::from(number & ((1 << RANDOM_BITS) - 1));
        // As OpenTelemetry's consistent sampling: the highest numbers are kept.
        number * 100 >= u128::from(100 - self.percent.min(100)) << RANDOM_BITS
    }
}

/// Whether it failed: Pillion has a reason for that, or the application says so of itself.
fn is_error(record: &Record) -> bool {
    record.reason.is_some()
        || record.status.is_some_and(|status| status.is_server_error())
        || record.grpc_status.is_some_and(grpc::is_failure)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::{super::tests::minimal, *};
    use crate::{error::Reason, telemetry::TraceRef};

    const NONE: LogFilter = LogFilter {
        errors: false,
        slower_than: None,
        percent: 0,
    };

    fn takes(filter: LogFilter, change: impl FnOnce(&mut Record)) -> bool {
        let mut record = minimal();
        record.status = Some(StatusCode::OK);
        change(&mut record);
        filter.takes(&record, || unreachable!("only a share is left to chance"))
    }

    #[test]
    fn errors() {
        let errors = LogFilter {
            errors: true,
            ..NONE
        };
        assert!(!takes(errors, |_| ()));
        assert!(!takes(errors, |record| record.status = Some(StatusCode::NOT_FOUND)));
        assert!(takes(errors, |record| record.status =
            Some(StatusCode::BAD_GATEWAY)));
        assert!(takes(errors, |record| record.reason = Some(Reason::ClientClosed)));
        for code in [0, 1, 3, 5, 6, 7, 8, 9, 10, 11, 16] {
            assert!(
                !takes(errors, |record| record.grpc_status = Some(code)),
                "{code}"
            );
        }
        for code in [2, 4, 12, 13, 14, 15] {
            assert!(
                takes(errors, |record| record.grpc_status = Some(code)),
                "{code}"
            );
        }
    }

    #[test]
    fn slow_ones() {
        let slow = LogFilter {
            slower_than: Some(Duration::from_secs(1)),
            ..NONE
        };
        let took = |millis| {
            takes(slow, |record| {
                record.duration = Duration::from_millis(millis)
            })
        };
        assert!(!took(1000));
        assert!(took(1001));
        assert!(!takes(slow, |record| record.reason = Some(Reason::NoRoute)));
    }

    #[test]
    fn a_share() {
        let mut rng = fastrand::Rng::with_seed(6);
        for percent in [1, 10, 50, 99] {
            let share = LogFilter { percent, ..NONE };
            let taken = (0..10_000).filter(|_| share.takes(&minimal(), || rng.u64(..)));
            let taken = taken.count() as u64 / 100;
            assert!(taken.abs_diff(percent.into()) <= 2, "{taken} of {percent}");
        }
        let all = LogFilter {
            percent: 100,
            ..NONE
        };
        assert!(all.takes(&minimal(), || 0));
        assert!(!NONE.takes(&minimal(), || u64::MAX));
    }

    #[test]
    fn hops_agree_on_a_trace_and_shares_are_nested() {
        let mut rng = fastrand::Rng::with_seed(6);
        for _ in 0..1000 {
            let mut record = minimal();
            record.trace = Some(TraceRef {
                trace_id: rng.u128(..),
                span_id: 1,
                sampled: false,
            });
            let takes = |percent| {
                let share = LogFilter { percent, ..NONE };
                share.takes(&record, || unreachable!("the trace decides"))
            };
            assert!(!takes(10) || takes(50));
            assert!(takes(100) && !takes(0));
        }
    }
}
