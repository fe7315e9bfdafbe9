//! One call of the Workload API: a connection of its own with a single stream, whose answer is
//! messages until one side has enough.
//!
//! All of it is one value that is polled by whoever waits for the next message. It can move
//! between threads, and dropping it closes the connection.

use std::{
    future::poll_fn,
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::net::UnixStream;
use tokio_util::io::poll_read_buf;
use zeroize::Zeroize;

use super::{
    backoff::Pace,
    grpc::{BadFrame, Deframer, Message, Status},
};
use crate::http::{
    fields::Fields,
    grpc::is_grpc,
    h2::{
        CONNECTION_WINDOW, STREAM_WINDOW,
        client::read_head,
        connection::{Connection, Limits, Role},
        frame::Code,
        keepalive::KeepAlive,
        receive::{Head, HeadKind},
        section::Section,
        send::Block,
        streams::{Broken, Key},
    },
    message::MAX_INTERIM,
};
use crate::net::Loss;

/// An agent that has been silent for so long is asked whether it is there. It is silent for hours
/// in good health, and servers of gRPC send away whom asks more often than every five minutes
/// (`too_many_pings`). An agent that ends closes the socket, so that this finds only those that
/// hang.
const SILENCE: Duration = Duration::from_secs(6 * 60);
/// Largest header list of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// What is read at once, in bytes.
const READ: usize = 16 * 1024;

/// A call that is under way.
pub(super) struct Call {
    core: Connection<()>,
    socket: UnixStream,
    input: BytesMut,
    section: Section,
    key: Key,
    keep_alive: KeepAlive,
    /// Grows whenever the agent has said something.
    heard: u64,
    interim: u8,
    /// How the head, or the trailers, say that it has ended.
    status: Option<Status>,
    /// What the head was refused for.
    refused: Option<CallError>,
    /// Content, and how much of it has become part of a message.
    piece: Bytes,
    used: usize,
    deframer: Deframer,
}

/// Why there are no more messages.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("the connection broke: {0}")]
    Broken(Broken),
    #[error("the answer's head is not valid: {0}")]
    Head(crate::error::Error),
    #[error("the answer has the HTTP status {0}")]
    Http(StatusCode),
    #[error("the answer is not gRPC")]
    NotGrpc,
    #[error("the answer cannot be read: {0}")]
    Frame(#[from] BadFrame),
    /// Also with the code for success: this stream has no end.
    #[error("{explanation}{0}", explanation = explanation(.0))]
    Status(Status),
    #[error("the answer ended without a status")]
    NoStatus,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What a person can make of a status.
fn explanation(status: &Status) -> &'static str {
    match status.code {
        Status::PERMISSION_DENIED => "no identity is registered for this workload: ",
        Status::UNIMPLEMENTED => "it does not hand out X.509 identities: ",
        _ => "the call ended: ",
    }
}

impl CallError {
    /// How soon another call may end better.
    pub(super) const fn pace(&self) -> Pace {
        match self {
            Self::Http(_) | Self::NotGrpc => Pace::Slow,
            Self::Status(status) => match status.code {
                Status::INVALID_ARGUMENT | Status::PERMISSION_DENIED | Status::UNIMPLEMENTED => {
                    Pace::Slow
                }
                _ => Pace::Brisk,
            },
            _ => Pace::Brisk,
        }
    }
}

impl From<Broken> for CallError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl Call {
    /// Asks for the identities of this workload, and for every change of them. The request is
    /// written when the first message is waited for.
    pub(super) async fn open(path: &Path) -> Result<Self, CallError> {
        let socket = UnixStream::connect(path)
            .await
            .map_err(CallError::Connect)?;
        let mut core = Connection::new(
            Role::Client,
            Limits {
                streams: 0,
                head: MAX_HEAD,
                stream_window: STREAM_WINDOW,
                window: CONNECTION_WINDOW,
            },
        );
        let key = core.request(false, put_head);
        core.hold(key);
        // X509SVIDRequest has no fields: an empty message.
        core.data(key, Bytes::from_static(&[0; 5]), true);
        Ok(Self {
            core,
            socket,
            input: BytesMut::new(),
            section: Section::default(),
            key,
            keep_alive: KeepAlive::after(SILENCE),
            heard: 0,
            interim: 0,
            status: None,
            refused: None,
            piece: Bytes::new(),
            used: 0,
            deframer: Deframer::default(),
        })
    }

    /// The next message. Nothing is lost if the future is dropped before it is ready.
    pub(super) async fn message(&mut self) -> Result<Message, CallError> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, CallError>> {
        loop {
            self.parse()?;
            if let Poll::Ready(message) = self.poll_content(cx) {
                return Poll::Ready(message);
            }
            if self.poll_read(cx)?.is_pending() {
                break;
            }
        }
        let core = &mut self.core;
        let silent = self
            .keep_alive
            .poll(cx, self.heard, true, || core.ping())
            .is_ready();
        if silent {
            return Poll::Ready(Err(Broken::Silent.into()));
        }
        // What this turn has to say.
        match self.poll_write(cx) {
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken.into())),
            _ => Poll::Pending,
        }
    }

    /// Takes from the stream up to the end of a message.
    fn poll_content(&mut self, cx: &Context<'_>) -> Poll<Result<Message, CallError>> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        loop {
            let mut rest = &self.piece[self.used..];
            let message = self.deframer.push(&mut rest)?;
            self.used = self.piece.len() - rest.len();
            if let Some(message) = message {
                return Poll::Ready(Ok(message));
            }
            match ready!(self.core.poll_data(self.key, cx)) {
                Some(Ok(piece)) => self.renew_piece(piece),
                Some(Err(broken)) => return Poll::Ready(Err(broken.into())),
                None => return Poll::Ready(Err(self.end())),
            }
        }
    }

    /// Why a stream is over that has ended in good order.
    fn end(&mut self) -> CallError {
        match (self.deframer.finish(), self.status.take()) {
            (Err(error), _) => error.into(),
            (Ok(()), Some(status)) => CallError::Status(status),
            (Ok(()), None) => CallError::NoStatus,
        }
    }

    /// Reads once.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        // What has come calls for more answers than the agent takes.
        if self.core.is_full() {
            return match self.poll_write(cx) {
                Poll::Ready(written) => written.map(Poll::Ready),
                Poll::Pending => Ok(Poll::Pending),
            };
        }
        if self.input.is_empty() {
            self.renew_input();
        } else {
            // The beginning of a frame.
            self.input.reserve(READ);
        }
        match poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input) {
            Poll::Ready(Ok(0)) => Err(Broken::Lost(Loss::Closed)),
            Poll::Ready(Ok(octets)) => {
                self.heard += octets as u64;
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(error)) => Err(Broken::Lost(Loss::of(&error))),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Wipes the content that is used up. Where it lies in what was read it is wiped with that.
    fn renew_piece(&mut self, piece: Bytes) {
        self.used = 0;
        if let Ok(mut memory) = std::mem::replace(&mut self.piece, piece).try_into_mut() {
            memory.zeroize();
        }
    }

    /// Wipes what was read before, unless parts of it are still held, and makes room.
    fn renew_input(&mut self) {
        self.renew_piece(Bytes::new());
        self.input.clear();
        self.input.reserve(READ);
        self.input.resize(self.input.capacity(), 0);
        self.input.zeroize();
        self.input.clear();
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            self.core.fill();
            if self.core.output.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.core.output.poll_flush(cx, &mut self.socket))
                .map_err(|error| Broken::Lost(Loss::of(&error)))?;
        }
    }

    /// Lets the connection take what was read.
    fn parse(&mut self) -> Result<(), Broken> {
        while !self.input.is_empty() {
            let section = &mut self.section;
            let head = self
                .core
                .receive(&mut self.input, &mut |name, value| {
                    section.field(name, value)
                })
                .map_err(Broken::Fault)?;
            let Some(head) = head else { break };
            let section = std::mem::take(&mut self.section);
            match head.kind {
                HeadKind::Head => self.head(&head, section)?,
                HeadKind::Trailers => self.trailers(&head, section)?,
            }
        }
        Ok(())
    }

    fn head(&mut self, head: &Head, section: Section) -> Result<(), Broken> {
        let received = match read_head(head, section, false) {
            Ok(received) => received,
            Err(error) => {
                self.refused = Some(CallError::Head(error));
                return Ok(());
            }
        };
        let (status, fields) = (received.head.status, &received.head.fields);
        if status.is_informational() {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Broken::Malformed("too many interim responses"));
            }
            return Ok(());
        }
        self.core.expect(head.key, received.length);
        self.refused = refusal(status, fields);
        self.status = Status::of(fields);
        Ok(())
    }

    fn trailers(&mut self, head: &Head, section: Section) -> Result<(), Broken> {
        match section.trailers(head.cut) {
            Ok(trailers) => {
                self.status = Status::of(&trailers);
                self.core.finish(head.key);
                Ok(())
            }
            Err(what) => self
                .core
                .malformed(head.key, Code::PROTOCOL_ERROR, what)
                .map_err(Broken::Fault),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.renew_input();
    }
}

/// What is wrong with the head of an answer, seen by gRPC.
fn refusal(status: StatusCode, fields: &Fields) -> Option<CallError> {
    if status != StatusCode::OK {
        return Some(CallError::Http(status));
    }
    (!is_grpc(fields)).then_some(CallError::NotGrpc)
}

fn put_head(block: &mut Block<'_>) {
    block.field(b":method", b"POST");
    block.field(b":scheme", b"http");
    block.field(b":authority", b"localhost");
    block.field(b":path", b"/SpiffeWorkloadAPI/FetchX509SVID");
    block.field(b"content-type", b"application/grpc");
    block.field(b"te", b"trailers");
    let agent = concat!("pillion/", env!("CARGO_PKG_VERSION"));
    block.field(b"user-agent", agent.as_bytes());
    // Without it no agent answers (SPIFFE Workload Endpoint, section 3): whoever is tricked into
    // fetching a URL can't set it.
    block.field(b"workload.spiffe.io", b"true");
}
