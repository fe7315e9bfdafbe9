//! A connection with its socket, and what streams of it hold.
//!
//! [`Link`] is shared, inside a worker, by the task that drives the connection and by whoever holds
//! a stream of it. A stream's holder writes into the connection's output and wakes the driver, which
//! writes for all of them at once.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;

use super::{
    connection::{Connection, Limits, Role},
    frame::{self, Code, Fault, Header},
    receive::{Head, HeadKind},
    section::{ReceivedResponse, Section},
    send::Block,
    streams::{Broken, Key},
};
use crate::{
    error::Result,
    http::{farewell, fields::Fields, input::Input, name::Kind, trailers::Trailers},
    net::{Loss, Stream},
};

/// What is kept with each stream beside its content.
#[derive(Debug, Default)]
pub struct Mail {
    /// A response's final head, or what was wrong with it.
    pub head: Option<Result<ReceivedResponse>>,
    /// Interim responses so far, and whether one was `100 Continue`.
    pub interim: u8,
    pub continued: bool,
    /// The response answers `HEAD`.
    pub to_head: bool,
    pub trailers: Option<Trailers>,
}

/// A connection as its driver and the holders of its streams share it.
#[derive(Debug)]
pub struct Link {
    core: RefCell<Connection<Mail>>,
    driver: RefCell<Option<Waker>>,
    /// The driver is at work, or has been woken: it will look at everything.
    awake: Cell<bool>,
}

impl Link {
    pub fn new(role: Role, limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            core: RefCell::new(Connection::new(role, limits)),
            driver: RefCell::new(None),
            awake: Cell::new(true),
        })
    }

    /// Looks at the connection, or changes it; the driver sees to what follows.
    pub fn with<T>(&self, act: impl FnOnce(&mut Connection<Mail>) -> T) -> T {
        let mut core = self.core.borrow_mut();
        let result = act(&mut core);
        if !self.awake.get() && (!core.output.is_empty() || core.is_over()) {
            self.awake.set(true);
            if let Some(driver) = &*self.driver.borrow() {
                driver.wake_by_ref();
            }
        }
        result
    }
}

/// Holds a stream. Whoever is the last to let go of one that has not ended resets it.
#[derive(Debug)]
pub struct StreamHandle {
    link: Rc<Link>,
    key: Key,
}

impl Clone for StreamHandle {
    fn clone(&self) -> Self {
        Self::new(Rc::clone(&self.link), self.key)
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.link.with(|core| core.drop_hold(self.key));
    }
}

impl StreamHandle {
    pub fn new(link: Rc<Link>, key: Key) -> Self {
        link.with(|core| core.hold(key));
        Self { link, key }
    }

