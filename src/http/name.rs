//! Names of header fields that a proxy cares about.
//!
//! Every line of a head is classed once, as it is read: afterwards nearly every question ("is there
//! a `Via`?") is a bit, and nearly every search compares one byte a line.

use http::HeaderName;

/// What a line is to a proxy. A kind with one name tells the name; the groups are told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nothing that concerns us: most lines.
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Te,
    Trailer,
    Upgrade,
    Expect,
    Via,
    Forwarded,
    /// `X-Forwarded-*`
    XForwarded,
    XRequestId,
    /// `X-Pillion-*`: only a trusted peer may speak in our name.
    XPillion,
    /// Other names that concern one connection only (RFC 9110 section 7.6.1), and those that
    /// speak to the next proxy.
    HopByHop,
    ContentType,
    GrpcTimeout,
    Date,
    IdempotencyKey,
    Traceparent,
    Tracestate,
    Baggage,
    /// `b3` and `X-B3-*`
    B3,
}

impl Kind {
    /// As one bit of a set.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether lines of this kind have different names.
    pub const fn is_group(self) -> bool {
        matches!(
            self,
            Self::Other | Self::XForwarded | Self::XPillion | Self::HopByHop | Self::B3
        )
    }

    /// The kind of a field name, a token in whatever case. Length and first letter leave one
    /// candidate at most.
    pub fn of(name: &[u8]) -> Self {
        let Some(first) = name.first() else {
            return Self::Other;
        };
        let (text, kind): (&[u8], Self) = match (name.len(), first | 0x20) {
            (2, b't') => (b"te", Self::Te),
            (2, b'b') => (b"b3", Self::B3),
            (3, b'v') => (b"via", Self::Via),
            (4, b'h') => (b"host", Self::Host),
            (4, b'd') => (b"date", Self::Date),
            (6, b'e') => (b"expect", Self::Expect),
            (7, b't') => (b"trailer", Self::Trailer),
            (7, b'u') => (b"upgrade", Self::Upgrade),
            (7, b'b') => (b"baggage", Self::Baggage),
            (9, b'f') => (b"forwarded", Self::Forwarded),
            (10, b'c') => (b"connection", Self::Connection),
            (10, b'k') => (b"keep-alive", Self::HopByHop),
            (10, b't') => (b"tracestate", Self::Tracestate),
            (11, b't') => (b"traceparent", Self::Traceparent),
            (12, b'c') => (b"content-type", Self::ContentType),
            (12, b'x') => (b"x-request-id", Self::XRequestId),
            (12, b'g') => (b"grpc-timeout", Self::GrpcTimeout),
            (14, b'c') => (b"content-length", Self::ContentLength),
            (14, b'h') => (b"http2-settings", Self::HopByHop),
            (15, b'i') => (b"idempotency-key", Self::IdempotencyKey),
            (16, b'p') => (b"proxy-connection", Self::HopByHop),
            (17, b't') => (b"transfer-encoding", Self::TransferEncoding),
            (18, b'p') => (b"proxy-authenticate", Self::HopByHop),
            (19, b'p') => (b"proxy-authorization", Self::HopByHop),
            (_, b'x') => return Self::of_ours(name),
            _ => return Self::Other,
        };
        if same(name, text) {
            kind
        } else {
            // Its length may be that of another name that begins so.
            Self::of_ours(name)
        }
    }

    fn of_ours(name: &[u8]) -> Self {
        const FORWARDED: &[u8] = b"x-forwarded-";
        const PILLION: &[u8] = b"x-pillion-";
        const B3: &[u8] = b"x-b3-";
        match name {
            [b'x' | b'X', b'-', b'f' | b'F', ..] if starts(name, FORWARDED) => Self::XForwarded,
            [b'x' | b'X', b'-', b'p' | b'P', ..] if starts(name, PILLION) => Self::XPillion,
            [b'x' | b'X', b'-', b'b' | b'B', ..] if starts(name, B3) => Self::B3,
            _ => Self::Other,
        }
    }
}

fn starts(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len())
        .is_some_and(|part| same(part, prefix))
}

