//! From handles to families: every object of one kind, one family after the other.

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, MetricEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};

use super::histogram::Totals;

/// A kind of object that has metrics of its own, one label naming the object.
pub(super) trait Scraped: fmt::Debug + Send + Sync + Sized + 'static {
    /// The label that carries the object's name.
    const LABEL: &'static str;

    fn new(workers: usize) -> Self;

    /// The labels that an object's name stands for.
    fn labels(name: &str) -> Vec<(&'static str, &str)> {
        vec![(Self::LABEL, name)]
    }

    fn encode(families: &mut Families<'_, '_, Self>) -> fmt::Result;
}

/// Writes families, each with the series of every object: the text format wants a family's series
/// together.
pub(super) struct Families<'a, 'e, T> {
    pub(super) encoder: &'a mut DescriptorEncoder<'e>,
    pub(super) objects: &'a [(Arc<str>, Arc<T>)],
}

impl<T: Scraped> Families<'_, '_, T> {
    /// `name` without the `_total` that the format adds.
    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        value: impl Fn(&T) -> u64,
    ) -> fmt::Result {
        self.counters(name, help, [], |metrics| vec![([], value(metrics))])
    }

    /// Several series an object, told apart by more labels.
    pub(super) fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        values: impl Fn(&T) -> Vec<([&'static str; N], u64)>,
    ) -> fmt::Result {
        let mut family = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (object, metrics) in self.objects {
            for (label_values, count) in values(metrics) {
                let mut set = T::labels(object);
                set.extend(labels.into_iter().zip(label_values));
                counter(&mut family, &set, count)?;
            }
        }
        Ok(())
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl Fn(&T) -> u64,
    ) -> fmt::Result {
        self.gauges(name, help, [], |metrics| vec![([], value(metrics))])
    }

    /// Several series an object, told apart by more labels.
    pub(super) fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        values: impl Fn(&T) -> Vec<([&'static str; N], u64)>,
    ) -> fmt::Result {
        let mut family = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (object, metrics) in self.objects {
            for (label_values, value) in values(metrics) {
                let mut set = T::labels(object);
                set.extend(labels.into_iter().zip(label_values));
                family.encode_family(&set)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        totals: impl Fn(&T) -> Totals,
    ) -> fmt::Result {
        let mut family = self
            .encoder
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (object, metrics) in self.objects {
            let Totals {
                sum,
                count,
                buckets,
            } = totals(metrics);
            let labels = T::labels(object);
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

/// One series of a counter.
pub(super) fn counter(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str)],
    count: impl EncodeCounterValue,
) -> fmt::Result {
    const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;
    if labels.is_empty() {
        return family.encode_counter(&count, NO_EXEMPLAR);
    }
    family
        .encode_family(&labels)?
        .encode_counter(&count, NO_EXEMPLAR)
}
