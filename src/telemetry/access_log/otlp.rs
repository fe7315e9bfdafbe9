//! A record as OTLP has it (`LogRecord`), with the names of OpenTelemetry's semantic conventions
//! where they have one, as spans have them.

use std::time::Duration;

use opentelemetry_semantic_conventions::attribute as semconv;

use super::{Line, Protocol, Record, escape::Style, evidence};
use crate::{
    config::model::{AccessLog, Address},
    http::grpc,
    protobuf::Writer,
    telemetry::{
        attributes::{Attributes, shown},
        trace::span::{grpc_status, method, server_address, socket},
    },
};

/// What tells these records from others.
const EVENT: &[u8] = b"pillion.access";

// Fields of `LogRecord`.
const TIME: u32 = 1;
const SEVERITY: u32 = 2;
const SEVERITY_TEXT: u32 = 3;
const BODY: u32 = 5;
const ATTRIBUTES: u32 = 6;
const FLAGS: u32 = 8;
const TRACE_ID: u32 = 9;
const SPAN_ID: u32 = 10;
const OBSERVED: u32 = 11;
const EVENT_NAME: u32 = 12;

/// Of `AnyValue`.
const TEXT: u32 = 1;

/// Appends the fields of a record of a request that came to its end at this time, in nanoseconds
/// since 1970.
pub(super) fn write(out: &mut Vec<u8>, line: &Line<'_>, end: u64, config: &AccessLog) {
    let record = line.record;
    let mut writer = Writer(out);
    writer.fixed64(TIME, end);
    writer.fixed64(OBSERVED, end);
    let severity = severity(record);
    writer.varint(SEVERITY, severity as u64);
    writer.bytes(SEVERITY_TEXT, severity.name().as_bytes());
    writer.bytes(EVENT_NAME, EVENT);
    let body = body(line);
    writer.message(BODY, |any| any.bytes(TEXT, shown(&body).as_bytes()));
    if let Some(trace) = record.trace {
        writer.bytes(TRACE_ID, &trace.trace_id.to_be_bytes());
        if trace.sampled {
            writer.bytes(SPAN_ID, &trace.span_id.to_be_bytes());
            writer.fixed32(FLAGS, 1);
        }
    }
    let mut attributes = Attributes::new(out, ATTRIBUTES);
    attributes.limit(config.value_length);
    request(&mut attributes, line);
    network(&mut attributes, record);
    outcome(&mut attributes, record);
    for name in &config.request_headers {
        if let Some(value) = record.headers.request(name) {
            attributes.list(&format!("http.request.header.{name}"), value);
        }
    }
    for name in &config.response_headers {
        if let Some(value) = record.headers.response(name) {
            attributes.list(&format!("http.response.header.{name}"), value);
        }
    }
}

/// As OTLP numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Info = 9,
    Warn = 13,
    Error = 17,
}

