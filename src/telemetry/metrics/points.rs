//! A scrape as OTLP metrics: a message `Metric` for each family, with all its points.
//!
//! Sums and histograms are cumulative. They count from the time at which their object came into
//! being, so that a collector can tell an object that begins anew from one that lost something.

use super::{
    exemplar::Exemplar,
    family::{Family, Kind, Label, Value, Visitor},
    histogram::Summary,
};
use crate::{protobuf::Writer, telemetry::attributes::Attributes};

/// Makes them, and gives each to `send` with the number of its points.
pub(super) struct Points<F> {
    send: F,
    now: u64,
    name: String,
    help: String,
    unit: &'static str,
    shape: Shape,
    /// Points of the family, each framed as a field.
    points: Vec<u8>,
    count: u64,
}

/// The message that holds the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Gauge,
    /// Whether it only grows.
    Sum(bool),
    Histogram,
}

impl Shape {
    /// Its field in `Metric`.
    const fn field(self) -> u32 {
        match self {
            Self::Gauge => 5,
            Self::Sum(_) => 7,
            Self::Histogram => 9,
        }
    }
}

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u64 = 2;

/// A family with more bytes than these is told in parts: half of what goes to the exporter at once,
/// whose batches can't be cut within a message.
const MAX_BYTES: usize = 8 * 1024;

/// Families that OpenTelemetry has a name for; `true`: a sum that may shrink.
const NAMES: [(&str, &str, &str, bool); 8] = [
    (
        "http_server_request_duration_seconds",
        "http.server.request.duration",
        "s",
        false,
    ),
    (
        "http_server_active_requests",
        "http.server.active_requests",
        "{request}",
        true,
    ),
    (
        "http_client_request_duration_seconds",
        "http.client.request.duration",
        "s",
        false,
    ),
    (
        "http_client_active_requests",
        "http.client.active_requests",
        "{request}",
        true,
    ),
    (
        "http_client_open_connections",
        "http.client.open_connections",
        "{connection}",
        true,
    ),
    ("process_cpu_seconds", "process.cpu.time", "s", false),
    (
        "process_resident_memory_bytes",
        "process.memory.usage",
        "By",
        true,
    ),
    (
        "process_open_fds",
        "process.unix.file_descriptor.count",
        "{file_descriptor}",
        true,
    ),
];

/// Labels that OpenTelemetry has a name for.
const ATTRIBUTES: [(&str, &str); 6] = [
    ("http_request_method", "http.request.method"),
    ("http_response_status_code", STATUS),
    ("url_scheme", "url.scheme"),
    ("network_protocol_version", "network.protocol.version"),
    ("error_type", "error.type"),
    ("http_connection_state", "http.connection.state"),
];

/// The one attribute that is a number.
const STATUS: &str = "http.response.status_code";

impl<F: FnMut(u64, &[u8])> Points<F> {
    /// `now`: nanoseconds since 1970.
    pub(super) const fn new(now: u64, send: F) -> Self {
        Self {
            send,
            now,
            name: String::new(),
            help: String::new(),
            unit: "",
            shape: Shape::Gauge,
            points: Vec::new(),
            count: 0,
        }
    }

    /// Hands over the family at hand.
    pub(super) fn flush(&mut self) {
        let count = std::mem::take(&mut self.count);
        if count == 0 {
            return;
        }
        let mut message = Vec::with_capacity(self.points.len() + 256);
        let mut metric = Writer(&mut message);
        metric.bytes(1, self.name.as_bytes());
        metric.bytes(2, self.help.as_bytes());
        metric.bytes(3, self.unit.as_bytes());
        metric.message(self.shape.field(), |data| {
            data.0.extend_from_slice(&self.points);
            match self.shape {
                Shape::Gauge => {}
                Shape::Sum(grows) => {
                    data.varint(2, CUMULATIVE);
                    data.varint(3, grows.into());
                }
                Shape::Histogram => data.varint(2, CUMULATIVE),
            }
        });
        (self.send)(count, &message);
        self.points.clear();
    }
}

