//! Headers that a proxy takes away, adds or watches.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::h1::fields::options;
use crate::config::model::ForwardedHeaders;

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_PILLION_REASON: HeaderName = HeaderName::from_static("x-pillion-reason");
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const OURS: &str = "x-pillion-";

/// How often one `Via` pseudonym may stand in a request: a pod may pass its own sidecar once on
/// the way out and once on the way in, and three times is a loop.
const LOOP: usize = 3;

/// Which of the headers that a proxy cares about a message has.
///
/// The common message has next to none of them, so one pass looks before anything is searched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    connection: bool,
    te: bool,
    other_hop_by_hop: bool,
    ours: bool,
    forwarding: bool,
    pub via: bool,
    pub expect: bool,
    pub request_id: bool,
}

impl Seen {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match *name {
                header::CONNECTION => seen.connection = true,
                header::TE => seen.te = true,
                header::VIA => seen.via = true,
                header::EXPECT => seen.expect = true,
                header::FORWARDED => seen.forwarding = true,
                header::TRANSFER_ENCODING
                | header::UPGRADE
                | header::PROXY_AUTHENTICATE
                | header::PROXY_AUTHORIZATION => seen.other_hop_by_hop = true,
                _ => seen.note_custom(name.as_str()),
            }
        }
        seen
    }

    fn note_custom(&mut self, name: &str) {
        if let Some(rest) = name.strip_prefix("x-") {
            self.ours |= rest.starts_with("pillion-");
            self.forwarding |= rest.starts_with("forwarded-");
            self.request_id |= rest == "request-id";
        } else {
            self.other_hop_by_hop |=
                matches!(name, "keep-alive" | "proxy-connection" | "http2-settings");
        }
    }
}

/// Drops what concerns one connection only (RFC 9110 section 7.6.1): the names that every line of
/// `Connection` lists, and those that are hop-by-hop by themselves. `TE: trailers` is written
/// again, since it is true of this hop too; gRPC insists on it.
///
/// `Connection` can't remove what says where a message goes or ends.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, seen: Seen) {
    if seen.connection {
        strip_listed(headers);
        headers.remove(header::CONNECTION);
    }
    if seen.te {
        let trailers = headers
            .get_all(header::TE)
            .iter()
            .flat_map(options)
            .any(|coding| {
                let name = coding
                    .split(|&byte| byte == b';')
                    .next()
                    .unwrap_or_default();
                name.trim_ascii().eq_ignore_ascii_case(b"trailers")
            });
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    if seen.other_hop_by_hop {
        for name in [
            header::TRANSFER_ENCODING,
            header::UPGRADE,
            KEEP_ALIVE,
            PROXY_CONNECTION,
            header::PROXY_AUTHENTICATE,
            header::PROXY_AUTHORIZATION,
            HTTP2_SETTINGS,
        ] {
            headers.remove(name);
        }
    }
}

fn strip_listed(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(options)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .filter(|name| {
            !matches!(
                *name,
                header::HOST
                    | header::CONTENT_LENGTH
                    | header::TRANSFER_ENCODING
                    | header::CONNECTION
                    | header::UPGRADE
                    | header::TE
                    | header::TRAILER
                    | header::VIA
            )
        })
        .collect();
    for name in listed {
        headers.remove(name);
    }
}

/// Drops `x-pillion-*`: only a trusted peer may speak in our name.
pub fn strip_ours(headers: &mut HeaderMap, seen: Seen) {
    if !seen.ours {
        return;
    }
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(OURS))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether the request has been here so often that it must be going round.
pub fn is_loop(headers: &HeaderMap, pseudonym: &str) -> bool {
    let lines = headers.get_all(header::VIA).iter();
    let entries = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    // `received-protocol received-by [comment]` (RFC 9110 section 7.6.3)
    entries
        .filter(|entry| entry.split_ascii_whitespace().nth(1) == Some(pseudonym))
        .count()
        >= LOOP
}

/// Who the request comes from where `hops` proxies in front are trusted: each of them appended whom
/// it had it from, so it is that many from the right of `X-Forwarded-For`. What stands before that
/// anybody may have written. `None` if there are fewer, or no address in that place.
pub fn client(headers: &HeaderMap, hops: u8) -> Option<IpAddr> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','));
    let entry = entries.nth(usize::from(hops.checked_sub(1)?))?;
    let entry = str::from_utf8(entry.trim_ascii()).ok()?;
    let with_port = || Some(entry.parse::<SocketAddr>().ok()?.ip());
    entry.parse().ok().or_else(with_port)
}

/// What is told of the client to the upstream.
#[derive(Debug)]
pub struct Forwarding<'a> {
    pub style: ForwardedHeaders,
    /// Whether the peer may have told it already.
    pub trusted: bool,
    /// `None` for a Unix socket.
    pub client: Option<IpAddr>,
    /// `client` as text, made once a connection.
    pub client_text: &'a HeaderValue,
    pub host: Option<&'a HeaderValue>,
}

