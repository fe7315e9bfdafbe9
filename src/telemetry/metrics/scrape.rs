//! From what was counted to families: every object of one kind, one family after the other.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    common::{Common, Settings},
    exemplar::Exemplar,
    family::{Family, Kind, Label, Value, Visitor},
    group::OVERFLOW,
    ledger::Ledger,
};

/// A kind of object that has metrics of its own, one label naming the object.
pub(super) trait Scraped: fmt::Debug + Send + Sync + Sized + 'static {
    /// The label that carries the object's name.
    const LABEL: &'static str;

    fn new(common: &Arc<Common>) -> Self;

    /// Places that an object takes: for all that it shows without asking a [`Ledger`].
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
}

impl<'a> Scrape<'a> {
    /// `since`: when the process began to count, as nanoseconds since 1970.
    pub(super) const fn new(visitor: &'a mut dyn Visitor, most: usize, since: u64) -> Self {
        Self {
            visitor,
            left: most,
            since,
            shown: 0,
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
    pub(super) common: &'a Common,
    pub(super) objects: &'a [Object<T>],
    /// The labels that an object's name stands for.
    pub(super) labels: fn(&str) -> Vec<Label<'_>>,
}

/// One of a kind, for a scrape.
#[derive(Debug)]
pub(super) struct Object<T> {
    pub(super) name: Arc<str>,
    pub(super) metrics: Arc<T>,
    pub(super) ledger: Arc<Ledger>,
    /// When it came into being, as nanoseconds since 1970.
    pub(super) since: u64,
    /// The configuration that last asked for it.
    pub(super) epoch: u64,
}

/// A series that begins with its first event: the values of its labels, how often it happened, and
/// the last time that was traced.
pub(super) type Event<const N: usize> = ([&'static str; N], u64, Option<Exemplar>);

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

impl<T> Families<'_, '_, T> {
    /// A family; `each` puts the series of one object.
    pub(super) fn family(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        each: impl Fn(&T, &mut Series<'_, '_>),
    ) {
        self.each(name, kind, help, |object, series| {
            each(&object.metrics, series);
        });
    }

    fn each(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        each: impl Fn(&Object<T>, &mut Series<'_, '_>),
    ) {
        self.scrape.family(name, kind, help);
        let since = self.scrape.since;
        for object in self.objects {
            self.scrape.since = object.since;
            let mut series = Series {
                scrape: self.scrape,
                own: &(self.labels)(&object.name),
            };
            each(object, &mut series);
        }
        self.scrape.since = since;
    }

    /// Families of what `look` finds in each object: once, not for each family again.
    pub(super) fn within<V>(
        &mut self,
        look: impl Fn(&T) -> V,
        describe: impl FnOnce(&mut Families<'_, '_, V>),
    ) {
        let found = self.objects.iter().map(|object| Object {
            name: Arc::clone(&object.name),
            metrics: Arc::new(look(&object.metrics)),
            ledger: Arc::clone(&object.ledger),
            since: object.since,
            epoch: object.epoch,
        });
        describe(&mut Families {
            scrape: self.scrape,
            common: self.common,
            objects: &found.collect::<Vec<_>>(),
            labels: self.labels,
        });
    }

    /// What the family at hand tells of all that found no place.
    pub(super) fn rest(&mut self, rest: impl FnOnce(&mut Series<'_, '_>)) {
        let since = self.scrape.since;
        rest(&mut Series {
            scrape: self.scrape,
            own: &(self.labels)(OVERFLOW),
        });
        self.scrape.since = since;
    }

    /// Counters that begin with their first event, told apart by more labels. `events` leaves out
    /// what never happened.
    pub(super) fn events<const N: usize>(
        &mut self,
        name: &'static str,
        help: &str,
        labels: [&'static str; N],
        events: impl Fn(&T) -> Vec<([&'static str; N], u64)>,
    ) {
        self.traced(name, help, labels, |metrics| {
            let untraced = |(row, count)| (row, count, None);
            events(metrics).into_iter().map(untraced).collect()
        });
    }

    /// The same, with traces.
    pub(super) fn traced<const N: usize>(
        &mut self,
        name: &'static str,
        help: &str,
        labels: [&'static str; N],
        events: impl Fn(&T) -> Vec<Event<N>>,
    ) {
        self.each(name, Kind::Counter, help, |object, series| {
            for (row, count, exemplar) in events(&object.metrics) {
                let mut key = [""; 2];
                key[..N].copy_from_slice(&row);
                if let Some(count) = object.ledger.tell(name, key, count) {
                    series.put(&paired(labels, row), Value::Count(count, exemplar));
                }
            }
        });
        self.rest_of_events(name, labels);
    }

    /// What the family tells of events that have no place.
    pub(super) fn rest_of_events<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [&'static str; N],
    ) {
        let folded = self.common.room.folded(name);
        if folded > 0 {
            let labels = paired(labels, [OVERFLOW; N]);
            self.rest(|series| series.put(&labels, Value::Count(folded, None)));
        }
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
                series.put(&paired(labels, row), Value::Count(count, None));
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
                series.put(&paired(labels, row), Value::level(value));
            }
        });
    }
}

fn paired<'a, const N: usize>(names: [&'a str; N], values: [&'a str; N]) -> [Label<'a>; N] {
    std::array::from_fn(|index| (names[index], values[index]))
}