    /// Opens a stream with the head of its request.
    pub fn open(link: &Rc<Link>, end: bool, fields: impl FnOnce(&mut Block<'_>)) -> Self {
        let key = link.with(|core| core.request(end, fields));
        Self::new(Rc::clone(link), key)
    }

    /// What is kept with the stream; `None` if it is gone.
    pub fn mail<T>(&self, look: impl FnOnce(&mut Mail) -> T) -> Option<T> {
        self.link
            .with(|core| core.stream(self.key).map(|stream| look(&mut stream.mail)))
    }

    /// Somebody has looked at it.
    pub fn seen(&self) {
        self.link.with(|core| core.seen(self.key));
    }

    pub fn head(&self, end: bool, fields: impl FnOnce(&mut Block<'_>)) {
        self.link.with(|core| core.head(self.key, end, fields));
    }

    pub fn trailers(&self, trailers: &Trailers) {
        self.head(true, |block| put_fields(block, trailers, 0));
    }

    pub fn data(&self, data: Bytes, end: bool) {
        self.link.with(|core| core.data(self.key, data, end));
    }

    /// Ends the stream unfinished.
    pub fn reset(&self, code: Code) {
        self.link.with(|core| core.reset(self.key, code));
    }

    /// Nobody will read what comes.
    pub fn discard(&self) {
        self.link.with(|core| core.discard(self.key));
    }

    /// Ready when what was sent has left for the output.
    pub fn poll_sent(&self, cx: &Context<'_>) -> Poll<Result<(), Broken>> {
        self.link.with(|core| core.poll_sent(self.key, cx))
    }

    pub fn broken(&self) -> Option<Broken> {
        self.link
            .with(|core| core.stream(self.key).and_then(|stream| stream.broken))
    }

    /// Ready when the stream has been broken off.
    pub fn poll_broken(&self, cx: &Context<'_>) -> Poll<Broken> {
        self.link.with(|core| core.poll_broken(self.key, cx))
    }

    pub fn poll_data(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        self.link.with(|core| core.poll_data(self.key, cx))
    }

    /// Whether the peer has ended the stream and all content was taken.
    pub fn has_ended(&self) -> bool {
        self.link.with(|core| core.has_ended(self.key))
    }
}

/// Writes fields, but for those of the kinds in `without`. Names have no capitals in HTTP/2.
pub fn put_fields(block: &mut Block<'_>, fields: &Fields, without: u32) {
    let mut lower = [0; 64];
    for (kind, name, value) in fields.lines() {
        if kind.bit() & (without | OF_HTTP1) != 0 {
            continue;
        }
        if !name.iter().any(u8::is_ascii_uppercase) {
            block.field(name, value);
        } else if let Some(lower) = lower.get_mut(..name.len()) {
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            block.field(lower, value);
        } else {
            block.field(&name.to_ascii_lowercase(), value);
        }
    }
}

/// What a message over HTTP/2 must not have (RFC 9113 section 8.2.2).
const OF_HTTP1: u32 = Kind::Connection.bit() | Kind::TransferEncoding.bit() | Kind::Upgrade.bit();

/// Moves a connection's bytes: the part of its task that both sides have in common.
pub struct Driver {
    pub link: Rc<Link>,
    stream: Stream,
    input: Input,
    section: Section,
    /// Reading has stopped because the output was full.
    stopped: bool,
    /// Grows whenever the peer has said something.
    pub heard: u64,
}

impl Driver {
    /// `input` was read already.
    pub fn new(link: Rc<Link>, stream: Stream, input: Input) -> Self {
        Self {
            link,
            stream,
            input,
            section: Section::default(),
            stopped: false,
            heard: 0,
        }
    }

    /// Begins a turn: until its end nobody has to wake us.
    pub fn begin(&self) {
        self.link.awake.set(true);
    }

    /// Ends a turn in which everything was done that could be. Buffers are lent out again, and
    /// the memory of streams is given back after a `long` time without one.
    pub fn rest(&mut self, cx: &Context<'_>, long: bool) {
        let mut core = self.link.core.borrow_mut();
        core.output.release();
        if long {
            core.release();
        }
        self.input.rest();
        match &mut *self.link.driver.borrow_mut() {
            Some(driver) => driver.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        self.link.awake.set(false);
    }

    /// Whether the beginning of something has come whose end has not, content aside.
    pub fn is_inside_head(&self) -> bool {
        let core = self.link.core.borrow();
        !core.peer.settled || !self.input.is_empty() && !core.is_full() || core.is_inside_block()
    }

    /// Whether that is of a field block.
    pub fn is_inside_fields(&self) -> bool {
        let next = Header::parse(&self.input);
        self.link.core.borrow().is_inside_block()
            || next.is_some_and(|next| next.kind == frame::Kind::Headers)
    }

    /// Takes what has come, reading once from the socket. Heads are handed to `take`.
    ///
    /// # Errors
    /// The connection's end, of which the streams have yet to be told.
    pub fn poll_input(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&Rc<Link>, Head, Section) -> Result<(), Fault>,
    ) -> Poll<Result<(), Broken>> {
        // What was left when the output was full, or had come with the preface.
        self.parse(&mut take).map_err(Broken::Fault)?;
        self.stopped = self.link.core.borrow().is_full();
        if self.stopped {
            return Poll::Pending;
        }
        let mut parsed = false;
        loop {
            match ready!(self.input.poll_fill(cx, &mut self.stream)) {
                // It will be there again, once the streams have seen what came before it.
                Ok(0) if parsed => return Poll::Ready(Ok(())),
                Ok(0) => return Poll::Ready(Err(Broken::Lost(Loss::Closed))),
                Ok(octets) => self.heard += octets as u64,
                Err(error) => return Poll::Ready(Err(Broken::Lost(Loss::of(&error)))),
            }
            self.parse(&mut take).map_err(Broken::Fault)?;
            parsed = true;
            // The rest of the records that came with that read: the more of a stream there is in
            // one turn, the fewer writes carry it on.
            if !self.stream.holds_more() || self.link.core.borrow().is_full() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn parse(
        &mut self,
        take: &mut impl FnMut(&Rc<Link>, Head, Section) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            if self.input.is_empty() {
                return Ok(());
            }
            let section = &mut self.section;
            let head = self
                .link
                .core
                .borrow_mut()
                .receive(&mut self.input, &mut |name, value| {
                    section.field(name, value)
                })?;
            let Some(head) = head else { return Ok(()) };
            let section = std::mem::take(section);
            match head.kind {
                HeadKind::Head => take(&self.link, head, section)?,
                HeadKind::Trailers => self.trailers(head, section)?,
            }
        }
    }

    fn trailers(&self, head: Head, section: Section) -> Result<(), Fault> {
        let trailers = section.trailers(head.cut);
        let mut core = self.link.core.borrow_mut();
        match trailers {
            Ok(trailers) => {
                if let Some(stream) = core.stream(head.key) {
                    stream.mail.trailers = Some(trailers);
                }
                core.finish(head.key);
                Ok(())
            }
            Err(what) => core.malformed(head.key, Code::PROTOCOL_ERROR, what),
        }
    }

    /// Whether reading can go on that had stopped.
    pub fn can_go_on(&self) -> bool {
        self.stopped && !self.link.core.borrow().is_full()
    }

    /// Writes what the streams have to say until nothing can be written any more.
    pub fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.link.core.borrow_mut();
        loop {
            core.fill();
            if core.output.is_empty() {
                return Poll::Ready(Ok(()));
            }
            ready!(core.output.poll_flush(cx, &mut self.stream))?;
        }
    }

    /// Writes what is left, says that nothing follows, and reads on for a while.
    pub async fn close(mut self) {
        farewell::linger(|cx, farewell| {
            ready!(self.poll_output(cx))?;
            farewell.poll(cx, &mut self.stream, &mut self.input)
        })
        .await;
    }
}
