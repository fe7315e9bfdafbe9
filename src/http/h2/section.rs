//! Field sections (RFC 9113 section 8): the fields of one block, read strictly, and what they make:
//! a request, a response, trailers.

use bytes::Bytes;
use http::{Method, StatusCode, Uri, Version, header::HeaderValue, uri};

use crate::{
    error::{Error, Reason, Result},
    http::{
        fields::{Fields, Spelling, is_value},
        h1::{claims::decimal, head::MAX_HEADERS},
        message::{RequestHead, ResponseHead, Upgrade},
        name::{self, Kind},
        trailers::Trailers,
        upgrade,
    },
    router::{Authority, valid_host},
};

/// Fields as they come. The first fault is kept and what follows it is not looked at.
#[derive(Debug, Default)]
pub struct Section {
    fields: Option<Fields>,
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: bool,
    path: Option<Bytes>,
    protocol: Option<HeaderValue>,
    status: Option<StatusCode>,
    length: Option<u64>,
    cookies: usize,
    hosts: usize,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Malformed(&'static str),
    TooMany,
}

impl From<&'static str> for Fault {
    fn from(what: &'static str) -> Self {
        Self::Malformed(what)
    }
}

impl Fault {
    fn of_request(self) -> Error {
        match self {
            Self::Malformed(what) => Error::new(Reason::BadRequest, what),
            Self::TooMany => Error::new(Reason::HeadTooLarge, "too many headers"),
        }
    }

    fn of_response(self) -> Error {
        match self {
            Self::Malformed(what) => Error::new(Reason::UpstreamProtocol, what),
            Self::TooMany => Error::new(Reason::UpstreamHeadTooLarge, "too many headers"),
        }
    }
}

/// A request as far as it could be read, and what is wrong with it.
pub struct ReceivedRequest {
    pub head: RequestHead,
    pub upgrade: Option<Upgrade>,
    /// The content that is to come, where that was told.
    pub length: Option<u64>,
    /// Nothing follows the head.
    pub ended: bool,
    pub fault: Option<Error>,
}

/// A response's head.
#[derive(Debug)]
pub struct ReceivedResponse {
    pub head: ResponseHead,
    pub length: Option<u64>,
}

