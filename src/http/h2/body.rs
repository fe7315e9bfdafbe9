//! Bodies over HTTP/2: the frames of a stream as they come, and a body poured into a stream.

use std::{
    cell::Cell,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{frame::Code, link::StreamHandle, streams::Broken};
use crate::{
    error::{Error, Reason, Result},
    http::{
        grpc,
        message::{Body, Frame},
    },
    net::Loss,
};

/// Whose body it is, and so who is to blame when it breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Upstream,
}

/// A body that comes in over a stream.
#[derive(Debug)]
pub struct Incoming {
    stream: StreamHandle,
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
    /// The connection itself holds the body to its `length`.
    pub fn new(stream: StreamHandle, side: Side, length: Option<u64>) -> Self {
        Self {
            stream,
            side,
            remaining: length,
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
        self.stream.has_ended()
            && self
                .stream
                .mail(|mail| mail.trailers.is_none())
                .unwrap_or(true)
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        self.received.asked.set(true);
        if !self.received.data_ended() {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let length = data.len() as u64;
                    self.received.bytes.set(self.received.bytes() + length);
                    self.remaining = self.remaining.map(|left| left.saturating_sub(length));
                    self.received.data_ended.set(self.stream.has_ended());
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.broken(error)))),
                None => self.received.data_ended.set(true),
            }
        }
        let trailers = self.stream.mail(|mail| mail.trailers.take()).flatten();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::Trailers(trailers))))
    }

    fn broken(&self, error: Broken) -> Error {
        let malformed = matches!(error, Broken::Malformed(_) | Broken::Fault(_));
        let (reason, what) = match (self.side, malformed) {
            _ if error == Broken::Lost(Loss::Rotated) => {
                (Reason::IdentityRotated, "the body was cut off")
            }
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

impl Drop for Incoming {
    fn drop(&mut self) {
        self.stream.discard();
    }
}

/// Pours a body into a stream as fast as the peer's windows open.
#[derive(Debug)]
pub struct Outgoing {
    stream: StreamHandle,
    state: State,
    /// Bytes handed to the stream.
    pub sent: u64,
    /// The gRPC status that the trailers told.
    pub status: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Streams,
    /// The stream was given its end, which may have to wait for a window.
    Ending,
    Done,
}

/// Why a body could not be poured to its end.
#[derive(Debug)]
pub enum Stopped {
    /// The body itself failed.
    Body(Error),
    /// The stream did, on the peer's side.
    Stream(Broken),
}

impl Outgoing {
    pub const fn new(stream: StreamHandle) -> Self {
        Self {
            stream,
            state: State::Streams,
            sent: 0,
            status: None,
        }
    }

    /// A stream whose end has been sent with its head.
    pub const fn ended(stream: StreamHandle) -> Self {
        Self {
            stream,
            state: State::Done,
            sent: 0,
            status: None,
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub const fn stream(&self) -> &StreamHandle {
        &self.stream
    }

    /// Ends the stream unfinished.
    pub fn reset(&self, code: Code) {
        self.stream.reset(code);
    }

    /// Ready once the stream's end has left for the peer.
    pub fn poll(&mut self, cx: &mut Context<'_>, body: &mut Body) -> Poll<Result<(), Stopped>> {
        loop {
            if self.state == State::Done {
                return Poll::Ready(Ok(()));
            }
            match self.stream.poll_sent(cx) {
                Poll::Ready(sent) => sent.map_err(Stopped::Stream)?,
                Poll::Pending => {
                    body.poll_upload(cx).map_err(Stopped::Body)?;
                    return Poll::Pending;
                }
            }
            if self.state == State::Ending {
                self.state = State::Done;
                continue;
            }
            let Poll::Ready(frame) = body.poll_frame(cx) else {
                // A peer that wants no more must be heard while the body is waited for.
                let broken = ready!(self.stream.poll_broken(cx));
                return Poll::Ready(Err(Stopped::Stream(broken)));
            };
            match frame {
                Some(Ok(Frame::Data(data))) => {
                    self.sent += data.len() as u64;
                    // The end rides on the last piece where that is known to be one.
                    let last = body.has_ended();
                    self.stream.data(data, last);
                    if last {
                        self.state = State::Ending;
                    }
                }
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.stream.trailers(&trailers);
                    self.status = grpc::status(&trailers);
                    self.state = State::Ending;
                }
                Some(Err(error)) => return Poll::Ready(Err(Stopped::Body(error))),
                None => {
                    self.stream.data(Bytes::new(), true);
                    self.state = State::Ending;
                }
            }
        }
    }
}
