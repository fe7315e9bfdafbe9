//! One call of the Workload API: a connection of its own with a single stream, whose answer is
//! messages until one side has enough.
//!
//! All of it is one value that is polled by whoever waits for the next message. It can move
//! between threads, and dropping it closes the connection.

use std::{
    future::poll_fn,
    io,
    path::Path,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use tokio::net::UnixStream;
use zeroize::Zeroize;

use super::backoff::Pace;
use crate::http::{
    fields::Fields,
    grpc::{
        call::{BadFrame, Deframer, Message, Status},
        is_grpc,
    },
    h2::{
        keepalive::KeepAlive,
        send::Block,
        solo::{Event, Failure, Solo},
        streams::Broken,
    },
    message::ResponseHead,
};

/// An agent that has been silent for so long is asked whether it is there. It is silent for hours
/// in good health, and servers of gRPC send away whom asks more often than every five minutes
/// (`too_many_pings`). An agent that ends closes the socket, so that this finds only those that
/// hang.
const SILENCE: Duration = Duration::from_secs(6 * 60);
/// Largest header list of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// A call that is under way.
pub(super) struct Call {
    solo: Solo<UnixStream>,
    keep_alive: KeepAlive,
    /// How the head, or the trailers, say that it has ended.
    status: Option<Status>,
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

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Broken(broken) => Self::Broken(broken),
            Failure::Head(error) => Self::Head(error),
        }
    }
}

impl Call {
    /// Asks for the identities of this workload, and for every change of them. The request is
    /// written when the first message is waited for.
    pub(super) async fn open(path: &Path) -> Result<Self, CallError> {
        let socket = UnixStream::connect(path)
            .await
            .map_err(CallError::Connect)?;
        let mut solo = Solo::new(socket, MAX_HEAD).wiping();
        // X509SVIDRequest has no fields: an empty message.
        solo.ask(false, Some(Bytes::from_static(&[0; 5])), put_head);
        Ok(Self {
            solo,
            keep_alive: KeepAlive::after(SILENCE),
            status: None,
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
        if let Poll::Ready(message) = self.poll_content(cx) {
            return Poll::Ready(message);
        }
        let heard = self.solo.heard();
        let solo = &mut self.solo;
        let silent = self.keep_alive.poll(cx, heard, true, || solo.ping());
        if silent.is_ready() {
            return Poll::Ready(Err(CallError::Broken(Broken::Silent)));
        }
        // The PING, where it was time for one.
        match self.solo.poll_flush(cx) {
            Poll::Ready(Err(broken)) => Poll::Ready(Err(CallError::Broken(broken))),
            _ => Poll::Pending,
        }
    }

    /// Takes from the stream up to the end of a message.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, CallError>> {
        loop {
            let mut rest = &self.piece[self.used..];
            let message = self.deframer.push(&mut rest)?;
            self.used = self.piece.len() - rest.len();
            if let Some(message) = message {
                return Poll::Ready(Ok(message));
            }
            self.renew_piece(Bytes::new());
            match ready!(self.solo.poll_event(cx))? {
                Event::Head(head) => self.head(&head)?,
                Event::Content(piece) => self.renew_piece(piece),
                Event::End(trailers) => {
                    if let Some(trailers) = trailers {
                        self.status = Status::of(&trailers);
                    }
                    return Poll::Ready(Err(self.end()));
                }
            }
        }
    }

    fn head(&mut self, head: &ResponseHead) -> Result<(), CallError> {
        self.status = Status::of(&head.fields);
        refusal(head.status, &head.fields).map_or(Ok(()), Err)
    }

    /// Why a stream is over that has ended in good order.
    fn end(&mut self) -> CallError {
        match (self.deframer.finish(), self.status.take()) {
            (Err(error), _) => error.into(),
            (Ok(()), Some(status)) => CallError::Status(status),
            (Ok(()), None) => CallError::NoStatus,
        }
    }

    /// Wipes the content that is used up. Where it lies in what was read it is wiped with that.
    fn renew_piece(&mut self, piece: Bytes) {
        self.used = 0;
        if let Ok(mut memory) = std::mem::replace(&mut self.piece, piece).try_into_mut() {
            memory.zeroize();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.renew_piece(Bytes::new());
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