impl Section {
    /// Takes a field.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        let taken = match name {
            [b':', ..] => self.control(name, value),
            _ => self.plain(name, value),
        };
        if let Err(fault) = taken {
            self.fault = Some(fault);
        }
    }

    fn lines(&mut self) -> &mut Fields {
        self.fields
            .get_or_insert_with(|| Fields::new(Spelling::Caseless))
    }

    /// A pseudo-header field (section 8.3).
    fn control(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        // The authority is a line already.
        let lines = self.fields.as_ref().map_or(0, Fields::len);
        if lines > usize::from(self.authority) || self.hosts > 0 {
            return Err("a pseudo-header behind a field".into());
        }
        let twice = match name {
            b":method" => {
                let method = Method::from_bytes(value).map_err(|_| "an invalid :method")?;
                self.method.replace(method).is_some()
            }
            b":scheme" => {
                let scheme = if value.eq_ignore_ascii_case(b"http") {
                    Scheme::Http
                } else if value.eq_ignore_ascii_case(b"https") {
                    Scheme::Https
                } else {
                    return Err("neither http nor https".into());
                };
                self.scheme.replace(scheme).is_some()
            }
            b":authority" => {
                if value.contains(&b'@') || !valid_host(value) {
                    return Err("an invalid :authority".into());
                }
                let twice = std::mem::replace(&mut self.authority, true);
                self.lines().push(b"host", value);
                twice
            }
            b":path" => self.path.replace(Bytes::copy_from_slice(value)).is_some(),
            b":protocol" => {
                if value.is_empty() || !is_value(value) {
                    return Err("an invalid :protocol".into());
                }
                let protocol =
                    HeaderValue::from_bytes(value).map_err(|_| "an invalid :protocol")?;
                self.protocol.replace(protocol).is_some()
            }
            b":status" => {
                let status = StatusCode::from_bytes(value).map_err(|_| "an invalid :status")?;
                self.status.replace(status).is_some()
            }
            _ => return Err("an unknown pseudo-header".into()),
        };
        if twice {
            return Err("a pseudo-header that comes twice".into());
        }
        Ok(())
    }

    fn plain(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        if name.is_empty() || !name.iter().all(|&byte| NAME[usize::from(byte)]) {
            return Err("an invalid field name".into());
        }
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if !is_value(value) || blank(value.first()) || blank(value.last()) {
            return Err("an invalid field value".into());
        }
        let kind = Kind::of(name);
        match kind {
            // Section 8.2.2.
            Kind::Connection | Kind::TransferEncoding | Kind::Upgrade => {
                return Err(OF_THE_CONNECTION.into());
            }
            Kind::HopByHop if matches!(name, b"keep-alive" | b"proxy-connection") => {
                return Err(OF_THE_CONNECTION.into());
            }
            Kind::Te if value != b"trailers" => {
                return Err("a TE that is not trailers".into());
            }
            Kind::ContentLength => {
                let length = decimal(value).ok_or("a content-length that is not a number")?;
                match self.length.replace(length) {
                    Some(known) if known != length => {
                        return Err("content-lengths that differ".into());
                    }
                    Some(_) => return Ok(()),
                    None => {}
                }
            }
            Kind::Host => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err("more than one Host".into());
                }
                return self.host(value);
            }
            Kind::Other if name == b"cookie" => self.cookies += 1,
            _ => {}
        }
        let lines = self.lines();
        // As many as over HTTP/1.1, which may be what the other side speaks.
        if lines.len() == MAX_HEADERS {
            return Err(Fault::TooMany);
        }
        lines.push(name, value);
        Ok(())
    }

    /// Section 8.3.1: it must not name another host than the authority does, which is the one that
    /// counts.
    fn host(&mut self, value: &[u8]) -> Result<(), Fault> {
        if !self.authority {
            if !valid_host(value) {
                return Err("an invalid Host".into());
            }
            self.lines().push(b"host", value);
            return Ok(());
        }
        let usual = self.scheme;
        let known = self.lines().get(&name::HOST);
        match known {
            Some(known) if same_host(value, known, usual) => Ok(()),
            _ => Err("Host differs from :authority".into()),
        }
    }

    /// Section 8.3.1. `cut`: it was larger than is allowed; `ended`: nothing follows it.
    pub fn request(mut self, cut: bool, ended: bool) -> ReceivedRequest {
        let target = self.target();
        let method = self.method.take();
        let upgrade = match (&method, self.protocol.take()) {
            (Some(method), protocol) => upgrade::asked_by_http2(method, protocol),
            (None, _) => None,
        };
        let fault = match (self.fault, target.as_ref().err()) {
            (Some(fault), _) => Some(fault.of_request()),
            (None, _) if cut => Some(Error::new(
                Reason::HeadTooLarge,
                "request head over the limit",
            )),
            (None, Some(&what)) => Some(Error::new(Reason::BadRequest, what)),
            (None, None) if ended && self.length.is_some_and(|length| length > 0) => Some(
                Error::new(Reason::BadRequest, "content-length without content"),
            ),
            (None, None) => None,
        };
        let mut fields = self.take_fields();
        if self.cookies > 1 {
            join_cookies(&mut fields);
        }
        ReceivedRequest {
            head: RequestHead {
                method: method.unwrap_or_default(),
                uri: target.unwrap_or_default(),
                version: Version::HTTP_2,
                spoken: Version::HTTP_2,
                fields,
            },
            upgrade,
            length: self.length,
            ended,
            fault,
        }
    }

    fn take_fields(&mut self) -> Fields {
        self.fields
            .take()
            .unwrap_or_else(|| Fields::new(Spelling::Caseless))
    }

    /// What the request is for, if it says so in one of the ways that there are.
    fn target(&self) -> Result<Uri, &'static str> {
        let method = self.method.as_ref().ok_or("no :method")?;
        if self.status.is_some() {
            return Err("the :status of a response");
        }
        if *method == Method::CONNECT && self.protocol.is_none() {
            // Section 8.5.
            if self.scheme.is_some() || self.path.is_some() {
                return Err("CONNECT with :scheme or :path");
            }
            let lines = self.fields.as_ref().filter(|_| self.authority);
            let host = lines.and_then(|lines| lines.get(&name::HOST));
            let host = host.ok_or("CONNECT without :authority")?;
            let host = uri::Authority::try_from(host).map_err(|_| "an invalid :authority")?;
            return Ok(Uri::from(host));
        }
        if *method != Method::CONNECT && self.protocol.is_some() {
            return Err(":protocol without CONNECT");
        }
        if self.scheme.is_none() {
            return Err("no :scheme");
        }
        let host = self.hosts > 0 && self.protocol.is_none();
        if !self.authority && !host {
            return Err("neither :authority nor Host");
        }
        let path = self.path.as_ref().ok_or("no :path")?;
        if path == "*" {
            if *method != Method::OPTIONS {
                return Err("* is a path for OPTIONS only");
            }
        } else if !path.starts_with(b"/") {
            return Err("a :path that begins without a slash");
        }
        if memchr::memchr(b'#', path).is_some() {
            return Err("a fragment in the :path");
        }
        let path = uri::PathAndQuery::from_maybe_shared(path.clone());
        path.map(Uri::from).map_err(|_| "an invalid :path")
    }

    /// Section 8.3.2.
    ///
    /// # Errors
    /// It is malformed, or too large.
    pub fn response(mut self, cut: bool) -> Result<ReceivedResponse> {
        let asks = self.method.is_some()
            || self.scheme.is_some()
            || self.authority
            || self.path.is_some()
            || self.protocol.is_some();
        if let Some(fault) = self.fault {
            return Err(fault.of_response());
        }
        if asks {
            return Err(Error::new(
                Reason::UpstreamProtocol,
                "the pseudo-header of a request",
            ));
        }
        if cut {
            return Err(Error::new(
                Reason::UpstreamHeadTooLarge,
                "response head over the limit",
            ));
        }
        let Some(status) = self.status else {
            return Err(Error::new(Reason::UpstreamProtocol, "no :status"));
        };
        Ok(ReceivedResponse {
            head: ResponseHead {
                status,
                fields: self.take_fields(),
            },
            length: self.length,
        })
    }

    /// Section 8.1.
    ///
    /// # Errors
    /// They are malformed, or too large.
    pub fn trailers(mut self, cut: bool) -> Result<Trailers, &'static str> {
        let controlled = self.method.is_some()
            || self.scheme.is_some()
            || self.authority
            || self.path.is_some()
            || self.protocol.is_some()
            || self.status.is_some();
        match self.fault {
            Some(Fault::Malformed(what)) => return Err(what),
            Some(Fault::TooMany) => return Err("too many trailers"),
            None if cut => return Err("trailers over the limit"),
            None if controlled => return Err("a pseudo-header in trailers"),
            None => {}
        }
        Ok(self.take_fields().into())
    }
}

