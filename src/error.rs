//! The one error type of the data path: what failed, where, and whether sending the request
//! again could do harm; and the one table that turns it into a status, a gRPC status, a
//! `Proxy-Status` token, a short flag and a metric label.

use std::{borrow::Cow, error::Error as StdError, fmt, num::NonZeroU32};

use http::StatusCode;

use crate::{
    net::Loss,
    tls::{Fault, FaultKind},
};

/// Why Pillion answered by itself, or ended an exchange early.
///
/// The names are stable: they are what users search for, in headers, logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    // The client's side.
    BadRequest,
    HeadTooLarge,
    HeadTimeout,
    RequestBodyInvalid,
    RequestBodyIncomplete,
    ClientClosed,
    UnexpectedTls,
    // Decided here.
    NoRoute,
    AccessDenied,
    TokenMissing,
    TokenInvalid,
    ConnectNotAllowed,
    LoopDetected,
    UpgradeRefused,
    Overloaded,
    RateLimited,
    FaultInjected,
    Draining,
    NoIdentity,
    IdentityRotated,
    Internal,
    // The upstream's side.
    NoEndpoints,
    BreakerOpen,
    NoHealthyEndpoints,
    DnsUnresolved,
    ConnectFailed,
    ConnectTimeout,
    UpstreamCertificate,
    UpstreamTls,
    UpstreamTlsAlert,
    ConnectionLimit,
    PendingLimit,
    RequestLimit,
    ConcurrencyLimit,
    UpstreamClosed,
    UpstreamReset,
    UpstreamProtocol,
    UpstreamHeadTooLarge,
    ResponseIncomplete,
    AttemptTimeout,
    RequestTimeout,
    TotalTimeout,
    IdleTimeout,
}

/// Which side of the exchange a failure lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    Client,
    Here,
    Upstream,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The stable name: `x-pillion-reason`, access log, metric label.
    pub name: &'static str,
    pub origin: Origin,
    pub status: StatusCode,
    /// The gRPC status code a gRPC client is told.
    pub grpc: u8,
    /// Error type of RFC 9209 section 2.3.
    pub proxy_status: &'static str,
    /// The short flag that Envoy's users know.
    pub flag: &'static str,
}

macro_rules! reasons {
    ($($reason:ident: $name:literal, $origin:ident, $status:ident, $grpc:literal, $token:literal, $flag:literal;)*) => {
        impl Reason {
            /// Every reason, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$reason),*];

            /// The row of the table.
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$reason => Row {
                        name: $name,
                        origin: Origin::$origin,
                        status: StatusCode::$status,
                        grpc: $grpc,
                        proxy_status: $token,
                        flag: $flag,
                    },)*
                }
            }
        }
    };
}

