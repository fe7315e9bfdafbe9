//! Spans as OTLP has them: one for the request, and one for each attempt below it.
//!
//! Names of attributes are those of OpenTelemetry's semantic conventions for HTTP and RPC, and
//! `pillion.*` where they have none.

use http::Uri;
use opentelemetry::{
    SpanId,
    trace::{SpanKind, Status},
};
use opentelemetry_semantic_conventions::attribute as semconv;
use rustls::ProtocolVersion;

use super::Place;
use crate::{
    config::model::Address,
    error::Origin,
    policy::{Note, Outcome},
    protobuf::Writer,
    telemetry::{Record, Redaction, access_log::Protocol, attributes::Attributes, clock::Clock},
    tls::Leash,
    upstream::Target,
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
    /// The client's address, without its port.
    pub(super) peer: &'a str,
    /// How the client's connection is held, where there is TLS.
    pub(super) leash: Option<&'a Leash>,
    pub(super) redaction: &'a Redaction,
    pub(super) clock: Clock,
}

impl Story<'_> {
    /// The span of the request.
    pub(super) fn server(&self, out: &mut Vec<u8>) {
        let Self { record, .. } = self;
        let mut writer = Writer(out);
        self.begin(&mut writer, self.place.span_id(), self.place.parent());
        let grpc = self.grpc_method();
        writer.bytes(NAME, &self.name(grpc, true));
        writer.varint(KIND, kind(&SpanKind::Server));
        writer.fixed64(START, self.clock.unix_nanos(record.start));
        let end = record.start + record.duration;
        writer.fixed64(END, self.clock.unix_nanos(end));

        let mut attributes = Attributes::new(&mut writer, ATTRIBUTES);
        self.request(&mut attributes, grpc);
        attributes.text(semconv::URL_SCHEME, self.scheme());
        if let Some(uri) = &record.uri {
            attributes.text(semconv::URL_PATH, uri.path().as_bytes());
            if let Some(query) = uri.query() {
                let query = self.redaction.query(query.as_bytes());
                attributes.text(semconv::URL_QUERY, &query);
            }
        }
        server_address(&mut attributes, record.authority());
        attributes
            .some_text(
                semconv::HTTP_ROUTE,
                record.pattern.as_deref().map(str::as_bytes),
            )
            .text(
                semconv::NETWORK_PROTOCOL_VERSION,
                record.protocol.version().as_bytes(),
            )
            .some_text(semconv::USER_AGENT_ORIGINAL, record.user_agent.as_deref());
        self.peer(&mut attributes);
        if let Some(status) = record.status {
            attributes.number(semconv::HTTP_RESPONSE_STATUS_CODE, status.as_u16().into());
        }
        if let Some(code) = record.grpc_status {
            grpc_status(&mut attributes, code);
        }
        attributes
            .number(semconv::HTTP_REQUEST_BODY_SIZE, record.bytes_received)
            .number(semconv::HTTP_RESPONSE_BODY_SIZE, record.bytes_sent)
            .some_text("pillion.request_id", record.request_id())
            .text("pillion.listener", record.listener.as_bytes())
            .some_text("pillion.route", record.route.as_deref().map(str::as_bytes))
            .some_text(
                "pillion.upstream",
                record.upstream.as_deref().map(str::as_bytes),
            );
        if record.attempts > 0 {
            attributes.number("pillion.attempts", record.attempts.into());
        }
        if let Some(reason) = record.reason {
            attributes.text("pillion.reason", reason.name().as_bytes());
        }
        if !record.detail.is_empty() {
            attributes.text("pillion.detail", record.detail.as_bytes());
        }
        tls(&mut attributes, self.leash, "tls.client.subject");
        let error = self.record.error_type();
        if let Some(error) = &error {
            attributes.text(semconv::ERROR_TYPE, error.as_bytes());
        }
        // A 4xx is the client's affair, and so is that it left.
        let ours = error.is_some()
            && !record
                .reason
                .is_some_and(|reason| reason.row().origin == Origin::Client);
        status(&mut writer, ours, &record.detail);
    }

    /// The span of an attempt; `winner`: its response is the one that the client got.
    pub(super) fn client(&self, note: &Note, span_id: SpanId, winner: bool, out: &mut Vec<u8>) {
        let Self { record, .. } = self;
        let mut writer = Writer(out);
        self.begin(&mut writer, span_id, Some(self.place.span_id()));
        let grpc = self.grpc_method();
        writer.bytes(NAME, &self.name(grpc, false));
        writer.varint(KIND, kind(&SpanKind::Client));
        writer.fixed64(START, self.clock.unix_nanos(note.start));
        let end = note.end.unwrap_or(record.start + record.duration);
        writer.fixed64(END, self.clock.unix_nanos(end));

        let mut attributes = Attributes::new(&mut writer, ATTRIBUTES);
        self.request(&mut attributes, grpc);
        let (uri, host) = note
            .sent
            .as_ref()
            .map_or((None, None), |sent| (Some(&sent.uri), sent.host.as_deref()));
        let secure = note.line.leash.is_some();
        if let (Some(uri), Some(host)) = (uri, host) {
            attributes.text(semconv::URL_FULL, &self.full(secure, uri, host));
        }
        server_address(&mut attributes, host);
        if note.number > 1 {
            attributes.number(
                semconv::HTTP_REQUEST_RESEND_COUNT,
                u64::from(note.number) - 1,
            );
        }
        if note.line.reused.is_some() {
            let version: &[u8] = if note.line.http2 { b"2" } else { b"1.1" };
            attributes.text(semconv::NETWORK_PROTOCOL_VERSION, version);
        }
        attributes.text("pillion.upstream", note.upstream.as_bytes());
        if let Some(endpoint) = &note.endpoint {
            if let (Target::Tcp { address, .. }, Some((ip, _))) =
                (&endpoint.target, endpoint.label.rsplit_once(':'))
            {
                socket(&mut attributes, ip.trim_matches(['[', ']']), address.port());
            }
            attributes.text("pillion.endpoint", endpoint.label.as_bytes());
            attributes.boolean("pillion.endpoint.available", note.endpoint_takes);
        }
        if let Some(reused) = note.line.reused {
            attributes.boolean("pillion.connection.reused", reused);
        }
        if let Some(left) = note.left.filter(|_| note.outcome.is_failure()) {
            attributes.number("pillion.deadline.left_ms", left.as_millis() as u64);
        }
        if let Some(then) = note.then {
            attributes.text("pillion.then", then.name().as_bytes());
        }
        tls(
            &mut attributes,
            note.line.leash.as_deref(),
            "tls.server.subject",
        );

        let mut code = None;
        let mut error = None;
        match note.outcome {
            Outcome::Status { code: status, .. } => {
                code = Some(status);
                error = (status >= 400).then(|| status.to_string());
            }
            Outcome::Grpc { code: grpc, .. } => {
                code = Some(200);
                grpc_status(&mut attributes, grpc);
                error = (grpc != 0).then(|| crate::http::grpc::name(grpc).to_owned());
            }
            Outcome::Failed(reason) => error = Some(reason.name().to_owned()),
            Outcome::Cut => error = Some("cut".to_owned()),
            Outcome::UnderWay => {}
        }
        if let Some(code) = code {
            attributes.number(semconv::HTTP_RESPONSE_STATUS_CODE, code.into());
        }
        if winner && error.is_none() {
            // How the call, or the body, came to its end is known only now.
            if let Some(code) = record.grpc_status {
                grpc_status(&mut attributes, code);
                error = (code != 0).then(|| crate::http::grpc::name(code).to_owned());
            }
            let broke = record
                .reason
                .filter(|reason| reason.row().origin == Origin::Upstream);
            error = broke.map(|reason| reason.name().to_owned()).or(error);
        }
        if let Some(error) = &error {
            attributes.text(semconv::ERROR_TYPE, error.as_bytes());
        }
        // That another attempt was quicker is no failure of this one.
        status(
            &mut writer,
            error.is_some() && note.outcome != Outcome::Cut,
            "",
        );
    }

    fn begin(&self, writer: &mut Writer<'_>, span_id: SpanId, parent: Option<SpanId>) {
        writer.bytes(TRACE_ID, &self.place.trace_id().to_bytes());
        writer.bytes(SPAN_ID, &span_id.to_bytes());
        if let Some(state) = self.state {
            writer.bytes(TRACE_STATE, state);
        }
        if let Some(parent) = parent {
            writer.bytes(PARENT_SPAN_ID, &parent.to_bytes());
        }
        let remote = parent.is_some() && parent == self.place.parent();
        writer.fixed32(FLAGS, self.place.flags(remote));
    }

    /// `METHOD route`, or the method of a call; of what is sent to an upstream the route says
    /// nothing.
    fn name(&self, grpc: Option<&str>, with_route: bool) -> Vec<u8> {
        if let Some(method) = grpc {
            return method.as_bytes().to_vec();
        }
        let mut name = method(self.record)
            .map_or("HTTP", |(method, _)| method)
            .as_bytes()
            .to_vec();
        if let Some(pattern) = self.record.pattern.as_deref().filter(|_| with_route) {
            name.push(b' ');
            name.extend_from_slice(pattern.as_bytes());
        }
        name
    }

    /// What spans of both kinds say of the request.
    fn request(&self, attributes: &mut Attributes<'_, '_>, grpc: Option<&str>) {
        if let Some((method, original)) = method(self.record) {
            attributes.text(semconv::HTTP_REQUEST_METHOD, method.as_bytes());
            if let Some(original) = original {
                attributes.text(semconv::HTTP_REQUEST_METHOD_ORIGINAL, original.as_bytes());
            }
        }
        if let Some(method) = grpc {
            attributes
                .text(semconv::RPC_SYSTEM_NAME, b"grpc")
                .text(semconv::RPC_METHOD, method.as_bytes());
        }
    }

    /// `package.Service/Method` of a call.
    fn grpc_method(&self) -> Option<&str> {
        let path = self.record.uri.as_ref()?.path();
        path.strip_prefix('/').filter(|_| self.record.grpc)
    }

    const fn scheme(&self) -> &'static [u8] {
        if self.leash.is_some() {
            b"https"
        } else {
            b"http"
        }
    }

    fn full(&self, secure: bool, uri: &Uri, host: &[u8]) -> Vec<u8> {
        let mut full: Vec<u8> = if secure { b"https://" } else { &b"http://"[..] }.to_vec();
        full.extend_from_slice(host);
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        full.extend_from_slice(&self.redaction.target(target.as_bytes()));
        full
    }

    fn peer(&self, attributes: &mut Attributes<'_, '_>) {
        if let Some(Address::Tcp(address)) = &self.record.peer {
            socket(attributes, self.peer, address.port());
            match self.record.client {
                Some(client) => {
                    attributes.text(semconv::CLIENT_ADDRESS, client.to_string().as_bytes())
                }
                None => attributes.text(semconv::CLIENT_ADDRESS, self.peer.as_bytes()),
            };
        }
    }
}