/// Whether a field name is `lower`, which is made of lower-case letters, digits and dashes. Of the
/// bytes that a token may have only a letter's other case becomes one of these by its fifth bit.
pub fn same(name: &[u8], lower: &[u8]) -> bool {
    name.len() == lower.len()
        && name
            .iter()
            .zip(lower)
            .fold(0, |differ, (a, b)| differ | ((a | 0x20) ^ b))
            == 0
}

/// How a field is looked up and written.
pub trait FieldName {
    /// In lower case.
    fn text(&self) -> &[u8];
    /// As customary in HTTP/1.1: `Content-Type`.
    fn push_canonical(&self, out: &mut Vec<u8>);
    fn kind(&self) -> Kind;

    /// Whether `name` in whatever case is this one.
    fn is(&self, name: &[u8]) -> bool {
        same(name, self.text())
    }
}

/// A name that is known at compile time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    lower: &'static str,
    canonical: &'static str,
    kind: Kind,
}

impl Name {
    const fn new(lower: &'static str, canonical: &'static str, kind: Kind) -> Self {
        Self {
            lower,
            canonical,
            kind,
        }
    }

    pub const fn as_str(&self) -> &'static str {
        self.lower
    }
}

impl FieldName for Name {
    fn text(&self) -> &[u8] {
        self.lower.as_bytes()
    }

    fn push_canonical(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.canonical.as_bytes());
    }

    fn kind(&self) -> Kind {
        self.kind
    }
}

/// A name from the configuration.
impl FieldName for HeaderName {
    fn text(&self) -> &[u8] {
        self.as_str().as_bytes()
    }

    fn push_canonical(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.text());
        capitalize(&mut out[start..]);
    }

    fn kind(&self) -> Kind {
        Kind::of(self.text())
    }

    fn is(&self, name: &[u8]) -> bool {
        // It may be made of more than `same` can tell apart.
        name.eq_ignore_ascii_case(self.text())
    }
}

/// Turns a lower-case name into the customary spelling: a capital after each dash, with the few
/// exceptions that people know.
pub fn capitalize(name: &mut [u8]) {
    for spelled in ["ETag", "TE", "DNT", "WWW-Authenticate", "X-XSS-Protection"] {
        if name.eq_ignore_ascii_case(spelled.as_bytes()) {
            return name.copy_from_slice(spelled.as_bytes());
        }
    }
    let mut capital = true;
    for byte in name {
        if capital {
            byte.make_ascii_uppercase();
        }
        capital = *byte == b'-';
    }
}

macro_rules! names {
    ($($id:ident = $lower:literal, $canonical:literal, $kind:ident;)*) => {
        $(pub const $id: Name = Name::new($lower, $canonical, Kind::$kind);)*

        #[cfg(test)]
        const ALL: &[Name] = &[$($id),*];
    };
}

