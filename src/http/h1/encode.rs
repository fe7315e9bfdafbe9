//! Message heads and ends of HTTP/1.1, written in exactly one canonical framing.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};

use super::{head::Framing, trailers::forbidden_in_trailers};
use crate::http::spelling::Spelling;

/// Writes a request head. Framing and connection headers are this function's alone: whatever the
/// map says of them is not written.
pub fn request(
    out: &mut BytesMut,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    spelling: &Spelling,
    framing: Framing,
    connection: Option<&'static str>,
) {
    out.reserve(512);
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    if *method == Method::CONNECT {
        out.put_slice(
            uri.authority()
                .map_or("", |authority| authority.as_str())
                .as_bytes(),
        );
    } else {
        // Origin form towards an origin server (RFC 9112 section 3.2.1).
        out.put_slice(
            uri.path_and_query()
                .map_or("/", |target| target.as_str())
                .as_bytes(),
        );
    }
    out.put_slice(b" HTTP/1.1\r\n");
    // RFC 9110 section 7.2: Host first.
    if let Some(host) = headers.get(header::HOST) {
        line(out, &header::HOST, host, spelling);
    }
    fields(out, headers, spelling, Framing::None, true);
    // A method that commonly has a body says that there is none (RFC 9110 section 8.6).
    let says_none = framing == Framing::None
        && (*method == Method::POST || *method == Method::PUT || *method == Method::PATCH);
    ending(out, spelling, framing, says_none, connection);
}

/// Writes a response head; see [`request`]. With [`Framing::None`] a `content-length` that the map
/// holds is written: a response to HEAD, or a 304, tells the length that a GET would have.
pub fn response(
    out: &mut BytesMut,
    status: StatusCode,
    headers: &HeaderMap,
    spelling: &Spelling,
    framing: Framing,
    connection: Option<&'static str>,
) {
    out.reserve(512);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.put_slice(b"\r\n");
    fields(out, headers, spelling, framing, false);
    ending(out, spelling, framing, false, connection);
}

/// Writes the last chunk and, if there are any, the trailers.
pub fn last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>, spelling: &Spelling) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if !forbidden_in_trailers(name) {
            line(out, name, value, spelling);
        }
    }
    out.put_slice(b"\r\n");
}

fn fields(
    out: &mut BytesMut,
    headers: &HeaderMap,
    spelling: &Spelling,
    framing: Framing,
    request: bool,
) {
    for (name, value) in headers {
        let ours = match *name {
            header::CONNECTION | header::TRANSFER_ENCODING => true,
            header::CONTENT_LENGTH => request || framing != Framing::None,
            header::HOST => request,
            _ => false,
        };
        if !ours {
            line(out, name, value, spelling);
        }
    }
}

fn ending(
    out: &mut BytesMut,
    spelling: &Spelling,
    framing: Framing,
    says_none: bool,
    connection: Option<&'static str>,
) {
    match framing {
        Framing::Length(length) => {
            spelling.write(&header::CONTENT_LENGTH, out);
            out.put_slice(b": ");
            out.put_slice(itoa::Buffer::new().format(length).as_bytes());
            out.put_slice(b"\r\n");
        }
        Framing::None if says_none => {
            spelling.write(&header::CONTENT_LENGTH, out);
            out.put_slice(b": 0\r\n");
        }
        Framing::Chunked => {
            spelling.write(&header::TRANSFER_ENCODING, out);
            out.put_slice(b": chunked\r\n");
        }
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(option) = connection {
        line(
            out,
            &header::CONNECTION,
            &HeaderValue::from_static(option),
            spelling,
        );
    }
    out.put_slice(b"\r\n");
}

fn line(out: &mut BytesMut, name: &http::HeaderName, value: &HeaderValue, spelling: &Spelling) {
    out.reserve(name.as_str().len() + value.len() + 4);
    spelling.write(name, out);
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

/// How a response body of this kind is framed for a client of `version`.
pub fn framing_for(version: Version, length: Option<u64>, bodiless: bool) -> Framing {
    match length {
        _ if bodiless => Framing::None,
        Some(length) => Framing::Length(length),
        None if version == Version::HTTP_11 => Framing::Chunked,
        None => Framing::UntilClose,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn one_framing_only() {
        let mut headers = HeaderMap::new();
        headers.insert("content-length", HeaderValue::from_static("7"));
        headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        headers.insert("connection", HeaderValue::from_static("x"));
        headers.insert("host", HeaderValue::from_static("h"));
        let spelling = Spelling::default();
        let got = text(|out| {
            let uri = Uri::from_static("http://other/a?b");
            request(
                out,
                &Method::POST,
                &uri,
                &headers,
                &spelling,
                Framing::Chunked,
                None,
            );
        });
        assert_eq!(
            got,
            "POST /a?b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let got = text(|out| {
            response(
                out,
                StatusCode::OK,
                &headers,
                &spelling,
                Framing::Length(3),
                Some("close"),
            );
        });
        assert_eq!(
            got,
            "HTTP/1.1 200 OK\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn a_response_to_head_keeps_its_length() {
        let mut headers = HeaderMap::new();
        headers.insert("content-length", HeaderValue::from_static("7"));
        let got = text(|out| {
            response(
                out,
                StatusCode::OK,
                &headers,
                &Spelling::default(),
                Framing::None,
                None,
            );
        });
        assert_eq!(got, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
    }
}
