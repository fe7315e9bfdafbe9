//! From what was counted to families: every object of one kind, one family after the other.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    common::{Common, Settings},
    family::{Family, Kind, Label, Value, Visitor},
};

/// A kind of object that has metrics of its own, one label naming the object.
pub(super) trait Scraped: fmt::Debug + Send + Sync + Sized + 'static {
    /// The label that carries the object's name.
    const LABEL: &'static str;

    fn new(common: &Arc<Common>) -> Self;

    /// Places that an object takes: for the series that it always has, and for some of those that
    /// begin with their first event.
    fn places(settings: &Settings) -> usize;

    /// Whether it was made for the settings in force. Another one takes its place if not.
    fn is_current(&self) -> bool {
        true
    }

    /// The labels that an object's name stands for.
    fn labels(name: &str) -> Vec<Label<'_>> {
        vec![(Self::LABEL, name)]
    }

    fn describe(families: &mut Families<'_, '_, Self>);
}

/// Shows families to whoever gives them a form, up to as many series as may be told.
pub(super) struct Scrape<'a> {
    visitor: &'a mut dyn Visitor,
    left: usize,
    /// When what is shown began to count.
    since: u64,
    pub(super) shown: usize,
    pub(super) omitted: usize,
}

impl<'a> Scrape<'a> {
    /// `since`: when the process began to count, as nanoseconds since 1970.
    pub(super) const fn new(visitor: &'a mut dyn Visitor, most: usize, since: u64) -> Self {
        Self {
            visitor,
            left: most,
            since,
            shown: 0,
            omitted: 0,
        }
    }

    /// The series that follow are of this family.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        self.visitor.family(&Family { name, help, kind });
    }

    /// One series of the family.
    pub(super) fn series(&mut self, labels: &[Label<'_>], value: Value<'_>) {
        let series = value.series();
        let Some(left) = self.left.checked_sub(series) else {
            self.omitted += series;
            return;
        };
        self.left = left;
        self.shown += series;
        self.visitor.series(labels, value, self.since);
    }

    /// A family of one series.
    pub(super) fn counter(&mut self, name: &str, help: &str, count: u64) {
        self.family(name, Kind::Counter, help);
        self.series(&[], Value::Count(count, None));
    }

    /// The same for a sum of durations.
    pub(super) fn seconds(&mut self, name: &str, help: &str, sum: Duration) {
        self.family(name, Kind::Counter, help);
        self.series(&[], Value::Float(sum.as_secs_f64()));
    }

    /// The same.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: Value<'_>) {
        self.family(name, Kind::Gauge, help);
        self.series(&[], value);
    }

    /// A family whose series are told apart by one label.
    pub(super) fn counters(&mut self, name: &str, help: &str, label: &str, rows: &[(&str, u64)]) {
        self.family(name, Kind::Counter, help);
        for (value, count) in rows {
            self.series(&[(label, value)], Value::Count(*count, None));
        }
    }

    /// The same.
    pub(super) fn gauges(&mut self, name: &str, help: &str, label: &str, rows: &[(&str, u64)]) {
        self.family(name, Kind::Gauge, help);
        for (value, count) in rows {
            self.series(&[(label, value)], Value::level(*count));
        }
    }
}

/// Shows families of the objects of one kind: a family's series stand together.
pub(super) struct Families<'a, 's, T> {
    pub(super) scrape: &'a mut Scrape<'s>,
    pub(super) objects: &'a [Object<T>],
}

/// One of a kind, for a scrape.
#[derive(Debug)]
pub(super) struct Object<T> {
    pub(super) name: Arc<str>,
    pub(super) metrics: Arc<T>,
    /// When it came into being, as nanoseconds since 1970.
    pub(super) since: u64,
    /// The configuration that last asked for it.
    pub(super) epoch: u64,
}

/// The family at hand, for one object.
pub(super) struct Series<'a, 's> {
    scrape: &'a mut Scrape<'s>,
    own: &'a [Label<'a>],
}

/// Labels of a series, at most.
const MAX_LABELS: usize = 8;

impl Series<'_, '_> {
    /// Those that follow began to count later than their object.
    pub(super) const fn since(&mut self, since: u64) {
        self.scrape.since = since;
    }

    /// One of the object's series in the family.
    pub(super) fn put(&mut self, labels: &[Label<'_>], value: Value<'_>) {
        let mut all = [("", ""); MAX_LABELS];
        let count = self.own.len() + labels.len();
        all[..self.own.len()].copy_from_slice(self.own);
        all[self.own.len()..count].copy_from_slice(labels);
        self.scrape.series(&all[..count], value);
    }
}

impl<T: Scraped> Families<'_, '_, T> {
    /// A family; `each` puts the series of one object.
    pub(super) fn family(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        each: impl Fn(&T, &mut Series<'_, '_>),
    ) {
        self.scrape.family(name, kind, help);
        let since = self.scrape.since;
        for object in self.objects {
            self.scrape.since = object.since;
            let mut series = Series {
                scrape: self.scrape,
                own: &T::labels(&object.name),
            };
            each(&object.metrics, &mut series);
        }
        self.scrape.since = since;
    }

    /// `name` without the `_total` that text adds.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Fn(&T) -> u64) {
        self.family(name, Kind::Counter, help, |metrics, series| {
            series.put(&[], Value::Count(value(metrics), None));
        });
    }

    /// Several series an object, told apart by more labels.
    pub(super) fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        values: impl Fn(&T) -> Vec<([&'static str; N], u64)>,
    ) {
        self.family(name, Kind::Counter, help, |metrics, series| {
            for (row, count) in values(metrics) {
                let labels = std::array::from_fn::<_, N, _>(|index| (labels[index], row[index]));
                series.put(&labels, Value::Count(count, None));
            }
        });
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Fn(&T) -> u64) {
        self.gauges(name, help, [], |metrics| vec![([], value(metrics))]);
    }

    /// Several series an object, told apart by more labels.
    pub(super) fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&'static str; N],
        values: impl Fn(&T) -> Vec<([&'static str; N], u64)>,
    ) {
        self.family(name, Kind::Gauge, help, |metrics, series| {
            for (row, value) in values(metrics) {
                let labels = std::array::from_fn::<_, N, _>(|index| (labels[index], row[index]));
                series.put(&labels, Value::level(value));
            }
        });
    }
}
