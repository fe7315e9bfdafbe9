//! Traces of requests: the file's word, and before it the environment's.

use super::Resolver;
use crate::{
    config::{
        decode::At,
        model::{Keep, Propagator, Sampling, Tracing},
        otel, raw,
        report::Fault,
    },
    telemetry::otlp::Signal,
};

impl Resolver<'_> {
    /// On where the file has it, or where the environment wants spans exported and the file doesn't
    /// say no.
    pub(super) fn tracing(&mut self, raw: Option<&At<raw::Tracing>>) -> Option<Tracing> {
        let wanted = self.otel.exports(Signal::Traces);
        let default = raw::Tracing::default();
        let written = raw.map_or(&default, |raw| &raw.value);
        let propagators = &written.propagators;
        if propagators.value.is_empty() {
            let fault = Fault::new("no propagator is named");
            let hint = "`tracecontext` is what OpenTelemetry speaks";
            self.fault(propagators.node, fault.hint(hint));
        }
        if raw.is_some() && written.enabled {
            self.overruled(Signal::Traces);
        }
        let on = wanted.unwrap_or_else(|| raw.is_some()) && written.enabled;
        let named = self.otel.propagators.as_ref();
        let named = named.unwrap_or(&propagators.value);
        on.then(|| Tracing {
            sampling: self
                .otel
                .sampler
                .map_or_else(|| sampling(written.sampling), of_environment),
            propagators: named.iter().filter_map(propagator).collect(),
            keep: Keep {
                errors: written.keep.errors,
                slower_than: written.keep.slower_than.0,
            },
            value_length: self.otel.value_length(Signal::Traces),
        })
    }

    /// Of a rule: it chooses among requests that are traced.
    pub(super) fn rule_sampling(&mut self, raw: &raw::RuleTracing) -> Option<Sampling> {
        let written = raw.sampling?;
        if self.untraced {
            let fault = Fault::new("tracing is not on");
            let hint = "write `tracing: {}` at the top level, or `tracing: { enabled: false }`";
            self.fault(written.node, fault.hint(hint));
        }
        Some(sampling(written.value))
    }
}

/// `None`: baggage is passed on anyway.
const fn propagator(written: &raw::Propagator) -> Option<Propagator> {
    match written {
        raw::Propagator::TraceContext => Some(Propagator::TraceContext),
        raw::Propagator::Baggage => None,
        raw::Propagator::B3 => Some(Propagator::B3),
        raw::Propagator::B3Multi => Some(Propagator::B3Multi),
    }
}

fn sampling(written: raw::Sampling) -> Sampling {
    match written {
        raw::Sampling::Always => Sampling::ALWAYS,
        raw::Sampling::Never => Sampling::NEVER,
        raw::Sampling::Share(share) => Sampling {
            share: share.get(),
            follows_parent: true,
        },
    }
}

fn of_environment(sampler: otel::Sampler) -> Sampling {
    Sampling {
        share: (sampler.ratio * 1_000_000.0).round() as u32,
        follows_parent: sampler.parent_based,
    }
}
