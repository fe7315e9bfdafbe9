//! A scrape as text, in either of two forms.
//!
//! Written here, and not by the encoder of prometheus-client: that one gives nobody else a way to
//! write an exemplar, and knows the form alone that fewer scrapers ask for.

use std::fmt::Write;

use super::{
    exemplar::Exemplar,
    family::{Family, Kind, Label, Value, Visitor},
    histogram::Summary,
};

/// What a scraper can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4: what everything reads.
    Prometheus,
    /// OpenMetrics text, version 1.0.0: for those that ask. It alone has exemplars.
    OpenMetrics,
}

impl Format {
    /// What is said in `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes what it is shown.
#[derive(Debug)]
pub(super) struct Text {
    format: Format,
    out: String,
    /// The name of the family's series, their suffix included, but for a histogram's.
    name: String,
    /// Labels of one series, which a histogram repeats line by line.
    labels: String,
}

impl Text {
    pub(super) const fn new(format: Format) -> Self {
        Self {
            format,
            out: String::new(),
            name: String::new(),
            labels: String::new(),
        }
    }

    /// All that was written, complete.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn exemplar(&mut self, exemplar: Option<&Exemplar>) {
        if let (Some(exemplar), Format::OpenMetrics) = (exemplar, self.format) {
            written(write!(
                self.out,
                " # {{trace_id=\"{:032x}\",span_id=\"{:016x}\"}} {:?} {}.{:03}",
                exemplar.trace_id,
                exemplar.span_id,
                exemplar.value,
                exemplar.at / 1_000_000_000,
                exemplar.at / 1_000_000 % 1000,
            ));
        }
    }

    fn histogram(&mut self, summary: &Summary) {
        let comma = if self.labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (index, bucket) in summary.buckets.iter().enumerate() {
            count += bucket.count;
            let bound = summary.bounds.text(index);
            let head = [self.name.as_str(), "_bucket{", &self.labels, comma];
            self.out.extend(head);
            self.out.extend(["le=\"", bound, "\"} "]);
            written(write!(self.out, "{count}"));
            self.exemplar(bucket.exemplar.as_ref());
            self.out.push('\n');
        }
        let (open, close) = if self.labels.is_empty() {
            ("", "")
        } else {
            ("{", "}")
        };
        self.out
            .extend([&self.name, "_sum", open, &self.labels, close]);
        written(writeln!(self.out, " {:?}", summary.sum.as_secs_f64()));
        self.out
            .extend([&self.name, "_count", open, &self.labels, close]);
        written(writeln!(self.out, " {count}"));
    }
}

impl Visitor for Text {
    /// OpenMetrics names the family of a counter without `_total` and has a type for what is told
    /// by labels; 0.0.4 calls family and series the same, and takes the latter for a gauge.
    fn family(&mut self, family: &Family<'_>) {
        let (suffix, kind) = match (family.kind, self.format) {
            (Kind::Counter, _) => ("_total", "counter"),
            (Kind::Gauge, _) => ("", "gauge"),
            (Kind::Histogram, _) => ("", "histogram"),
            (Kind::Info, Format::Prometheus) => ("_info", "gauge"),
            (Kind::Info, Format::OpenMetrics) => ("_info", "info"),
        };
        self.name.clear();
        self.name.extend([family.name, suffix]);
        let (name, unit) = match self.format {
            Format::Prometheus => (self.name.as_str(), None),
            Format::OpenMetrics => (family.name, family.unit()),
        };
        let help = ["# HELP ", name, " ", family.help, "\n"];
        self.out.extend(help);
        self.out.extend(["# TYPE ", name, " ", kind, "\n"]);
        if let Some(unit) = unit {
            self.out.extend(["# UNIT ", name, " ", unit, "\n"]);
        }
    }

