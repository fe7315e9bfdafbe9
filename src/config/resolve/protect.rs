//! What protects the things behind a rule.

use http::StatusCode;

use super::Resolver;
use crate::config::{
    decode::At,
    model::{
        AbortWith, Fault, FaultAbort, FaultDelay, FaultSlowBody, Importance, RateKey, RateLimit,
    },
    raw::{self, RateKeyName},
    report, syntax,
};

impl Resolver<'_> {
    pub(super) fn rate_limit(&mut self, raw: &raw::RateLimit) -> Option<RateLimit> {
        let requests = raw.requests.get();
        Some(RateLimit {
            requests,
            per: self.positive(&raw.per),
            burst: raw.burst.map_or(requests, |burst| burst.get()),
            key: match &raw.key.value {
                raw::RateKey::Named(RateKeyName::None) => RateKey::None,
                raw::RateKey::Named(RateKeyName::Source) => RateKey::Source,
                raw::RateKey::Named(RateKeyName::Identity) => RateKey::Identity,
                raw::RateKey::Field(field) => {
                    RateKey::Header(self.parse(&field.header, syntax::matched_header)?)
                }
            },
            max_keys: raw.max_keys.get(),
        })
    }

    pub(super) fn injected(&mut self, raw: &At<raw::Fault>) -> Option<Fault> {
        let fault = &raw.value;
        if fault.delay.is_none()
            && fault.abort.is_none()
            && fault.reset.is_none()
            && fault.slow_body.is_none()
        {
            let fault = report::Fault::new("there is no fault in it");
            self.fault(
                raw.node,
                fault.hint("`delay`, `abort`, `reset`, `slowBody`"),
            );
        }
        let abort = fault.abort.as_ref();
        Some(Fault {
            enabled: fault.enabled,
            delay: fault.delay.as_ref().map(|delay| FaultDelay {
                percent: delay.percent.get(),
                duration: self.positive(&delay.duration),
            }),
            abort: abort.and_then(|abort| self.abort(abort)),
            reset: fault.reset.as_ref().map(|reset| reset.percent.get()),
            slow_body: fault.slow_body.as_ref().and_then(|slow| {
                Some(FaultSlowBody {
                    percent: slow.percent.get(),
                    bytes_per_second: slow.bytes_per_second.get::<u32>().try_into().ok()?,
                })
            }),
        })
    }

    fn abort(&mut self, raw: &At<raw::FaultAbort>) -> Option<FaultAbort> {
        let abort = &raw.value;
        let with = match (&abort.status_code, abort.grpc_status) {
            (Some(code), None) => {
                AbortWith::StatusCode(StatusCode::from_u16(code.value.get()).ok()?)
            }
            (None, Some(code)) => AbortWith::GrpcStatus(code as u8),
            _ => {
                let fault = "exactly one of `statusCode` and `grpcStatus` is expected";
                self.fault(raw.node, report::Fault::new(fault));
                return None;
            }
        };
        Some(FaultAbort {
            percent: abort.percent.get(),
            with,
        })
    }
}

pub(super) fn importance(raw: raw::Importance) -> Importance {
    match raw {
        raw::Importance::Low => Importance::Low,
        raw::Importance::Normal => Importance::Normal,
        raw::Importance::High => Importance::High,
    }
}