names! {
    ACCEPT_ENCODING = "accept-encoding", "Accept-Encoding", Other;
    ALLOW = "allow", "Allow", Other;
    B3 = "b3", "b3", B3;
    BAGGAGE = "baggage", "baggage", Baggage;
    CONNECTION = "connection", "Connection", Connection;
    CONTENT_LENGTH = "content-length", "Content-Length", ContentLength;
    CONTENT_TYPE = "content-type", "Content-Type", ContentType;
    COOKIE = "cookie", "Cookie", Other;
    DATE = "date", "Date", Date;
    EXPECT = "expect", "Expect", Expect;
    FORWARDED = "forwarded", "Forwarded", Forwarded;
    GRPC_MESSAGE = "grpc-message", "Grpc-Message", Other;
    GRPC_PREVIOUS_RPC_ATTEMPTS = "grpc-previous-rpc-attempts", "Grpc-Previous-Rpc-Attempts", Other;
    GRPC_RETRY_PUSHBACK_MS = "grpc-retry-pushback-ms", "Grpc-Retry-Pushback-Ms", Other;
    GRPC_STATUS = "grpc-status", "Grpc-Status", Other;
    GRPC_STATUS_DETAILS = "grpc-status-details-bin", "Grpc-Status-Details-Bin", Other;
    GRPC_TIMEOUT = "grpc-timeout", "Grpc-Timeout", GrpcTimeout;
    HOST = "host", "Host", Host;
    IDEMPOTENCY_KEY = "idempotency-key", "Idempotency-Key", IdempotencyKey;
    KEEP_ALIVE = "keep-alive", "Keep-Alive", HopByHop;
    LOCATION = "location", "Location", Other;
    PROXY_STATUS = "proxy-status", "Proxy-Status", Other;
    RETRY_AFTER = "retry-after", "Retry-After", Other;
    SEC_WEBSOCKET_ACCEPT = "sec-websocket-accept", "Sec-WebSocket-Accept", Other;
    SEC_WEBSOCKET_KEY = "sec-websocket-key", "Sec-WebSocket-Key", Other;
    SERVER = "server", "Server", Other;
    SET_COOKIE = "set-cookie", "Set-Cookie", Other;
    TE = "te", "TE", Te;
    TRACEPARENT = "traceparent", "traceparent", Traceparent;
    TRACESTATE = "tracestate", "tracestate", Tracestate;
    TRAILER = "trailer", "Trailer", Trailer;
    TRANSFER_ENCODING = "transfer-encoding", "Transfer-Encoding", TransferEncoding;
    UPGRADE = "upgrade", "Upgrade", Upgrade;
    USER_AGENT = "user-agent", "User-Agent", Other;
    VIA = "via", "Via", Via;
    WWW_AUTHENTICATE = "www-authenticate", "WWW-Authenticate", Other;
    X_B3_FLAGS = "x-b3-flags", "X-B3-Flags", B3;
    X_B3_PARENT_SPAN_ID = "x-b3-parentspanid", "X-B3-ParentSpanId", B3;
    X_B3_SAMPLED = "x-b3-sampled", "X-B3-Sampled", B3;
    X_B3_SPAN_ID = "x-b3-spanid", "X-B3-SpanId", B3;
    X_B3_TRACE_ID = "x-b3-traceid", "X-B3-TraceId", B3;
    X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert", "X-Forwarded-Client-Cert", XForwarded;
    X_FORWARDED_FOR = "x-forwarded-for", "X-Forwarded-For", XForwarded;
    X_FORWARDED_HOST = "x-forwarded-host", "X-Forwarded-Host", XForwarded;
    X_FORWARDED_PROTO = "x-forwarded-proto", "X-Forwarded-Proto", XForwarded;
    X_PILLION_ATTEMPTS = "x-pillion-attempts", "X-Pillion-Attempts", XPillion;
    X_PILLION_PREVIOUS_ATTEMPTS = "x-pillion-previous-attempts", "X-Pillion-Previous-Attempts", XPillion;
    X_PILLION_PROTOCOL = "x-pillion-protocol", "X-Pillion-Protocol", XPillion;
    X_PILLION_REASON = "x-pillion-reason", "X-Pillion-Reason", XPillion;
    X_REQUEST_ID = "x-request-id", "X-Request-Id", XRequestId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kind_that_reading_finds() {
        for name in ALL {
            assert_eq!(Kind::of(name.text()), name.kind, "{}", name.lower);
            assert_eq!(Kind::of(name.canonical.as_bytes()), name.kind);
            assert!(name.is(name.canonical.as_bytes()));
        }
        assert_eq!(Kind::of(b"Keep-Alive"), Kind::HopByHop);
        assert_eq!(Kind::of(b"X-PILLION-hops"), Kind::XPillion);
        assert_eq!(Kind::of(b"x-forwarded"), Kind::Other);
        assert_eq!(Kind::of(b""), Kind::Other);
    }

    #[test]
    fn only_case_is_ignored() {
        assert!(same(b"X-A1", b"x-a1"));
        for other in [&b"x-a"[..], b"x-a2", b"xxa1"] {
            assert!(!same(other, b"x-a1"));
        }
    }

    #[test]
    fn customary_spelling() {
        let spelled = |name: &str| {
            let mut name = name.as_bytes().to_vec();
            capitalize(&mut name);
            String::from_utf8(name).unwrap()
        };
        assert_eq!(spelled("x-request-id"), "X-Request-Id");
        assert_eq!(spelled("etag"), "ETag");
        assert_eq!(spelled("te"), "TE");
        assert_eq!(spelled("www-authenticate"), "WWW-Authenticate");
    }
}