impl Severity {
    const fn name(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// ERROR for what failed here or behind, WARN for what the client did wrong or was refused, INFO for
/// the rest.
fn severity(record: &Record) -> Severity {
    let (failed, refused) = match (record.reason, record.status) {
        (Some(reason), _) => {
            let of_client = reason.is_clients();
            (!of_client, of_client)
        }
        (None, Some(status)) => (
            status.is_server_error() || record.grpc_status.is_some_and(grpc::is_failure),
            status.is_client_error(),
        ),
        (None, None) => (false, false),
    };
    match (failed, refused) {
        (true, _) => Severity::Error,
        (false, true) => Severity::Warn,
        (false, false) => Severity::Info,
    }
}

/// What a person reads in a list of records.
fn body(line: &Line<'_>) -> Vec<u8> {
    let record = line.record;
    let mut body = Vec::with_capacity(64);
    match record.protocol {
        Protocol::Tcp => {
            body.extend_from_slice(b"TCP");
            if let Some(upstream) = &record.upstream {
                body.push(b' ');
                body.extend_from_slice(upstream.as_bytes());
            }
        }
        _ => {
            let method = record.method.as_ref().map_or("-", |method| method.as_str());
            body.extend_from_slice(method.as_bytes());
            body.push(b' ');
            body.extend_from_slice(line.path().as_deref().unwrap_or(b"-"));
        }
    }
    if let Some(status) = record.status {
        body.push(b' ');
        body.extend_from_slice(status.as_str().as_bytes());
    }
    if let Some(reason) = record.reason_name() {
        body.push(b' ');
        body.extend_from_slice(reason.as_bytes());
    }
    body
}

fn request(attributes: &mut Attributes<'_>, line: &Line<'_>) {
    let record = line.record;
    if let Some((method, original)) = method(record) {
        attributes.text(semconv::HTTP_REQUEST_METHOD, method);
        attributes.some_text(semconv::HTTP_REQUEST_METHOD_ORIGINAL, original);
    }
    if let Some(uri) = &record.uri {
        attributes.text(semconv::URL_PATH, uri.path());
        if let Some(query) = uri.query() {
            let query = line.redaction.query(query.as_bytes());
            attributes.bytes(semconv::URL_QUERY, &query);
        }
    }
    server_address(attributes, record.authority().map(shown).as_deref());
    attributes.some_text(semconv::HTTP_ROUTE, record.pattern.as_deref());
    let others = [
        (semconv::USER_AGENT_ORIGINAL, record.user_agent.as_deref()),
        ("pillion.request_id", record.request_id()),
    ];
    for (key, value) in others {
        if let Some(value) = value {
            attributes.bytes(key, value);
        }
    }
}

fn network(attributes: &mut Attributes<'_>, record: &Record) {
    match record.protocol {
        Protocol::Tcp => attributes.text(semconv::NETWORK_TRANSPORT, "tcp"),
        protocol => {
            let version = protocol.version();
            attributes.text(semconv::NETWORK_PROTOCOL_VERSION, version)
        }
    };
    let mut client = record.client.map(|client| client.to_string());
    if let Some(Address::Tcp(address)) = &record.peer {
        let ip = address.ip().to_string();
        socket(attributes, &ip, address.port());
        client.get_or_insert(ip);
    }
    attributes.some_text(semconv::CLIENT_ADDRESS, client.as_deref());
    if let Some(identity) = &record.identity {
        attributes.text("pillion.peer.identity", identity.name());
    }
}

fn outcome(attributes: &mut Attributes<'_>, record: &Record) {
    if let Some(status) = record.status {
        attributes.number(semconv::HTTP_RESPONSE_STATUS_CODE, status.as_u16().into());
    }
    if let Some(code) = record.grpc_status {
        grpc_status(attributes, code);
    }
    if let Some(error) = record.error_type() {
        attributes.text(semconv::ERROR_TYPE, &error);
    }
    if record.protocol == Protocol::Tcp {
        attributes
            .number("pillion.bytes_received", record.bytes_received)
            .number("pillion.bytes_sent", record.bytes_sent);
    } else {
        attributes
            .number(semconv::HTTP_REQUEST_BODY_SIZE, record.bytes_received)
            .number(semconv::HTTP_RESPONSE_BODY_SIZE, record.bytes_sent);
    }
    attributes.double("pillion.duration_ms", millis(record.duration));
    if let Some(duration) = record.upstream_duration {
        attributes.double("pillion.upstream_ms", millis(duration));
    }
    attributes.text("pillion.listener", &record.listener);
    for (key, value) in [
        ("pillion.route", &record.route),
        ("pillion.upstream", &record.upstream),
        ("pillion.endpoint", &record.endpoint),
    ] {
        attributes.some_text(key, value.as_deref());
    }
    attributes
        .number("pillion.attempts", record.attempts.into())
        .text("pillion.flags", &record.flags());
    attributes.some_text("pillion.reason", record.reason_name());
    if !record.detail.is_empty() {
        attributes.text("pillion.detail", &record.detail);
    }
    let mut text = Vec::new();
    if evidence::text(&mut text, &record.evidence, Style::Text) {
        attributes.bytes("pillion.evidence", &text);
    }
}

/// To the microsecond, as the other forms have it.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::{HeaderName, StatusCode};

    use super::{
        super::tests::{full, line, minimal},
        *,
    };
    use crate::{
        error::Reason,
        protobuf::{Fields, Value},
        telemetry::Redaction,
    };

    /// Of the record's own fields, text and numbers; attributes as they would be printed.
    fn read(
        record: &Record,
        config: &AccessLog,
    ) -> (BTreeMap<u32, String>, BTreeMap<String, String>) {
        let mut out = Vec::new();
        write(&mut out, &line(record, &config.redaction), 7, config);
        let (mut own, mut attributes) = (BTreeMap::new(), BTreeMap::new());
        let mut fields = Fields(&out);
        while let Some(field) = fields.next().unwrap() {
            match field.value {
                Value::Bytes(pair) if field.number == ATTRIBUTES => {
                    let mut pair = Fields(pair);
                    let key = pair.next().unwrap().unwrap().text().unwrap().to_owned();
                    let value = pair.next().unwrap().unwrap().bytes().unwrap();
                    let before = attributes.insert(key, any(value));
                    assert_eq!(before, None, "an attribute is told once");
                }
                Value::Bytes(body) if field.number == BODY => {
                    own.insert(BODY, any(body));
                }
                Value::Bytes(bytes) => {
                    own.insert(field.number, String::from_utf8_lossy(bytes).into_owned());
                }
                Value::Varint(number) => {
                    own.insert(field.number, number.to_string());
                }
                Value::Fixed => {
                    own.insert(field.number, "fixed".to_owned());
                }
            }
        }
        (own, attributes)
    }

    fn any(value: &[u8]) -> String {
        let field = Fields(value).next().unwrap().unwrap();
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => String::from_utf8(text.to_vec()).unwrap(),
            (5, Value::Bytes(list)) => {
                let item = Fields(list).next().unwrap().unwrap();
                format!("[{}]", any(item.bytes().unwrap()))
            }
            (3, Value::Varint(number)) => number.to_string(),
            (4, Value::Fixed) => "double".to_owned(),
            (number, _) => panic!("a value of kind {number}"),
        }
    }

