//! Spans as OTLP has them: one for the request, and one for each attempt below it.
//!
//! Names of attributes are those of OpenTelemetry's semantic conventions for HTTP and RPC, and
//! `pillion.*` where they have none.

use std::{borrow::Cow, time::Duration};

use opentelemetry::{SpanId, trace::SpanKind};
use opentelemetry_semantic_conventions::attribute as semconv;
use rustls::ProtocolVersion;

use super::Place;
use crate::{
    config::model::Address,
    error::Reason,
    http::{Client, grpc},
    policy::{Note, Outcome, Then},
    protobuf::Writer,
    snapshot::RoutePlan,
    telemetry::{
        Record, Redaction,
        access_log::Protocol,
        attributes::{Attributes, Block, shown},
        method,
    },
    tls::Proven,
    upstream::{Endpoint, Target},
};

// Fields of `Span`.
const TRACE_ID: u32 = 1;
const SPAN_ID: u32 = 2;
const TRACE_STATE: u32 = 3;
const PARENT_SPAN_ID: u32 = 4;
const NAME: u32 = 5;
const KIND: u32 = 6;
const START: u32 = 7;
const END: u32 = 8;
const ATTRIBUTES: u32 = 9;
const STATUS: u32 = 15;
const FLAGS: u32 = 16;

/// All that spans of a request are made of.
pub(super) struct Story<'a> {
    pub(super) place: &'a Place,
    pub(super) record: &'a Record,
    /// `tracestate`, as it came.
    pub(super) state: Option<&'a [u8]>,
    /// What is the same for all requests of the connection.
    pub(super) connection: &'a Block,
    /// The client's address, where it has one.
    pub(super) peer: Option<&'a str>,
    /// What is the same for all requests of the rule.
    pub(super) route: Option<&'a RoutePlan>,
    pub(super) redaction: &'a Redaction,
    /// When the request began, in nanoseconds since 1970.
    pub(super) start: u64,
    /// The host that the client asked for.
    pub(super) host: Option<&'a str>,
    /// Characters that a value may have.
    pub(super) value_length: usize,
}