impl<F: FnMut(u64, &[u8])> Visitor for Points<F> {
    fn family(&mut self, family: &Family<'_>) {
        self.flush();
        let known = NAMES.iter().find(|(name, ..)| *name == family.name);
        let shrinks = known.is_some_and(|(.., shrinks)| *shrinks);
        self.shape = match family.kind {
            Kind::Counter => Shape::Sum(true),
            Kind::Gauge if shrinks => Shape::Sum(false),
            Kind::Gauge | Kind::Info => Shape::Gauge,
            Kind::Histogram => Shape::Histogram,
        };
        self.help.clear();
        self.help.push_str(family.help);
        self.name.clear();
        if let Some((_, name, unit, _)) = known {
            self.name.push_str(name);
            self.unit = unit;
            return;
        }
        // The unit is no part of a name here, and a name space ends with a dot.
        let (unit, suffix) = match family.unit() {
            Some("seconds") => ("s", "_seconds"),
            Some("bytes") => ("By", "_bytes"),
            _ => ("", ""),
        };
        self.unit = unit;
        let name = family.name.strip_suffix(suffix).unwrap_or(family.name);
        let (space, rest) = name.split_once('_').unwrap_or(("", name));
        self.name.extend([space, ".", rest]);
    }

    fn series(&mut self, labels: &[Label<'_>], value: Value<'_>, since: u64) {
        let (shape, now) = (self.shape, self.now);
        Writer(&mut self.points).message(1, |point| {
            if shape != Shape::Gauge {
                point.fixed64(2, since);
            }
            point.fixed64(3, now);
            match value {
                Value::Histogram(summary) => histogram(point, summary),
                Value::Count(count, found) => {
                    point.fixed64(6, count);
                    if let Some(found) = found {
                        point.message(5, |message| exemplar(message, &found));
                    }
                }
                // Two's complement.
                Value::Integer(number) => point.fixed64(6, number as u64),
                Value::Float(number) => point.double(4, number),
            }
            let field = if shape == Shape::Histogram { 9 } else { 7 };
            attributes(point, field, labels);
        });
        self.count += 1;
        if self.points.len() >= MAX_BYTES {
            self.flush();
        }
    }
}

fn histogram(point: &mut Writer<'_>, summary: &Summary) {
    point.fixed64(4, summary.count());
    point.double(5, summary.sum.as_secs_f64());
    point.message(6, |counts| {
        for bucket in &summary.buckets {
            counts.0.extend_from_slice(&bucket.count.to_le_bytes());
        }
    });
    point.message(7, |bounds| {
        for bound in summary.bounds.seconds() {
            bounds.0.extend_from_slice(&bound.to_le_bytes());
        }
    });
    for found in summary.buckets.iter().filter_map(|bucket| bucket.exemplar) {
        point.message(8, |message| exemplar(message, &found));
    }
}

fn exemplar(message: &mut Writer<'_>, exemplar: &Exemplar) {
    message.fixed64(2, exemplar.at);
    message.double(3, exemplar.value);
    message.bytes(4, &exemplar.span_id.to_be_bytes());
    message.bytes(5, &exemplar.trace_id.to_be_bytes());
}

fn attributes(point: &mut Writer<'_>, field: u32, labels: &[Label<'_>]) {
    let mut attributes = Attributes::new(point.0, field);
    for (label, value) in labels {
        let known = ATTRIBUTES.iter().find(|(name, _)| name == label);
        let name = known.map_or(*label, |(_, name)| name);
        match value.parse() {
            Ok(status) if name == STATUS => attributes.number(name, status),
            _ => attributes.text(name, value),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        protobuf::{Fields, Value as Read},
        telemetry::metrics::histogram::{Bounds, Bucket},
    };

    fn metrics(show: impl FnOnce(&mut dyn Visitor)) -> Vec<(u64, Vec<u8>)> {
        let mut sent = Vec::new();
        let mut points = Points::new(2000, |count, message: &[u8]| {
            sent.push((count, message.to_vec()));
        });
        show(&mut points);
        points.flush();
        sent
    }

    /// The fields of a message that have a length.
    fn parts(message: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut fields = Fields(message);
        let mut parts = Vec::new();
        while let Some(field) = fields.next().unwrap() {
            if let Read::Bytes(bytes) = field.value {
                parts.push((field.number, bytes.to_vec()));
            }
        }
        parts
    }

    fn part(message: &[u8], number: u32) -> Vec<u8> {
        let mut parts = parts(message).into_iter();
        parts.find(|(each, _)| *each == number).unwrap().1
    }

    fn family<'a>(name: &'a str, kind: Kind) -> Family<'a> {
        let help = "Help.";
        Family { name, help, kind }
    }

    fn named(name: &str, kind: Kind) -> (String, String, u32) {
        let sent = metrics(|points| {
            points.family(&family(name, kind));
            points.series(&[], Value::Integer(1), 0);
        });
        let [(1, message)] = &sent[..] else {
            panic!("{sent:?}");
        };
        let text = |number| String::from_utf8(part(message, number)).unwrap();
        let data = parts(message).last().unwrap().0;
        (text(1), text(3), data)
    }

    #[test]
    fn a_large_family_is_told_in_parts() {
        let told = metrics(|visitor| {
            visitor.family(&family("pillion_things", Kind::Counter));
            for _ in 0..1000 {
                visitor.series(&[("one", "1")], Value::Count(1, None), 0);
            }
        });
        assert!(told.len() > 1);
        assert_eq!(told.iter().map(|(points, _)| points).sum::<u64>(), 1000);
        for (_, message) in &told {
            assert!(message.len() < MAX_BYTES + 512);
            assert_eq!(part(message, 1), part(&told[0].1, 1));
        }
    }

    #[test]
    fn families_have_the_names_and_units_of_opentelemetry() {
        let expect = |name, unit: &str, field| (String::from(name), unit.to_owned(), field);
        assert_eq!(
            named("http_server_active_requests", Kind::Gauge),
            expect("http.server.active_requests", "{request}", 7)
        );
        assert_eq!(
            named("http_client_request_duration_seconds", Kind::Histogram),
            expect("http.client.request.duration", "s", 9)
        );
        assert_eq!(
            named("pillion_listener_sent_bytes", Kind::Counter),
            expect("pillion.listener_sent", "By", 7)
        );
        assert_eq!(
            named("pillion_build", Kind::Info),
            expect("pillion.build", "", 5)
        );
    }

    #[test]
    fn a_histogram_has_its_bounds_counts_and_exemplars() {
        let exemplar = Exemplar {
            trace_id: 0xab,
            span_id: 0xcd,
            value: 0.5,
            at: 7,
        };
        let bucket = |count, exemplar| Bucket { count, exemplar };
        let summary = Summary {
            bounds: Arc::new(Bounds::new(&[Duration::from_millis(500)])),
            buckets: vec![bucket(3, Some(exemplar)), bucket(1, None)],
            sum: Duration::from_secs(2),
        };
        let name = "http_server_request_duration_seconds";
        let sent = metrics(|points| {
            points.family(&family(name, Kind::Histogram));
            let labels = [
                ("http_response_status_code", "200"),
                ("url_scheme", "https"),
                ("route", "a"),
            ];
            points.series(&labels, Value::Histogram(&summary), 1000);
        });
        let point = part(&part(&sent[0].1, 9), 1);
        let counts: Vec<u8> = [3_u64, 1].iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(part(&point, 6), counts);
        assert_eq!(part(&point, 7), 0.5_f64.to_le_bytes());
        let told = part(&point, 8);
        assert_eq!(part(&told, 5), 0xab_u128.to_be_bytes());
        assert_eq!(part(&told, 4), 0xcd_u64.to_be_bytes());
        let attribute = part(&point, 9);
        assert_eq!(part(&attribute, 1), b"http.response.status_code");
        // An integer of 200.
        assert_eq!(part(&attribute, 2), [3 << 3, 0xc8, 0x01]);
        let names = parts(&point).into_iter().filter(|(field, _)| *field == 9);
        let names: Vec<_> = names.map(|(_, attribute)| part(&attribute, 1)).collect();
        assert_eq!(names[1..], [&b"url.scheme"[..], b"route"]);
    }

    #[test]
    fn large_families_come_in_parts_and_empty_ones_not_at_all() {
        let long = "x".repeat(1000);
        let sent = metrics(|points| {
            points.family(&family("pillion_none", Kind::Gauge));
            points.family(&family("pillion_many", Kind::Gauge));
            for _ in 0..1000 {
                points.series(&[("label", &long)], Value::Float(0.5), 0);
            }
        });
        assert!(sent.len() > 1 && sent.iter().all(|(_, message)| message.len() < 2 << 19));
        assert_eq!(sent.iter().map(|(count, _)| count).sum::<u64>(), 1000);
    }
}
