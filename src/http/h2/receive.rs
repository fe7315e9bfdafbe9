//! What has come on a connection, frame by frame (RFC 9113 sections 4 to 6).

use std::mem;

use bytes::{Buf, BytesMut};

use super::{
    connection::{Connection, Leaving, Role},
    frame::{self, Code, Fault, HEADER, Header, Kind, MAX_PAYLOAD, MAX_WINDOW, flag, setting},
    hpack::field_size,
    streams::{Broken, Key},
};

/// A field block that has come and was handed out: what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub key: Key,
    pub kind: HeadKind,
    /// Nothing follows it.
    pub end: bool,
    /// It was larger than is allowed: what was handed out is the beginning of it.
    pub cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// A request, or a response, interim ones too.
    Head,
    /// They are the stream's end once the owner has found nothing wrong with them: see
    /// [`Connection::finish`].
    Trailers,
}

/// What is being read when the input ends inside it.
#[derive(Debug)]
pub(super) enum Reading {
    /// A frame, or nothing yet.
    Frame,
    Data(Data),
    Block(Block),
}

/// The rest of a DATA frame.
#[derive(Debug)]
pub(super) struct Data {
    /// Where it goes, if anywhere.
    key: Option<Key>,
    left: usize,
    padding: usize,
    end: bool,
}

/// A field block whose last frame has not come.
#[derive(Debug)]
pub(super) struct Block {
    stream: u32,
    /// Whom it is for; nobody, where it is decoded for the table alone.
    head: Option<Head>,
    /// What was decoded, counted as the limit is.
    size: usize,
    /// Octets of a field whose end has not come.
    rest: Vec<u8>,
    frames: usize,
}

/// Frames of a field block beyond those that are full.
const SPARE_FRAMES: usize = 16;

