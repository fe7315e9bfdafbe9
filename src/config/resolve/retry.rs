//! When requests are sent again.

use super::Resolver;
use crate::config::{
    model::{Hedge, Idempotent, Retry, RetryBudget},
    raw::{self, HedgeDelay},
    report::Fault,
};

impl Resolver<'_> {
    pub(super) fn retry(&mut self, raw: &raw::Retry) -> Retry {
        let (backoff, max_backoff) = (raw.backoff.0, raw.max_backoff.value.0);
        if backoff > max_backoff {
            let fault = Fault::new(format!(
                "backoff ({}) is longer than maxBackoff ({})",
                raw.backoff, raw.max_backoff.value
            ));
            self.fault(raw.max_backoff.node, fault);
        }
        let mut codes: Vec<u16> = raw.codes.iter().map(|code| code.get()).collect();
        codes.sort_unstable();
        codes.dedup();
        Retry {
            attempts: raw.attempts.get(),
            codes,
            grpc_codes: raw.grpc_codes.iter().map(|&code| code as u8).collect(),
            idempotent: match raw.idempotent {
                raw::Idempotent::ByMethod => Idempotent::ByMethod,
                raw::Idempotent::Always => Idempotent::Always,
                raw::Idempotent::Never => Idempotent::Never,
            },
            backoff,
            max_backoff,
            max_retry_after: raw.max_retry_after.0,
            max_buffered_bytes: raw.max_buffered_bytes.get(),
            hedge: raw.hedge.as_ref().map(|hedge| self.hedge(hedge)),
        }
    }

    fn hedge(&mut self, raw: &raw::Hedge) -> Hedge {
        match raw.delay.value {
            HedgeDelay::P95 => Hedge::P95,
            HedgeDelay::After(delay) => {
                if delay.0.is_zero() {
                    let fault = Fault::new("a hedge without delay doubles every request");
                    self.fault(raw.delay.node, fault.hint("`p95` is a good delay"));
                }
                Hedge::After(delay.0)
            }
        }
    }
}

pub(super) fn retry_budget(raw: &raw::RetryBudget) -> RetryBudget {
    RetryBudget {
        percent: raw.percent.get(),
        min_per_second: raw.min_per_second.get(),
    }
}
