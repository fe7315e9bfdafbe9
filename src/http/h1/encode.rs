//! Message heads and ends of HTTP/1.1, written in exactly one canonical framing.

use bytes::{BufMut, BytesMut};
use http::{Method, Version};

use super::head::Framing;
use crate::http::{
    fields::{Fields, Spelling},
    message::{RequestHead, ResponseHead},
    name::{self, Kind},
    trailers::Trailers,
};

/// Framing and connection are this module's alone: whatever the fields say of them is not written.
const OURS: u32 = Kind::Connection.bit() | Kind::TransferEncoding.bit();
const LENGTH: u32 = Kind::ContentLength.bit();
const HOST: u32 = Kind::Host.bit();

/// Writes a request head.
pub fn request(
    out: &mut BytesMut,
    head: &RequestHead,
    framing: Framing,
    connection: Option<&'static str>,
) {
    let RequestHead {
        method,
        uri,
        fields,
        ..
    } = head;
    out.reserve(512);
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    let target = if *method == Method::CONNECT {
        uri.authority().map(|authority| authority.as_str())
    } else {
        // Origin form towards an origin server (RFC 9112 section 3.2.1).
        Some(uri.path_and_query().map_or("/", |target| target.as_str()))
    };
    out.put_slice(target.unwrap_or_default().as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    // RFC 9110 section 7.2: Host first.
    fields.write(!HOST, out);
    let told = tells(fields, framing);
    fields.write(OURS | HOST | if told { 0 } else { LENGTH }, out);
    // A method that commonly has a body says that there is none (RFC 9110 section 8.6).
    let says_none = framing == Framing::None
        && (*method == Method::POST || *method == Method::PUT || *method == Method::PATCH);
    let framing = match framing {
        Framing::Length(_) if told => Framing::None,
        Framing::None if says_none => Framing::Length(0),
        _ => framing,
    };
    ending(out, fields.spelling(), framing, connection);
}

/// Writes a response head; see [`request`]. With [`Framing::None`] a `content-length` among the
/// fields is written: a response to HEAD, or a 304, tells the length that a GET would have.
pub fn response(
    out: &mut BytesMut,
    head: &ResponseHead,
    framing: Framing,
    connection: Option<&'static str>,
) {
    let ResponseHead { status, fields } = head;
    out.reserve(512);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.put_slice(b"\r\n");
    let told = framing == Framing::None || tells(fields, framing);
    fields.write(OURS | if told { 0 } else { LENGTH }, out);
    let framing = if told { Framing::None } else { framing };
    ending(out, fields.spelling(), framing, connection);
}

/// Whether the line that says this length stands among the fields already, in its one form.
fn tells(fields: &Fields, framing: Framing) -> bool {
    match framing {
        Framing::Length(length) => {
            fields.get(&name::CONTENT_LENGTH) == Some(itoa::Buffer::new().format(length).as_bytes())
        }
        _ => false,
    }
}

/// Writes the last chunk and, if there are any, the trailers.
pub fn last_chunk(out: &mut BytesMut, trailers: Option<&Trailers>) {
    out.put_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.write(0, out);
    }
    out.put_slice(b"\r\n");
}

fn ending(
    out: &mut BytesMut,
    spelling: Spelling,
    framing: Framing,
    connection: Option<&'static str>,
) {
    let lower = spelling == Spelling::Lower;
    let spelled =
        |canonical: &'static [u8], small: &'static [u8]| if lower { small } else { canonical };
    match framing {
        Framing::Length(length) => {
            out.put_slice(spelled(b"Content-Length: ", b"content-length: "));
            out.put_slice(itoa::Buffer::new().format(length).as_bytes());
            out.put_slice(b"\r\n");
        }
        Framing::Chunked => out.put_slice(spelled(
            b"Transfer-Encoding: chunked\r\n",
            b"transfer-encoding: chunked\r\n",
        )),
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(option) = connection {
        out.put_slice(spelled(b"Connection: ", b"connection: "));
        out.put_slice(option.as_bytes());
        out.put_slice(b"\r\n");
    }
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
    use http::{StatusCode, Uri};

    use super::*;

    fn text(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn answer<const N: usize>(
        lines: [(&str, &str); N],
        framing: Framing,
        connection: Option<&'static str>,
    ) -> String {
        let head = ResponseHead {
            status: StatusCode::OK,
            fields: Fields::from_iter(lines),
        };
        text(|out| response(out, &head, framing, connection))
    }

    #[test]
    fn one_framing_only() {
        let lines = [
            ("Content-Length", "7"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "x"),
            ("A", "1"),
            ("Host", "h"),
        ];
        let head = RequestHead {
            method: Method::POST,
            uri: Uri::from_static("http://other/a?b"),
            version: Version::HTTP_11,
            spoken: Version::HTTP_11,
            fields: Fields::from_iter(lines),
        };
        assert_eq!(
            text(|out| request(out, &head, Framing::Chunked, None)),
            "POST /a?b HTTP/1.1\r\nHost: h\r\nA: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        assert_eq!(
            text(|out| request(out, &head, Framing::Length(7), None)),
            "POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\nA: 1\r\n\r\n"
        );
        assert_eq!(
            answer(
                [
                    ("A", "1"),
                    ("Connection", "x"),
                    ("Transfer-Encoding", "chunked"),
                    ("Content-Length", "7")
                ],
                Framing::Length(3),
                Some("close")
            ),
            "HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            answer([("content-length", "03")], Framing::Length(3), None),
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            "only one form of a number"
        );
    }

    #[test]
    fn a_response_to_head_keeps_its_length() {
        assert_eq!(
            answer([("Content-Length", "7")], Framing::None, None),
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
        );
    }

    #[test]
    fn trailers_follow_the_last_chunk() {
        let trailers = Trailers::from(Fields::from_iter([("X-A", "1"), ("X-B", "2")]));
        assert_eq!(
            text(|out| last_chunk(out, Some(&trailers))),
            "0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"
        );
    }
}