// gRPC: 2 UNKNOWN, 4 DEADLINE_EXCEEDED, 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED,
// 12 UNIMPLEMENTED, 13 INTERNAL, 14 UNAVAILABLE, 16 UNAUTHENTICATED.
reasons! {
    BadRequest: "bad_request", Client, BAD_REQUEST, 13, "http_request_error", "DPE";
    HeadTooLarge: "head_too_large", Client, REQUEST_HEADER_FIELDS_TOO_LARGE, 8, "http_request_error", "DPE";
    HeadTimeout: "head_timeout", Client, REQUEST_TIMEOUT, 4, "http_request_error", "DT";
    RequestBodyInvalid: "request_body_invalid", Client, BAD_REQUEST, 13, "http_request_error", "DPE";
    RequestBodyIncomplete: "request_body_incomplete", Client, BAD_REQUEST, 13, "http_request_error", "DC";
    ClientClosed: "client_closed", Client, BAD_REQUEST, 1, "http_request_error", "DC";
    UnexpectedTls: "unexpected_tls", Client, BAD_REQUEST, 13, "tls_protocol_error", "DPE";
    NoRoute: "no_route", Here, NOT_FOUND, 12, "destination_not_found", "NR";
    AccessDenied: "access_denied", Here, FORBIDDEN, 7, "http_request_denied", "UAEX";
    TokenMissing: "token_missing", Here, UNAUTHORIZED, 16, "http_request_denied", "UAEX";
    TokenInvalid: "token_invalid", Here, UNAUTHORIZED, 16, "http_request_denied", "UAEX";
    ConnectNotAllowed: "connect_not_allowed", Here, METHOD_NOT_ALLOWED, 12, "http_request_denied", "NR";
    LoopDetected: "loop_detected", Here, LOOP_DETECTED, 13, "proxy_loop_detected", "LD";
    UpgradeRefused: "upgrade_refused", Here, NOT_IMPLEMENTED, 12, "http_upgrade_failed", "UPE";
    Overloaded: "overloaded", Here, SERVICE_UNAVAILABLE, 8, "connection_limit_reached", "OM";
    RateLimited: "rate_limited", Here, TOO_MANY_REQUESTS, 8, "http_request_denied", "RL";
    FaultInjected: "fault_injected", Here, SERVICE_UNAVAILABLE, 14, "http_request_error", "FI";
    Draining: "draining", Here, SERVICE_UNAVAILABLE, 14, "destination_unavailable", "LR";
    NoIdentity: "no_identity", Here, SERVICE_UNAVAILABLE, 14, "proxy_configuration_error", "UF";
    IdentityRotated: "identity_rotated", Here, SERVICE_UNAVAILABLE, 14, "connection_terminated", "UC";
    Internal: "internal", Here, INTERNAL_SERVER_ERROR, 13, "proxy_internal_error", "LR";
    NoEndpoints: "no_endpoints", Upstream, SERVICE_UNAVAILABLE, 14, "destination_unavailable", "UH";
    BreakerOpen: "breaker_open", Upstream, SERVICE_UNAVAILABLE, 14, "destination_unavailable", "UH";
    NoHealthyEndpoints: "no_healthy_endpoints", Upstream, SERVICE_UNAVAILABLE, 14, "destination_unavailable", "UH";
    DnsUnresolved: "dns_unresolved", Upstream, SERVICE_UNAVAILABLE, 14, "dns_error", "DF";
    ConnectFailed: "connect_failed", Upstream, SERVICE_UNAVAILABLE, 14, "connection_refused", "UF";
    ConnectTimeout: "connect_timeout", Upstream, GATEWAY_TIMEOUT, 14, "connection_timeout", "UF";
    UpstreamCertificate: "upstream_certificate", Upstream, BAD_GATEWAY, 14, "tls_certificate_error", "UF";
    UpstreamTls: "upstream_tls", Upstream, BAD_GATEWAY, 14, "tls_protocol_error", "UF";
    UpstreamTlsAlert: "upstream_tls_alert", Upstream, BAD_GATEWAY, 14, "tls_alert_received", "UF";
    ConnectionLimit: "connection_limit", Upstream, SERVICE_UNAVAILABLE, 14, "connection_limit_reached", "UO";
    PendingLimit: "pending_limit", Upstream, SERVICE_UNAVAILABLE, 14, "connection_limit_reached", "UO";
    RequestLimit: "request_limit", Upstream, SERVICE_UNAVAILABLE, 14, "connection_limit_reached", "UO";
    ConcurrencyLimit: "concurrency_limit", Upstream, SERVICE_UNAVAILABLE, 14, "connection_limit_reached", "UO";
    UpstreamClosed: "upstream_closed", Upstream, BAD_GATEWAY, 14, "connection_terminated", "UC";
    UpstreamReset: "upstream_reset", Upstream, BAD_GATEWAY, 14, "connection_terminated", "UR";
    UpstreamProtocol: "upstream_protocol", Upstream, BAD_GATEWAY, 14, "http_protocol_error", "UPE";
    UpstreamHeadTooLarge: "upstream_head_too_large", Upstream, BAD_GATEWAY, 14, "http_response_header_section_size", "UPE";
    ResponseIncomplete: "response_incomplete", Upstream, BAD_GATEWAY, 14, "http_response_incomplete", "UC";
    AttemptTimeout: "attempt_timeout", Upstream, GATEWAY_TIMEOUT, 4, "http_response_timeout", "UT";
    RequestTimeout: "request_timeout", Upstream, GATEWAY_TIMEOUT, 4, "http_response_timeout", "UT";
    TotalTimeout: "total_timeout", Upstream, GATEWAY_TIMEOUT, 4, "http_response_timeout", "UMSDR";
    IdleTimeout: "idle_timeout", Upstream, GATEWAY_TIMEOUT, 4, "connection_read_timeout", "SI";
}

