//! What is said of the process, and of its traces.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use opentelemetry_semantic_conventions::resource::{
    K8S_NAMESPACE_NAME, K8S_NODE_NAME, K8S_POD_NAME,
};

use super::{
    MIN_METRIC_INTERVAL, Propagator, Sampler,
    variables::{Reader, decoded, pairs},
};
use crate::config::report::quote;

impl Reader<'_> {
    pub(super) fn resource(&mut self) -> BTreeMap<Arc<str>, Arc<str>> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let text = self.text(NAME).unwrap_or_default();
        let attributes: Option<BTreeMap<Arc<str>, Arc<str>>> = pairs(&text)
            .map(|pair| {
                let (name, value) = pair?;
                Some((decoded(name)?.into(), value.into()))
            })
            .collect();
        // All or nothing, as the specification has it.
        let attributes = attributes.or_else(|| self.ignore(NAME, "a pair in it is not name=value"));
        let mut attributes = attributes.unwrap_or_default();
        if let Some(name) = self.text("OTEL_SERVICE_NAME") {
            attributes.insert("service.name".into(), name.into());
        }
        attributes
    }

    pub(super) fn place(&mut self) -> BTreeMap<Arc<str>, Arc<str>> {
        let known = [
            ("POD_NAME", K8S_POD_NAME),
            ("POD_NAMESPACE", K8S_NAMESPACE_NAME),
            ("NODE_NAME", K8S_NODE_NAME),
        ];
        let told = known.map(|(name, attribute)| Some((attribute.into(), self.text(name)?.into())));
        told.into_iter().flatten().collect()
    }

    /// As long as the file may have it at least.
    pub(super) fn metric_interval(&mut self) -> Option<Duration> {
        const NAME: &str = "OTEL_METRIC_EXPORT_INTERVAL";
        let interval = self.millis(NAME)?;
        if interval < MIN_METRIC_INTERVAL {
            self.warn(format!("{NAME}: less than a second is taken for one"));
        }
        Some(interval.max(MIN_METRIC_INTERVAL))
    }

    /// Only requests that are sampled can be exemplars: `always_on` makes no more of them.
    pub(super) fn exemplars(&mut self) -> Option<bool> {
        const NAME: &str = "OTEL_METRICS_EXEMPLAR_FILTER";
        let text = self.word(NAME)?;
        match text.as_str() {
            "trace_based" | "always_on" => Some(true),
            "always_off" => Some(false),
            _ => self.ignore(NAME, format!("there is no filter {}", quote(&text))),
        }
    }

    /// How metrics are sent is no choice: says so to who wants something else.
    pub(super) fn form_of_metrics(&mut self) {
        for (what, only) in [
            ("TEMPORALITY_PREFERENCE", "cumulative"),
            ("DEFAULT_HISTOGRAM_AGGREGATION", "explicit_bucket_histogram"),
        ] {
            let name = format!("OTEL_EXPORTER_OTLP_METRICS_{what}");
            if self.word(&name).is_some_and(|word| word != only) {
                self.ignore::<()>(&name, format!("{only} is what is sent"));
            }
        }
    }

    pub(super) fn sampler(&mut self) -> Option<Sampler> {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        self.know("OTEL_TRACES_SAMPLER_ARG");
        let text = self.word(NAME)?;
        let (parent_based, root) = match text.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, text.as_str()),
        };
        let ratio = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.ratio().unwrap_or(1.0),
            _ => return self.ignore(NAME, format!("there is no sampler {}", quote(&text))),
        };
        Some(Sampler {
            parent_based,
            ratio,
        })
    }

    fn ratio(&mut self) -> Option<f64> {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let ratio = self.number::<f64>(NAME)?;
        match (0.0..=1.0).contains(&ratio) {
            true => Some(ratio),
            false => self.ignore(NAME, format!("{ratio} is not from 0 to 1")),
        }
    }

    pub(super) fn propagators(&mut self) -> Option<Vec<Propagator>> {
        const NAME: &str = "OTEL_PROPAGATORS";
        let text = self.word(NAME)?;
        let mut propagators = Vec::new();
        for word in text.split(',').map(str::trim) {
            let propagator = match word {
                "none" | "" => continue,
                "tracecontext" => Propagator::TraceContext,
                "baggage" => Propagator::Baggage,
                "b3" => Propagator::B3,
                "b3multi" => Propagator::B3Multi,
                _ => {
                    let why = format!("{} is not spoken", quote(word));
                    self.warn(format!("{NAME}: {why}"));
                    continue;
                }
            };
            if !propagators.contains(&propagator) {
                propagators.push(propagator);
            }
        }
        // Nothing that is known: as if it were unset.
        let none = text == "none";
        (none || !propagators.is_empty()).then_some(propagators)
    }
}