impl Story<'_> {
    /// The span of the request.
    pub(super) fn server(&self, out: &mut Vec<u8>) {
        let Self { record, .. } = self;
        let (parent, end) = (self.place.parent(), self.start + nanos(record.duration));
        self.begin(
            out,
            (self.place.span_id(), parent),
            SpanKind::Server,
            (self.start, end),
        );

        let mut attributes = Attributes::new(out, ATTRIBUTES);
        attributes.limit(self.value_length);
        self.request(&mut attributes);
        attributes
            .block(self.connection)
            .text(semconv::NETWORK_PROTOCOL_VERSION, record.protocol.version())
            .text("pillion.listener", &record.listener);
        if let Some(route) = self.route {
            attributes.block(&route.told);
        }
        if let Some(uri) = &record.uri {
            attributes.text(semconv::URL_PATH, uri.path());
            if let Some(query) = uri.query() {
                attributes.bytes(semconv::URL_QUERY, &self.redaction.query(query.as_bytes()));
            }
        }
        server_address(&mut attributes, self.host);
        if let Some(agent) = &record.user_agent {
            attributes.bytes(semconv::USER_AGENT_ORIGINAL, agent);
        }
        match (record.client, self.peer) {
            (Some(client), _) => {
                attributes.text(semconv::CLIENT_ADDRESS, &client.to_string());
            }
            (None, peer) => {
                attributes.some_text(semconv::CLIENT_ADDRESS, peer);
            }
        }
        if let Some(status) = record.status {
            attributes.number(semconv::HTTP_RESPONSE_STATUS_CODE, status.as_u16().into());
        }
        if let Some(code) = record.grpc_status {
            grpc_status(&mut attributes, code);
        }
        attributes
            .number(semconv::HTTP_REQUEST_BODY_SIZE, record.bytes_received)
            .number(semconv::HTTP_RESPONSE_BODY_SIZE, record.bytes_sent)
            .some_text("pillion.upstream", record.upstream.as_deref());
        if let Some(id) = record.request_id() {
            attributes.bytes("pillion.request_id", id);
        }
        if record.attempts > 0 {
            attributes.number("pillion.attempts", record.attempts.into());
        }
        if !record.detail.is_empty() {
            attributes.text("pillion.detail", &record.detail);
        }
        attributes.some_text("pillion.reason", record.reason_name());
        let Some(error) = record.error_type() else {
            return;
        };
        attributes.text(semconv::ERROR_TYPE, &error);
        // That a client left, or asked for what it may not have, is its own affair.
        if !record.reason.is_some_and(Reason::is_clients) {
            failed(out, &shown(record.detail.as_bytes()));
        }
    }

    /// The span of an attempt; `stands`: its response is the one that the client got.
    pub(super) fn client(&self, note: &Note, span_id: SpanId, stands: bool, out: &mut Vec<u8>) {
        let Self { record, .. } = self;
        let start = self.start + nanos(note.start.saturating_duration_since(record.start));
        let end = match note.took() {
            Some(took) if !stands => start + nanos(took),
            _ => self.start + nanos(record.duration),
        };
        let ids = (span_id, Some(self.place.span_id()));
        self.begin(out, ids, SpanKind::Client, (start, end));

        let mut attributes = Attributes::new(out, ATTRIBUTES);
        attributes.limit(self.value_length);
        self.request(&mut attributes);
        self.sent(&mut attributes, note);
        if note.number > 1 {
            attributes.number(
                semconv::HTTP_REQUEST_RESEND_COUNT,
                u64::from(note.number) - 1,
            );
        }
        attributes.text("pillion.upstream", &note.upstream);
        if let Some(endpoint) = &note.endpoint {
            let told = || told_of_endpoint(endpoint, self.value_length);
            attributes.block(endpoint.told.get_or_init(told));
        }
        if let Some(reused) = note.line.reused {
            let version = if note.line.http2 { "2" } else { "1.1" };
            attributes
                .text(semconv::NETWORK_PROTOCOL_VERSION, version)
                .boolean("pillion.connection.reused", reused);
        }
        tls(
            &mut attributes,
            note.line.proven.as_ref(),
            "tls.server.subject",
        );

        let (status, mut grpc, mut error) = match note.outcome {
            Outcome::Status { code, .. } => {
                let error = (code >= 400).then(|| code.to_string().into());
                (Some(code), None, error)
            }
            Outcome::Grpc { code, status, .. } => (Some(status), Some(code), grpc_error(code)),
            Outcome::Failed(reason) => (None, None, Some(reason.name().into())),
            Outcome::Cut => (None, None, Some(Cow::Borrowed("cut"))),
            Outcome::UnderWay => (None, None, None),
        };
        if stands && error.is_none() {
            // How the call, or the body, came to its end is known only now.
            grpc = grpc.or(record.grpc_status);
            error = note
                .broke
                .map(|reason| reason.name().into())
                .or_else(|| grpc.and_then(grpc_error));
        }
        if let Some(status) = status {
            attributes.number(semconv::HTTP_RESPONSE_STATUS_CODE, status.into());
        }
        if let Some(code) = grpc {
            grpc_status(&mut attributes, code);
        }
        let Some(error) = error else { return };
        attributes
            .text(semconv::ERROR_TYPE, &error)
            .boolean("pillion.endpoint.available", note.endpoint_takes);
        if let Some(left) = note.left {
            attributes.number("pillion.deadline.left_ms", nanos(left) / 1_000_000);
        }
        attributes.some_text("pillion.then", note.then.map(Then::name));
        // That another attempt was quicker is no failure of this one, nor what the client did.
        let is_blameless = match note.outcome {
            Outcome::Cut => true,
            Outcome::Failed(reason) => reason.is_clients(),
            _ => false,
        };
        if !is_blameless {
            failed(out, "");
        }
    }

    /// What comes before the attributes.
    fn begin(
        &self,
        out: &mut Vec<u8>,
        (span_id, parent): (SpanId, Option<SpanId>),
        kind: SpanKind,
        (start, end): (u64, u64),
    ) {
        out.reserve(USUAL);
        let mut writer = Writer(out);
        writer.bytes(TRACE_ID, &self.place.trace_id().to_bytes());
        writer.bytes(SPAN_ID, &span_id.to_bytes());
        if let Some(state) = self.state {
            writer.bytes(TRACE_STATE, state);
        }
        if let Some(parent) = parent {
            writer.bytes(PARENT_SPAN_ID, &parent.to_bytes());
        }
        let is_request = kind == SpanKind::Server;
        writer.fixed32(FLAGS, self.place.flags(is_request && parent.is_some()));
        writer.varint(KIND, number_of(&kind));
        writer.fixed64(START, start);
        writer.fixed64(END, end);
        // `METHOD route`, or the method of a call; of what is sent to an upstream the route says
        // nothing.
        let name = match method(self.record) {
            Some((method, None)) => method,
            _ => "HTTP",
        };
        let pattern = self.route.and_then(|route| route.pattern.as_deref());
        match (self.grpc_method(), pattern.filter(|_| is_request)) {
            (Some(call), _) => {
                let name = shown(&call.as_bytes()[..call.len().min(LONGEST_NAME)]);
                writer.bytes(NAME, name.as_bytes());
            }
            (None, None) => writer.bytes(NAME, name.as_bytes()),
            (None, Some(pattern)) => {
                writer.begin(NAME, name.len() + 1 + pattern.len());
                for part in [name, " ", pattern] {
                    writer.0.extend_from_slice(part.as_bytes());
                }
            }
        }
    }

    /// What spans of both kinds say of the request.
    fn request(&self, attributes: &mut Attributes<'_>) {
        if let Some((method, original)) = method(self.record) {
            attributes
                .text(semconv::HTTP_REQUEST_METHOD, method)
                .some_text(semconv::HTTP_REQUEST_METHOD_ORIGINAL, original);
        }
        if let Some(method) = self.grpc_method() {
            attributes
                .text(semconv::RPC_SYSTEM_NAME, "grpc")
                .text(semconv::RPC_METHOD, method);
        }
    }

    /// `package.Service/Method` of a call.
    fn grpc_method(&self) -> Option<&str> {
        if !self.record.grpc {
            return None;
        }
        self.record.uri.as_ref()?.path().strip_prefix('/')
    }

    /// The request as the upstream got it.
    fn sent(&self, attributes: &mut Attributes<'_>, note: &Note) {
        let Some(sent) = &note.sent else { return };
        let other = sent.host.as_deref().map(shown);
        let Some(host) = other.as_deref().or(self.host) else {
            return;
        };
        let (scheme, port) = match sent.secure {
            true => ("https://", 443),
            false => ("http://", 80),
        };
        let target = sent
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        match self.redaction.target(target.as_bytes()) {
            Cow::Borrowed(_) => attributes.parts(semconv::URL_FULL, [scheme, host, target]),
            Cow::Owned(target) => {
                attributes.parts(semconv::URL_FULL, [scheme, host, &shown(&target)])
            }
        };
        if !server_address(attributes, Some(host)) {
            attributes.number(semconv::SERVER_PORT, port);
        }
    }
}

