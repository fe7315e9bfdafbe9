//! Message heads of HTTP/1.1, read strictly (RFC 9112).
//!
//! What two parsers could read in two ways is refused here, so that no pair of Pillion and an
//! application can be made to disagree about where a message ends: both lengths, lengths that
//! differ, any `Transfer-Encoding` but one `chunked`, line folding, a bare CR or LF, NUL, space
//! before a colon, a missing, second or invalid `Host`.

use std::mem::MaybeUninit;

use http::{Method, StatusCode, Uri, Version};

use super::{claims::Claims, scan::Scanner};
use crate::{
    error::{Error, Reason},
    http::{
        fields::Fields,
        message::{RequestHead, ResponseHead, is_bodiless},
        name,
    },
};

/// More header lines than this are refused, in a head as in a trailer section.
pub const MAX_HEADERS: usize = 100;

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// `Content-Length`, above zero.
    Length(u64),
    Chunked,
    /// Until the connection closes: only responses.
    UntilClose,
}

/// A request head and what it means for the connection.
#[derive(Debug)]
pub struct ReceivedRequest {
    pub head: RequestHead,
    pub framing: Framing,
    /// The client lets the connection live on.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
}

/// A response head and what it means for the connection.
#[derive(Debug)]
pub struct ReceivedResponse {
    pub head: ResponseHead,
    pub framing: Framing,
    pub keep_alive: bool,
}

/// Whether this can be the beginning of a response: told before a line is whole.
pub fn may_be_response(buf: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.";
    buf.iter().zip(START).all(|(is, should)| is == should)
}

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    Bad(&'static str),
    TooLarge,
    /// A major version other than 1.
    Version,
}

impl HeadError {
    /// As a failure of the client.
    pub fn of_request(self) -> Error {
        match self {
            Self::Bad(why) => Error::new(Reason::BadRequest, why),
            Self::TooLarge => Error::new(Reason::HeadTooLarge, "request head over the limit"),
            Self::Version => Error::new(Reason::BadRequest, "HTTP version not supported"),
        }
    }

    /// As a failure of the upstream.
    pub fn of_response(self) -> Error {
        match self {
            Self::Bad(why) => Error::new(Reason::UpstreamProtocol, why),
            Self::TooLarge => {
                Error::new(Reason::UpstreamHeadTooLarge, "response head over the limit")
            }
            Self::Version => Error::new(Reason::UpstreamProtocol, "HTTP version not supported"),
        }
    }
}

/// Reads a request head from the start of `buf`, once it is whole; its length comes with it.
/// Nearly every head comes in one piece and is read in one pass; `scanner` waits for others.
///
/// # Errors
/// A head that is none, or of more than `limit` bytes.
pub fn next_request(
    buf: &[u8],
    scanner: &mut Scanner,
    limit: usize,
) -> Result<Option<(usize, ReceivedRequest)>, HeadError> {
    if scanner.is_fresh() {
        let at_once = parse_request(buf, |length, parsed| {
            let strict = is_strict(buf, length, limit, parsed.headers)
                && parsed
                    .method
                    .is_some_and(|method| buf.starts_with(method.as_bytes()));
            strict.then(|| (length, read_request(&buf[..length], parsed)))
        });
        if let Ok(Some(Some((length, request)))) = at_once {
            return request.map(|request| Some((length, request)));
        }
    }
    let Some(length) = scanner.scan(buf, limit)? else {
        return Ok(None);
    };
    Ok(Some((length, request(&buf[..length])?)))
}

/// The same for a response; `method` is that of the request it answers.
///
/// # Errors
/// As of [`next_request`].
pub fn next_response(
    buf: &[u8],
    scanner: &mut Scanner,
    limit: usize,
    method: &Method,
) -> Result<Option<(usize, ReceivedResponse)>, HeadError> {
    if scanner.is_fresh() {
        let at_once = parse_response(buf, |length, parsed| {
            let strict = is_strict(buf, length, limit, parsed.headers) && buf.starts_with(b"HTTP/");
            strict.then(|| (length, read_response(&buf[..length], parsed, method)))
        });
        if let Ok(Some(Some((length, response)))) = at_once {
            return response.map(|response| Some((length, response)));
        }
    }
    let Some(length) = scanner.scan(buf, limit)? else {
        return Ok(None);
    };
    Ok(Some((length, response(&buf[..length], method)?)))
}

