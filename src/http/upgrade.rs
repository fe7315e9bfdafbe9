//! Leaving HTTP: `Upgrade` (RFC 9110 section 7.8), `CONNECT` (section 9.3.6) and WebSocket over
//! HTTP/2 (RFC 8441), translated where the two sides speak different versions.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version};
use sha1::{Digest, Sha1};
use tokio::time::sleep_until;

use super::{
    completion::Completion,
    h1::wire::Wire,
    h2::tunnel::StreamIo,
    headers::members,
    message::{Body, Request, RequestHead, Response, ResponseHead, Upgrade},
    name,
    pace::Pacing,
};
use crate::{
    error::{Error, Reason, Result},
    net::{ByteStream, Loss},
    tcp::{
        copy::{Carried, End, Leftovers, Side, copy_counted},
        patience::Patience,
    },
    upstream::pool::Http1,
};

const WEBSOCKET: &[u8] = b"websocket";
/// RFC 6455 section 1.3.
const WEBSOCKET_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY: name::Name = name::SEC_WEBSOCKET_KEY;
const ACCEPT: name::Name = name::SEC_WEBSOCKET_ACCEPT;

/// The upstream's end of a tunnel.
#[derive(Debug)]
pub struct Tunnel(Far);

#[derive(Debug)]
enum Far {
    Http1(Box<Http1>),
    Http2(Box<StreamIo>),
}

impl Tunnel {
    pub const fn http1(conn: Box<Http1>) -> Self {
        Self(Far::Http1(conn))
    }

    pub fn http2(io: StreamIo) -> Self {
        Self(Far::Http2(Box::new(io)))
    }
}

/// What a request over HTTP/1.1 asks to become. `h2c` is not on offer: RFC 9113 section 3.1 has
/// withdrawn it, and honouring it behind a proxy has been a hole.
pub fn asked_by_http1(head: &RequestHead) -> Option<Upgrade> {
    if head.method == Method::CONNECT {
        return Some(Upgrade::Connect);
    }
    let protocol = head.fields.get(&name::UPGRADE)?;
    let listed = head
        .fields
        .get_all(&name::CONNECTION)
        .flat_map(members)
        .any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    let offered = members(protocol).find(|name| !name.eq_ignore_ascii_case(b"h2c"))?;
    (listed && head.version == Version::HTTP_11)
        .then(|| HeaderValue::from_bytes(offered).ok().map(Upgrade::Protocol))?
}

/// What a request over HTTP/2 asks to become.
pub fn asked_by_http2(method: &Method, protocol: Option<HeaderValue>) -> Option<Upgrade> {
    if method != Method::CONNECT {
        return None;
    }
    Some(protocol.map_or(Upgrade::Connect, Upgrade::Protocol))
}

/// What has to be done to the response so that the client gets the one it asked for.
#[derive(Debug)]
pub enum Restore {
    Nothing,
    /// The client spoke HTTP/2, the upstream HTTP/1.1: the key that we made for it.
    ToHttp2(Box<[u8]>),
    /// The other way round: the key that the client made.
    ToHttp1(Option<Box<[u8]>>),
}

/// Writes the wish the way HTTP/1.1 does.
pub fn towards_http1(request: &mut Request, random: impl FnOnce() -> u128) -> Restore {
    let Some(Upgrade::Protocol(protocol)) = &request.upgrade else {
        return Restore::Nothing;
    };
    request
        .head
        .fields
        .insert(&name::UPGRADE, protocol.as_bytes());
    if request.head.version != Version::HTTP_2 {
        return Restore::Nothing;
    }
    // The version stays: another attempt has to know again what the client speaks.
    request.head.method = Method::GET;
    // The stream's body is the tunnel: it is not a body of this request.
    let key = BASE64_STANDARD.encode(random().to_be_bytes());
    request.head.fields.insert(&KEY, key.as_bytes());
    Restore::ToHttp2(key.into_bytes().into())
}

/// Writes the wish the way HTTP/2 does. Only WebSocket has a form there; any other protocol is
/// left out, as `Upgrade` allows.
pub fn towards_http2(request: &mut Request) -> Restore {
    let Some(Upgrade::Protocol(protocol)) = &request.upgrade else {
        return Restore::Nothing;
    };
    if request.head.version == Version::HTTP_2 {
        return Restore::Nothing;
    }
    if !protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET) {
        request.upgrade = None;
        return Restore::Nothing;
    }
    // It is left out where the head is written; another attempt may need it again.
    Restore::ToHttp1(request.head.fields.get(&KEY).map(Box::from))
}

impl Restore {
    /// # Errors
    /// The upstream did not agree in a way that the client could be told of.
    pub fn response(self, mut response: Response) -> Result<Response> {
        match self {
            Self::Nothing => {}
            Self::ToHttp2(key) => {
                if response.tunnel.is_none() {
                    // A success would tell the client that its stream is a tunnel.
                    if response.head.status.is_success() {
                        return Err(Error::new(
                            Reason::UpgradeRefused,
                            "the upstream answered instead of switching protocols",
                        ));
                    }
                    return Ok(response);
                }
                let fields = &mut response.head.fields;
                if fields.get(&ACCEPT) != Some(accept(&key).as_bytes()) {
                    return Err(Error::new(
                        Reason::UpstreamProtocol,
                        "the upstream's Sec-WebSocket-Accept does not fit our key",
                    ));
                }
                fields.remove(&ACCEPT);
                fields.remove(&name::UPGRADE);
                response.head.status = StatusCode::OK;
            }
            Self::ToHttp1(key) => {
                if response.tunnel.is_some() {
                    response.head.status = StatusCode::SWITCHING_PROTOCOLS;
                    let fields = &mut response.head.fields;
                    fields.insert(&name::UPGRADE, WEBSOCKET);
                    if let Some(key) = key {
                        fields.insert(&ACCEPT, accept(&key).as_bytes());
                    }
                }
            }
        }
        Ok(response)
    }
}