/// Of a method's name the beginning is told: clients make them.
const LONGEST_NAME: usize = 256;

/// Of a span, without what is long now and then.
const USUAL: usize = 768;

/// What is the same for all requests of a client's connection.
pub(crate) fn told_of_connection(client: &Client, value_length: usize) -> Block {
    let secured = client.conn.secured.as_ref();
    Block::new(ATTRIBUTES, |attributes| {
        attributes.limit(value_length);
        attributes.text(semconv::URL_SCHEME, client.scheme());
        if let Address::Tcp(address) = client.conn.source() {
            socket(attributes, &client.address_text, address.port());
        }
        let proven = secured.map(|secured| secured.leash.proven());
        tls(attributes, proven, "tls.client.subject");
    })
}

/// What is the same for all requests of a rule.
pub(crate) fn told_of_route(name: &str, pattern: Option<&str>, value_length: usize) -> Block {
    Block::new(ATTRIBUTES, |attributes| {
        attributes
            .limit(value_length)
            .text("pillion.route", name)
            .some_text(semconv::HTTP_ROUTE, pattern);
    })
}

fn told_of_endpoint(endpoint: &Endpoint, value_length: usize) -> Block {
    Block::new(ATTRIBUTES, |attributes| {
        attributes.limit(value_length);
        if let Target::Tcp { address, .. } = &endpoint.target {
            socket(attributes, &address.ip().to_string(), address.port());
        }
        attributes.text("pillion.endpoint", &endpoint.label);
    })
}

