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
        let keep = Keep {
            errors: written.keep.errors,
            slower_than: written.keep.slower_than.0,
        };
        let sampler = self.otel.sampler.map(of_environment);
        if on && keep.is_on() && sampler == Some(Sampling::NEVER) {
            let doubt = "OTEL_TRACES_SAMPLER has no request traced, so `tracing.keep` keeps none: parentbased_always_off would leave it those that no sender wants traced";
            self.notes.doubts.push(doubt.to_owned());
        }
        on.then(|| Tracing {
            sampling: sampler.unwrap_or_else(|| sampling(written.sampling)),
            propagators: named.iter().filter_map(propagator).collect(),
            keep,
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

/// A ratio is at least a millionth, unless it is nothing: that is another decision.
fn of_environment(sampler: otel::Sampler) -> Sampling {
    let least = u32::from(sampler.ratio > 0.0);
    Sampling {
        share: ((sampler.ratio * 1_000_000.0).round() as u32).max(least),
        follows_parent: sampler.parent_based,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Loaded};

    fn loaded(tracing: &str, sampler: &str, argument: &str) -> Loaded {
        let text = format!(
            "tracing: {tracing}\nlisteners: [{{ address: 127.0.0.1:1, upstream: a }}]\n\
             upstreams: [{{ name: a, endpoints: [127.0.0.1:2] }}]"
        );
        let env = |name: &str| match name {
            "OTEL_TRACES_SAMPLER" => Some(sampler.to_owned()),
            "OTEL_TRACES_SAMPLER_ARG" => Some(argument.to_owned()),
            _ => None,
        };
        config::parse("test.yaml", &text, &env).unwrap()
    }

    #[test]
    fn a_small_ratio_is_not_nothing() {
        let share = |argument| {
            let tracing = loaded("{}", "traceidratio", argument).config.tracing;
            tracing.unwrap().sampling.share
        };
        assert_eq!(share("1e-7"), 1);
        assert_eq!(share("0"), 0);
        assert_eq!(share("0.25"), 250_000);
        assert_eq!(share("1"), 1_000_000);
    }

    #[test]
    fn what_leaves_nothing_to_keep_is_doubted() {
        const KEEP: &str = "{ keep: { errors: true } }";
        const NONE: &str = "{ keep: { errors: false, slowerThan: 0s } }";
        let doubts = |tracing, sampler| loaded(tracing, sampler, "0").notes.doubts.len();
        assert_eq!(doubts(KEEP, "always_off"), 1);
        assert_eq!(doubts(KEEP, "traceidratio"), 1);
        assert_eq!(doubts(NONE, "always_off"), 0);
        for sampler in [
            "parentbased_always_off",
            "parentbased_traceidratio",
            "always_on",
            "",
        ] {
            assert_eq!(doubts(KEEP, sampler), 0, "{sampler}");
        }
        let tracing = loaded(KEEP, "parentbased_always_off", "").config.tracing;
        assert_ne!(tracing.unwrap().sampling, Sampling::NEVER);
    }
}