/// Writes `X-Forwarded-*` and `Forwarded` (RFC 7239). Lines of a peer that is not trusted are
/// dropped first, whichever style is written.
pub fn forward(headers: &mut HeaderMap, seen: Seen, forwarding: &Forwarding<'_>) {
    if seen.forwarding && !forwarding.trusted {
        for name in [
            X_FORWARDED_FOR,
            X_FORWARDED_PROTO,
            X_FORWARDED_HOST,
            header::FORWARDED,
        ] {
            headers.remove(name);
        }
    }
    let (x_forwarded, forwarded) = match forwarding.style {
        ForwardedHeaders::XForwarded => (true, false),
        ForwardedHeaders::Forwarded => (false, true),
        ForwardedHeaders::Both => (true, true),
        ForwardedHeaders::Off => (false, false),
    };
    if x_forwarded {
        if forwarding.client.is_some() {
            append(headers, X_FORWARDED_FOR, forwarding.client_text);
        }
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        if let Some(host) = forwarding.host
            && !headers.contains_key(X_FORWARDED_HOST)
        {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
    }
    if forwarded && let Ok(element) = HeaderValue::try_from(element(forwarding)) {
        append(headers, header::FORWARDED, &element);
    }
}

fn element(forwarding: &Forwarding<'_>) -> String {
    let node = match forwarding.client {
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
        None => "unknown".to_owned(),
    };
    match forwarding.host.and_then(|host| host.to_str().ok()) {
        Some(host) => format!("for={node};host=\"{host}\";proto=http"),
        None => format!("for={node};proto=http"),
    }
}

/// Adds `value` at the end of a list, all in one line: some applications read only the first.
pub fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let Some(_) = headers.get(&name) else {
        headers.insert(name, value.clone());
        return;
    };
    let mut joined = Vec::new();
    for line in headers.get_all(&name) {
        joined.extend_from_slice(line.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(value.as_bytes());
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, joined);
    }
}

/// The id that the request brought, if it can be kept: short and printable.
pub fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(X_REQUEST_ID).filter(|id| {
        !id.is_empty() && id.len() <= 128 && id.as_bytes().iter().all(u8::is_ascii_graphic)
    })
}

/// A random UUID (RFC 9562 version 4) as text.
pub fn new_request_id(high: u64, low: u64) -> HeaderValue {
    let bits = (u128::from(high) << 64 | u128::from(low)) & !(0xf << 76) & !(0x3 << 62)
        | (0x4 << 76)
        | (0x2 << 62);
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            *byte = b"0123456789abcdef"[(bits >> shift) as usize & 15];
        }
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_connection_line_counts() {
        let mut headers = map(&[
            ("connection", "close, x-a"),
            ("connection", "X-B"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("te", "gzip, Trailers;q=0.5"),
        ]);
        let seen = Seen::of(&headers);
        strip_hop_by_hop(&mut headers, seen);
        assert_eq!(names(&headers), ["te", "x-c"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn connection_cannot_remove_host_or_framing() {
        let mut headers = map(&[
            ("connection", "host, content-length, via"),
            ("host", "a"),
            ("content-length", "3"),
            ("via", "1.1 x"),
        ]);
        let seen = Seen::of(&headers);
        strip_hop_by_hop(&mut headers, seen);
        assert_eq!(names(&headers), ["content-length", "host", "via"]);
    }

    #[test]
    fn the_third_time_is_a_loop() {
        let twice = map(&[("via", "1.1 p, 1.1 other, 2 p (x)")]);
        assert!(!is_loop(&twice, "p"));
        let thrice = map(&[("via", "1.1 p, 1.1 p"), ("via", "1.1 p")]);
        assert!(is_loop(&thrice, "p"));
        assert!(!is_loop(&thrice, "other"));
    }

    #[test]
    fn an_untrusted_peer_is_not_believed() {
        let mut headers = map(&[("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")]);
        let forwarding = Forwarding {
            style: ForwardedHeaders::Both,
            trusted: false,
            client: Some([127, 0, 0, 1].into()),
            client_text: &HeaderValue::from_static("127.0.0.1"),
            host: Some(&HeaderValue::from_static("h:80")),
        };
        let seen = Seen::of(&headers);
        forward(&mut headers, seen, &forwarding);
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(headers["x-forwarded-host"], "h:80");
        assert_eq!(
            headers["forwarded"],
            "for=127.0.0.1;host=\"h:80\";proto=http"
        );
        forward(
            &mut headers,
            Seen::of(&HeaderMap::new()),
            &Forwarding {
                trusted: true,
                ..forwarding
            },
        );
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1, 127.0.0.1");
    }

    #[test]
    fn the_client_is_as_many_from_the_right_as_proxies_are_trusted() {
        let headers = map(&[
            ("x-forwarded-for", "6.6.6.6, 10.0.0.1"),
            ("x-forwarded-for", "[2001:db8::1]:443,10.0.0.3"),
        ]);
        let client = |hops| client(&headers, hops).map(|ip| ip.to_string());
        assert_eq!(client(0), None);
        assert_eq!(client(1).as_deref(), Some("10.0.0.3"));
        assert_eq!(client(2).as_deref(), Some("2001:db8::1"));
        assert_eq!(client(3).as_deref(), Some("10.0.0.1"));
        assert_eq!(client(5), None, "fewer than are trusted");
        let odd = map(&[("x-forwarded-for", "unknown")]);
        assert_eq!(super::client(&odd, 1), None);
    }

    #[test]
    fn ids_are_uuids() {
        assert_eq!(new_request_id(0, 0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(
            new_request_id(u64::MAX, u64::MAX),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        assert!(request_id(&map(&[("x-request-id", "a b")])).is_none());
        assert!(request_id(&map(&[("x-request-id", "abc")])).is_some());
    }
}
