//! A line as one JSON object. Every key is always there; what is not known is `null`. Only those of
//! headers are there where headers are asked for.

use std::time::Duration;

use http::HeaderName;

use super::{
    Line,
    escape::{Style, address, escape, put_hex},
    evidence,
};
use crate::config::model::{AccessLog, Address};

pub(super) fn write(out: &mut Vec<u8>, line: &Line<'_>, config: &AccessLog) {
    let record = line.record;
    out.extend_from_slice(b"{\"start_time\":\"");
    line.start.write(out);
    out.push(b'"');

    let mut object = Object(out);
    object.text("listener", Some(record.listener.as_bytes()));
    object.text("route", record.route.as_deref().map(str::as_bytes));
    object.text("upstream", record.upstream.as_deref().map(str::as_bytes));
    object.text("endpoint", record.endpoint.as_deref().map(str::as_bytes));
    object.text(
        "method",
        record
            .method
            .as_ref()
            .map(|method| method.as_str().as_bytes()),
    );
    object.text("authority", record.authority());
    object.text("path", line.path().as_deref());
    object.text("protocol", Some(record.protocol.name().as_bytes()));
    object.number("status", record.status.map(|status| status.as_u16().into()));
    object.number("grpc_status", record.grpc_status.map(u64::from));
    object.text("flags", Some(record.flags().as_bytes()));
    object.text("reason", record.reason_name().map(str::as_bytes));
    let detail = record.detail.as_bytes();
    object.text("detail", (!detail.is_empty()).then_some(detail));
    object.number("bytes_received", Some(record.bytes_received));
    object.number("bytes_sent", Some(record.bytes_sent));
    object.millis("duration_ms", Some(record.duration));
    object.millis("upstream_ms", record.upstream_duration);
    object.number("attempts", Some(record.attempts.into()));
    match record.client {
        Some(client) => object.text("peer", Some(client.to_string().as_bytes())),
        None => object.address("peer", record.peer.as_ref()),
    }
    let identity = record.identity.as_ref();
    object.text(
        "peer_identity",
        identity.map(|identity| identity.name().as_bytes()),
    );
    object.text("request_id", record.request_id());
    object.text("user_agent", record.user_agent.as_deref());
    let trace = record.trace;
    object.id("trace_id", trace.map(|trace| trace.trace_id.to_be_bytes()));
    let span = trace.filter(|trace| trace.sampled);
    object.id("span_id", span.map(|span| span.span_id.to_be_bytes()));
    object.key("evidence");
    evidence::json(object.0, &record.evidence);
    if !config.request_headers.is_empty() {
        let value = |name| record.headers.request(name);
        object.headers("request_headers", &config.request_headers, value);
    }
    if !config.response_headers.is_empty() {
        let value = |name| record.headers.response(name);
        object.headers("response_headers", &config.response_headers, value);
    }
    out.extend_from_slice(b"}\n");
}

/// Writes members; the first one stands already.
pub(super) struct Object<'a>(pub(super) &'a mut Vec<u8>);

impl Object<'_> {
    pub(super) fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    pub(super) fn text(&mut self, key: &str, value: Option<&[u8]>) {
        self.key(key);
        self.value(value);
    }

    fn value(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => {
                self.0.push(b'"');
                escape(self.0, value, Style::Json);
                self.0.push(b'"');
            }
            None => self.0.extend_from_slice(b"null"),
        }
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        self.key(key);
        match value {
            Some(value) => self
                .0
                .extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
            None => self.0.extend_from_slice(b"null"),
        }
    }

    pub(super) fn millis(&mut self, key: &str, value: Option<Duration>) {
        self.key(key);
        match value {
            Some(value) => millis(self.0, value),
            None => self.0.extend_from_slice(b"null"),
        }
    }

    pub(super) fn boolean(&mut self, key: &str, value: Option<bool>) {
        self.key(key);
        let word: &[u8] = match value {
            Some(true) => b"true",
            Some(false) => b"false",
            None => b"null",
        };
        self.0.extend_from_slice(word);
    }

    fn id<const N: usize>(&mut self, key: &str, value: Option<[u8; N]>) {
        self.key(key);
        match value {
            Some(value) => {
                put_hex(self.0, b"\"", &value);
                self.0.push(b'"');
            }
            None => self.0.extend_from_slice(b"null"),
        }
    }

    fn headers<'h>(
        &mut self,
        key: &str,
        names: &'h [HeaderName],
        value: impl Fn(&'h HeaderName) -> Option<&'h [u8]>,
    ) {
        self.key(key);
        let mut before = b'{';
        for name in names {
            self.0.push(before);
            before = b',';
            // A token: nothing in it needs care.
            self.0.push(b'"');
            self.0.extend_from_slice(name.as_str().as_bytes());
            self.0.extend_from_slice(b"\":");
            self.value(value(name));
        }
        self.0.push(b'}');
    }

    fn address(&mut self, key: &str, value: Option<&Address>) {
        self.key(key);
        match value {
            Some(value) => {
                self.0.push(b'"');
                address(self.0, value, Style::Json);
                self.0.push(b'"');
            }
            None => self.0.extend_from_slice(b"null"),
        }
    }
}

/// Milliseconds with three decimals: to the microsecond.
pub(super) fn millis(out: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    out.extend_from_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
    // A remainder by ten is one digit.
    let digit = |place: u64| b'0' + (micros / place % 10) as u8;
    out.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
}

#[cfg(test)]
pub(super) mod tests {
    use http::{StatusCode, Uri};
    use serde_json::{Value, json};

    use super::{super::tests::*, *};
    use crate::telemetry::{
        Redaction, TraceRef,
        access_log::{Protocol, Record},
    };

