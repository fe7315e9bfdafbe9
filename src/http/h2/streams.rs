//! The streams of a connection: where each of them is kept, and what is known of it.

use std::{
    collections::VecDeque,
    fmt,
    task::{Context, Waker},
};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    flow::{RecvWindow, SendWindow},
    frame::{Code, Fault},
};
use crate::net::Loss;

/// Where a stream is. It stays good for as long as somebody holds the stream, and leads to
/// nothing after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    index: u32,
    pub id: u32,
}

/// Why a stream has no good end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The peer reset it.
    Reset(Code),
    /// We did, for what the peer had sent.
    Malformed(&'static str),
    /// We did, since nobody wanted it any more.
    GivenUp,
    /// The peer went away and will not look at it.
    Unprocessed(Code),
    /// The peer broke the protocol on the connection.
    Fault(Fault),
    /// The connection has ended, with an error or without.
    Lost(Loss),
    /// The peer does not answer.
    Silent,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(code) => write!(f, "the peer reset the stream: {code}"),
            Self::Malformed(what) => f.write_str(what),
            Self::GivenUp => f.write_str("the stream was given up"),
            Self::Unprocessed(code) => write!(f, "the peer goes away: {code}"),
            Self::Fault(fault) => fault.fmt(f),
            Self::Lost(loss) => loss.fmt(f),
            Self::Silent => f.write_str("the peer answers no PING"),
        }
    }
}

impl std::error::Error for Broken {}

/// One stream. `M` is what its owner keeps with it.
#[derive(Debug)]
pub struct Stream<M> {
    pub(super) id: u32,
    pub(super) send_window: SendWindow,
    pub(super) recv_window: RecvWindow,
    /// We have sent END_STREAM.
    pub(super) sent_end: bool,
    /// The peer has.
    pub(super) got_end: bool,
    /// The final head has come: what follows is content.
    pub(super) got_head: bool,
    /// It stands in the connection's queue of those that can send.
    pub(super) queued: bool,
    /// Content goes nowhere: nobody reads it any more.
    pub(super) unread: bool,
    /// The owner has looked at it.
    pub(super) seen: bool,
    /// Who holds it.
    pub(super) holders: u8,
    pub(super) broken: Option<Broken>,
    /// Content that still has to come, where the head told.
    pub(super) expected: Option<u64>,
    pub(super) inbox: Inbox,
    /// Content that waits for a window, and whether the end follows it.
    pub(super) waiting: Bytes,
    pub(super) waiting_end: bool,
    waker: Option<Waker>,
    pub mail: M,
}

impl<M: Default> Stream<M> {
    pub(super) fn new(id: u32, send_window: u32, recv_window: u32) -> Self {
        Self {
            id,
            send_window: SendWindow::new(send_window),
            recv_window: RecvWindow::new(recv_window),
            sent_end: false,
            got_end: false,
            got_head: false,
            queued: false,
            unread: false,
            seen: false,
            holders: 0,
            broken: None,
            expected: None,
            inbox: Inbox::default(),
            waiting: Bytes::new(),
            waiting_end: false,
            waker: None,
            mail: M::default(),
        }
    }
}

impl<M> Stream<M> {
    /// Whether nothing can be sent either way (RFC 9113 section 5.1).
    pub(super) const fn is_closed(&self) -> bool {
        self.broken.is_some() || self.sent_end && self.got_end
    }

    /// Whether there is content, or an end, that waits to be sent.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.waiting_end
    }

    /// The one task that both halves live in is to be woken.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// True if somebody waited.
    pub(super) fn wake(&mut self) -> bool {
        let waker = self.waker.take();
        let waited = waker.is_some();
        if let Some(waker) = waker {
            waker.wake();
        }
        waited
    }
}

/// Content that has come and was not yet taken. Small pieces are put together: what lies here
/// costs not much more than its octets, however they were cut into frames.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pieces: VecDeque<Bytes>,
    small: BytesMut,
    len: usize,
}

/// Pieces from this size on are kept as they lie in the buffer that they were read into, which
/// then stays with them.
const LARGE: usize = 2 * 1024;

