//! A line for people: text with places for values, compiled once.
//!
//! What is not known is `-`. Values are escaped as [`Style::Text`] has it, so that none can end
//! quotes that the template puts around it.

use std::sync::LazyLock;

use http::HeaderName;
use serde::{Serialize, Serializer};

use super::{
    Line,
    escape::{Style, address, escape, put_hex},
    evidence,
    json::millis,
};

/// The order that Envoy's users know; then what Envoy's line lacks.
const DEFAULT: &str = "[{start_time}] \"{method} {path} {protocol}\" {status} {flags} \
    {bytes_received} {bytes_sent} {duration_ms} {upstream_ms} \"{peer}\" \"{user_agent}\" \
    \"{request_id}\" \"{authority}\" \"{endpoint}\" {listener} {route} {upstream} {reason} \
    \"{detail}\" {trace_id} {grpc_status}";

/// Longest template, in bytes.
const MAX_TEMPLATE: usize = 16 * 1024;

/// What a line looks like.
#[derive(Clone, Debug)]
pub struct Template {
    parts: Vec<Part>,
    /// As it was written.
    text: Box<str>,
}

/// Why a text is no template. Places are characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("there is nothing in the template")]
    Empty,
    #[error("a template has at most {MAX_TEMPLATE} bytes")]
    Long,
    #[error("character {0} is a control character, which would break the line")]
    Control(usize),
    #[error("the `{{` at character {0} has no end")]
    Open(usize),
    #[error("`{{{name}}}` at character {place} is not a placeholder")]
    Unknown { place: usize, name: String },
    #[error("`{{{name}}}` at character {place} names no header")]
    Header { place: usize, name: String },
}

#[derive(Clone, Debug)]
enum Part {
    Text(Box<str>),
    Key(Key),
    RequestHeader(HeaderName),
    ResponseHeader(HeaderName),
}

macro_rules! keys {
    ($($key:ident $name:literal)*) => {
        /// What a placeholder may ask for: the keys of a line of JSON.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Key { $($key),* }

        const KEYS: &[(&str, Key)] = &[$(($name, Key::$key)),*];
    };
}

keys! {
    StartTime "start_time"
    Listener "listener"
    Route "route"
    Upstream "upstream"
    Endpoint "endpoint"
    Method "method"
    Authority "authority"
    Path "path"
    Protocol "protocol"
    Status "status"
    GrpcStatus "grpc_status"
    Flags "flags"
    Reason "reason"
    Detail "detail"
    BytesReceived "bytes_received"
    BytesSent "bytes_sent"
    DurationMs "duration_ms"
    UpstreamMs "upstream_ms"
    Attempts "attempts"
    Peer "peer"
    PeerIdentity "peer_identity"
    RequestId "request_id"
    UserAgent "user_agent"
    TraceId "trace_id"
    SpanId "span_id"
    Evidence "evidence"
}

impl Template {
    /// Reads a template: `{key}`, `{request_header:NAME}` and `{response_header:NAME}` are places
    /// for values, `{{` and `}}` stand for a brace. Line ends at its end mean nothing.
    pub fn new(text: &str) -> Result<Self, Malformed> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() {
            return Err(Malformed::Empty);
        }
        if text.len() > MAX_TEMPLATE {
            return Err(Malformed::Long);
        }
        if let Some(at) = text.chars().position(|c| c.is_control() && c != '\t') {
            return Err(Malformed::Control(at + 1));
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            plain.push_str(before);
            if brace.starts_with("{{") || brace.starts_with("}}") {
                plain.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            if let Some(after) = brace.strip_prefix('}') {
                plain.push('}');
                rest = after;
                continue;
            }
            let place = text[..text.len() - brace.len()].chars().count() + 1;
            let (name, after) = brace[1..].split_once('}').ok_or(Malformed::Open(place))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain).into()));
            }
            parts.push(placeholder(name, place)?);
            rest = after;
        }
        plain.push_str(rest);
        plain.push('\n');
        parts.push(Part::Text(plain.into()));
        let text = text.into();
        Ok(Self { parts, text })
    }

    /// The line of a configuration that has no other one.
    pub fn standard() -> &'static Self {
        static STANDARD: LazyLock<Template> =
            LazyLock::new(|| Template::new(DEFAULT).expect("a test reads it"));
        &STANDARD
    }

    /// Names that a placeholder can have.
    pub fn placeholders() -> impl Iterator<Item = &'static str> {
        let keys = KEYS.iter().map(|(name, _)| *name);
        keys.chain(["request_header:NAME", "response_header:NAME"])
    }

    /// Headers of requests that have a place.
    pub fn request_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.parts.iter().filter_map(|part| match part {
            Part::RequestHeader(name) => Some(name),
            _ => None,
        })
    }

    /// Headers of responses that have a place.
    pub fn response_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.parts.iter().filter_map(|part| match part {
            Part::ResponseHeader(name) => Some(name),
            _ => None,
        })
    }

    /// Appends a line and its end.
    pub(super) fn write(&self, out: &mut Vec<u8>, line: &Line<'_>) {
        let record = line.record;
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Key(key) => key.write(out, line),
                Part::RequestHeader(name) => text(out, record.headers.request(name)),
                Part::ResponseHeader(name) => text(out, record.headers.response(name)),
            }
        }
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