/// The method as the conventions want it, `_OTHER` for one that no standard knows, and then what it
/// really was.
pub(in crate::telemetry) fn method(record: &Record) -> Option<(&str, Option<&str>)> {
    let method = record.method.as_ref()?;
    Some(match method::known(method) {
        Some(known) => (known, None),
        None => ("_OTHER", Some(method.as_str())),
    })
}

pub(in crate::telemetry) fn socket(attributes: &mut Attributes<'_>, ip: &str, port: u16) {
    attributes
        .text(semconv::NETWORK_PEER_ADDRESS, ip)
        .number(semconv::NETWORK_PEER_PORT, port.into());
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether there was a port in it.
pub(in crate::telemetry) fn server_address(
    attributes: &mut Attributes<'_>,
    host: Option<&str>,
) -> bool {
    let Some(host) = host else { return false };
    let (name, port) = match host.trim_end_matches(|c: char| c.is_ascii_digit()) {
        name if name.ends_with(':') => (
            &name[..name.len() - 1],
            host[name.len()..].parse::<u16>().ok(),
        ),
        _ => (host, None),
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    attributes.text(semconv::SERVER_ADDRESS, bare.unwrap_or(name));
    if let Some(port) = port {
        attributes.number(semconv::SERVER_PORT, port.into());
    }
    port.is_some()
}

pub(in crate::telemetry) fn grpc_status(attributes: &mut Attributes<'_>, code: u8) {
    attributes
        .text(semconv::RPC_RESPONSE_STATUS_CODE, grpc::name(code))
        // What the conventions had before, which most backends look at.
        .number("rpc.grpc.status_code", code.into());
}

fn grpc_error(code: u8) -> Option<Cow<'static, str>> {
    (code != 0).then(|| grpc::name(code).into())
}

fn tls(attributes: &mut Attributes<'_>, proven: Option<&Proven>, subject: &'static str) {
    let Some(proven) = proven else { return };
    let version = match proven.version {
        Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
        Some(ProtocolVersion::TLSv1_2) => Some("1.2"),
        _ => None,
    };
    attributes.some_text(semconv::TLS_PROTOCOL_VERSION, version);
    if let Some(peer) = &proven.peer {
        attributes
            .text(subject, &peer.subject)
            .text("pillion.peer.identity", peer.name());
    }
}

/// Of a span that says nothing else all is well, or that is for the application to say.
fn failed(out: &mut Vec<u8>, message: &str) {
    const MESSAGE: u32 = 2;
    const CODE: u32 = 3;
    const ERROR: u64 = 2;
    Writer(out).message(STATUS, |status| {
        if !message.is_empty() {
            status.bytes(MESSAGE, message.as_bytes());
        }
        status.varint(CODE, ERROR);
    });
}

/// OTLP's number for it.
const fn number_of(kind: &SpanKind) -> u64 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

impl Protocol {
    /// `network.protocol.version`.
    pub(in crate::telemetry) const fn version(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2",
            Self::Tcp => "",
        }
    }
}
