//! An HTTP/2 connection without its socket: what has come goes in as bytes, what is to be sent
//! comes out as bytes, and in between streams live.
//!
//! One type serves both sides. Its owner reads heads and trailers as they are decoded, and keeps
//! what it needs of them with each stream; content waits in the stream until it is taken.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{
    flow::{RecvWindow, SendWindow},
    frame::{self, Code, DEFAULT_WINDOW, Fault, Kind, MAX_STREAM, setting},
    hpack,
    receive::Reading,
    send::{Block, OUTPUT_LIMIT},
    streams::{Broken, Key, Stream, Streams},
};
use crate::http::outbox::Outbox;

/// What waits to be written, beyond which nothing more is read: answers to it would be piled up.
const OUTPUT_FULL: usize = OUTPUT_LIMIT + 32 * 1024;
/// Streams that we have reset and whose frames may still be on their way.
const REMEMBERED: usize = 128;

/// The PING whose answer tells that the peer has heard of our leaving.
const LEAVING: [u8; 8] = *b"leaving!";
const ALIVE: [u8; 8] = *b"alive???";

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What we allow the peer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams open at once; the peer of a client opens none.
    pub streams: u32,
    /// Octets of a header list, as RFC 9113 section 6.5.2 counts them.
    pub head: usize,
    /// What may come on one stream before it was passed on.
    pub stream_window: u32,
    /// And on all of them.
    pub window: u32,
}

/// What the peer has told in its SETTINGS.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Whether it has told anything yet.
    pub settled: bool,
    pub streams: u32,
    /// RFC 8441.
    pub extended_connect: bool,
    pub(super) window: u32,
}

/// How far our own leaving has come (RFC 9113 section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// All that is on its way is still served.
    Announced,
    /// Nothing new is.
    Last,
}

/// What a peer owes us: it grows with what is cheap to ask and dear to answer, and is paid with
/// streams and content that are in order. One that lives on credit alone is sent away.
#[derive(Debug, Default)]
pub(super) struct Debts {
    pub(super) faults: u32,
    pub(super) unseen: u32,
    pub(super) empty: u32,
}

/// A connection; `M` is kept with each stream for the owner.
#[derive(Debug)]
pub struct Connection<M> {
    pub output: Outbox,
    pub peer: Peer,
    pub(super) role: Role,
    pub(super) limits: Limits,
    pub(super) streams: Streams<M>,
    /// Streams that can be sent on, or could.
    pub(super) open: u32,
    pub(super) decoder: hpack::Decoder,
    pub(super) encoder: hpack::Encoder,
    pub(super) send_window: SendWindow,
    pub(super) recv_window: RecvWindow,
    /// What a frame that has not wholly come belongs to.
    pub(super) reading: Reading,
    /// Streams whose content waits only for the connection; each has its turn.
    pub(super) queue: VecDeque<Key>,
    pub(super) debts: Debts,
    /// The largest identifier of the client's streams so far.
    pub(super) last: u32,
    pub(super) leaving: Leaving,
    /// The peer's GOAWAY.
    pub(super) left: Option<(u32, Code)>,
    /// Newest last.
    remembered: VecDeque<u32>,
    pub(super) woken: bool,
}

impl<M: Default> Connection<M> {
    /// A connection that has just begun; its preface is in the output.
    pub fn new(role: Role, limits: Limits) -> Self {
        let mut output = Outbox::default();
        let head = u32::try_from(limits.head).unwrap_or(u32::MAX);
        let out = output.tail();
        match role {
            Role::Client => {
                out.extend_from_slice(crate::http::PREFACE);
                frame::put_settings(
                    out,
                    &[
                        (setting::ENABLE_PUSH, 0),
                        (setting::INITIAL_WINDOW_SIZE, limits.stream_window),
                        (setting::MAX_HEADER_LIST_SIZE, head),
                    ],
                );
            }
            Role::Server => frame::put_settings(
                out,
                &[
                    (setting::MAX_CONCURRENT_STREAMS, limits.streams),
                    (setting::INITIAL_WINDOW_SIZE, limits.stream_window),
                    (setting::MAX_HEADER_LIST_SIZE, head),
                    (setting::ENABLE_CONNECT_PROTOCOL, 1),
                ],
            ),
        }
        let more = limits.window.saturating_sub(DEFAULT_WINDOW);
        if more > 0 {
            frame::put_number(out, Kind::WindowUpdate, 0, more);
        }
        Self {
            output,
            peer: Peer {
                settled: false,
                streams: u32::MAX,
                extended_connect: false,
                window: DEFAULT_WINDOW,
            },
            role,
            limits,
            streams: Streams::new(),
            open: 0,
            decoder: hpack::Decoder::default(),
            encoder: hpack::Encoder::default(),
            send_window: SendWindow::new(DEFAULT_WINDOW),
            recv_window: RecvWindow::new(limits.window.max(DEFAULT_WINDOW)),
            reading: Reading::Frame,
            queue: VecDeque::new(),
            debts: Debts::default(),
            last: 0,
            leaving: Leaving::No,
            left: None,
            remembered: VecDeque::new(),
            woken: false,
        }
    }