fn placeholder(name: &str, place: usize) -> Result<Part, Malformed> {
    let header = |of: &str| {
        HeaderName::try_from(of).map_err(|_| Malformed::Header {
            place,
            name: name.to_owned(),
        })
    };
    if let Some(of) = name.strip_prefix("request_header:") {
        return header(of).map(Part::RequestHeader);
    }
    if let Some(of) = name.strip_prefix("response_header:") {
        return header(of).map(Part::ResponseHeader);
    }
    let known = KEYS.iter().find(|(known, _)| *known == name);
    known
        .map(|(_, key)| Part::Key(*key))
        .ok_or_else(|| Malformed::Unknown {
            place,
            name: name.to_owned(),
        })
}

impl Key {
    fn write(self, out: &mut Vec<u8>, line: &Line<'_>) {
        let record = line.record;
        match self {
            Self::StartTime => line.start.write(out),
            Self::Listener => text(out, Some(record.listener.as_bytes())),
            Self::Route => text(out, record.route.as_deref().map(str::as_bytes)),
            Self::Upstream => text(out, record.upstream.as_deref().map(str::as_bytes)),
            Self::Endpoint => text(out, record.endpoint.as_deref().map(str::as_bytes)),
            Self::Method => {
                let method = record.method.as_ref();
                text(out, method.map(|method| method.as_str().as_bytes()));
            }
            Self::Authority => text(out, record.authority()),
            Self::Path => text(out, line.path().as_deref()),
            Self::Protocol => text(out, Some(record.protocol.name().as_bytes())),
            Self::Status => {
                let status = record.status.as_ref();
                text(out, status.map(|status| status.as_str().as_bytes()));
            }
            Self::GrpcStatus => match record.grpc_status {
                Some(code) => number(out, code.into()),
                None => out.push(b'-'),
            },
            Self::Flags => text(out, Some(record.flags().as_bytes())),
            Self::Reason => text(out, record.reason_name().map(str::as_bytes)),
            Self::Detail => {
                let detail = record.detail.as_bytes();
                text(out, (!detail.is_empty()).then_some(detail));
            }
            Self::BytesReceived => number(out, record.bytes_received),
            Self::BytesSent => number(out, record.bytes_sent),
            Self::DurationMs => millis(out, record.duration),
            Self::UpstreamMs => match record.upstream_duration {
                Some(duration) => millis(out, duration),
                None => out.push(b'-'),
            },
            Self::Attempts => number(out, record.attempts.into()),
            Self::Peer => match (record.client, &record.peer) {
                (Some(client), _) => out.extend_from_slice(client.to_string().as_bytes()),
                (None, Some(peer)) => address(out, peer, Style::Text),
                (None, None) => out.push(b'-'),
            },
            Self::PeerIdentity => {
                let identity = record.identity.as_ref();
                text(out, identity.map(|identity| identity.name().as_bytes()));
            }
            Self::RequestId => text(out, record.request_id()),
            Self::UserAgent => text(out, record.user_agent.as_deref()),
            Self::TraceId => match record.trace {
                Some(trace) => put_hex(out, b"", &trace.trace_id.to_be_bytes()),
                None => out.push(b'-'),
            },
            Self::SpanId => match record.trace.filter(|trace| trace.sampled) {
                Some(span) => put_hex(out, b"", &span.span_id.to_be_bytes()),
                None => out.push(b'-'),
            },
            Self::Evidence => {
                if !evidence::text(out, &record.evidence, Style::Text) {
                    out.push(b'-');
                }
            }
        }
    }
}