/// The method as the conventions want it, `_OTHER` for one that no standard knows, and then what it
/// really was.
pub(in crate::telemetry) fn method(record: &Record) -> Option<(&str, Option<&str>)> {
    const KNOWN: [&str; 10] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY",
    ];
    let method = record.method.as_ref()?.as_str();
    Some(match KNOWN.contains(&method) {
        true => (method, None),
        false => ("_OTHER", Some(method)),
    })
}

pub(in crate::telemetry) fn socket(attributes: &mut Attributes<'_, '_>, ip: &str, port: u16) {
    attributes
        .text(semconv::NETWORK_PEER_ADDRESS, ip.as_bytes())
        .number(semconv::NETWORK_PEER_PORT, port.into());
}

pub(in crate::telemetry) fn server_address(
    attributes: &mut Attributes<'_, '_>,
    host: Option<&[u8]>,
) {
    let Some(host) = host.and_then(|host| std::str::from_utf8(host).ok()) else {
        return;
    };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse::<u16>().ok()),
        _ => (host, None),
    };
    attributes.text(
        semconv::SERVER_ADDRESS,
        name.trim_matches(['[', ']']).as_bytes(),
    );
    if let Some(port) = port {
        attributes.number(semconv::SERVER_PORT, port.into());
    }
}