/// Whether every line ends in CRLF, as [`Scanner`] demands: httparse takes a bare LF, too.
fn is_strict(buf: &[u8], length: usize, limit: usize, lines: &[httparse::Header<'_>]) -> bool {
    let base = buf.as_ptr().addr();
    let follows_crlf = |line: &httparse::Header<'_>| {
        matches!(buf[..line.name.as_ptr().addr() - base], [.., b'\r', b'\n'])
    };
    length <= limit
        && matches!(buf[..length], [.., b'\r', b'\n', b'\r', b'\n'])
        && lines.iter().all(follows_crlf)
}

fn parse_request<R>(
    text: &[u8],
    read: impl FnOnce(usize, &httparse::Request<'_, '_>) -> R,
) -> Result<Option<R>, HeadError> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_request_with_uninit_headers(&mut parsed, text, &mut lines)
        .map_err(why)?;
    Ok(match status {
        httparse::Status::Complete(length) => Some(read(length, &parsed)),
        httparse::Status::Partial => None,
    })
}

fn parse_response<R>(
    text: &[u8],
    read: impl FnOnce(usize, &httparse::Response<'_, '_>) -> R,
) -> Result<Option<R>, HeadError> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, text, &mut lines)
        .map_err(why)?;
    Ok(match status {
        httparse::Status::Complete(length) => Some(read(length, &parsed)),
        httparse::Status::Partial => None,
    })
}

/// Reads a whole request head.
pub fn request(text: &[u8]) -> Result<ReceivedRequest, HeadError> {
    parse_request(text, |_, parsed| read_request(text, parsed))?
        .unwrap_or(Err(HeadError::Bad("an empty line inside the head")))
}

fn read_request(
    text: &[u8],
    parsed: &httparse::Request<'_, '_>,
) -> Result<ReceivedRequest, HeadError> {
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(HeadError::Bad("no request line"));
    };
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| HeadError::Bad("the method is not a token"))?;
    let (version, uri) = (version(minor), target_of(&method, target)?);
    let mut fields = Fields::over(text, parsed.headers);
    let claims = Claims::of(&mut fields)?;
    claims.check_host(&fields, version, &uri)?;

    let framing = match (claims.chunked, claims.length) {
        (true, Some(_)) => {
            return Err(HeadError::Bad("both Transfer-Encoding and Content-Length"));
        }
        // RFC 9112 section 6.1: HTTP/1.0 had no transfer codings; its framing is a guess.
        (true, None) if version == Version::HTTP_10 => {
            return Err(HeadError::Bad("Transfer-Encoding in HTTP/1.0"));
        }
        (true, None) => Framing::Chunked,
        (false, Some(0) | None) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
    };
    if method == Method::CONNECT && framing != Framing::None {
        // RFC 9110 section 9.3.6 knows none; where the tunnel begins would be a guess.
        return Err(HeadError::Bad("CONNECT with a body"));
    }
    Ok(ReceivedRequest {
        framing,
        keep_alive: claims.persists(version),
        expects_continue: claims.expects_continue
            && version == Version::HTTP_11
            && framing != Framing::None,
        head: RequestHead {
            method,
            uri,
            version,
            spoken: version,
            fields,
        },
    })
}

/// Reads a whole response head; `method` is that of the request it answers.
pub fn response(text: &[u8], method: &Method) -> Result<ReceivedResponse, HeadError> {
    parse_response(text, |_, parsed| read_response(text, parsed, method))?
        .unwrap_or(Err(HeadError::Bad("an empty line inside the head")))
}