    /// Whether the peer does not take what it has brought about: nothing more is to be read.
    pub fn is_full(&self) -> bool {
        self.output.len() >= OUTPUT_FULL
    }

    /// Whether no stream is open or held.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether somebody who waits for a stream was woken since this was last asked.
    pub fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// Whether the beginning of a field block has come and its end has not.
    pub const fn is_inside_block(&self) -> bool {
        matches!(self.reading, Reading::Block(_))
    }

    /// What a client may still do: `None` when the peer, or we, are leaving.
    pub fn room(&self) -> Option<u32> {
        let gone = self.left.is_some() || self.leaving != Leaving::No;
        // The last identifier is for the end.
        let spent = self.last > MAX_STREAM - 4;
        (!gone && !spent).then(|| self.peer.streams.saturating_sub(self.open))
    }

    /// Whether nothing can come of it any more: one side has said that it leaves, and no stream is
    /// left.
    pub fn is_over(&self) -> bool {
        self.is_empty() && (self.left.is_some() || self.leaving == Leaving::Last)
    }

    /// Opens a stream and sends the head of its request. The caller holds the stream.
    pub fn request(&mut self, end: bool, fields: impl FnOnce(&mut Block<'_>)) -> Key {
        debug_assert_eq!(self.role, Role::Client);
        self.last = if self.last == 0 { 1 } else { self.last + 2 };
        let key = self.insert(self.last);
        self.head(key, end, fields);
        key
    }

    pub(super) fn insert(&mut self, id: u32) -> Key {
        self.open += 1;
        let stream = Stream::new(id, self.peer.window, self.limits.stream_window);
        self.streams.insert(stream)
    }

    /// Somebody more holds the stream.
    pub fn hold(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.holders += 1;
        }
    }

    /// Somebody holds it no more. Left by all before its end, it is reset.
    pub fn drop_hold(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        stream.holders = stream.holders.saturating_sub(1);
        if stream.holders > 0 {
            return;
        }
        if !stream.is_closed() {
            // RFC 9113 section 8.1: a server whose response is whole needs no more of the request.
            let whole = self.role == Role::Server && stream.sent_end && !stream.has_waiting();
            let code = if whole { Code::NO_ERROR } else { Code::CANCEL };
            self.reset(key, code);
        }
        self.discard(key);
        if let Some(stream) = self.streams.remove(key)
            && stream.broken.is_none()
        {
            self.debts.faults = self.debts.faults.saturating_sub(1);
            self.debts.unseen = self.debts.unseen.saturating_sub(1);
        }
    }

    /// The stream, to whoever holds it.
    pub fn stream(&mut self, key: Key) -> Option<&mut Stream<M>> {
        self.streams.get_mut(key)
    }