    #[test]
    fn everything_known() {
        let config = AccessLog {
            request_headers: vec![HeaderName::from_static("x-tenant")],
            redaction: Redaction::new([], ["id"]).into(),
            ..AccessLog::default()
        };
        let (own, attributes) = read(&full(), &config);
        assert_eq!(own[&TIME], "fixed");
        assert_eq!((&*own[&SEVERITY], &*own[&SEVERITY_TEXT]), ("17", "ERROR"));
        assert_eq!(own[&BODY], "GET /items?id=REDACTED 502 upstream_closed");
        assert_eq!(own[&EVENT_NAME], "pillion.access");
        assert!(own.contains_key(&TRACE_ID) && own.contains_key(&SPAN_ID));
        assert_eq!(own[&FLAGS], "fixed");
        let expected = [
            ("client.address", "10.0.0.1"),
            ("error.type", "upstream_closed"),
            ("http.request.body.size", "5"),
            ("http.request.header.x-tenant", "[blue]"),
            ("http.request.method", "GET"),
            ("http.response.body.size", "7"),
            ("http.response.status_code", "502"),
            ("network.peer.address", "10.0.0.1"),
            ("network.peer.port", "4242"),
            ("network.protocol.version", "1.1"),
            ("pillion.attempts", "1"),
            ("pillion.detail", "closed before a response"),
            ("pillion.duration_ms", "double"),
            ("pillion.endpoint", "127.0.0.1:9000"),
            ("pillion.evidence", "1: app upstream_closed after 2.000 ms"),
            ("pillion.flags", "UC"),
            ("pillion.listener", "web"),
            ("pillion.reason", "upstream_closed"),
            ("pillion.request_id", "abc"),
            ("pillion.route", "shop/0"),
            ("pillion.upstream", "app"),
            ("pillion.upstream_ms", "double"),
            ("server.address", "shop.example"),
            ("url.path", "/items"),
            ("url.query", "id=REDACTED"),
            ("user_agent.original", "curl/8"),
        ];
        let found: Vec<_> = attributes
            .iter()
            .map(|(key, value)| (&**key, &**value))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_connection() {
        let mut record = minimal();
        record.protocol = Protocol::Tcp;
        record.upstream = Some("db".into());
        let (own, attributes) = read(&record, &AccessLog::default());
        assert_eq!(own[&BODY], "TCP db");
        assert_eq!(own[&SEVERITY], "9");
        assert!(!own.contains_key(&TRACE_ID) && !own.contains_key(&FLAGS));
        assert_eq!(attributes["network.transport"], "tcp");
        assert!(!attributes.contains_key("http.request.body.size"));
    }

    #[test]
    fn an_unsampled_trace_has_no_span() {
        let mut record = full();
        record.trace.as_mut().unwrap().sampled = false;
        let (own, _) = read(&record, &AccessLog::default());
        assert!(
            own.contains_key(&TRACE_ID) && !own.contains_key(&SPAN_ID) && !own.contains_key(&FLAGS)
        );
    }

    #[test]
    fn severities() {
        let of = |reason: Option<Reason>, status: u16, code: Option<u8>| {
            let mut record = minimal();
            record.reason = reason;
            record.status = Some(StatusCode::from_u16(status).unwrap());
            record.grpc_status = code;
            severity(&record)
        };
        assert_eq!(of(None, 200, None), Severity::Info);
        assert_eq!(of(None, 302, None), Severity::Info);
        assert_eq!(of(None, 404, None), Severity::Warn);
        assert_eq!(of(None, 500, None), Severity::Error);
        assert_eq!(of(None, 200, Some(13)), Severity::Error);
        assert_eq!(of(None, 200, Some(5)), Severity::Info);
        assert_eq!(of(Some(Reason::AccessDenied), 403, None), Severity::Warn);
        assert_eq!(of(Some(Reason::ClientClosed), 200, None), Severity::Warn);
        assert_eq!(
            of(Some(Reason::ResponseIncomplete), 200, None),
            Severity::Error
        );
        assert_eq!(of(Some(Reason::RequestTimeout), 504, None), Severity::Error);
        assert_eq!(severity(&minimal()), Severity::Info);
    }
}