impl Reason {
    /// How many there are: the size of a table indexed by [`Reason::index`].
    pub const COUNT: usize = Self::ALL.len();

    /// Position in [`Reason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The stable name.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether it is the client's affair: what it sent, that it left, or that it asked for what is not
    /// there or not for it.
    pub fn is_clients(self) -> bool {
        let row = self.row();
        row.origin == Origin::Client || row.status.is_client_error()
    }

    /// The short flag.
    pub const fn flag(self) -> &'static str {
        self.row().flag
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a response of Pillion's own comes of where nothing failed: a rule says so. Told like a
/// [`Reason`], and never counted as a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalReply {
    DirectResponse,
    Redirect,
    /// In place of a response that the rule's fallback is for.
    FallbackResponse,
}

impl LocalReply {
    pub const ALL: [Self; 3] = [Self::DirectResponse, Self::Redirect, Self::FallbackResponse];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DirectResponse => "direct_response",
            Self::Redirect => "redirect",
            Self::FallbackResponse => "fallback_response",
        }
    }

    /// `Proxy-Status`, without `error` as there was none (RFC 9209 section 2.1).
    pub const fn proxy_status(self) -> &'static str {
        match self {
            Self::DirectResponse => "pillion; details=\"direct_response\"",
            Self::Redirect => "pillion; details=\"redirect\"",
            Self::FallbackResponse => "pillion; details=\"fallback_response\"",
        }
    }
}

/// Whether the request may be sent again without the application seeing it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// No byte of it reached an application.
    NeverSent,
    /// The upstream said that it did not process it.
    Refused,
    /// Died on a reused connection before a byte of response: most likely a keep-alive race.
    Reused,
    /// It may have been acted on.
    Unsafe,
}

/// A failure on the data path.
#[derive(Debug)]
pub struct Error {
    pub reason: Reason,
    pub replay: Replay,
    /// What a person on call needs beyond the reason: an address, a limit, a peer's complaint.
    pub detail: Cow<'static, str>,
    pub source: Option<Box<dyn StdError + Send + Sync>>,
    /// After how many seconds the client may come again.
    pub retry_after: Option<NonZeroU32>,
}

/// The data path's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure that says what it is and no more; not safe to replay.
    pub const fn new(reason: Reason, detail: &'static str) -> Self {
        Self {
            reason,
            replay: Replay::Unsafe,
            detail: Cow::Borrowed(detail),
            source: None,
            retry_after: None,
        }
    }

    /// Replaces the detail by one made for this occasion.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    #[must_use]
    pub const fn replay(mut self, replay: Replay) -> Self {
        self.replay = replay;
        self
    }

    #[must_use]
    pub const fn retry_after(mut self, seconds: NonZeroU32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl Loss {
    /// The reason where it says more than that the connection is gone. In TLS 1.3 a server refuses
    /// our certificate after our handshake is done: such an alert comes in place of an answer.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Closed | Self::Failed(_) => None,
            Self::Rotated => Some(Reason::IdentityRotated),
            Self::Tls(kind) => Some(reason_of(kind)),
        }
    }
}

fn reason_of(kind: FaultKind) -> Reason {
    match (kind, kind.proxy_status()) {
        (FaultKind::HandshakeTimeout, _) => Reason::ConnectTimeout,
        (_, "tls_certificate_error") => Reason::UpstreamCertificate,
        (_, "tls_alert_received") => Reason::UpstreamTlsAlert,
        _ => Reason::UpstreamTls,
    }
}

/// Of a handshake with an endpoint: nothing of a request was sent.
impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::new(reason_of(fault.kind()), "")
            .detail(format!("{}: {fault}", fault.kind()))
            .replay(Replay::NeverSent)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.name())?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_index_matches() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::COUNT);
        for reply in LocalReply::ALL {
            assert!(!names.contains(reply.name()));
            let details = format!("pillion; details=\"{}\"", reply.name());
            assert_eq!(reply.proxy_status(), details);
        }
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }

    #[test]
    fn the_client_is_blamed_with_4xx_and_the_upstream_with_5xx() {
        for reason in Reason::ALL {
            let row = reason.row();
            match row.origin {
                Origin::Client => assert!(row.status.is_client_error(), "{reason}"),
                Origin::Upstream => assert!(row.status.is_server_error(), "{reason}"),
                Origin::Here => {}
            }
        }
    }
}