    /// The owner has begun with the stream.
    pub fn seen(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.seen = true;
        }
    }

    /// The final head has come, and told how much content is to follow.
    pub fn expect(&mut self, key: Key, length: Option<u64>) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.got_head = true;
            stream.expected = length;
        }
    }

    /// The trailers that have come are good: what they end is whole.
    pub fn finish(&mut self, key: Key) {
        if self
            .streams
            .get(key)
            .is_some_and(|stream| !stream.is_closed())
        {
            self.ended_there(key);
            self.wake(key);
        }
    }

    /// Ready when the stream has been broken off.
    pub fn poll_broken(&mut self, key: Key, cx: &Context<'_>) -> Poll<Broken> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Poll::Ready(Broken::GivenUp);
        };
        if let Some(broken) = stream.broken {
            return Poll::Ready(broken);
        }
        stream.wait(cx);
        Poll::Pending
    }

    /// The next piece of content; `None` at its end. The peer gets credit for what is taken.
    pub fn poll_data(&mut self, key: Key, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Poll::Ready(Some(Err(Broken::GivenUp)));
        };
        if let Some(data) = stream.inbox.pop() {
            self.give_credit(key, data.len());
            return Poll::Ready(Some(Ok(data)));
        }
        match stream.broken {
            _ if stream.got_end => Poll::Ready(None),
            Some(broken) => Poll::Ready(Some(Err(broken))),
            None => {
                stream.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Whether the peer has ended the stream and all content was taken.
    pub fn has_ended(&self, key: Key) -> bool {
        self.streams
            .get(key)
            .is_none_or(|stream| stream.got_end && stream.inbox.is_empty())
    }

    /// Nobody will read the content, nor what is still to come of it.
    pub fn discard(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.unread = true;
            let octets = stream.inbox.clear();
            self.give_credit(key, octets);
        }
    }

    /// Ends the stream unfinished.
    pub fn reset(&mut self, key: Key, code: Code) {
        self.break_off(key, code, Broken::GivenUp);
    }

    /// The same for a fault of the peer's in this stream. Peers that do nothing else are sent away.
    ///
    /// # Errors
    /// It was one fault too many.
    pub fn malformed(&mut self, key: Key, code: Code, what: &'static str) -> Result<(), Fault> {
        self.break_off(key, code, Broken::Malformed(what));
        self.fault()
    }

    /// Counts a fault of the peer's that was answered in another way.
    ///
    /// # Errors
    /// It was one fault too many.
    pub fn fault(&mut self) -> Result<(), Fault> {
        self.debts.faults += 1;
        if self.debts.faults > super::MAX_FAULTS {
            return Err(Fault::flood("too many streams with faults"));
        }
        Ok(())
    }

    fn break_off(&mut self, key: Key, code: Code, broken: Broken) {
        let Some(stream) = self.streams.get(key) else {
            return;
        };
        if stream.is_closed() {
            return;
        }
        frame::put_number(self.output.tail(), Kind::RstStream, key.id, code.0);
        self.remember(key.id);
        self.broke(key, broken);
    }

    /// The stream has come to a bad end.
    pub(super) fn broke(&mut self, key: Key, broken: Broken) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if !stream.is_closed() {
            self.open -= 1;
        }
        stream.broken.get_or_insert(broken);
        stream.waiting = Bytes::new();
        stream.waiting_end = false;
        self.woken |= stream.wake();
        // A message that came whole may still be read.
        if !stream.got_end {
            let octets = stream.inbox.clear();
            self.give_credit(key, octets);
        }
    }

    pub(super) fn remember(&mut self, id: u32) {
        if self.remembered.len() == REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back(id);
    }

    /// Whether we have reset a stream that is gone.
    pub(super) fn remembers(&self, id: u32) -> bool {
        self.remembered.contains(&id)
    }

    /// We have said the stream's end.
    pub(super) fn ended_here(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.sent_end = true;
            if stream.is_closed() {
                self.open -= 1;
            }
        }
    }

    /// The peer has.
    pub(super) fn ended_there(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.got_end = true;
            if stream.is_closed() {
                self.open -= 1;
            }
        }
    }

    pub(super) fn wake(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            self.woken |= stream.wake();
        }
    }

    /// Tells the peer that it may send so much more.
    pub(super) fn give_credit(&mut self, key: Key, octets: usize) {
        if octets == 0 {
            return;
        }
        self.give_connection_credit(octets);
        if let Some(stream) = self.streams.get_mut(key)
            && !stream.got_end
            && stream.broken.is_none()
            && let Some(credit) = stream.recv_window.release(octets)
        {
            frame::put_number(self.output.tail(), Kind::WindowUpdate, key.id, credit);
        }
    }

    pub(super) fn give_connection_credit(&mut self, octets: usize) {
        if let Some(credit) = self.recv_window.release(octets) {
            frame::put_number(self.output.tail(), Kind::WindowUpdate, 0, credit);
        }
    }

    /// Asks the peer whether it is there.
    pub fn ping(&mut self) {
        frame::put_ping(self.output.tail(), 0, ALIVE);
    }

    pub(super) fn ponged(&mut self, payload: [u8; 8]) {
        if payload == LEAVING && self.leaving == Leaving::Announced {
            self.leave_now();
        }
    }

    /// The first step of leaving: no stream that is on its way will be lost. The second follows
    /// when the peer must have heard of it.
    pub fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Announced;
            let out = self.output.tail();
            frame::put_goaway(out, MAX_STREAM, Code::NO_ERROR);
            frame::put_ping(out, 0, LEAVING);
        }
    }

    /// The second step: streams that have come are the last.
    pub fn leave_now(&mut self) {
        if self.leaving != Leaving::Last {
            self.leaving = Leaving::Last;
            self.say_goaway(Code::NO_ERROR);
        }
    }

    fn say_goaway(&mut self, code: Code) {
        let last = if self.role == Role::Server {
            self.last
        } else {
            0
        };
        frame::put_goaway(self.output.tail(), last, code);
    }

    /// The connection has ended, and every stream with it. A peer that is at fault is told.
    pub fn end(&mut self, broken: Broken) {
        if let Broken::Fault(fault) = broken {
            self.say_goaway(fault.code);
        }
        self.leaving = Leaving::Last;
        for key in self.streams.keys() {
            self.broke(key, broken);
        }
    }

    /// Gives back memory that was needed for streams, where there is none.
    pub fn release(&mut self) {
        self.streams.release();
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }
}
