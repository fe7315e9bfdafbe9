//! A histogram of durations made of single-writer counts.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    cells::{Count, PerWorker},
    exemplar::{Exemplar, Slot, nanos},
};

/// Upper bounds of buckets, inclusive and growing.
#[derive(Debug, PartialEq)]
pub(super) struct Bounds {
    /// So that observing takes no floating point.
    nanos: Box<[u64]>,
    /// In seconds, as text has them.
    text: Box<[Box<str>]>,
}

impl Bounds {
    pub(super) fn new(bounds: &[Duration]) -> Self {
        let text = |bound: &Duration| format!("{:?}", bound.as_secs_f64()).into();
        Self {
            nanos: bounds.iter().copied().map(nanos).collect(),
            text: bounds.iter().map(text).collect(),
        }
    }

    /// How many there are. Buckets are one more, for what is beyond all of them.
    pub(super) fn len(&self) -> usize {
        self.nanos.len()
    }

    /// In seconds.
    pub(super) fn seconds(&self) -> impl Iterator<Item = f64> {
        let seconds = |&nanos: &u64| Duration::from_nanos(nanos).as_secs_f64();
        self.nanos.iter().map(seconds)
    }

    /// The bound of a bucket.
    pub(super) fn text(&self, bucket: usize) -> &str {
        self.text.get(bucket).map_or("+Inf", |text| text)
    }

    fn bucket(&self, nanos: u64) -> usize {
        let bounds = self.nanos.iter();
        // From the first on: most of what is observed is short.
        bounds.take_while(|&&bound| nanos > bound).count()
    }
}

/// One worker's part of a histogram.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: Arc<Bounds>,
    /// Not cumulative.
    buckets: Box<[Count]>,
    /// Nanoseconds. Wraps after 584 years of waiting added up, which a scraper takes for a restart.
    sum: Count,
    /// One for each bucket, made for the first event that was traced.
    exemplars: OnceLock<Box<[Slot]>>,
}

impl Histogram {
    pub(super) fn new(bounds: &Arc<Bounds>) -> Self {
        Self {
            buckets: (0..=bounds.len()).map(|_| Count::default()).collect(),
            bounds: Arc::clone(bounds),
            sum: Count::default(),
            exemplars: OnceLock::new(),
        }
    }

    /// `trace`: ids of the trace and the span of an event that is to be an exemplar.
    pub(super) fn observe(&self, duration: Duration, trace: Option<(u128, u64)>) {
        let nanos = nanos(duration);
        let bucket = self.bounds.bucket(nanos);
        self.buckets[bucket].increment();
        self.sum.add(nanos);
        if let Some(trace) = trace {
            let slots = || self.buckets.iter().map(|_| Slot::default()).collect();
            self.exemplars.get_or_init(slots)[bucket].write(trace, duration);
        }
    }
}

/// A histogram over all workers.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    pub(super) bounds: Arc<Bounds>,
    pub(super) buckets: Vec<Bucket>,
    pub(super) sum: Duration,
}

/// What fell between a bound and the one before it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    pub(super) count: u64,
    pub(super) exemplar: Option<Exemplar>,
}

impl Summary {
    pub(super) fn new(bounds: &Arc<Bounds>) -> Self {
        Self {
            bounds: Arc::clone(bounds),
            buckets: vec![Bucket::default(); bounds.len() + 1],
            sum: Duration::ZERO,
        }
    }

    /// Takes in one worker's part, which has the same bounds.
    pub(super) fn add(&mut self, part: &Histogram) {
        for (bucket, count) in self.buckets.iter_mut().zip(&part.buckets) {
            bucket.count += count.get();
        }
        self.sum += Duration::from_nanos(part.sum.get());
        let Some(slots) = part.exemplars.get() else {
            return;
        };
        for (bucket, slot) in self.buckets.iter_mut().zip(slots) {
            bucket.exemplar = newer(bucket.exemplar, slot.read());
        }
    }

    /// What the buckets hold, so that the two never disagree in a scrape.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }

    /// The newest of all buckets.
    pub(super) fn exemplar(&self) -> Option<Exemplar> {
        let exemplars = self.buckets.iter().map(|bucket| bucket.exemplar);
        exemplars.fold(None, newer)
    }
}

/// The later one of two.
pub(super) fn newer(one: Option<Exemplar>, other: Option<Exemplar>) -> Option<Exemplar> {
    match (one, other) {
        (Some(one), Some(other)) if one.at >= other.at => Some(one),
        (one, other) => other.or(one),
    }
}

impl PerWorker<Histogram> {
    /// Over all workers; there is one at least.
    pub(super) fn summary(&self) -> Summary {
        let mut summary = Summary::new(&self.of(0).bounds);
        self.iter().for_each(|part| summary.add(part));
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [Duration; 3] = [
        Duration::from_micros(500),
        Duration::from_millis(5),
        Duration::from_secs(1),
    ];

    fn observed(durations: &[Duration]) -> Summary {
        let bounds = Arc::new(Bounds::new(&BOUNDS));
        let cells = PerWorker::from_fn(2, || Histogram::new(&bounds));
        for (index, &duration) in durations.iter().enumerate() {
            cells.of(index % 2).observe(duration, None);
        }
        cells.summary()
    }

    #[test]
    fn bounds_have_text() {
        let bounds = Bounds::new(&BOUNDS);
        let text: Vec<_> = (0..4).map(|bucket| bounds.text(bucket)).collect();
        assert_eq!(text, ["0.0005", "0.005", "1.0", "+Inf"]);
    }

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        for (index, bound) in BOUNDS.into_iter().enumerate() {
            let summary = observed(&[bound, bound + Duration::from_nanos(1)]);
            assert_eq!(summary.buckets[index].count, 1, "at {bound:?}");
            assert_eq!(summary.buckets[index + 1].count, 1, "above {bound:?}");
        }
    }

    #[test]
    fn sums_over_workers() {
        let summary = observed(&[
            Duration::ZERO,
            Duration::from_millis(1500),
            Duration::from_secs(3600),
        ]);
        assert_eq!(summary.count(), 3);
        assert_eq!(summary.sum, Duration::from_millis(3_601_500));
        assert_eq!(summary.buckets[0].count, 1);
        assert_eq!(summary.buckets[BOUNDS.len()].count, 2);
    }

    #[test]
    fn the_longest_duration_is_taken() {
        assert_eq!(observed(&[Duration::MAX]).count(), 1);
    }

    #[test]
    fn the_newest_exemplar_of_all_workers_is_shown() {
        let bounds = Arc::new(Bounds::new(&BOUNDS));
        let cells = PerWorker::from_fn(2, || Histogram::new(&bounds));
        let took = Duration::from_millis(1);
        cells.of(1).observe(took, Some((1, 1)));
        cells.of(0).observe(took, Some((2, 2)));
        let summary = cells.summary();
        assert_eq!(summary.exemplar(), summary.buckets[1].exemplar);
        let shown = summary.exemplar().unwrap();
        assert!(
            shown.trace_id == 2
                || shown.at == cells.of(1).exemplars.get().unwrap()[1].read().unwrap().at
        );
        assert!(cells.of(0).exemplars.get().unwrap()[0].read().is_none());
    }
}
