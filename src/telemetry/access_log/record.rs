//! What is told of a request.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use http::{Method, StatusCode, Uri};
use tokio::time::Instant;

use super::Headers;
use crate::{
    config::model::Address,
    error::{LocalReply, Reason},
    http::{grpc, request_id::RequestId},
    policy::Note,
    telemetry::TraceRef,
    tls::Certificate,
};

/// What a line tells. It is filled in while the request runs and costs no more than clones of what
/// the request has anyway; whatever is not known stays `None`.
#[derive(Clone, Debug)]
pub struct Record {
    /// The first byte of the request, or the accept of a TCP connection.
    pub start: Instant,
    /// From `start` to the last byte.
    pub duration: Duration,
    pub listener: Arc<str>,
    /// The rule that matched.
    pub route: Option<Arc<str>>,
    /// The paths that the rule is for, where it is for one kind.
    pub pattern: Option<Arc<str>>,
    pub upstream: Option<Arc<str>>,
    /// Address of the endpoint that was chosen.
    pub endpoint: Option<Arc<str>>,
    pub method: Option<Method>,
    /// As it was received: the path comes from it, and the authority where it has one.
    pub uri: Option<Uri>,
    /// The `Host` header, where `uri` has no authority.
    pub host: Option<Box<[u8]>>,
    pub protocol: Protocol,
    /// What the client was told. `None`: nothing.
    pub status: Option<StatusCode>,
    /// It is a call of gRPC.
    pub grpc: bool,
    /// How that call ended, if it came so far.
    pub grpc_status: Option<u8>,
    /// Why it failed, if it did in our hands.
    pub reason: Option<Reason>,
    /// By which kind of rule the response is our own.
    pub local_reply: Option<LocalReply>,
    /// A fault that was injected made it slower.
    pub slowed: bool,
    /// What a person on call needs beyond the reason.
    pub detail: Cow<'static, str>,
    /// Bytes of the request body; of TCP, bytes from the client.
    pub bytes_received: u64,
    /// Bytes of the response body; of TCP, bytes to the client.
    pub bytes_sent: u64,
    /// From the request being sent to the upstream to the head of its response.
    pub upstream_duration: Option<Duration>,
    /// Attempts made at an upstream.
    pub attempts: u8,
    /// What attempts met that failed; of a request that is traced, all of them.
    pub evidence: Vec<Note>,
    /// The other end of the connection, or who that says it speaks for.
    pub peer: Option<Address>,
    /// What the client's certificate says, where it showed one.
    pub identity: Option<Arc<Certificate>>,
    /// Who trusted proxies in front say the request comes from: written in the place of `peer`.
    pub client: Option<IpAddr>,
    pub request_id: Option<RequestId>,
    pub user_agent: Option<Box<[u8]>>,
    /// Those that the log is to show.
    pub headers: Headers,
    /// The trace that it belongs to, sampled or not. `None`: of TCP, or not known yet.
    pub trace: Option<TraceRef>,
}

impl Record {
    /// A record of something that has just begun.
    pub fn new(listener: Arc<str>, protocol: Protocol, start: Instant) -> Self {
        Self {
            start,
            duration: Duration::ZERO,
            listener,
            route: None,
            pattern: None,
            upstream: None,
            endpoint: None,
            method: None,
            uri: None,
            host: None,
            protocol,
            status: None,
            grpc: false,
            grpc_status: None,
            reason: None,
            local_reply: None,
            slowed: false,
            detail: Cow::Borrowed(""),
            bytes_received: 0,
            bytes_sent: 0,
            upstream_duration: None,
            attempts: 0,
            evidence: Vec::new(),
            peer: None,
            identity: None,
            client: None,
            request_id: None,
            user_agent: None,
            headers: Headers::default(),
            trace: None,
        }
    }

    /// The short forms that Envoy's users know: that of the reason, and `DI`.
    pub(super) fn flags(&self) -> Cow<'static, str> {
        match (self.reason, self.slowed) {
            (None, false) => "-".into(),
            (None, true) => "DI".into(),
            (Some(reason), false) => reason.flag().into(),
            (Some(reason), true) => format!("DI,{}", reason.flag()).into(),
        }
    }

    /// Why the response is Pillion's own, or not whole: a failure, or a rule.
    pub fn reason_name(&self) -> Option<&'static str> {
        let failed = self.reason.map(Reason::name);
        failed.or_else(|| self.local_reply.map(LocalReply::name))
    }

    /// What went wrong, as `error.type` of OpenTelemetry's conventions: the reason, a status that is
    /// the server's failure, or such a status of gRPC. `None`: nothing did.
    pub fn error_type(&self) -> Option<Cow<'static, str>> {
        if let Some(reason) = self.reason {
            return Some(reason.name().into());
        }
        if let Some(code) = self.grpc_status {
            return grpc::is_failure(code).then(|| grpc::name(code).into());
        }
        let status = self.status.filter(StatusCode::is_server_error)?;
        Some(status.as_str().to_owned().into())
    }

    /// The trace of a request that brought none to a process that does not trace: its request id,
    /// which stays the same at every hop, or a new one.
    pub fn own_trace(&self, rng: &mut fastrand::Rng) -> Option<TraceRef> {
        let id = self.request_id.as_ref()?;
        Some(TraceRef {
            trace_id: id.bits().unwrap_or_else(|| rng.u128(1..)),
            span_id: 0,
            sampled: false,
        })
    }

    pub(in crate::telemetry) fn authority(&self) -> Option<&[u8]> {
        let of_uri = self.uri.as_ref().and_then(Uri::authority);
        of_uri
            .map(|authority| authority.as_str().as_bytes())
            .or(self.host.as_deref())
    }

    pub(super) fn path(&self) -> Option<&[u8]> {
        let path = self.uri.as_ref()?.path_and_query()?;
        Some(path.as_str().as_bytes())
    }

    pub(in crate::telemetry) fn request_id(&self) -> Option<&[u8]> {
        self.request_id.as_ref().map(RequestId::as_bytes)
    }
}

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
    /// A TCP listener: neither method nor path nor status.
    Tcp,
}

impl Protocol {
    /// The name in a line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Tcp => "TCP",
        }
    }
}

impl From<http::Version> for Protocol {
    fn from(version: http::Version) -> Self {
        match version {
            http::Version::HTTP_09 | http::Version::HTTP_10 => Self::Http10,
            http::Version::HTTP_2 | http::Version::HTTP_3 => Self::Http2,
            _ => Self::Http11,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::full, *};

    #[test]
    fn the_authority_of_the_target_goes_before_host() {
        let mut record = full();
        assert_eq!(record.authority(), Some(&b"shop.example"[..]));
        record.uri = Some(Uri::from_static("http://other.example/x"));
        assert_eq!(record.authority(), Some(&b"other.example"[..]));
        assert_eq!(record.path(), Some(&b"/x"[..]));
        record.uri = Some(Uri::from_static("connect.example:443"));
        assert_eq!(record.path(), None, "CONNECT has no path");
    }
}
