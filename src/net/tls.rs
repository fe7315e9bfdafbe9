//! A socket that carries TLS records.
//!
//! rustls decides and encrypts; the bytes are ours: records are read many at a time into a lent
//! buffer, decrypted where they lie, and written from one buffer that all connections of a worker
//! share. A connection at rest holds neither.

use std::{
    cell::RefCell,
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use rustls::{
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;
use crate::{http::input::Input, tls::Leash};

/// The header of a record: its type, the version of old and its length (RFC 8446 section 5.1).
const HEADER: usize = 5;
/// Content of the longest record.
const FRAGMENT: usize = 16 * 1024;
/// Most plaintext that is encrypted at once: 64 KiB of content and the frames around it.
const BATCH: usize = 5 * FRAGMENT;
/// What a record adds to its content: header, type, and a tag or, in TLS 1.2, also a nonce.
const OVERHEAD: usize = 64;

thread_local! {
    /// Where every connection of this worker encrypts. What the socket doesn't take at once is
    /// kept with the connection.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH + 6 * OVERHEAD]);
    /// Where the pieces of a vectored write are put together.
    static GATHER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One side of a TLS connection.
pub enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// TLS over a socket, after or during its handshake.
pub struct TlsStream {
    socket: Stream,
    session: Session,
    /// Ciphertext that was read, from the beginning of a record.
    input: Input,
    /// What is left of a record that its reader had too little room for.
    plain: BytesMut,
    /// Ciphertext that the socket has not taken yet.
    output: BytesMut,
    /// Plaintext in `output` that its writer was not told of yet.
    accepted: usize,
    ended: bool,
    /// The session has failed and is not to be asked again: it would look for what it had in
    /// bytes that are gone.
    broken: bool,
    /// The first flight, which waits for nobody, or for what was read already, is on its way.
    begun: bool,
    /// Ends the connection when its trust or its time is over.
    leash: Option<Rc<Leash>>,
}

/// How far a session got with what it has.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Content came.
    Plain,
    /// Nothing more can be done before bytes come.
    Hungry,
    /// The peer said that it sends no more.
    Ended,
    /// What was to be said is in so many bytes of records.
    Said(usize),
}

/// What is to be said when all that has come is worked through.
enum Say<'a> {
    Nothing,
    /// The first, in records that are put into the second.
    Content(&'a [u8], &'a mut [u8]),
    /// `close_notify` (RFC 8446 section 6.1).
    Goodbye,
}

macro_rules! with_session {
    ($self:expr, $session:ident => $call:expr) => {
        match $self {
            Session::Client($session) => $call,
            Session::Server($session) => $call,
        }
    };
}

/// Marks the session as failed, and takes from it the alert that tells the peer why.
macro_rules! give_up {
    ($session:ident, $output:ident, $broken:ident, $error:ident) => {{
        *$broken = true;
        while $session.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                $session.process_tls_records(&mut []).state
        {
            encode($output, |room| data.encode(room))?;
        }
        of_rustls($error)
    }};
}

impl Session {
    /// The common half: what was negotiated, and with whom.
    pub fn state(&self) -> &rustls::CommonState {
        with_session!(self, session => session)
    }
}

impl TlsStream {
    /// `socket` has not said anything yet, but what is in `input`.
    pub fn new(socket: Stream, session: Session, input: Input) -> Self {
        Self {
            begun: matches!(session, Session::Server(_)) && input.is_empty(),
            socket,
            session,
            input,
            plain: BytesMut::new(),
            output: BytesMut::new(),
            accepted: 0,
            ended: false,
            broken: false,
            leash: None,
        }
    }

    pub fn leash(&self) -> Option<&Rc<Leash>> {
        self.leash.as_ref()
    }

    pub const fn session(&self) -> &Session {
        &self.session
    }

    pub const fn socket(&self) -> &Stream {
        &self.socket
    }

    /// From now on the connection can be ended from outside.
    pub fn put_on(&mut self, leash: Rc<Leash>) {
        self.leash = Some(leash);
    }

    /// Ready when the handshake can go on: what we had to say is said, and the peer has answered.
    pub fn poll_next_flight(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if std::mem::replace(&mut self.begun, true) {
            let read = ready!(self.input.poll_fill(cx, &mut self.socket));
            self.fill(read)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Works through one flight of the handshake, which is the costly part of it; whether it is
    /// over. What is to be said is still to be [written](Self::poll_drain), also after an error.
    pub fn take_flight(&mut self) -> io::Result<bool> {
        loop {
            match self.step(&mut keep, &mut Say::Nothing)? {
                Step::Plain => {}
                Step::Ended if self.session.state().is_handshaking() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                // All it has to say came with the end of its handshake.
                Step::Ended => self.ended = true,
                Step::Hungry | Step::Said(_) => return Ok(!self.session.state().is_handshaking()),
            }
        }
    }

    /// Ready when a read would not wait for the peer.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_cut() || self.ended || self.holds_more() {
            return Poll::Ready(Ok(()));
        }
        self.heed(cx);
        self.socket.poll_readable(cx)
    }

    /// Whether nothing has come in but what belongs to TLS itself.
    pub fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        // Nobody waits on a connection at rest: there is no waker that this could displace.
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut buf).is_pending()
    }

    /// Whether a read would give content that has come already.
    pub fn holds_more(&self) -> bool {
        !self.plain.is_empty() || self.has_record()
    }

    /// Whether a whole record waits to be decrypted.
    fn has_record(&self) -> bool {
        let input = &self.input[..];
        input.len() >= HEADER
            && input.len() >= HEADER + usize::from(u16::from_be_bytes([input[3], input[4]]))
    }

    fn is_cut(&self) -> bool {
        self.leash.as_ref().is_some_and(|leash| leash.is_cut())
    }

    /// Whoever cuts the connection wakes this task.
    fn heed(&self, cx: &Context<'_>) {
        if let Some(leash) = &self.leash {
            leash.heed(cx.waker());
        }
    }

    /// An end of the stream that TLS did not announce is a cut (RFC 8446 section 6.1).
    fn fill(&mut self, read: io::Result<usize>) -> io::Result<()> {
        match read? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Works through what was read, up to the first content. `take` gets it, and a place for what
    /// it has no use for now.
    fn step(
        &mut self,
        take: &mut dyn FnMut(&[u8], &mut BytesMut),
        say: &mut Say<'_>,
    ) -> io::Result<Step> {
        let Self {
            session,
            input,
            plain,
            output,
            broken,
            ..
        } = self;
        if *broken {
            return Err(io::ErrorKind::InvalidData.into());
        }
        with_session!(session, session => loop {
            let UnbufferedStatus { mut discard, state } = session.process_tls_records(&mut input[..]);
            let mut step = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    if let Some(record) = traffic.next_record() {
                        let record = record.map_err(of_rustls)?;
                        discard += record.discard;
                        take(record.payload, plain);
                        step = Some(Step::Plain);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(output, |room| data.encode(room))?,
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => step = Some(Step::Ended),
                Ok(ConnectionState::BlockedHandshake) => step = Some(Step::Hungry),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    step = Some(match say {
                        Say::Nothing => Step::Hungry,
                        Say::Content(content, into) => {
                            Step::Said(traffic.encrypt(content, into).map_err(unencrypted)?)
                        }
                        Say::Goodbye => {
                            let mut room = [0; 2 * OVERHEAD];
                            let length = traffic.queue_close_notify(&mut room).unwrap_or(0);
                            output.extend_from_slice(&room[..length]);
                            Step::Said(length)
                        }
                    });
                }
                // No session here allows early data.
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(error) => return Err(give_up!(session, output, broken, error)),
            }
            input.advance(discard);
            if let Some(step) = step {
                if input.is_empty() {
                    input.release();
                }
                return Ok(step);
            }
        })
    }

    /// Writes ciphertext until none is left.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        self.output = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Takes what it can of `data`, once what was taken before has left.
    fn poll_accept(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<()>> {
        if self.is_cut() {
            return Poll::Ready(Err(io::Error::other(Cut)));
        }
        ready!(self.poll_drain(cx))?;
        Poll::Ready(self.encrypt(cx, data))
    }

    /// Ready when what was taken of a writer's `length` bytes has left.
    fn poll_accepted(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        if self.is_cut() {
            return Poll::Ready(Err(io::Error::other(Cut)));
        }
        self.heed(cx);
        ready!(self.poll_drain(cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.accepted).min(length)))
    }

    /// Encrypts what it can of `data` and begins to write it.
    fn encrypt(&mut self, cx: &mut Context<'_>, data: &[u8]) -> io::Result<()> {
        let data = &data[..data.len().min(BATCH)];
        SCRATCH.with_borrow_mut(|scratch| {
            let length = self.say(Say::Content(data, scratch))?;
            self.accepted = data.len();
            let sealed = &scratch[..length];
            // Behind what TLS itself may have had to say meanwhile.
            let written = match self.output.is_empty() {
                false => 0,
                true => match Pin::new(&mut self.socket).poll_write(cx, sealed) {
                    Poll::Ready(written) => written?,
                    Poll::Pending => 0,
                },
            };
            self.output.extend_from_slice(&sealed[written..]);
            Ok(())
        })
    }

    /// Says it, as soon as all that came before is worked through. Content that came meanwhile is
    /// kept for its reader.
    fn say(&mut self, mut say: Say<'_>) -> io::Result<usize> {
        loop {
            match self.step(&mut keep, &mut say)? {
                Step::Said(length) => return Ok(length),
                Step::Plain => {}
                // Once is the peer's end; the second time it is ours.
                Step::Ended if !std::mem::replace(&mut self.ended, true) => {}
                Step::Ended | Step::Hungry => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }
}

fn keep(content: &[u8], rest: &mut BytesMut) {
    rest.extend_from_slice(content);
}

fn unencrypted(error: EncryptError) -> io::Error {
    match error {
        EncryptError::InsufficientSize(_) => io::ErrorKind::OutOfMemory.into(),
        EncryptError::EncryptExhausted => io::ErrorKind::ConnectionAborted.into(),
    }
}

/// As [`tls::Fault::of_io`](crate::tls::Fault::of_io) takes it apart.
fn of_rustls(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The connection was ended because its identity or its trust was.
#[derive(Debug, thiserror::Error)]
#[error("a certificate or the trust that the connection was made with has come to its end")]
pub struct Cut;

impl Cut {
    /// Whether that is what a stream's error says.
    pub fn is_in(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|error| error.is::<Self>())
    }
}

/// Appends what rustls has to say.
fn encode(
    output: &mut BytesMut,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> io::Result<()> {
    let start = output.len();
    let mut room = 1024;
    loop {
        output.resize(start + room, 0);
        match encode(&mut output[start..]) {
            Ok(length) => {
                output.truncate(start + length);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(error)) if error.required_size > room => {
                room = error.required_size;
            }
            Err(error) => {
                output.truncate(start);
                return Err(io::Error::other(error));
            }
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_cut() {
            return Poll::Ready(Err(io::Error::other(Cut)));
        }
        let start = buf.filled().len();
        loop {
            if !this.plain.is_empty() {
                let length = this.plain.len().min(buf.remaining());
                buf.put_slice(&this.plain[..length]);
                this.plain.advance(length);
                if this.plain.is_empty() {
                    this.plain = BytesMut::new();
                }
            }
            if this.ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut take = |content: &[u8], rest: &mut BytesMut| {
                let (now, later) = content.split_at(content.len().min(buf.remaining()));
                buf.put_slice(now);
                rest.extend_from_slice(later);
            };
            let step = this.step(&mut take, &mut Say::Nothing);
            if !this.output.is_empty() {
                // An answer to the peer's change of keys, or the alert that goes with an error.
                let _ = this.poll_drain(cx)?;
            }
            match step? {
                // One after the other, as long as they are here.
                Step::Plain | Step::Said(_) => {}
                Step::Ended => this.ended = true,
                Step::Hungry if buf.filled().len() > start => return Poll::Ready(Ok(())),
                Step::Hungry => {
                    this.heed(cx);
                    let read = ready!(this.input.poll_fill(cx, &mut this.socket));
                    this.fill(read)?;
                }
            }
        }
    }
}

/// A write that is pending has to be repeated with the same bytes in front, as all of ours are:
/// they have become records already.
impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.accepted == 0 && !data.is_empty() {
            ready!(this.poll_accept(cx, data))?;
        }
        this.poll_accepted(cx, data.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if this.accepted == 0 && length > 0 {
            let first = slices.iter().find(|slice| !slice.is_empty());
            match first.filter(|first| first.len() >= length.min(BATCH)) {
                Some(first) => ready!(this.poll_accept(cx, first))?,
                // A copy costs less than a record, and a write, for each piece.
                None => ready!(GATHER.with_borrow_mut(|gathered| {
                    gathered.clear();
                    for slice in slices {
                        let room = BATCH - gathered.len();
                        gathered.extend_from_slice(&slice[..slice.len().min(room)]);
                    }
                    this.poll_accept(cx, gathered)
                }))?,
            }
        }
        this.poll_accepted(cx, length)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    /// Says `close_notify` (RFC 8446 section 6.1), then closes the socket's sending half.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        // Where the session has broken, nobody would believe it.
        drop(this.say(Say::Goodbye));
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}