    /// The line of a record, read back.
    pub(in super::super) fn written(record: &Record) -> Value {
        configured(record, &AccessLog::default())
    }

    fn configured(record: &Record, config: &AccessLog) -> Value {
        let mut out = Vec::new();
        write(&mut out, &line(record, &config.redaction), config);
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert!(out.ends_with(b"\n"));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn who_proxies_vouch_for_stands_in_the_place_of_the_peer() {
        let mut record = full();
        record.client = Some([203, 0, 113, 7].into());
        assert_eq!(written(&record)["peer"], "203.0.113.7");
    }

    #[test]
    fn every_key() {
        assert_eq!(
            written(&full()),
            json!({
                "start_time": "1970-01-01T00:00:00.000Z",
                "listener": "web",
                "route": "shop/0",
                "upstream": "app",
                "endpoint": "127.0.0.1:9000",
                "method": "GET",
                "authority": "shop.example",
                "path": "/items?id=1",
                "protocol": "HTTP/1.1",
                "status": 502,
                "grpc_status": null,
                "flags": "UC",
                "reason": "upstream_closed",
                "detail": "closed before a response",
                "bytes_received": 5,
                "bytes_sent": 7,
                "duration_ms": 12.345,
                "upstream_ms": 2.0,
                "attempts": 1,
                "peer": "10.0.0.1:4242",
                "peer_identity": null,
                "request_id": "abc",
                "user_agent": "curl/8",
                "trace_id": "0af7651916cd43dd8448eb211c80319c",
                "span_id": "b7ad6b7169203331",
                "evidence": [{
                    "attempt": 1,
                    "upstream": "app",
                    "endpoint": null,
                    "outcome": "upstream_closed",
                    "duration_ms": 2.0,
                    "connection_reused": true,
                    "endpoint_available": null,
                    "deadline_left_ms": 900.0,
                    "then": null,
                }],
            })
        );
    }

    #[test]
    fn the_same_keys_where_nothing_is_known() {
        let mut record = minimal();
        record.protocol = Protocol::Tcp;
        let line = written(&record);
        let keys: Vec<_> = line.as_object().unwrap().keys().collect();
        let full = written(&full());
        assert_eq!(keys, full.as_object().unwrap().keys().collect::<Vec<_>>());
        assert_eq!(line["protocol"], "TCP");
        assert_eq!(line["flags"], "-");
        for key in [
            "method",
            "path",
            "status",
            "grpc_status",
            "reason",
            "detail",
            "upstream_ms",
            "peer",
        ] {
            assert_eq!(line[key], Value::Null, "{key}");
        }
    }

    #[test]
    fn a_call_of_grpc_ends_with_a_status_of_its_own() {
        let mut record = minimal();
        record.status = Some(StatusCode::OK);
        record.grpc_status = Some(15);
        let line = written(&record);
        assert_eq!(
            (&line["status"], &line["grpc_status"]),
            (&json!(200), &json!(15))
        );
        assert_eq!(
            (&line["flags"], &line["reason"]),
            (&json!("-"), &Value::Null)
        );
    }

    #[test]
    fn an_unsampled_request_has_a_trace_and_no_span() {
        let mut record = full();
        record.trace = record.trace.map(|trace| TraceRef {
            sampled: false,
            ..trace
        });
        let line = written(&record);
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(line["span_id"], Value::Null);
    }

    #[test]
    fn headers_that_are_asked_for() {
        let config = AccessLog {
            request_headers: ["x-tenant", "x-none"].map(HeaderName::from_static).into(),
            response_headers: vec![HeaderName::from_static("server")],
            ..AccessLog::default()
        };
        let line = configured(&full(), &config);
        assert_eq!(
            line["request_headers"],
            json!({ "x-tenant": "blue", "x-none": null })
        );
        assert_eq!(line["response_headers"], json!({ "server": "app\"/1" }));
        let line = configured(&minimal(), &config);
        assert_eq!(line["response_headers"], json!({ "server": null }));
    }

    #[test]
    fn a_path_is_shown_without_secrets() {
        let config = AccessLog {
            redaction: Redaction::new([], ["id"]).into(),
            ..AccessLog::default()
        };
        assert_eq!(configured(&full(), &config)["path"], "/items?id=REDACTED");
    }

    #[test]
    fn every_key_is_documented() {
        let page = include_str!("../../../docs/access-log.md");
        for key in written(&full()).as_object().unwrap().keys() {
            assert!(page.contains(&format!("\n| `{key}` |")), "{key}");
        }
    }

    #[test]
    fn values_of_peers_read_back() {
        let mut record = full();
        record.user_agent = Some(b"\"},\\ \t \xff\xfe caf\xc3\xa9"[..].into());
        record.uri = Some(Uri::from_static("/a\"b{c}|d"));
        record.detail = "line one\nline \"two\"\0".into();
        let line = written(&record);
        assert_eq!(line["user_agent"], "\"},\\ \t \u{fffd}\u{fffd} caf\u{e9}");
        assert_eq!(line["path"], "/a\"b{c}|d");
        assert_eq!(line["detail"], "line one\nline \"two\"\0");
    }

    #[test]
    fn durations_are_exact_to_the_microsecond() {
        let text = |duration| {
            let mut out = Vec::new();
            millis(&mut out, duration);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(Duration::ZERO), "0.000");
        assert_eq!(text(Duration::from_micros(1)), "0.001");
        assert_eq!(text(Duration::from_micros(61_000_050)), "61000.050");
        assert!(serde_json::from_str::<f64>(&text(Duration::MAX)).is_ok());
    }
}
