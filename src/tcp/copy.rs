//! Bytes both ways between two streams, until both have said that they send no more.
//!
//! A connection that rests holds no buffer: what is read lands on the stack and is written from
//! there; only what the other side does not take at once is kept, and nothing more is read from its
//! sender until it is gone. What comes in bulk from one socket for another stays in the kernel.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, ReadBuf};

use super::patience::{IdleTimer, Moment, Patience};
use crate::net::{
    ByteStream, Stream,
    pipe::{self, Pipe},
};

/// Reads begin with at most this many bytes,
const SMALL_READ: usize = 8 * 1024;
/// and grow to this while they come back full; then pipes take over where there are some.
const LARGE_READ: usize = 64 * 1024;
/// Bytes of one direction before others get their turn.
const TURN: usize = 1024 * 1024;

/// What was carried so far: also known when the carrying is cut by dropping it.
#[derive(Debug, Default)]
pub struct Carried {
    /// Bytes from `a` that `b` took, and the other way round; leftovers count.
    pub a_to_b: Cell<u64>,
    pub b_to_a: Cell<u64>,
}

#[derive(Debug)]
pub enum End {
    /// Both sides have sent all they wanted to.
    Closed,
    /// Nothing happened for too long; one side may have said before that it sends no more.
    Idle { half_closed: bool },
    /// This side could not be read from.
    Failed(Side, io::Error),
    /// This side took no more bytes; what it had to say itself was carried.
    Refused(Side, io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

/// Bytes that were read from a side before, and go to the other first.
#[derive(Debug, Default)]
pub struct Leftovers {
    pub from_a: Bytes,
    pub from_b: Bytes,
}

/// Carries bytes both ways. The end of one direction is passed on and leaves the other one open. A
/// side that does not take bytes any more may still have an answer to give: that is carried to its
/// end before the failure is reported; a side that can't be read from any more ends it at once.
/// The caller closes both sides when it is over: a socket whose sender ends last is told by that.
/// Sockets that stay open have their silent peers probed.
pub async fn copy_counted<A, B>(
    a: &mut A,
    b: &mut B,
    leftovers: Leftovers,
    patience: Patience,
    carried: &Carried,
) -> End
where
    A: ByteStream,
    B: ByteStream,
{
    let mut forth = Direction::new(leftovers.from_a, &carried.a_to_b);
    let mut back = Direction::new(leftovers.from_b, &carried.b_to_a);
    let mut timer = pin!(IdleTimer::new(patience));
    poll_fn(|cx| {
        let forth_poll = forth.poll(cx, a, b, back.is_done());
        let back_poll = back.poll(cx, b, a, forth.is_done());
        for (side, poll) in [(Side::A, &forth_poll), (Side::B, &back_poll)] {
            if let Poll::Ready(Err(Broken)) = poll {
                let direction = if side == Side::A {
                    &mut forth
                } else {
                    &mut back
                };
                if let Some(error) = direction.failure.take() {
                    return Poll::Ready(End::Failed(side, error));
                }
            }
        }
        if forth_poll.is_ready() && back_poll.is_ready() {
            // What one side did not take is the fault of that side.
            let failed = forth.failure.take().map(|error| (Side::B, error));
            let failed = failed.or_else(|| back.failure.take().map(|error| (Side::A, error)));
            return Poll::Ready(
                failed.map_or(End::Closed, |(side, error)| End::Refused(side, error)),
            );
        }
        let active = forth.take_activity() | back.take_activity();
        let half_closed = forth.closed() || back.closed();
        while let Moment::Settled = ready!(timer.as_mut().poll(cx, active, half_closed)) {
            // Not before: a short connection is spared the system calls.
            for socket in [a.socket(), b.socket()].into_iter().flatten() {
                socket.probe_when_silent();
            }
        }
        Poll::Ready(End::Idle { half_closed })
    })
    .await
}

/// The reading side failed: nothing that follows would make sense.
struct Broken;

/// One way.
struct Direction<'a> {
    state: State,
    /// Read, but not yet taken by the other side.
    waiting: Bytes,
    /// The same, where it never left the kernel.
    piped: Option<Pipe>,
    /// How much to read at once.
    appetite: usize,
    unflushed: bool,
    active: bool,
    carried: &'a Cell<u64>,
    failure: Option<io::Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The sender is done; the receiver has yet to be told.
    Ending,
    Done,
}

impl<'a> Direction<'a> {
    const fn new(waiting: Bytes, carried: &'a Cell<u64>) -> Self {
        Self {
            state: State::Open,
            waiting,
            piped: None,
            appetite: SMALL_READ,
            unflushed: false,
            active: false,
            carried,
            failure: None,
        }
    }

    const fn closed(&self) -> bool {
        !matches!(self.state, State::Open)
    }

    /// All that the sender had to say was passed on, and so was that it is done.
    const fn is_done(&self) -> bool {
        matches!(self.state, State::Done) && self.failure.is_none()
    }

    const fn take_activity(&mut self) -> bool {
        std::mem::replace(&mut self.active, false)
    }

    /// Ready when this direction has ended; an `Err` ends the other one too. The failure itself is
    /// left in `self.failure`. `is_last`: the other one has ended.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        is_last: bool,
    ) -> Poll<Result<(), Broken>>
    where
        R: ByteStream,
        W: ByteStream,
    {
        if self.state == State::Done {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.carry(cx, from, to, is_last)) {
            Ok(()) => {
                self.state = State::Done;
                Poll::Ready(Ok(()))
            }
            Err((Half::Writing, error)) => {
                self.state = State::Done;
                self.waiting = Bytes::new();
                self.piped = None;
                self.failure = Some(error);
                Poll::Ready(Ok(()))
            }
            Err((Half::Reading, error)) => {
                self.state = State::Done;
                self.failure = Some(error);
                Poll::Ready(Err(Broken))
            }
        }
    }