fn read_response(
    text: &[u8],
    parsed: &httparse::Response<'_, '_>,
    method: &Method,
) -> Result<ReceivedResponse, HeadError> {
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(HeadError::Bad("no status line"));
    };
    let status = StatusCode::from_u16(code).map_err(|_| HeadError::Bad("no such status code"))?;
    let mut fields = Fields::over(text, parsed.headers);
    let claims = Claims::of(&mut fields)?;
    let version = version(minor);
    if claims.chunked && claims.length.is_some() {
        return Err(HeadError::Bad("both Transfer-Encoding and Content-Length"));
    }
    if claims.chunked && version == Version::HTTP_10 {
        return Err(HeadError::Bad("Transfer-Encoding in HTTP/1.0"));
    }
    let tunnel = *method == Method::CONNECT && status.is_success();
    if tunnel {
        // RFC 9110 section 9.3.6: they have no meaning there.
        fields.remove(&name::CONTENT_LENGTH);
        fields.remove(&name::TRANSFER_ENCODING);
    }
    // RFC 9112 section 6.3, in its order.
    let framing = if tunnel || is_bodiless(*method == Method::HEAD, status) {
        Framing::None
    } else if claims.chunked {
        Framing::Chunked
    } else {
        match claims.length {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }
    };
    Ok(ReceivedResponse {
        framing,
        keep_alive: framing != Framing::UntilClose && !tunnel && claims.persists(version),
        head: ResponseHead { status, fields },
    })
}

fn target_of(method: &Method, target: &str) -> Result<Uri, HeadError> {
    // `Uri` would cut a fragment off in silence; it has no place here (RFC 9112 section 3.2).
    if target.contains('#') {
        return Err(HeadError::Bad("a fragment in the request target"));
    }
    let uri =
        Uri::try_from(target).map_err(|_| HeadError::Bad("the request target is not a URI"))?;
    let fits = if *method == Method::CONNECT {
        // authority-form alone (RFC 9112 section 3.2.3)
        uri.scheme().is_none() && uri.path_and_query().is_none() && uri.port_u16().is_some()
    } else if uri.scheme().is_some() {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
    } else {
        uri.authority().is_none()
            && (uri.path().starts_with('/') || (uri.path() == "*" && *method == Method::OPTIONS))
    };
    let credentials = uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'));
    if fits && !credentials {
        Ok(uri)
    } else {
        Err(HeadError::Bad(
            "the request target has no form that fits the method",
        ))
    }
}

const fn version(minor: u8) -> Version {
    if minor == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    }
}