impl Inbox {
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the first octets of `input`.
    pub(super) fn push(&mut self, input: &mut BytesMut, octets: usize) {
        self.len += octets;
        if octets < LARGE {
            self.small.extend_from_slice(&input[..octets]);
            return input.advance(octets);
        }
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
        self.pieces.push_back(input.split_to(octets).freeze());
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let piece = match self.pieces.pop_front() {
            Some(piece) => piece,
            None if self.small.is_empty() => return None,
            None => std::mem::take(&mut self.small).freeze(),
        };
        self.len -= piece.len();
        Some(piece)
    }

    /// Drops it all and tells how much it was.
    pub(super) fn clear(&mut self) -> usize {
        std::mem::take(self).len
    }
}

/// All streams of a connection that are open, or held by somebody.
#[derive(Debug)]
pub(super) struct Streams<M> {
    slots: Vec<Option<Stream<M>>>,
    free: Vec<u32>,
    /// By identifier: new ones are larger than all before, so that this stays in order by itself.
    order: Vec<Key>,
}

impl<M: Default> Streams<M> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            order: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Adds a stream whose identifier is above all others.
    pub(super) fn insert(&mut self, stream: Stream<M>) -> Key {
        debug_assert!(self.order.last().is_none_or(|last| last.id < stream.id));
        let id = stream.id;
        if self.slots.capacity() == 0 {
            // Many connections never have a second one.
            self.slots.reserve_exact(1);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // Streams are limited to far fewer than 2^32.
            self.slots.len() as u32 - 1
        });
        let key = Key { index, id };
        self.slots[index as usize] = Some(stream);
        self.order.push(key);
        key
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Stream<M>> {
        self.get(key)?;
        let at = self.order.binary_search_by_key(&key.id, |key| key.id);
        self.order.remove(at.ok()?);
        self.free.push(key.index);
        self.slots[key.index as usize].take()
    }

    pub(super) fn find(&self, id: u32) -> Option<Key> {
        let at = self.order.binary_search_by_key(&id, |key| key.id).ok()?;
        Some(self.order[at])
    }

    pub(super) fn get(&self, key: Key) -> Option<&Stream<M>> {
        let stream = self.slots.get(key.index as usize)?.as_ref()?;
        (stream.id == key.id).then_some(stream)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Stream<M>> {
        let stream = self.slots.get_mut(key.index as usize)?.as_mut()?;
        (stream.id == key.id).then_some(stream)
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.order.clone()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream<M>> {
        self.slots.iter_mut().flatten()
    }

    /// Gives the memory back where no stream is left.
    pub(super) fn release(&mut self) {
        if self.order.is_empty() && self.slots.capacity() > 0 {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_removed_streams_lead_nowhere() {
        let mut streams = Streams::<()>::new();
        let first = streams.insert(Stream::new(1, 0, 0));
        let second = streams.insert(Stream::new(5, 0, 0));
        assert_eq!(streams.find(5), Some(second));
        assert!(streams.remove(first).is_some() && streams.remove(first).is_none());
        let third = streams.insert(Stream::new(7, 0, 0));
        assert_eq!(third.index, first.index);
        assert!(streams.get(first).is_none() && streams.get(third).is_some());
        assert_eq!((streams.find(1), streams.find(6)), (None, None));
        assert_eq!(streams.keys(), [second, third]);
        for key in streams.keys() {
            streams.remove(key);
        }
        streams.release();
        assert!(streams.is_empty() && streams.slots.capacity() == 0);
    }

    #[test]
    fn content_comes_out_as_it_went_in() {
        let mut inbox = Inbox::default();
        let mut all = Vec::new();
        for size in [1, 2, 3, LARGE, LARGE + 1, 5, 6, LARGE - 1, 4 * LARGE] {
            let piece = vec![size as u8; size];
            all.extend_from_slice(&piece);
            let mut input = BytesMut::from(&piece[..]);
            input.extend_from_slice(b"rest");
            inbox.push(&mut input, size);
            assert_eq!(input, b"rest"[..]);
        }
        let mut got = Vec::new();
        while let Some(piece) = inbox.pop() {
            got.extend_from_slice(&piece);
        }
        assert!(got == all && inbox.is_empty());
    }
}
