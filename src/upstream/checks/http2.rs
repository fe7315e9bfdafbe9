//! A check over HTTP/2: a connection with a single stream.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio_util::io::poll_read_buf;

use crate::{
    http::{
        fields::Fields,
        h2::{
            CONNECTION_WINDOW, STREAM_WINDOW,
            client::read_head,
            connection::{Connection, Limits, Role},
            frame::Code,
            receive::{Head, HeadKind},
            section::Section,
            send::Block,
            streams::{Broken, Key},
        },
        message::MAX_INTERIM,
        trailers::Trailers,
    },
    net::{Loss, Stream},
};

/// Largest header list of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Most content that is looked at, in bytes: no answer about health is as long.
const MAX_CONTENT: usize = 16 * 1024;
/// What is read at once, in bytes.
const READ: usize = 4 * 1024;

/// How much of an answer there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// `head_only`: the question was `HEAD`, so that no content can come.
    Head {
        head_only: bool,
    },
    Everything,
}

/// An answer, or as much of it as was wanted.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) fields: Fields,
    pub(super) content: Vec<u8>,
    pub(super) trailers: Option<Trailers>,
}

/// Asks, and waits for the answer.
pub(super) async fn ask(
    stream: Stream,
    wanted: Wanted,
    content: Option<Bytes>,
    fields: impl FnOnce(&mut Block<'_>),
) -> Result<Answer, Box<str>> {
    let mut core = Connection::new(
        Role::Client,
        Limits {
            streams: 0,
            head: MAX_HEAD,
            stream_window: STREAM_WINDOW,
            window: CONNECTION_WINDOW,
        },
    );
    let key = core.request(content.is_none(), fields);
    core.hold(key);
    if let Some(content) = content {
        core.data(key, content, true);
    }
    let mut exchange = Exchange {
        core,
        stream,
        key,
        wanted,
        input: BytesMut::new(),
        section: Section::default(),
        interim: 0,
        answer: None,
    };
    let answer = poll_fn(|cx| exchange.poll(cx)).await;
    exchange.take_leave();
    answer
}

struct Exchange {
    core: Connection<()>,
    stream: Stream,
    key: Key,
    wanted: Wanted,
    input: BytesMut,
    section: Section,
    interim: u8,
    answer: Option<Answer>,
}

impl Exchange {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Box<str>>> {
        loop {
            self.parse()?;
            if let Poll::Ready(answer) = self.poll_answer(cx) {
                return Poll::Ready(answer);
            }
            let read = match self.core.is_full() {
                // What has come calls for more answers than the peer takes.
                true => self.poll_write(cx),
                false => self.poll_read(cx),
            };
            match read {
                Poll::Ready(read) => read.map_err(|broken| text(&broken))?,
                Poll::Pending => break,
            }
        }
        match self.poll_write(cx) {
            Poll::Ready(Err(broken)) => Poll::Ready(Err(text(&broken))),
            _ => Poll::Pending,
        }
    }

    fn poll_answer(&mut self, cx: &Context<'_>) -> Poll<Result<Answer, Box<str>>> {
        if self.wanted != Wanted::Everything
            && let Some(answer) = self.answer.take()
        {
            return Poll::Ready(Ok(answer));
        }
        loop {
            match ready!(self.core.poll_data(self.key, cx)) {
                Some(Ok(piece)) => {
                    if let Some(answer) = &mut self.answer {
                        answer.content.extend_from_slice(&piece);
                        if answer.content.len() > MAX_CONTENT {
                            let text = format!("an answer of more than {MAX_CONTENT} bytes");
                            return Poll::Ready(Err(text.into()));
                        }
                    }
                }
                Some(Err(broken)) => return Poll::Ready(Err(text(&broken))),
                None => {
                    let answer = self.answer.take();
                    return Poll::Ready(answer.ok_or_else(|| "an answer without a head".into()));
                }
            }
        }
    }

    /// Lets the connection take what was read.
    fn parse(&mut self) -> Result<(), Box<str>> {
        while !self.input.is_empty() {
            let section = &mut self.section;
            let head = self
                .core
                .receive(&mut self.input, &mut |name, value| {
                    section.field(name, value)
                })
                .map_err(|fault| text(&fault))?;
            let Some(head) = head else { break };
            let section = std::mem::take(&mut self.section);
            match head.kind {
                HeadKind::Head => self.head(&head, section)?,
                HeadKind::Trailers => self.trailers(&head, section)?,
            }
        }
        Ok(())
    }

    fn head(&mut self, head: &Head, section: Section) -> Result<(), Box<str>> {
        let head_only = self.wanted == Wanted::Head { head_only: true };
        let received = read_head(head, section, head_only).map_err(|error| text(&error))?;
        let status = received.head.status;
        if status.is_informational() {
            self.interim += 1;
            return match self.interim {
                ..=MAX_INTERIM => Ok(()),
                _ => Err("too many interim answers".into()),
            };
        }
        self.core.expect(head.key, received.length);
        self.answer = Some(Answer {
            status,
            fields: received.head.fields,
            content: Vec::new(),
            trailers: None,
        });
        Ok(())
    }

    fn trailers(&mut self, head: &Head, section: Section) -> Result<(), Box<str>> {
        match section.trailers(head.cut) {
            Ok(trailers) => {
                if let Some(answer) = &mut self.answer {
                    answer.trailers = Some(trailers);
                }
                self.core.finish(head.key);
                Ok(())
            }
            Err(what) => self
                .core
                .malformed(head.key, Code::PROTOCOL_ERROR, what)
                .map_err(|fault| text(&fault)),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.input.reserve(READ);
        Poll::Ready(
            match ready!(poll_read_buf(
                Pin::new(&mut self.stream),
                cx,
                &mut self.input
            )) {
                Ok(0) => Err(Broken::Lost(Loss::Closed)),
                Ok(_) => Ok(()),
                Err(error) => Err(Broken::Lost(Loss::of(&error))),
            },
        )
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
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
    fn take_leave(&mut self) {
        self.core.drop_hold(self.key);
        self.core.leave_now();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = self.poll_write(&mut cx);
        self.stream.take_leave();
    }
}

fn text(error: &dyn std::fmt::Display) -> Box<str> {
    error.to_string().into()
}
