//! Traces of requests.

use super::Resolver;
use crate::config::{
    decode::At,
    model::{Keep, Propagator, Sampling, Tracing},
    raw,
    report::Fault,
};

impl Resolver<'_> {
    pub(super) fn tracing(&mut self, raw: Option<&At<raw::Tracing>>) -> Option<Tracing> {
        let raw = &raw?.value;
        let written = &raw.propagators.value;
        if written.is_empty() {
            let fault = Fault::new("no propagator is named");
            self.fault(raw.propagators.node, fault.hint("`tracecontext` is what OpenTelemetry speaks"));
        }
        raw.enabled.then(|| Tracing {
            sampling: sampling(raw.sampling),
            propagators: written.iter().filter_map(|&each| propagator(each)).collect(),
            keep: Keep {
                errors: raw.keep.errors,
                slower_than: raw.keep.slower_than.0,
            },
        })
    }
}

const fn propagator(raw: raw::Propagator) -> Option<Propagator> {
    match raw {
        raw::Propagator::TraceContext => Some(Propagator::TraceContext),
        raw::Propagator::Baggage => None,
        raw::Propagator::B3 => Some(Propagator::B3),
        raw::Propagator::B3Multi => Some(Propagator::B3Multi),
    }
}

pub(super) fn sampling(raw: raw::Sampling) -> Sampling {
    match raw {
        raw::Sampling::Always => Sampling::ALWAYS,
        raw::Sampling::Never => Sampling::NEVER,
        raw::Sampling::Share(share) => Sampling {
            share: share.get(),
            follows_parent: true,
        },
    }
}