const OF_THE_CONNECTION: &str = "a field of the connection";

/// The octets of a field name: those of a token that are not capitals.
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(
            byte as u8,
            b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
                | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        byte += 1;
    }
    table
};

/// They may come in pieces, and go on as one (section 8.2.3).
fn join_cookies(fields: &mut Fields) {
    let pieces: Vec<&[u8]> = fields.get_all(&name::COOKIE).collect();
    let whole = pieces.join(&b"; "[..]);
    fields.insert(&name::COOKIE, &whole);
}

/// Whether two spellings name one host: neither case nor the scheme's own port makes a difference
/// (RFC 3986 section 6.2.3).
fn same_host(host: &[u8], authority: &[u8], scheme: Option<Scheme>) -> bool {
    if host.eq_ignore_ascii_case(authority) {
        return true;
    }
    let (Ok(host), Ok(other)) = (Authority::parse(host), Authority::parse(authority)) else {
        return false;
    };
    let usual = if scheme == Some(Scheme::Https) {
        443
    } else {
        80
    };
    host.host == other.host && host.port.unwrap_or(usual) == other.port.unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", "/a?b"),
    ];

    fn section(fields: &[(&str, &str)]) -> Section {
        let mut section = Section::default();
        for (name, value) in fields {
            section.field(name.as_bytes(), value.as_bytes());
        }
        section
    }

    fn request(more: &[(&str, &str)]) -> ReceivedRequest {
        section(&[&GET, more].concat()).request(false, true)
    }

    #[test]
    fn a_plain_request() {
        let got = request(&[("cookie", "a=b"), ("x-a", ""), ("cookie", "c=d")]);
        assert!(got.fault.is_none());
        assert_eq!(got.head.uri, "/a?b");
        let lines: Vec<_> = got.head.fields.iter().collect();
        let expected: [(&[u8], &[u8]); 3] = [
            (b"host", b"a.test"),
            (b"x-a", b""),
            (b"cookie", b"a=b; c=d"),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn hosts_are_compared_as_uris_are() {
        let same = |host: &str, authority: &str, scheme: &str| {
            let mut fields = GET;
            fields[1].1 = scheme;
            fields[2].1 = authority;
            let got = section(&[&fields[..], &[("host", host)]].concat()).request(false, true);
            let fields = got.head.fields.get_all(&name::HOST).count();
            got.fault.is_none() && fields == 1
        };
        assert!(same("A.test", "a.TEST", "http"));
        assert!(same("a.test:80", "a.test", "http"));
        assert!(same("a.test", "a.test:443", "https"));
        assert!(!same("a.test:443", "a.test", "http"));
        assert!(!same("b.test", "a.test", "http"));
        assert!(!same("a.test, b.test", "a.test", "http"));
    }

    #[test]
    fn what_is_malformed_is_told() {
        for more in [
            (":path", "/"),
            (":status", "200"),
            (":", ""),
            ("", ""),
            ("X-A", "1"),
            ("x a", "1"),
            ("x:a", "1"),
            ("x-a", " 1"),
            ("x-a", "1\t"),
            ("x-a", "1\n"),
            ("x-a", "\0"),
            ("connection", "close"),
            ("keep-alive", "timeout=1"),
            ("te", "gzip"),
            ("host", "b.test"),
            ("content-length", "+1"),
            ("content-length", ""),
        ] {
            assert!(request(&[more]).fault.is_some(), "{more:?}");
        }
        let lengths = [("content-length", "1"), ("content-length", "2")];
        assert!(request(&lengths).fault.is_some());
        assert!(request(&[("x-a", "1"), (":protocol", "a")]).fault.is_some());
        for left_out in 0..4 {
            let mut fields = GET.to_vec();
            fields.remove(left_out);
            assert!(
                section(&fields).request(false, true).fault.is_some(),
                "{left_out}"
            );
        }
    }

    #[test]
    fn responses_and_trailers_have_no_requests_in_them() {
        assert!(section(&[(":status", "200")]).response(false).is_ok());
        for fields in [
            &[(":status", "200"), (":path", "/")][..],
            &[(":status", "20")],
            &[(":status", "2000")],
            &[("x-a", "1")],
            &[("x-a", "1"), (":status", "200")],
        ] {
            assert!(section(fields).response(false).is_err(), "{fields:?}");
            assert!(section(fields).trailers(false).is_err() || fields.len() == 1);
        }
        let got = section(&[("x-sum", "1"), ("host", "a"), ("content-length", "5")]);
        assert_eq!(got.trailers(false).unwrap().len(), 1);
    }
}
