//! Bodies over HTTP/2: the frames of a stream as they come, and a body poured into a stream.

use std::{
    cell::Cell,
    rc::Rc,
    task::{Context, Poll, ready},
};

use crate::{
    error::{Error, Reason, Result},
    http::{
        fields::Fields,
        h1::trailers::forbidden_in_trailers,
        message::{Body, Frame},
        name,
    },
};
use bytes::Bytes;
use h2::{Reason as Code, RecvStream, SendStream};

/// Whose body it is, and so who is to blame when it breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
}

/// A body that comes in over a stream.
#[derive(Debug)]
pub struct Incoming {
    recv: RecvStream,
    side: Side,
    remaining: Option<u64>,
    received: Rc<Received>,
}

/// What has come of a body, known also after the body has moved on.
#[derive(Debug, Default)]
pub struct Received {
    bytes: Cell<u64>,
    asked: Cell<bool>,
    data_ended: Cell<bool>,
}

impl Received {
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Somebody wants to read it: a client that waits for `100 Continue` may be told.
    pub fn asked(&self) -> bool {
        self.asked.get()
    }

    /// Nothing but trailers can follow.
    pub fn data_ended(&self) -> bool {
        self.data_ended.get()
    }
}

impl Incoming {
    /// h2 itself holds the body to the `content-length` in `fields`.
    pub fn new(recv: RecvStream, side: Side, fields: &Fields) -> Self {
        let remaining = fields
            .get(&name::CONTENT_LENGTH)
            .and_then(|value| str::from_utf8(value).ok())
            .and_then(|value| value.parse().ok());
        Self {
            recv,
            side,
            remaining,
            received: Rc::default(),
        }
    }

    pub fn received(&self) -> Rc<Received> {
        Rc::clone(&self.received)
    }

    pub const fn length(&self) -> Option<u64> {
        self.remaining
    }

    /// Whether the peer has ended the stream and all of it was taken. A length that is used up
    /// tells less: trailers may follow.
    pub fn has_ended(&self) -> bool {
        self.recv.is_end_stream()
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        self.received.asked.set(true);
        while !self.received.data_ended() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window opens again as the bytes are taken: who is slow is not sent more.
                    let _ = self.recv.flow_control().release_capacity(data.len());
                    if data.is_empty() {
                        continue;
                    }
                    let length = data.len() as u64;
                    self.received.bytes.set(self.received.bytes() + length);
                    self.remaining = self.remaining.map(|left| left.saturating_sub(length));
                    self.received.data_ended.set(self.recv.is_end_stream());
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(error)))),
                None => self.received.data_ended.set(true),
            }
        }
        match ready!(self.recv.poll_trailers(cx)) {
            Ok(Some(trailers)) if super::has_padded_value(&trailers) => Poll::Ready(Some(Err(
                self.malformed("a trailer begins or ends with whitespace"),
            ))),
            Ok(Some(trailers)) => {
                // HTTP/2 has fewer of them, but what goes on may be HTTP/1.1.
                let mut trailers = super::fields_of(&trailers);
                trailers.remove_if(|name, _| forbidden_in_trailers(name));
                Poll::Ready(Some(Ok(Frame::Trailers(trailers))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(self.broken(error)))),
        }
    }

    fn malformed(&self, what: &'static str) -> Error {
        match self.side {
            Side::Client => Error::new(Reason::RequestBodyInvalid, what),
            Side::Upstream => Error::new(Reason::UpstreamProtocol, what),
        }
    }

    fn broken(&self, error: h2::Error) -> Error {
        let protocol = error.reason() == Some(Code::PROTOCOL_ERROR);
        let (reason, what) = match (self.side, protocol) {
            (Side::Client, true) => (Reason::RequestBodyInvalid, "the request body is malformed"),
            (Side::Client, false) => (
                Reason::RequestBodyIncomplete,
                "the client left inside the request body",
            ),
            (Side::Upstream, true) => (Reason::UpstreamProtocol, "the response body is malformed"),
            (Side::Upstream, false) => (
                Reason::ResponseIncomplete,
                "the stream ended inside the body",
            ),
        };
        Error::new(reason, what).source(error)
    }
}

/// Pours a body into a stream as fast as the peer's windows open.
#[derive(Debug)]
pub struct Outgoing {
    send: SendStream<Bytes>,
    pending: Bytes,
    last: bool,
    done: bool,
    /// Bytes handed to the stream.
    pub sent: u64,
}

/// Why a body could not be poured to its end.
#[derive(Debug)]
pub enum Stopped {
    /// The body itself failed.
    Body(Error),
    /// The peer closed the stream; `NO_ERROR` when it has simply heard enough.
    Peer(Code),
    Connection(h2::Error),
}

impl Outgoing {
    pub const fn new(send: SendStream<Bytes>) -> Self {
        Self {
            send,
            pending: Bytes::new(),
            last: false,
            done: false,
            sent: 0,
        }
    }

    /// A stream whose end has been sent with its head.
    pub const fn ended(send: SendStream<Bytes>) -> Self {
        Self {
            send,
            pending: Bytes::new(),
            last: true,
            done: true,
            sent: 0,
        }
    }

    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// The stream itself, for a tunnel.
    pub fn into_send(self) -> SendStream<Bytes> {
        self.send
    }

    /// Ends the stream unfinished.
    pub fn reset(&mut self, code: Code) {
        self.send.send_reset(code);
    }

    /// Ready once the stream has been given its end.
    pub fn poll(&mut self, cx: &mut Context<'_>, body: &mut Body) -> Poll<Result<(), Stopped>> {
        while !self.done {
            if self.pending.is_empty() {
                if let Poll::Ready(reset) = self.send.poll_reset(cx) {
                    return Poll::Ready(Err(match reset {
                        Ok(code) => Stopped::Peer(code),
                        Err(error) => Stopped::Connection(error),
                    }));
                }
                match ready!(body.poll_frame(cx)) {
                    Some(Ok(Frame::Data(data))) => {
                        // The end rides on the last piece where that is known to be one.
                        self.last = body.has_ended();
                        self.pending = data;
                    }
                    Some(Ok(Frame::Trailers(trailers))) => {
                        self.done = true;
                        self.send
                            .send_trailers(super::map_of(&trailers, 0))
                            .map_err(Stopped::Connection)?;
                    }
                    Some(Err(error)) => return Poll::Ready(Err(Stopped::Body(error))),
                    None => {
                        self.done = true;
                        self.send
                            .send_data(Bytes::new(), true)
                            .map_err(Stopped::Connection)?;
                    }
                }
            } else if let Poll::Ready(sent) = self.poll_send(cx) {
                sent?;
            } else {
                body.poll_upload(cx).map_err(Stopped::Body)?;
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        self.send.reserve_capacity(self.pending.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(Stopped::Connection(error))),
                None => {
                    let code = match ready!(self.send.poll_reset(cx)) {
                        Ok(code) => code,
                        Err(error) => return Poll::Ready(Err(Stopped::Connection(error))),
                    };
                    return Poll::Ready(Err(Stopped::Peer(code)));
                }
            }
        }
        let length = self.send.capacity().min(self.pending.len());
        let part = self.pending.split_to(length);
        self.sent += length as u64;
        self.done = self.last && self.pending.is_empty();
        self.send
            .send_data(part, self.done)
            .map_err(Stopped::Connection)?;
        Poll::Ready(Ok(()))
    }
}