/// RFC 6455 section 4.2.2.
fn accept(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(WEBSOCKET_GUID);
    BASE64_STANDARD.encode(hash.finalize())
}

/// A `CONNECT` is answered here: the tunnel's far end is a new connection to the endpoint.
pub fn connected(conn: Box<Http1>) -> Response {
    Response {
        head: ResponseHead::default(),
        body: Body::Empty,
        tunnel: Some(Tunnel::http1(conn)),
    }
}

/// Carries bytes between an HTTP/1.1 client and the far end.
pub async fn run_http1(wire: Wire, tunnel: Tunnel, completion: Completion) {
    let Wire {
        mut stream, input, ..
    } = wire;
    run(&mut stream, input.into_bytes(), tunnel, completion).await;
}

/// Carries bytes between an HTTP/2 client's stream and the far end.
pub async fn run_http2(mut near: StreamIo, tunnel: Tunnel, completion: Completion) {
    run(&mut near, Bytes::new(), tunnel, completion).await;
}

impl ByteStream for StreamIo {}

async fn run<A>(near: &mut A, from_near: Bytes, tunnel: Tunnel, mut completion: Completion)
where
    A: ByteStream,
{
    let Pacing { idle, deadline } = completion.pacing();
    let patience = Patience {
        idle: idle.limit,
        half_closed: idle.limit,
    };
    let carried = Carried::default();
    let copying = async {
        match tunnel.0 {
            Far::Http1(mut conn) => {
                let from_b = std::mem::take(&mut conn.wire.input).into_bytes();
                let leftovers = Leftovers {
                    from_a: from_near,
                    from_b,
                };
                copy_counted(near, &mut conn.wire.stream, leftovers, patience, &carried).await
            }
            Far::Http2(mut io) => {
                let leftovers = Leftovers {
                    from_a: from_near,
                    from_b: Bytes::new(),
                };
                copy_counted(near, &mut *io, leftovers, patience, &carried).await
            }
        }
    };
    let mut copying = pin!(copying);
    let mut timer = deadline.map(|deadline| (Box::pin(sleep_until(deadline.at)), deadline));
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = copying.as_mut().poll(cx) {
            return Poll::Ready(Ok(end));
        }
        if let Some(error) = completion.refused() {
            return Poll::Ready(Err(error));
        }
        match &mut timer {
            Some((timer, deadline)) => timer.as_mut().poll(cx).map(|()| Err(deadline.overrun())),
            None => Poll::Pending,
        }
    })
    .await;
    completion.bytes(carried.a_to_b.get(), carried.b_to_a.get());
    let end = match end {
        Ok(end) => end,
        Err(error) => return completion.failed(&error),
    };
    match end {
        End::Closed => completion.done(),
        End::Idle { .. } => completion.failed(&idle.error()),
        End::Failed(Side::A, error) | End::Refused(Side::A, error) => completion.failed(
            &Error::new(
                match Loss::of(&error) {
                    Loss::Rotated => Reason::IdentityRotated,
                    _ => Reason::ClientClosed,
                },
                "the client's side of the tunnel broke",
            )
            .source(error),
        ),
        End::Failed(Side::B, error) | End::Refused(Side::B, error) => completion.failed(
            &Error::new(
                Loss::of(&error).reason().unwrap_or(Reason::UpstreamClosed),
                "the upstream's side of the tunnel broke",
            )
            .source(error),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lines: &[(&str, &str)]) -> Option<Upgrade> {
        asked_by_http1(&RequestHead {
            fields: lines.iter().copied().collect(),
            ..RequestHead::default()
        })
    }

    #[test]
    fn upgrades_must_be_listed_and_h2c_is_ignored() {
        let websocket = Some(Upgrade::Protocol(HeaderValue::from_static("websocket")));
        assert_eq!(
            asked(&[
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket")
            ]),
            websocket
        );
        assert_eq!(asked(&[("upgrade", "websocket")]), None);
        assert_eq!(
            asked(&[("connection", "upgrade"), ("upgrade", "h2c")]),
            None
        );
        assert_eq!(
            asked(&[("connection", "upgrade"), ("upgrade", "h2c, websocket")]),
            websocket
        );
    }

    #[test]
    fn another_attempt_translates_as_the_first() {
        let websocket = HeaderValue::from_static("websocket");
        let mut request = Request {
            upgrade: Some(Upgrade::Protocol(websocket)),
            ..Request::default()
        };
        request.head.version = Version::HTTP_2;
        for _ in 0..2 {
            let restore = towards_http1(&mut request, || 7);
            assert!(matches!(restore, Restore::ToHttp2(_)), "{restore:?}");
        }
        request.head.version = Version::HTTP_11;
        for _ in 0..2 {
            let restore = towards_http2(&mut request);
            assert!(matches!(restore, Restore::ToHttp1(Some(_))), "{restore:?}");
        }
    }

    #[test]
    fn the_accept_of_the_rfc() {
        let key = b"dGhlIHNhbXBsZSBub25jZQ==";
        assert_eq!(accept(key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
