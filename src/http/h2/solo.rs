//! A connection to a server that is asked one thing at a time: what the control world and the
//! exporter speak to agents, to endpoints that they check, and to collectors.
//!
//! All of it is one value that is polled by whoever waits for the answer. It can move between
//! threads, and dropping it closes the connection.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;
use zeroize::Zeroize;

use super::{
    CONNECTION_WINDOW, STREAM_WINDOW,
    client::read_head,
    connection::{Connection, Limits, Role},
    frame::Code,
    receive::{Head, HeadKind},
    section::Section,
    send::Block,
    streams::{Broken, Key},
};
use crate::{
    error::Error,
    http::{
        message::{MAX_INTERIM, ResponseHead},
        trailers::Trailers,
    },
    net::Loss,
};

/// What is read at once, in bytes.
const READ: usize = 16 * 1024;

/// The connection, and what is being asked.
pub(crate) struct Solo<S> {
    core: Connection<()>,
    stream: S,
    input: BytesMut,
    /// What is read holds secrets.
    wipes: bool,
    section: Section,
    /// Grows whenever the peer has said something.
    heard: u64,
    asked: Option<Asked>,
}

/// A question whose answer has not ended.
struct Asked {
    key: Key,
    /// It was `HEAD`: no content can come.
    to_head: bool,
    interim: u8,
    head: Option<Result<ResponseHead, Error>>,
    trailers: Option<Trailers>,
}

/// The pieces of an answer, in this order; of content there may be any number.
#[derive(Debug)]
pub(crate) enum Event {
    Head(ResponseHead),
    Content(Bytes),
    End(Option<Trailers>),
}

/// Why an answer has no good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The connection is good still.
    #[error("the answer's head is not valid: {0}")]
    Head(Error),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Solo<S> {
    /// `max_head`: the largest header list of an answer, in bytes. Nothing is written before the
    /// first event is waited for.
    pub(crate) fn new(stream: S, max_head: usize) -> Self {
        let limits = Limits {
            streams: 0,
            head: max_head,
            stream_window: STREAM_WINDOW,
            window: CONNECTION_WINDOW,
        };
        Self {
            core: Connection::new(Role::Client, limits),
            stream,
            input: BytesMut::new(),
            wipes: false,
            section: Section::default(),
            heard: 0,
            asked: None,
        }
    }

    /// Wipes what was read as soon as it is taken.
    pub(crate) fn wiping(mut self) -> Self {
        self.wipes = true;
        self
    }

    /// Sends a request. An answer that has not ended is given up.
    pub(crate) fn ask(
        &mut self,
        to_head: bool,
        content: Option<Bytes>,
        fields: impl FnOnce(&mut Block<'_>),
    ) {
        self.give_up();
        let key = self.core.request(content.is_none(), fields);
        self.core.hold(key);
        if let Some(content) = content {
            self.core.data(key, content, true);
        }
        self.asked = Some(Asked {
            key,
            to_head,
            interim: 0,
            head: None,
            trailers: None,
        });
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn give_up(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.core.drop_hold(asked.key);
        }
    }

    /// Whether the peer takes another request.
    pub(crate) fn is_open(&self) -> bool {
        self.core.room().is_some()
    }

    /// What of the answer comes next. With no question there is no event, but the connection is
    /// kept alive, and its end is noticed.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Failure>> {
        loop {
            self.parse()?;
            if let Poll::Ready(event) = self.poll_answer(cx) {
                return Poll::Ready(event);
            }
            let moved = match self.core.is_full() {
                // What has come calls for more answers than the peer takes.
                true => self.poll_flush(cx),
                false => self.poll_read(cx),
            };
            match moved {
                Poll::Ready(moved) => moved?,
                Poll::Pending => break,
            }
        }
        // What this turn has to say.
        match self.poll_flush(cx) {
            Poll::Ready(Err(broken)) => Poll::Ready(Err(broken.into())),
            _ => Poll::Pending,
        }
    }

    /// A number that grows with everything that comes.
    pub(crate) const fn heard(&self) -> u64 {
        self.heard
    }

    /// Asks the peer whether it is there; to be flushed.
    pub(crate) fn ping(&mut self) {
        self.core.ping();
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            self.core.fill();
            if self.core.output.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.core.output.poll_flush(cx, &mut self.stream))
                .map_err(|error| Broken::Lost(Loss::of(&error)))?;
        }
    }

    /// Says that nothing more comes. What the socket doesn't take now stays unsaid.
    pub(crate) fn take_leave(&mut self) -> &mut S {
        self.give_up();
        self.core.leave_now();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = self.poll_flush(&mut cx);
        &mut self.stream
    }

    fn poll_answer(&mut self, cx: &Context<'_>) -> Poll<Result<Event, Failure>> {
        let Some(asked) = &mut self.asked else {
            return Poll::Pending;
        };
        if let Some(head) = asked.head.take() {
            return Poll::Ready(head.map(Event::Head).map_err(Failure::Head));
        }
        match ready!(self.core.poll_data(asked.key, cx)) {
            Some(Ok(piece)) => Poll::Ready(Ok(Event::Content(piece))),
            Some(Err(broken)) => Poll::Ready(Err(broken.into())),
            None => {
                let trailers = asked.trailers.take();
                self.give_up();
                Poll::Ready(Ok(Event::End(trailers)))
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.wipes && self.input.is_empty() {
            wipe(&mut self.input);
        }
        self.input.reserve(READ);
        let stream = Pin::new(&mut self.stream);
        Poll::Ready(match ready!(poll_read_buf(stream, cx, &mut self.input)) {
            Ok(0) => Err(Broken::Lost(Loss::Closed)),
            Ok(octets) => {
                self.heard += octets as u64;
                Ok(())
            }
            Err(error) => Err(Broken::Lost(Loss::of(&error))),
        })
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
        // Of a question that was given up there may come more.
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.key == head.key) else {
            return Ok(());
        };
        let received = match read_head(head, section, asked.to_head) {
            Ok(received) => received,
            Err(error) => {
                asked.head = Some(Err(error));
                return Ok(());
            }
        };
        if received.head.status.is_informational() {
            asked.interim += 1;
            if asked.interim > MAX_INTERIM {
                return Err(Broken::Malformed("too many interim responses"));
            }
            return Ok(());
        }
        asked.head = Some(Ok(received.head));
        self.core.expect(head.key, received.length);
        Ok(())
    }

    fn trailers(&mut self, head: &Head, section: Section) -> Result<(), Broken> {
        match section.trailers(head.cut) {
            Ok(trailers) => {
                if let Some(asked) = self.asked.as_mut().filter(|asked| asked.key == head.key) {
                    asked.trailers = Some(trailers);
                }
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

impl<S> Drop for Solo<S> {
    fn drop(&mut self) {
        if self.wipes {
            wipe(&mut self.input);
        }
    }
}

/// Wipes what was read before, unless parts of it are still held, and makes room.
fn wipe(input: &mut BytesMut) {
    input.clear();
    input.reserve(READ);
    input.resize(input.capacity(), 0);
    input.zeroize();
    input.clear();
}