pub(in crate::telemetry) fn grpc_status(attributes: &mut Attributes<'_, '_>, code: u8) {
    attributes
        .text(
            semconv::RPC_RESPONSE_STATUS_CODE,
            crate::http::grpc::name(code).as_bytes(),
        )
        // What the conventions had before, which most backends look at.
        .number("rpc.grpc.status_code", code.into());
}

fn tls(attributes: &mut Attributes<'_, '_>, leash: Option<&Leash>, subject: &str) {
    let Some(leash) = leash else { return };
    let version: Option<&[u8]> = match leash.version() {
        Some(ProtocolVersion::TLSv1_3) => Some(b"1.3"),
        Some(ProtocolVersion::TLSv1_2) => Some(b"1.2"),
        _ => None,
    };
    attributes.some_text(semconv::TLS_PROTOCOL_VERSION, version);
    if let Some(peer) = leash.peer() {
        attributes
            .text(subject, peer.subject.as_bytes())
            .text("pillion.peer.identity", peer.name().as_bytes());
    }
}

/// Nothing where all is well: that is for the application to say.
fn status(writer: &mut Writer<'_>, failed: bool, message: &str) {
    const MESSAGE: u32 = 2;
    const CODE: u32 = 3;
    let code = match if failed {
        Status::error("")
    } else {
        Status::Unset
    } {
        Status::Unset => return,
        Status::Ok => 1,
        Status::Error { .. } => 2,
    };
    writer.message(STATUS, |status| {
        if !message.is_empty() {
            status.bytes(MESSAGE, message.as_bytes());
        }
        status.varint(CODE, code);
    });
}

/// OTLP's number for it.
const fn kind(kind: &SpanKind) -> u64 {
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
