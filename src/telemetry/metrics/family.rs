//! What a scrape consists of, before it has a form: families, and their series one by one.

use super::{exemplar::Exemplar, histogram::Summary};

/// What all series of one name have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family<'a> {
    /// With its unit at the end, where it has one; without the `_total` of a counter.
    pub(super) name: &'a str,
    pub(super) help: &'a str,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Grows only, until its object or the process is new.
    Counter,
    Gauge,
    Histogram,
    /// Says something by its labels; the value is always 1.
    Info,
}

impl Family<'_> {
    /// The unit that the name ends with.
    pub(super) fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes"].into_iter().find(|unit| {
            let rest = self.name.strip_suffix(unit);
            rest.is_some_and(|rest| rest.ends_with('_'))
        })
    }
}

/// Name and value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// What a series tells.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// The exemplar is the last event that was traced.
    Count(u64, Option<Exemplar>),
    Integer(i64),
    Float(f64),
    Histogram(&'a Summary),
}

impl Value<'_> {
    /// A count that may go down as well.
    pub(super) fn level(count: u64) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Lines that it takes in text, which is what a scraper counts as series.
    pub(super) fn series(&self) -> usize {
        match self {
            Self::Histogram(summary) => series_of_histogram(summary.buckets.len() - 1),
            _ => 1,
        }
    }
}

/// A bucket for each bound and one beyond, the sum and the count.
pub(super) const fn series_of_histogram(bounds: usize) -> usize {
    bounds + 3
}

/// A form that a scrape can be given.
pub(super) trait Visitor {
    /// The series that follow are of this family.
    fn family(&mut self, family: &Family<'_>);

    /// `since`: when it began to count, as nanoseconds since 1970.
    fn series(&mut self, labels: &[Label<'_>], value: Value<'_>, since: u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_a_word_of_its_own_at_the_end() {
        let unit = |name| {
            let kind = Kind::Gauge;
            Family {
                name,
                help: "",
                kind,
            }
            .unit()
        };
        assert_eq!(unit("a_seconds"), Some("seconds"));
        assert_eq!(unit("a_body_bytes"), Some("bytes"));
        assert_eq!(unit("a_kilobytes"), None);
        assert_eq!(unit("a_seconds_left"), None);
    }
}
