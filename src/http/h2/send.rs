//! What leaves a connection by its streams: field blocks, and content as far as windows allow, a
//! frame of each stream in its turn.

use std::{
    cell::RefCell,
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{
    connection::Connection,
    frame::{self, Kind, MAX_PAYLOAD, flag},
    hpack,
    streams::{Broken, Key},
};

/// What waits to be written, beyond which no more content is added to it.
pub(super) const OUTPUT_LIMIT: usize = 64 * 1024;

/// A field block that has grown past this leaves no room behind.
const KEEP: usize = 16 * 1024;

thread_local! {
    /// A worker's room for the field block that is being written, by one connection at a time.
    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<M: Default> Connection<M> {
    /// Sends a head, or an interim one, or trailers.
    pub fn head(&mut self, key: Key, end: bool, fields: impl FnOnce(&mut Block<'_>)) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.broken.is_some() || stream.sent_end {
            return;
        }
        debug_assert!(!stream.has_waiting());
        BLOCK.with_borrow_mut(|block| {
            block.clear();
            self.encoder.begin(block);
            let encoder = &mut self.encoder;
            fields(&mut Block { block, encoder });
            self.put_block(key, end, block);
            if block.capacity() > KEEP {
                *block = Vec::new();
            }
        });
        if end {
            self.ended_here(key);
        }
    }

    /// Cuts a field block into as many frames as it needs.
    fn put_block(&mut self, key: Key, end: bool, mut block: &[u8]) {
        let mut kind = Kind::Headers;
        let mut flags = if end { flag::END_STREAM } else { 0 };
        loop {
            let (piece, rest) = block.split_at(block.len().min(MAX_PAYLOAD));
            if rest.is_empty() {
                flags |= flag::END_HEADERS;
            }
            let out = self.output.tail();
            frame::put_header(out, piece.len(), kind, flags, key.id);
            out.extend_from_slice(piece);
            if rest.is_empty() {
                return;
            }
            (block, kind, flags) = (rest, Kind::Continuation, 0);
        }
    }

    /// Sends content, and the stream's end behind it. What no window is open for waits: ask
    /// [`Self::poll_sent`] before there may be more.
    pub fn data(&mut self, key: Key, data: Bytes, end: bool) {
        let Some(stream) = self.streams.get_mut(key) else {
            return;
        };
        if stream.broken.is_some() || stream.sent_end {
            return;
        }
        debug_assert!(!stream.has_waiting());
        stream.waiting = data;
        stream.waiting_end = end;
        // An end alone needs neither window nor turn.
        if self.queue.is_empty() || stream.waiting.is_empty() {
            while self.send_frame(key) {}
        }
        self.enqueue(key);
    }

    /// Ready when nothing waits to be sent on the stream.
    pub fn poll_sent(&mut self, key: Key, cx: &Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Poll::Ready(Err(Broken::GivenUp));
        };
        if let Some(broken) = stream.broken {
            return Poll::Ready(Err(broken));
        }
        if stream.has_waiting() {
            stream.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends one frame of what waits on a stream; false if that is not possible now.
    fn send_frame(&mut self, key: Key) -> bool {
        let Some(stream) = self.streams.get_mut(key) else {
            return false;
        };
        let windows = stream.send_window.left().min(self.send_window.left());
        let octets = stream.waiting.len().min(windows).min(MAX_PAYLOAD);
        let full = octets == 0 || self.output.len() >= OUTPUT_LIMIT;
        if !stream.has_waiting() || full && !stream.waiting.is_empty() {
            return false;
        }
        let data = stream.waiting.split_to(octets);
        let end = stream.waiting_end && stream.waiting.is_empty();
        stream.send_window.spend(octets);
        self.send_window.spend(octets);
        let flags = if end { flag::END_STREAM } else { 0 };
        frame::put_header(self.output.tail(), octets, Kind::Data, flags, key.id);
        self.output.data(data);
        if end {
            stream.waiting_end = false;
            self.ended_here(key);
        }
        true
    }

    /// Puts a stream into the queue if only the connection keeps it from sending.
    pub(super) fn enqueue(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key)
            && !stream.queued
            && stream.has_waiting()
            && stream.send_window.left() > 0
        {
            stream.queued = true;
            self.queue.push_back(key);
        }
    }

    /// Fills the output with what waits on the streams, a frame of each in its turn, and wakes
    /// those that have nothing more to send.
    pub fn fill(&mut self) {
        while self.output.len() < OUTPUT_LIMIT
            && let Some(key) = self.queue.pop_front()
        {
            let sent = self.send_frame(key);
            let Some(stream) = self.streams.get_mut(key) else {
                continue;
            };
            stream.queued = false;
            if !stream.has_waiting() {
                self.woken |= stream.wake();
            } else if sent {
                self.enqueue(key);
            } else if stream.send_window.left() > 0 {
                // It is the connection's window that is closed: the stream keeps its place.
                stream.queued = true;
                self.queue.push_front(key);
                return;
            }
        }
    }
}

/// A field block being written.
pub struct Block<'a> {
    block: &'a mut Vec<u8>,
    encoder: &'a mut hpack::Encoder,
}

impl Block<'_> {
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        self.encoder.field(self.block, name, value);
    }
}
