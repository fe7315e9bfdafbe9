//! A request's body that can be sent more than once.
//!
//! Guards the body of a request that may have to be sent again: what was read of it is kept, up to
//! a limit. Past the limit it streams on, and only the attempt that is running has it.

use std::{
    cell::RefCell,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{
    message::{Body, Frame},
    trailers::Trailers,
};
use crate::error::{Error, Reason, Result};

/// Keeps what has been read of a body.
#[derive(Debug)]
pub struct Recording(Rc<RefCell<Tape>>);

/// The body as one attempt reads it, from its beginning. Several may read at once as long as the
/// body is known to stay within the limit, and one task polls them all.
#[derive(Debug)]
pub struct Playback {
    tape: Rc<RefCell<Tape>>,
    /// Frames that were read of it.
    at: usize,
    /// Bytes that were.
    read: u64,
}

#[derive(Debug)]
struct Tape {
    source: Body,
    /// In a place of its own, as most bodies are one frame.
    first: Option<Kept>,
    more: Vec<Kept>,
    /// What the whole body is known to have. The source forgets it as it is read, and one without a
    /// length, which may have trailers, must not seem to have had one.
    length: Option<u64>,
    /// Bytes that came from the source.
    bytes: u64,
    limit: u64,
    state: State,
}

#[derive(Clone, Debug)]
enum Kept {
    Data(Bytes),
    Trailers(Trailers),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All that came is kept, and more may come.
    Open,
    /// All that came is kept, and that was all.
    Ended,
    /// What came is gone: the limit was passed, or the source has failed.
    Lost,
}

impl Recording {
    /// Records `body` from now on, up to so many bytes. `None`, and the body as it was, where it is
    /// known to be longer.
    pub fn start(body: &mut Body, limit: usize) -> Option<Self> {
        let (limit, length) = (limit as u64, body.length());
        if length.is_some_and(|length| length > limit) {
            return None;
        }
        let tape = Rc::new(RefCell::new(Tape {
            source: std::mem::take(body),
            first: None,
            more: Vec::new(),
            length,
            bytes: 0,
            limit,
            state: State::Open,
        }));
        *body = Body::Playback(Playback::new(&tape));
        Some(Self(tape))
    }

    /// Whether the body is known to stay within the limit.
    pub fn is_bounded(&self) -> bool {
        self.0.borrow().length.is_some()
    }

    /// The body from its beginning; `None` where that is gone.
    pub fn play(&self) -> Option<Body> {
        let kept = self.0.borrow().state != State::Lost;
        kept.then(|| Body::Playback(Playback::new(&self.0)))
    }
}

impl Playback {
    fn new(tape: &Rc<RefCell<Tape>>) -> Self {
        Self {
            tape: Rc::clone(tape),
            at: 0,
            read: 0,
        }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        let mut tape = self.tape.borrow_mut();
        let frame = match tape.kept(self.at) {
            Some(kept) => Some(Ok(kept.frame())),
            None if tape.state == State::Ended => None,
            // Only the attempt that has read all of it so far may go on where nothing is kept.
            None if self.read < tape.bytes => Some(Err(Error::new(
                Reason::Internal,
                "a body was read again that is no longer kept",
            ))),
            None => ready!(tape.poll_more(cx)),
        };
        if let Some(Ok(Frame::Data(data))) = &frame {
            self.read += data.len() as u64;
        }
        self.at += 1;
        Poll::Ready(frame)
    }

    /// See [`Body::length`].
    pub fn length(&self) -> Option<u64> {
        Some(self.tape.borrow().length?.saturating_sub(self.read))
    }

    pub fn is_http2(&self) -> bool {
        self.tape.borrow().source.is_http2()
    }

    /// See [`Body::has_ended`].
    pub fn has_ended(&self) -> bool {
        let tape = self.tape.borrow();
        let rest = tape.kept(self.at).is_some() || tape.bytes > self.read;
        !rest && (tape.state == State::Ended || tape.source.has_ended())
    }
}

impl Tape {
    fn kept(&self, at: usize) -> Option<&Kept> {
        match at.checked_sub(1) {
            None => self.first.as_ref(),
            Some(at) => self.more.get(at),
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        let frame = ready!(self.source.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(_)) => self.lose(),
            None if self.state == State::Open => self.state = State::Ended,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, frame: &Frame) {
        let kept = match frame {
            Frame::Data(data) => {
                self.bytes += data.len() as u64;
                Kept::Data(data.clone())
            }
            Frame::Trailers(trailers) => Kept::Trailers(trailers.clone()),
        };
        if self.bytes > self.limit {
            self.lose();
        } else if self.state == State::Open {
            match self.first {
                None => self.first = Some(kept),
                Some(_) => self.more.push(kept),
            }
        }
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        self.first = None;
        self.more = Vec::new();
    }
}

impl Kept {
    fn frame(&self) -> Frame {
        match self {
            Self::Data(data) => Frame::Data(data.clone()),
            Self::Trailers(trailers) => Frame::Trailers(trailers.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::{
        super::{fields::Fields, message::Begun, mirror::tee},
        *,
    };

    /// Frames, one after the other, and then `rest`.
    fn body(pieces: &[Vec<u8>], trailers: bool, rest: Body) -> Body {
        let trailers =
            trailers.then(|| Frame::Trailers(Trailers::from(Fields::from_iter([("X-Sum", "1")]))));
        let pieces = pieces.iter().cloned().map(Bytes::from).map(Frame::Data);
        let frames: Vec<Frame> = pieces.chain(trailers).collect();
        let put = |rest, frame| Begun::body(frame, rest);
        frames.into_iter().rev().fold(rest, put)
    }

    /// What fails where the next frame should be.
    fn broken() -> Body {
        let (original, copy) = tee(Body::from("x"), 1);
        drop(original);
        copy
    }

    #[derive(Debug, PartialEq)]
    enum Seen {
        Data(Vec<u8>),
        Trailers,
        Failed,
    }

    /// The next `count` frames; fewer where it ends before.
    fn read(body: &mut Body, count: usize) -> Vec<Seen> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut seen = Vec::new();
        while seen.len() < count {
            let Poll::Ready(frame) = body.poll_frame(&mut cx) else {
                panic!("nothing to wait for")
            };
            seen.push(match frame {
                Some(Ok(Frame::Data(data))) => Seen::Data(data.to_vec()),
                Some(Ok(Frame::Trailers(_))) => Seen::Trailers,
                Some(Err(_)) => Seen::Failed,
                None => break,
            });
            if seen.last() == Some(&Seen::Failed) {
                break;
            }
        }
        seen
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = (1_usize..40, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
        prop::collection::vec(piece, 0..6)
    }

    proptest! {
        /// An attempt may stop at any frame: the next one reads what a single one would have read,
        /// or is told that it can't.
        #[test]
        fn every_attempt_reads_the_same(
            pieces in pieces(),
            trailers: bool,
            fails: bool,
            limit in 0_usize..150,
            stops in prop::collection::vec(0_usize..8, 1..4),
        ) {
            let rest = || if fails { broken() } else { Body::Empty };
            let whole = read(&mut body(&pieces, trailers, rest()), usize::MAX);
            let mut source = body(&pieces, trailers, rest());
            let length = source.length();
            let recording = Recording::start(&mut source, limit);
            if length.is_some_and(|length| length > limit as u64) {
                prop_assert!(recording.is_none());
                prop_assert_eq!(read(&mut source, usize::MAX), whole);
                return Ok(());
            }
            let recording = recording.unwrap();
            let mut kept = true;
            let mut attempt = Some(source);
            for stop in stops {
                let Some(mut body) = attempt.take() else { break };
                prop_assert_eq!(body.length(), length);
                let seen = read(&mut body, stop);
                prop_assert_eq!(&seen[..], &whole[..stop.min(whole.len())]);
                kept &= !seen.contains(&Seen::Failed);
                attempt = recording.play();
                prop_assert_eq!(attempt.is_some(), kept);
            }
            if let Some(mut last) = attempt {
                prop_assert_eq!(read(&mut last, usize::MAX), whole);
            }
        }

        /// A body of unknown length that grows past the limit streams on, once.
        #[test]
        fn past_the_limit_it_is_sent_once(pieces in pieces(), limit in 0_usize..60) {
            let sum: usize = pieces.iter().map(Vec::len).sum();
            let whole = read(&mut body(&pieces, true, Body::Empty), usize::MAX);
            let (mut original, mut copy) = tee(body(&pieces, true, Body::Empty), usize::MAX);
            read(&mut original, usize::MAX);
            if let Body::Copy(copy) = &mut copy {
                copy.forget_length();
            }
            let recording = Recording::start(&mut copy, limit).unwrap();
            let data: Vec<_> = whole.into_iter().filter(|seen| *seen != Seen::Trailers).collect();
            prop_assert_eq!(&read(&mut copy, usize::MAX), &data);
            match recording.play() {
                Some(mut again) => {
                    prop_assert!(sum <= limit);
                    prop_assert_eq!(again.length(), None, "trailers may follow");
                    prop_assert_eq!(read(&mut again, usize::MAX), data);
                }
                None => prop_assert!(sum > limit),
            }
        }

        /// Two attempts that read by turns get the same.
        #[test]
        fn two_may_read_at_once(pieces in pieces(), turns in prop::collection::vec(any::<bool>(), 0..30)) {
            let whole = read(&mut body(&pieces, true, Body::Empty), usize::MAX);
            let mut first = body(&pieces, true, Body::Empty);
            let recording = Recording::start(&mut first, 1000).unwrap();
            let mut second = recording.play().unwrap();
            let (mut one, mut two) = (Vec::new(), Vec::new());
            for turn in turns {
                let (seen, body) = if turn { (&mut one, &mut first) } else { (&mut two, &mut second) };
                seen.extend(read(body, 1));
            }
            one.extend(read(&mut first, usize::MAX));
            two.extend(read(&mut second, usize::MAX));
            prop_assert_eq!(&one, &whole);
            prop_assert_eq!(&two, &whole);
        }
    }
}