    fn series(&mut self, labels: &[Label<'_>], value: Value<'_>, _: u64) {
        self.labels.clear();
        for (name, value) in labels {
            let comma = if self.labels.is_empty() { "" } else { "," };
            self.labels.extend([comma, name, "=\""]);
            escape(value, &mut self.labels);
            self.labels.push('"');
        }
        if let Value::Histogram(summary) = value {
            return self.histogram(summary);
        }
        self.out.push_str(&self.name);
        if !self.labels.is_empty() {
            self.out.extend(["{", &self.labels, "}"]);
        }
        match value {
            Value::Count(count, exemplar) => {
                written(write!(self.out, " {count}"));
                self.exemplar(exemplar.as_ref());
            }
            Value::Integer(number) => written(write!(self.out, " {number}")),
            Value::Float(number) => written(write!(self.out, " {number:?}")),
            Value::Histogram(_) => {}
        }
        self.out.push('\n');
    }
}

fn written(result: std::fmt::Result) {
    result.expect("writing to a String cannot fail");
}

/// Both forms escape alike inside the quotes of a label.
fn escape(value: &str, out: &mut String) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'\n' => "\\n",
            b'"' => "\\\"",
            _ => "\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::telemetry::metrics::histogram::{Bounds, Bucket};

    fn text(format: Format, show: impl FnOnce(&mut Text)) -> String {
        let mut text = Text::new(format);
        show(&mut text);
        text.finish()
    }

    fn family(name: &str, kind: Kind) -> Family<'_> {
        let help = "Help.";
        Family { name, help, kind }
    }

    #[test]
    fn families_are_named_as_each_form_names_them() {
        let show = |text: &mut Text| {
            text.family(&family("a_build", Kind::Info));
            text.series(&[("v", "1")], Value::Integer(1), 0);
            text.family(&family("a_busy_seconds", Kind::Counter));
            text.series(&[], Value::Float(0.5), 0);
            text.family(&family("a_now", Kind::Gauge));
            text.series(&[("x", "a\"b\\c\nd")], Value::Integer(-2), 0);
        };
        assert_eq!(
            text(Format::Prometheus, show),
            "# HELP a_build_info Help.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n\
            # HELP a_busy_seconds_total Help.\n# TYPE a_busy_seconds_total counter\n\
            a_busy_seconds_total 0.5\n\
            # HELP a_now Help.\n# TYPE a_now gauge\na_now{x=\"a\\\"b\\\\c\\nd\"} -2\n"
        );
        assert_eq!(
            text(Format::OpenMetrics, show),
            "# HELP a_build Help.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n\
            # HELP a_busy_seconds Help.\n# TYPE a_busy_seconds counter\n\
            # UNIT a_busy_seconds seconds\na_busy_seconds_total 0.5\n\
            # HELP a_now Help.\n# TYPE a_now gauge\na_now{x=\"a\\\"b\\\\c\\nd\"} -2\n# EOF\n"
        );
    }

    #[test]
    fn buckets_add_up_and_exemplars_are_for_those_who_ask() {
        let exemplar = Exemplar {
            trace_id: 0xab,
            span_id: 0xcd,
            value: 0.7,
            at: 1_700_000_000_123_456_789,
        };
        let bucket = |count, exemplar| Bucket { count, exemplar };
        let bounds = Arc::new(Bounds::new(&[
            Duration::from_millis(5),
            Duration::from_secs(1),
        ]));
        let summary = Summary {
            bounds,
            buckets: vec![bucket(2, None), bucket(1, Some(exemplar)), bucket(0, None)],
            sum: Duration::from_millis(1250),
        };
        let show = |text: &mut Text| {
            text.family(&family("a_seconds", Kind::Histogram));
            text.series(&[], Value::Histogram(&summary), 0);
            text.family(&family("a_things", Kind::Counter));
            text.series(&[("b", "c")], Value::Count(4, Some(exemplar)), 0);
        };
        let plain = text(Format::Prometheus, show);
        assert!(plain.contains(
            "\na_seconds_bucket{le=\"0.005\"} 2\na_seconds_bucket{le=\"1.0\"} 3\n\
            a_seconds_bucket{le=\"+Inf\"} 3\na_seconds_sum 1.25\na_seconds_count 3\n"
        ));
        assert!(!plain.contains("trace_id"));
        let told = "# {trace_id=\"000000000000000000000000000000ab\",\
            span_id=\"00000000000000cd\"} 0.7 1700000000.123\n";
        let open = text(Format::OpenMetrics, show);
        assert!(open.contains(&format!("a_seconds_bucket{{le=\"1.0\"}} 3 {told}")));
        assert!(open.contains(&format!("a_things_total{{b=\"c\"}} 4 {told}")));
    }
}