impl<M: Default> Connection<M> {
    /// Takes what it can from `input`, up to a field block that the owner has to look at: its
    /// fields were handed to `sink`. `None`: there is no more to take now.
    ///
    /// # Errors
    /// The connection is at its end; see [`Self::end`].
    pub fn receive(
        &mut self,
        input: &mut BytesMut,
        sink: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<Option<Head>, Fault> {
        loop {
            if self.is_full() {
                return Ok(None);
            }
            if matches!(self.reading, Reading::Data(_)) {
                if input.is_empty() {
                    return Ok(None);
                }
                if let Reading::Data(data) = mem::replace(&mut self.reading, Reading::Frame) {
                    self.content(data, input);
                }
                continue;
            }
            let Some(header) = Header::parse(input) else {
                return Ok(None);
            };
            self.check(&header)?;
            if header.kind == Kind::Data {
                // Content goes on before its frame has wholly come.
                let prefix = usize::from(header.has(flag::PADDED) && header.length > 0);
                if input.len() < HEADER + prefix {
                    return Ok(None);
                }
                self.data_frame(&header, input)?;
                continue;
            }
            if input.len() < HEADER + header.length {
                return Ok(None);
            }
            let frame = &input[HEADER..HEADER + header.length];
            let head = match header.kind {
                Kind::Headers => self.headers(&header, frame, sink)?,
                Kind::Continuation => self.continuation(&header, frame, sink)?,
                _ => {
                    self.control(&header, frame)?;
                    None
                }
            };
            input.advance(HEADER + header.length);
            if head.is_some() {
                return Ok(head);
            }
        }
    }

    /// What must hold of every frame.
    fn check(&self, header: &Header) -> Result<(), Fault> {
        if !self.peer.settled && (header.kind != Kind::Settings || header.has(flag::ACK)) {
            return Err(Fault::FOREIGN);
        }
        if header.length > MAX_PAYLOAD {
            return Err(Fault::size("a frame larger than allowed"));
        }
        if let Reading::Block(block) = &self.reading {
            if header.kind != Kind::Continuation || header.stream != block.stream {
                return Err(Fault::protocol("a frame inside a field block"));
            }
        } else if header.kind == Kind::Continuation {
            return Err(Fault::protocol("CONTINUATION of nothing"));
        }
        Ok(())
    }

    /// Faults a frame on a stream that was never opened (section 5.1).
    fn check_opened(&self, id: u32) -> Result<(), Fault> {
        match id {
            0 => Err(Fault::protocol("a frame that needs a stream has none")),
            id if id.is_multiple_of(2) || id > self.last => {
                Err(Fault::protocol("a frame on an idle stream"))
            }
            _ => Ok(()),
        }
    }

    fn data_frame(&mut self, header: &Header, input: &mut BytesMut) -> Result<(), Fault> {
        self.check_opened(header.stream)?;
        if !self.recv_window.receive(header.length) {
            return Err(Fault::new(
                Code::FLOW_CONTROL_ERROR,
                "content beyond the connection's window",
            ));
        }
        let mut data = Data {
            key: None,
            left: header.length,
            padding: 0,
            end: header.has(flag::END_STREAM),
        };
        input.advance(HEADER);
        if header.has(flag::PADDED) {
            if data.left == 0 {
                return Err(Fault::size("DATA too short for its padding"));
            }
            data.padding = usize::from(input.get_u8());
            data.left = (data.left - 1)
                .checked_sub(data.padding)
                .ok_or(Fault::protocol("more padding than payload"))?;
        }
        if data.left > 0 {
            self.debts.empty = self.debts.empty.saturating_sub(1);
        } else if !data.end {
            self.debts.empty += 1;
            if self.debts.empty > super::MAX_EMPTY {
                return Err(Fault::flood("too many empty DATA frames"));
            }
        }
        data.key = self.admit(header, &data)?;
        // What is not content needs no memory.
        let overhead = header.length - data.left;
        match data.key {
            Some(key) => self.give_credit(key, overhead),
            None => self.give_connection_credit(overhead),
        }
        self.content(data, input);
        Ok(())
    }

    /// Where content goes; `None` where nobody wants it, or it is not allowed.
    fn admit(&mut self, header: &Header, data: &Data) -> Result<Option<Key>, Fault> {
        let id = header.stream;
        let Some(key) = self.streams.find(id) else {
            if !self.remembers(id) && self.role == Role::Server {
                // Its state is gone, so that more than this can't be said.
                let code = Code::STREAM_CLOSED.0;
                frame::put_number(self.output.tail(), Kind::RstStream, id, code);
            }
            return Ok(None);
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(None);
        };
        if let Some(broken) = stream.broken {
            if matches!(broken, Broken::Reset(_)) {
                let code = Code::STREAM_CLOSED.0;
                frame::put_number(self.output.tail(), Kind::RstStream, id, code);
            }
            return Ok(None);
        }
        let fault = if stream.got_end {
            Some((Code::STREAM_CLOSED, "content after the end of the stream"))
        } else if !stream.got_head {
            Some((Code::PROTOCOL_ERROR, "content before a head"))
        } else if !stream.recv_window.receive(header.length) {
            Some((
                Code::FLOW_CONTROL_ERROR,
                "content beyond the stream's window",
            ))
        } else if let Some(expected) = &mut stream.expected {
            let left = expected.checked_sub(data.left as u64);
            *expected = left.unwrap_or(0);
            match left {
                None => Some((
                    Code::PROTOCOL_ERROR,
                    "more content than content-length tells",
                )),
                Some(1..) if data.end => Some((Code::PROTOCOL_ERROR, LESS)),
                Some(_) => None,
            }
        } else {
            None
        };
        if let Some((code, what)) = fault {
            self.malformed(key, code, what)?;
            return Ok(None);
        }
        Ok(Some(key))
    }

    /// Takes what has come of a DATA frame.
    fn content(&mut self, mut data: Data, input: &mut BytesMut) {
        let octets = data.left.min(input.len());
        data.left -= octets;
        if octets > 0 {
            match data.key.and_then(|key| self.streams.get_mut(key)) {
                Some(stream) if !stream.unread && stream.broken.is_none() => {
                    stream.inbox.push(input, octets);
                }
                _ => {
                    input.advance(octets);
                    self.give_connection_credit(octets);
                }
            }
        }
        let padding = data.padding.min(input.len());
        data.padding -= padding;
        input.advance(padding);
        let done = data.left + data.padding == 0;
        if let Some(key) = data.key {
            if done && data.end {
                self.ended_there(key);
            }
            self.wake(key);
        }
        if !done {
            self.reading = Reading::Data(data);
        }
    }

    fn headers(
        &mut self,
        header: &Header,
        frame: &[u8],
        sink: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<Option<Head>, Fault> {
        let range = frame::field_block(header, frame)?;
        let head = self.address(header)?;
        let block = Block {
            stream: header.stream,
            head,
            size: 0,
            rest: Vec::new(),
            frames: 0,
        };
        self.fields(block, &frame[range], header.has(flag::END_HEADERS), sink)
    }

    fn continuation(
        &mut self,
        header: &Header,
        frame: &[u8],
        sink: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<Option<Head>, Fault> {
        let Reading::Block(block) = mem::replace(&mut self.reading, Reading::Frame) else {
            return Err(Fault::protocol("CONTINUATION of nothing"));
        };
        self.fields(block, frame, header.has(flag::END_HEADERS), sink)
    }

    /// Decodes one frame's part of a field block.
    fn fields(
        &mut self,
        mut block: Block,
        part: &[u8],
        last: bool,
        sink: &mut impl FnMut(&[u8], &[u8]),
    ) -> Result<Option<Head>, Fault> {
        let limit = self.limits.head;
        block.frames += 1;
        if block.frames > SPARE_FRAMES + limit / 1024 {
            return Err(Fault::flood("a field block in too many frames"));
        }
        let wanted = block.head.is_some();
        let size = &mut block.size;
        let mut sink = |name: &[u8], value: &[u8]| {
            *size += field_size(name, value);
            if wanted && *size <= limit {
                sink(name, value);
            }
        };
        let first = block.frames == 1;
        let decoded = if block.rest.is_empty() {
            self.decoder.decode(part, first, last, &mut sink)
        } else {
            block.rest.extend_from_slice(part);
            self.decoder.decode(&block.rest, first, last, &mut sink)
        };
        let taken = decoded.map_err(|error| Fault::new(Code::COMPRESSION_ERROR, error.0))?;
        if !last {
            if block.rest.is_empty() {
                block.rest.extend_from_slice(&part[taken..]);
            } else {
                block.rest.drain(..taken);
            }
            if block.rest.len() > limit + MAX_PAYLOAD {
                return Err(Fault::flood("a field larger than all may be"));
            }
            self.reading = Reading::Block(block);
            return Ok(None);
        }
        let Some(mut head) = block.head else {
            return Ok(None);
        };
        head.cut = block.size > limit;
        if head.end {
            let less = self
                .streams
                .get(head.key)
                .and_then(|stream| stream.expected);
            if less.is_some_and(|less| less > 0) {
                self.malformed(head.key, Code::PROTOCOL_ERROR, LESS)?;
            } else if head.kind == HeadKind::Head {
                self.ended_there(head.key);
            }
        }
        self.wake(head.key);
        Ok(Some(head))
    }

    /// Whom a field block is for. One for nobody is decoded all the same.
    fn address(&mut self, header: &Header) -> Result<Option<Head>, Fault> {
        let (id, end) = (header.stream, header.has(flag::END_STREAM));
        if id == 0 || id.is_multiple_of(2) {
            return Err(Fault::protocol("HEADERS on no stream of the client's"));
        }
        let head = |key, kind| {
            Ok(Some(Head {
                key,
                kind,
                end,
                cut: false,
            }))
        };
        let Some(key) = self.streams.find(id) else {
            return match self.role {
                Role::Server if id > self.last => {
                    self.last = id;
                    if self.open >= self.limits.streams || self.leaving == Leaving::Last {
                        let code = Code::REFUSED_STREAM.0;
                        frame::put_number(self.output.tail(), Kind::RstStream, id, code);
                        self.remember(id);
                        return Ok(None);
                    }
                    let key = self.insert(id);
                    if let Some(stream) = self.streams.get_mut(key) {
                        stream.got_head = true;
                    }
                    head(key, HeadKind::Head)
                }
                Role::Server if !self.remembers(id) => Err(Fault::new(
                    Code::STREAM_CLOSED,
                    "HEADERS on a stream that is closed",
                )),
                Role::Client if id > self.last => Err(Fault::protocol("HEADERS on an idle stream")),
                _ => Ok(None),
            };
        };
        let Some(stream) = self.streams.get(key) else {
            return Ok(None);
        };
        match stream.broken {
            Some(Broken::Reset(_)) => Err(Fault::new(
                Code::STREAM_CLOSED,
                "HEADERS on a stream that the peer has reset",
            )),
            Some(_) => Ok(None),
            None if stream.got_end => {
                let what = "HEADERS after the end of the stream";
                self.malformed(key, Code::STREAM_CLOSED, what)?;
                Ok(None)
            }
            None if !stream.got_head => head(key, HeadKind::Head),
            None if !end => {
                let what = "a second head, or trailers that don't end the stream";
                self.malformed(key, Code::PROTOCOL_ERROR, what)?;
                Ok(None)
            }
            None => head(key, HeadKind::Trailers),
        }
    }

    fn control(&mut self, header: &Header, frame: &[u8]) -> Result<(), Fault> {
        let id = header.stream;
        match header.kind {
            Kind::Priority => {
                if id == 0 {
                    return Err(Fault::protocol("PRIORITY without a stream"));
                }
                if header.length != 5 {
                    let what = "PRIORITY of a wrong size";
                    return match self.streams.find(id) {
                        Some(key) => self.malformed(key, Code::FRAME_SIZE_ERROR, what),
                        None => Err(Fault::size(what)),
                    };
                }
            }
            Kind::RstStream => {
                let code = Code(frame::number(frame)?);
                self.check_opened(id)?;
                return self.was_reset(id, code);
            }
            Kind::WindowUpdate => return self.window_update(id, frame::number(frame)?),
            Kind::PushPromise => {
                return Err(Fault::protocol("a push that was not asked for"));
            }
            Kind::Settings | Kind::Ping | Kind::GoAway if id != 0 => {
                return Err(Fault::protocol("a frame of the connection on a stream"));
            }
            Kind::Settings if header.has(flag::ACK) => {
                if header.length > 0 {
                    return Err(Fault::size("an acknowledgement with a payload"));
                }
            }
            Kind::Settings => {
                for (identifier, value) in frame::settings(frame)? {
                    self.setting(identifier, value)?;
                }
                self.peer.settled = true;
                frame::put_header(self.output.tail(), 0, Kind::Settings, flag::ACK, 0);
            }
            Kind::Ping => {
                let payload = frame
                    .try_into()
                    .map_err(|_| Fault::size("a PING that is not eight octets"))?;
                if header.has(flag::ACK) {
                    self.ponged(payload);
                } else {
                    frame::put_ping(self.output.tail(), flag::ACK, payload);
                }
            }
            Kind::GoAway => {
                let (last, code) = frame::goaway(frame)?;
                return self.was_left(last, code);
            }
            Kind::Unknown | Kind::Data | Kind::Headers | Kind::Continuation => {}
        }
        Ok(())
    }

    fn was_reset(&mut self, id: u32, code: Code) -> Result<(), Fault> {
        let Some(key) = self.streams.find(id) else {
            return Ok(());
        };
        let unseen = self.streams.get(key).is_some_and(|stream| !stream.seen);
        if unseen && self.role == Role::Server {
            // Rapid reset, CVE-2023-44487.
            self.debts.unseen += 1;
            if self.debts.unseen > super::MAX_UNSEEN_RESETS {
                return Err(Fault::flood("streams are reset as they are opened"));
            }
        }
        self.broke(key, Broken::Reset(code));
        Ok(())
    }

    fn was_left(&mut self, last: u32, code: Code) -> Result<(), Fault> {
        // Section 6.8: it may say so more than once, with ever smaller identifiers.
        let last = self.left.map_or(last, |(before, _)| last.min(before));
        self.left = Some((last, code));
        if self.role == Role::Client {
            for key in self.streams.keys() {
                if key.id > last {
                    self.broke(key, Broken::Unprocessed(code));
                }
            }
        }
        Ok(())
    }

    fn window_update(&mut self, id: u32, increment: u32) -> Result<(), Fault> {
        let increment = increment & MAX_WINDOW;
        if id == 0 {
            if increment == 0 {
                return Err(Fault::protocol("WINDOW_UPDATE of nothing"));
            }
            return self
                .send_window
                .grow(i64::from(increment))
                .map_err(|_| WINDOW_TOO_LARGE);
        }
        self.check_opened(id)?;
        let Some(key) = self.streams.find(id) else {
            return Ok(());
        };
        let Some(stream) = self.streams.get_mut(key) else {
            return Ok(());
        };
        if increment == 0 {
            let what = "WINDOW_UPDATE of nothing";
            return self.malformed(key, Code::PROTOCOL_ERROR, what);
        }
        if stream.send_window.grow(i64::from(increment)).is_err() {
            let fault = WINDOW_TOO_LARGE;
            return self.malformed(key, fault.code, fault.what);
        }
        self.enqueue(key);
        Ok(())
    }

    fn setting(&mut self, identifier: u16, value: u32) -> Result<(), Fault> {
        match identifier {
            setting::HEADER_TABLE_SIZE => self.encoder.resize(value),
            // Section 6.5.2: only a client may allow it.
            setting::ENABLE_PUSH if value > 1 || value == 1 && self.role == Role::Client => {
                return Err(Fault::protocol("ENABLE_PUSH of a wrong value"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                if value > MAX_WINDOW {
                    return Err(WINDOW_TOO_LARGE);
                }
                let change = i64::from(value) - i64::from(self.peer.window);
                self.peer.window = value;
                for stream in self.streams.iter_mut() {
                    stream
                        .send_window
                        .grow(change)
                        .map_err(|_| WINDOW_TOO_LARGE)?;
                }
                if change > 0 {
                    for key in self.streams.keys() {
                        self.enqueue(key);
                    }
                }
            }
            setting::MAX_FRAME_SIZE => {
                let allowed = MAX_PAYLOAD as u32..1 << 24;
                if !allowed.contains(&value) {
                    return Err(Fault::protocol("MAX_FRAME_SIZE of a wrong value"));
                }
                // Larger frames would only let one stream hold up the others.
            }
            setting::ENABLE_CONNECT_PROTOCOL => match value {
                0 | 1 => self.peer.extended_connect = value == 1,
                _ => return Err(Fault::protocol("ENABLE_CONNECT_PROTOCOL of a wrong value")),
            },
            _ => {}
        }
        Ok(())
    }
}

const LESS: &str = "less content than content-length tells";
const WINDOW_TOO_LARGE: Fault =
    Fault::new(Code::FLOW_CONTROL_ERROR, "a window larger than any may be");