pub(super) fn why(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::Bad("an invalid header name"),
        httparse::Error::HeaderValue => HeadError::Bad("an invalid header value"),
        httparse::Error::NewLine => HeadError::Bad("a line does not end in CRLF"),
        httparse::Error::Status => HeadError::Bad("an invalid status line"),
        httparse::Error::Token => HeadError::Bad("an invalid request line"),
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::Version => HeadError::Version,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::trailers::trailers, *};

    /// In one piece, and with a first byte that came alone: the same either way.
    fn parse(text: &str) -> Result<ReceivedRequest, HeadError> {
        let read = |mut scanner: Scanner| {
            let next = next_request(text.as_bytes(), &mut scanner, 65536)?;
            let (length, request) = next.ok_or(HeadError::Bad("incomplete"))?;
            assert_eq!(length, text.len());
            Ok(request)
        };
        let mut waiting = Scanner::default();
        assert_eq!(waiting.scan(&text.as_bytes()[..1], 65536), Ok(None));
        let (at_once, waited) = (read(Scanner::default()), read(waiting));
        assert_eq!(format!("{at_once:?}"), format!("{waited:?}"));
        at_once
    }

    #[test]
    fn a_plain_request() {
        let head = parse("GET /a?b HTTP/1.1\r\nHost: x.example\r\nAccept: */*\r\n\r\n").unwrap();
        assert_eq!(head.head.method, Method::GET);
        assert_eq!(head.head.uri, "/a?b");
        assert_eq!(head.framing, Framing::None);
        assert!(head.keep_alive);
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for lines in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: 0x3\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "X-A: b\r\n folded\r\n",
            "X-A: b\rc\r\n",
            "X-A: b\nX-C: d\r\n",
            "X-A: b\0c\r\n",
            "X-A : b\r\n",
            ": b\r\n",
            "Host: second\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
            assert!(matches!(parse(&text), Err(HeadError::Bad(_))), "{lines:?}");
        }
    }

    #[test]
    fn hosts() {
        for (line, fine) in [
            ("", false),
            ("Host:\r\n", false),
            ("Host: a b\r\n", false),
            ("Host: a/b\r\n", false),
            ("Host: a@b\r\n", false),
            ("Host: a:80\r\n", true),
            ("Host: [::1]:80\r\n", true),
        ] {
            assert_eq!(
                parse(&format!("GET / HTTP/1.1\r\n{line}\r\n")).is_ok(),
                fine,
                "{line:?}"
            );
        }
        assert!(parse("GET / HTTP/1.0\r\n\r\n").is_ok());
    }

    #[test]
    fn targets_fit_their_method() {
        for (line, fine) in [
            ("GET a HTTP/1.1", false),
            ("GET * HTTP/1.1", false),
            ("OPTIONS * HTTP/1.1", true),
            ("GET http://a/b HTTP/1.1", true),
            ("GET ftp://a/b HTTP/1.1", false),
            ("GET http://u@a/b HTTP/1.1", false),
            ("CONNECT a:443 HTTP/1.1", true),
            ("CONNECT /a HTTP/1.1", false),
            ("CONNECT a HTTP/1.1", false),
            ("GET  / HTTP/1.1", false),
            ("GET / HTTP/1.1 ", false),
            ("GET / HTTP/1.2", false),
            ("GET / HTTP/2.0", false),
            ("G@T / HTTP/1.1", false),
        ] {
            assert_eq!(
                parse(&format!("{line}\r\nHost: a\r\n\r\n")).is_ok(),
                fine,
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_connect_has_no_body() {
        for line in ["Content-Length: 1", "Transfer-Encoding: chunked"] {
            let text = format!("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
            assert!(parse(&text).is_err(), "{line}");
        }
    }

    #[test]
    fn trailers_frame_route_and_vouch_for_nothing() {
        let section = b"X-Sum: 1\r\nContent-Length: 3\r\nX-Forwarded-For: ::1\r\n\
            X-Pillion-Reason: x\r\nKeep-Alive: 1\r\nProxy-Connection: close\r\n\r\n";
        let kept = trailers(section).unwrap();
        assert_eq!(
            kept.iter().collect::<Vec<_>>(),
            [(&b"X-Sum"[..], &b"1"[..])]
        );
    }

    #[test]
    fn responses_are_framed_by_what_they_answer() {
        let framing = |method: Method, text: &'static str| {
            response(text.as_bytes(), &method).unwrap().framing
        };
        assert_eq!(
            framing(Method::GET, "HTTP/1.1 200 OK\r\n\r\n"),
            Framing::UntilClose
        );
        assert_eq!(
            framing(Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
            Framing::None
        );
        assert_eq!(
            framing(Method::GET, "HTTP/1.1 304 Not\r\nContent-Length: 9\r\n\r\n"),
            Framing::None
        );
        assert_eq!(
            framing(
                Method::CONNECT,
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
            ),
            Framing::None
        );
        assert_eq!(
            framing(Method::GET, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
            Framing::Length(9)
        );
    }

    proptest! {
        #[test]
        fn hostile_heads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = next_request(&bytes, &mut Scanner::default(), 200);
            let _ = next_response(&bytes, &mut Scanner::default(), 200, &Method::GET);
            let _ = request(&bytes);
            let _ = response(&bytes, &Method::GET);
            let _ = trailers(&bytes);
        }
    }
}
