//! Requests and responses while they are on their way, whatever protocol they came by.

use std::{
    fmt,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Uri, Version};

use super::{
    fields::Fields,
    h1, h2,
    mirror::{Copy, Tee},
    name,
    replay::Playback,
    slow::Slow,
    trailers::Trailers,
    upgrade::Tunnel,
};
use crate::{error::Result, net::pipe::Pipe};

/// How long an upload waits for the upstream to say `100 Continue` (RFC 9110 section 10.1.1 lets
/// a client stop waiting).
pub const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// Interim responses before the final one; more are not an upstream but a fault.
pub const MAX_INTERIM: u8 = 32;
/// Largest head of an upstream's response, in bytes; over HTTP/2 uncompressed.
pub const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// What a request says before its body.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub method: Method,
    pub uri: Uri,
    /// That the client spoke.
    pub version: Version,
    /// The version in which the client spoke, also where a Pillion brought the request here in
    /// another one.
    pub spoken: Version,
    pub fields: Fields,
}

/// What a response says before its body.
#[derive(Debug, Default)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub fields: Fields,
}

/// Whether a response has no body whatever its fields say of a length (RFC 9110 section 6.4.1);
/// `to_head`: it answers `HEAD`.
pub fn is_bodiless(to_head: bool, status: StatusCode) -> bool {
    to_head
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// A request: its head is moved on, its body streams.
#[derive(Debug, Default)]
pub struct Request {
    pub head: RequestHead,
    pub body: Body,
    /// The body is not to be asked for before the upstream says `100 Continue`.
    pub expects_continue: bool,
    /// What the client wants this exchange to become.
    pub upgrade: Option<Upgrade>,
}

/// A response from an upstream, or one made here.
#[derive(Debug)]
pub struct Response {
    pub head: ResponseHead,
    pub body: Body,
    /// The far end of a tunnel, where the upstream agreed to one.
    pub tunnel: Option<Tunnel>,
}

/// A wish to leave HTTP, in whichever protocol it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// `CONNECT authority`.
    Connect,
    /// `Upgrade: protocol` (RFC 9110 section 7.8), or `:protocol` (RFC 8441).
    Protocol(HeaderValue),
}

/// A piece of a body.
#[derive(Debug)]
pub enum Frame {
    Data(Bytes),
    /// At most one, and the last.
    Trailers(Trailers),
}

/// A body that streams: nothing is read before it is asked for.
#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    Full(Bytes),
    /// From an HTTP/1.1 client.
    Http1Request(h1::server::RequestBody),
    /// From an HTTP/1.1 upstream; whatever is left of the request's body goes up meanwhile.
    Http1Response(Box<h1::client::ResponseBody>),
    /// From an HTTP/2 client.
    Http2Request(Box<h2::body::Incoming>),
    /// From an HTTP/2 upstream.
    Http2Response(Box<h2::client::ResponseBody>),
    /// A copy of each piece goes to a mirror.
    Tee(Box<Tee>),
    /// What a mirror gets.
    Copy(Box<Copy>),
    /// Kept, so that it can be sent again.
    Playback(Playback),
    /// One of which the first frame was looked at.
    Begun(Box<Begun>),
    /// One that is slowed down on purpose.
    Slow(Box<Slow>),
}

