//! A copy of a request for a mirror.
//!
//! The original's body passes through a [`Tee`]; the copy reads from the other side. Between them
//! lies a bounded queue: a mirror that is slow, stalled or gone loses the copy, and the original
//! never notices.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::message::{Body, Frame};
use crate::error::{Error, Reason, Result};

/// A body that is copied as it is read.
pub struct Tee {
    pub body: Body,
    queue: Rc<RefCell<Queue>>,
}

/// The copy.
pub struct Copy {
    queue: Rc<RefCell<Queue>>,
    length: Option<u64>,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    limit: usize,
    end: End,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Whole,
    /// The original broke off, or the mirror did not keep up.
    Lost,
}

/// Splits `body` into itself and a copy, with at most `limit` bytes between the two.
pub fn tee(body: Body, limit: usize) -> (Body, Body) {
    let queue = Rc::new(RefCell::new(Queue {
        limit,
        ..Queue::default()
    }));
    let copy = Copy {
        queue: Rc::clone(&queue),
        length: body.length(),
    };
    (
        Body::Tee(Box::new(Tee { body, queue })),
        Body::Copy(Box::new(copy)),
    )
}

impl Tee {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        let polled = self.body.poll_frame(cx);
        let mut queue = self.queue.borrow_mut();
        match &polled {
            Poll::Ready(Some(Ok(Frame::Data(data)))) => queue.push(data),
            // Trailers are left out of the copy: it is the application's load that is mirrored.
            Poll::Ready(Some(Ok(Frame::Trailers(_))) | None) => queue.finish(End::Whole),
            Poll::Ready(Some(Err(_))) => queue.finish(End::Lost),
            Poll::Pending => {}
        }
        // Who knows by then that this was all asks no more.
        if matches!(polled, Poll::Ready(Some(Ok(_))))
            && (self.body.length() == Some(0) || self.body.has_ended())
        {
            queue.finish(End::Whole);
        }
        polled
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.queue.borrow_mut().finish(End::Lost);
    }
}

impl Copy {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        let mut queue = self.queue.borrow_mut();
        if queue.end == End::Lost {
            return Poll::Ready(Some(Err(Error::new(
                Reason::RequestBodyIncomplete,
                "the mirror did not keep up, or the original broke off",
            ))));
        }
        if let Some(piece) = queue.pieces.pop_front() {
            queue.bytes -= piece.len();
            return Poll::Ready(Some(Ok(Frame::Data(piece))));
        }
        if queue.end == End::Whole {
            return Poll::Ready(None);
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    #[cfg(test)]
    pub(super) fn forget_length(&mut self) {
        self.length = None;
    }
}

impl Queue {
    fn push(&mut self, data: &Bytes) {
        if self.end != End::Open {
            return;
        }
        if self.bytes + data.len() > self.limit {
            self.finish(End::Lost);
            return;
        }
        self.bytes += data.len();
        self.pieces.push_back(data.clone());
        self.wake();
    }

    fn finish(&mut self, end: End) {
        if self.end == End::Open {
            self.end = end;
            if end == End::Lost {
                self.pieces.clear();
            }
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn read(body: &mut Body) -> Option<Result<Bytes>> {
        match poll_fn(|cx| body.poll_frame(cx)).await? {
            Ok(Frame::Data(data)) => Some(Ok(data)),
            Ok(Frame::Trailers(_)) => None,
            Err(error) => Some(Err(error)),
        }
    }

    #[tokio::test]
    async fn the_copy_is_the_same() {
        let (mut original, mut copy) = tee(Body::from("hello"), 100);
        assert_eq!(copy.length(), Some(5));
        assert_eq!(read(&mut original).await.unwrap().unwrap(), "hello");
        assert!(read(&mut original).await.is_none());
        assert_eq!(read(&mut copy).await.unwrap().unwrap(), "hello");
        assert!(read(&mut copy).await.is_none());
    }

    #[tokio::test]
    async fn a_slow_mirror_loses_the_copy_only() {
        let (mut original, mut copy) = tee(Body::from("hello"), 4);
        assert_eq!(read(&mut original).await.unwrap().unwrap(), "hello");
        assert!(read(&mut copy).await.unwrap().is_err());
    }
}