    fn carry<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        is_last: bool,
    ) -> Poll<Result<(), (Half, io::Error)>>
    where
        R: ByteStream,
        W: ByteStream,
    {
        let mut turn = 0;
        while turn < TURN {
            ready!(self.settle(cx, to))?;
            if self.state == State::Ending {
                if is_last && to.socket().is_some() {
                    // It is closed now, which says the same.
                    return Poll::Ready(Ok(()));
                }
                return Pin::new(to)
                    .poll_shutdown(cx)
                    .map_err(|error| (Half::Writing, error));
            }
            match self.fill(cx, from, to) {
                Poll::Ready(Ok(0)) => {}
                Poll::Ready(Ok(moved)) => {
                    self.learn(moved);
                    turn += moved;
                    continue;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err((Half::Reading, error))),
                Poll::Pending => return self.rest(cx, to),
            }
            // The stack is touched as far as it is claimed.
            let pass = if self.appetite == SMALL_READ {
                self.pass::<_, _, SMALL_READ>(cx, from, to)
            } else {
                self.pass::<_, _, LARGE_READ>(cx, from, to)
            };
            turn += ready!(pass)?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and writes that. How much it was, the effort of a small read included.
    #[inline(never)]
    fn pass<R, W, const SPACE: usize>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
    ) -> Poll<Result<usize, (Half, io::Error)>>
    where
        R: ByteStream,
        W: ByteStream,
    {
        let mut space = [const { MaybeUninit::<u8>::uninit() }; SPACE];
        let mut buffer = ReadBuf::uninit(&mut space[..self.appetite]);
        match Pin::new(&mut *from).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err((Half::Reading, error))),
            Poll::Pending => {
                ready!(self.rest(cx, to))?;
                return Poll::Pending;
            }
        }
        let mut read = buffer.filled();
        let effort = read.len().max(SMALL_READ);
        self.learn(read.len());
        if read.is_empty() {
            self.state = State::Ending;
        }
        let last = !read.is_empty()
            && read.len() < self.appetite
            && from.socket().is_some_and(Stream::has_ended);
        while !read.is_empty() {
            // The end, which comes next, then goes in the same packet.
            let written = match to.socket() {
                Some(socket) if last => written(socket.poll_write_more(cx, read)),
                _ => write(cx, to, read),
            };
            match written {
                Poll::Ready(taken) => {
                    let taken = taken?;
                    self.took(taken);
                    read = &read[taken..];
                }
                Poll::Pending => {
                    self.waiting = Bytes::copy_from_slice(read);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(effort))
    }

    /// Ready when everything that was taken from the sender is on its way.
    fn settle<W: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<Result<(), (Half, io::Error)>> {
        while self.waiting.has_remaining() {
            let taken = ready!(write(cx, to, &self.waiting))?;
            self.took(taken);
            self.waiting.advance(taken);
        }
        self.waiting = Bytes::new();
        while let (Some(pipe), Some(socket)) = (&mut self.piped, to.socket()) {
            let taken =
                ready!(pipe.poll_drain(cx, socket)).map_err(|error| (Half::Writing, error))?;
            if pipe.is_empty() {
                self.piped = None;
            }
            self.took(taken);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes much at once into a pipe; 0 where it has to be read.
    fn fill<R, W>(&mut self, cx: &mut Context<'_>, from: &R, to: &W) -> Poll<io::Result<usize>>
    where
        R: ByteStream,
        W: ByteStream,
    {
        if self.appetite == LARGE_READ
            && let (Some(from), Some(_)) = (from.socket(), to.socket())
            && let Some(mut pipe) = Pipe::lend()
        {
            let moved = ready!(pipe.poll_fill(cx, from, pipe::CAPACITY))?;
            self.piped = (moved > 0).then_some(pipe);
            return Poll::Ready(Ok(moved));
        }
        Poll::Ready(Ok(0))
    }

    /// Nothing comes now.
    fn rest<W: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<Result<(), (Half, io::Error)>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx)).map_err(|error| (Half::Writing, error))?;
            self.unflushed = false;
        }
        Poll::Pending
    }

    fn learn(&mut self, read: usize) {
        self.active = true;
        if read >= self.appetite {
            self.appetite = (self.appetite * 2).min(LARGE_READ);
        } else if read < self.appetite / 4 {
            self.appetite = (self.appetite / 2).max(SMALL_READ);
        }
    }

    fn took(&mut self, bytes: usize) {
        self.carried.set(self.carried.get() + bytes as u64);
        self.active = true;
        self.unflushed = true;
    }
}

/// Where a direction failed.
enum Half {
    Reading,
    Writing,
}

/// Never `Ok(0)`.
fn write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut W,
    bytes: &[u8],
) -> Poll<Result<usize, (Half, io::Error)>> {
    written(Pin::new(to).poll_write(cx, bytes))
}

fn written(written: Poll<io::Result<usize>>) -> Poll<Result<usize, (Half, io::Error)>> {
    written.map(|written| match written {
        Ok(0) => Err((Half::Writing, io::ErrorKind::WriteZero.into())),
        written => written.map_err(|error| (Half::Writing, error)),
    })
}

#[cfg(test)]
mod tests;