fn text(out: &mut Vec<u8>, value: Option<&[u8]>) {
    escape(out, value.unwrap_or(b"-"), Style::Text);
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Record, tests::*},
        *,
    };
    use crate::telemetry::Redaction;

    fn written(template: &Template, record: &Record) -> String {
        let mut out = Vec::new();
        let redaction = Redaction::default();
        template.write(&mut out, &line(record, &redaction));
        String::from_utf8(out).unwrap()
    }

    fn of(template: &str) -> String {
        written(&Template::new(template).unwrap(), &full())
    }

    #[test]
    fn everything_known() {
        assert_eq!(
            written(Template::standard(), &full()),
            "[1970-01-01T00:00:00.000Z] \"GET /items?id=1 HTTP/1.1\" 502 UC 5 7 12.345 2.000 \
             \"10.0.0.1:4242\" \"curl/8\" \"abc\" \"shop.example\" \"127.0.0.1:9000\" web shop/0 \
             app upstream_closed \"closed before a response\" 0af7651916cd43dd8448eb211c80319c -\n"
        );
    }

    #[test]
    fn nothing_known() {
        assert_eq!(
            written(Template::standard(), &minimal()),
            "[1970-01-01T00:00:00.000Z] \"- - HTTP/1.1\" - - 0 0 0.000 - \"-\" \"-\" \"-\" \"-\" \
             \"-\" web - - - \"-\" - -\n"
        );
        let all: String = KEYS
            .iter()
            .map(|(name, _)| format!("{{{name}}} "))
            .collect();
        let line = written(&Template::new(&all).unwrap(), &minimal());
        assert_eq!(line.split(' ').count(), KEYS.len() + 1);
        assert!(!line.contains("  "));
    }

    #[test]
    fn a_template_of_one_s_own() {
        assert_eq!(of("{status}"), "502\n");
        assert_eq!(of("é {method}{path} }\n"), "é GET/items?id=1 }\n");
        assert_eq!(of("{{{status}}} {{}}"), "{502} {}\n");
        assert_eq!(of("{span_id} {attempts}"), "b7ad6b7169203331 1\n");
        assert_eq!(
            of("\"{evidence}\""),
            "\"1: app upstream_closed after 2.000 ms\"\n"
        );
        assert_eq!(
            of("{request_header:X-Tenant} {response_header:x-none}"),
            "blue -\n"
        );
    }

    #[test]
    fn a_call_of_grpc_ends_with_a_status_of_its_own() {
        let mut record = full();
        record.grpc_status = Some(15);
        assert!(written(Template::standard(), &record).ends_with(" 15\n"));
    }

    #[test]
    fn what_is_no_template() {
        let refused = |text: &str| Template::new(text).unwrap_err().to_string();
        assert_eq!(refused("\n"), "there is nothing in the template");
        assert_eq!(
            refused("é{statsu}"),
            "`{statsu}` at character 2 is not a placeholder"
        );
        assert_eq!(refused("ab{status"), "the `{` at character 3 has no end");
        assert_eq!(
            refused("a\nb"),
            "character 2 is a control character, which would break the line"
        );
        assert_eq!(
            refused("{request_header:a b}"),
            "`{request_header:a b}` at character 1 names no header"
        );
        assert_eq!(
            refused(&"x".repeat(20_000)),
            "a template has at most 16384 bytes"
        );
    }

    #[test]
    fn a_peer_can_not_forge_a_line() {
        let mut record = full();
        record.user_agent = Some(b"x\" 200 \xff\t"[..].into());
        record.detail = "a\nb".into();
        let line = written(Template::standard(), &record);
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains(r#" "x\" 200 \xff\x09" "abc""#));
        assert!(line.contains("\"a\\x0ab\""));
    }

    #[test]
    fn placeholders_are_the_keys_of_json() {
        let line = super::super::json::tests::written(&full());
        let mut keys: Vec<_> = line
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut names: Vec<_> = KEYS.iter().map(|(name, _)| *name).collect();
        keys.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, keys);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z{}:_ é\"]{0,24}") {
            if let Ok(template) = Template::new(&text) {
                prop_assert_eq!(written(&template, &full()).lines().count(), 1);
            }
        }
    }
}