impl Body {
    /// The next piece; `None` at the end. After an error or the end it must not be asked again.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::Data(bytes))))
            }
            Self::Http1Request(body) => body.poll_frame(cx),
            Self::Http1Response(body) => body.poll_frame(cx),
            Self::Http2Request(body) => body.poll_frame(cx),
            Self::Http2Response(body) => body.poll_frame(cx),
            Self::Tee(tee) => tee.poll_frame(cx),
            Self::Copy(copy) => copy.poll_frame(cx),
            Self::Playback(body) => body.poll_frame(cx),
            Self::Begun(begun) => begun.poll_frame(cx),
            Self::Slow(slow) => slow.poll_frame(cx),
        }
    }

    /// The next piece in a pipe, for a socket that takes it as it is; `None` where
    /// [`Self::poll_frame`] has to be asked.
    pub fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe>>> {
        match self {
            Self::Http1Request(body) => body.poll_pipe(cx),
            Self::Http1Response(body) => body.poll_pipe(cx),
            _ => Poll::Ready(None),
        }
    }

    /// Carries on with the request's body while nothing can be done with the response's: the two
    /// directions don't wait for each other.
    ///
    /// # Errors
    /// The body turned bad on the client's side; no frame must be asked for any more.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<()> {
        match self {
            Self::Http1Response(body) => body.poll_upload(cx),
            Self::Http2Response(body) => body.poll_upload(cx),
            Self::Begun(begun) => begun.rest.poll_upload(cx),
            Self::Slow(slow) => slow.body.poll_upload(cx),
            _ => Ok(()),
        }
    }

    /// The bytes still to come, where that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => Some(bytes.len() as u64),
            Self::Http1Request(body) => body.length(),
            Self::Http1Response(body) => body.length(),
            Self::Http2Request(body) => body.length(),
            Self::Http2Response(body) => body.length(),
            Self::Tee(tee) => tee.body.length(),
            Self::Copy(copy) => copy.length(),
            Self::Playback(body) => body.length(),
            Self::Begun(begun) => begun.length(),
            Self::Slow(slow) => slow.length(),
        }
    }

    /// Whether all of it has been given out, trailers too, as far as can be told without asking
    /// for a frame.
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Http2Request(body) => body.has_ended(),
            Self::Http2Response(body) => body.has_ended(),
            Self::Tee(tee) => tee.body.has_ended(),
            Self::Playback(body) => body.has_ended(),
            Self::Begun(begun) => begun.first.is_none() && begun.rest.has_ended(),
            Self::Slow(slow) => slow.has_ended(),
            // The length is that of the content alone where trailers may follow it.
            Self::Copy(_) => false,
            Self::Empty | Self::Full(_) | Self::Http1Request(_) | Self::Http1Response(_) => {
                self.length() == Some(0)
            }
        }
    }

    /// The length that HTTP/1.1 may tell of the body: none where `fields` announce trailers, which
    /// HTTP/2 lets follow a known length and HTTP/1.1 only a chunked body.
    pub fn framed_length(&self, fields: &Fields) -> Option<u64> {
        let trailers = self.is_http2() && fields.contains(&name::TRAILER);
        if trailers { None } else { self.length() }
    }

    /// Whether trailers may follow whatever its length says.
    pub fn is_http2(&self) -> bool {
        match self {
            Self::Http2Request(_) | Self::Http2Response(_) => true,
            Self::Tee(tee) => tee.body.is_http2(),
            Self::Playback(body) => body.is_http2(),
            Self::Begun(begun) => begun.rest.is_http2(),
            Self::Slow(slow) => slow.body.is_http2(),
            _ => false,
        }
    }

    /// Whether nothing will come, not even trailers.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

/// A body of which the first frame was looked at, and has still to be given out.
#[derive(Debug)]
pub struct Begun {
    first: Option<Frame>,
    rest: Body,
}

impl Begun {
    pub fn body(first: Frame, rest: Body) -> Body {
        let first = Some(first);
        Body::Begun(Box::new(Self { first, rest }))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.rest.poll_frame(cx),
        }
    }

    fn length(&self) -> Option<u64> {
        let first = match &self.first {
            Some(Frame::Data(data)) => data.len() as u64,
            _ => 0,
        };
        Some(first + self.rest.length()?)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Http1Request(_) => "Http1Request",
            Self::Http1Response(_) => "Http1Response",
            Self::Http2Request(_) => "Http2Request",
            Self::Http2Response(_) => "Http2Response",
            Self::Tee(_) => "Tee",
            Self::Copy(_) => "Copy",
            Self::Playback(_) => "Playback",
            Self::Begun(_) => "Begun",
            Self::Slow(_) => "Slow",
        };
        write!(f, "Body::{kind}({:?})", self.length())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Full(Bytes::from_static(text.as_bytes()))
    }
}
