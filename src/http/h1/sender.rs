//! The body of a response on its way to the client.

use std::{
    cell::RefCell,
    io,
    task::{Context, Poll, ready},
};

use super::{encode, head::Framing, server::Inbound, wire::Wire};
use crate::{
    error::{Error, Reason, Result},
    http::{
        grpc,
        message::{Body, Frame},
    },
    net::Loss,
};

/// Writes one response body.
#[derive(Debug)]
pub(super) struct Sender {
    framing: Framing,
    /// Pieces may come in pipes.
    pipes: bool,
    /// Everything is in the output.
    ended: bool,
    pub(super) sent: u64,
    /// The gRPC status that the trailers told.
    pub(super) status: Option<u8>,
}

impl Sender {
    pub(super) const fn new(framing: Framing, pipes: bool) -> Self {
        Self {
            framing,
            pipes,
            ended: matches!(framing, Framing::None),
            sent: 0,
            status: None,
        }
    }

    /// Ready once all of it has left for the client.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inbound: &RefCell<Inbound>,
        body: &mut Body,
    ) -> Poll<Result<()>> {
        loop {
            let blocked = self.fill(cx, inbound, body);
            let flushed = inbound.borrow_mut().wire.poll_flush(cx);
            // After the flush: what came before the body broke goes as far as it is taken.
            let blocked = blocked?;
            ready!(flushed).map_err(client_lost)?;
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if blocked {
                return Poll::Pending;
            }
        }
    }

    /// Fills the output from the body. True if the body has nothing to give now.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        inbound: &RefCell<Inbound>,
        body: &mut Body,
    ) -> Result<bool> {
        while !self.ended {
            if !inbound.borrow().wire.output.accepts() {
                body.poll_upload(cx)?;
                return Ok(false);
            }
            // The body may need the connection itself: it carries on the upload.
            if self.pipes {
                match body.poll_pipe(cx) {
                    Poll::Ready(Some(pipe)) => {
                        let pipe = pipe?;
                        self.count(pipe.len())?;
                        inbound.borrow_mut().wire.output.piped(pipe);
                        continue;
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => return Ok(true),
                }
            }
            let Poll::Ready(frame) = body.poll_frame(cx) else {
                return Ok(true);
            };
            self.take(frame.transpose()?, &mut inbound.borrow_mut().wire)?;
        }
        Ok(false)
    }

    fn take(&mut self, frame: Option<Frame>, wire: &mut Wire) -> Result<()> {
        let output = &mut wire.output;
        let trailers = match frame {
            Some(Frame::Data(data)) => {
                self.count(data.len())?;
                match self.framing {
                    Framing::Chunked => output.chunk(data),
                    _ => output.data(data),
                }
                return Ok(());
            }
            Some(Frame::Trailers(trailers)) => Some(trailers),
            None => None,
        };
        self.status = trailers
            .as_ref()
            .and_then(|trailers| grpc::status(trailers));
        match self.framing {
            Framing::Chunked => encode::last_chunk(output.head(), trailers.as_ref()),
            Framing::Length(length) if self.sent < length => {
                return Err(Error::new(
                    Reason::ResponseIncomplete,
                    "less body than declared",
                ));
            }
            _ => {}
        }
        self.ended = true;
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<()> {
        self.sent += bytes as u64;
        match self.framing {
            Framing::Length(length) if self.sent > length => Err(Error::new(
                Reason::UpstreamProtocol,
                "more body than declared",
            )),
            _ => Ok(()),
        }
    }
}

pub(super) fn client_gone() -> Error {
    Error::new(
        Reason::ClientClosed,
        "the client left before the end of the response",
    )
}

pub(super) fn client_lost(error: io::Error) -> Error {
    match Loss::of(&error) {
        Loss::Rotated => {
            Error::new(Reason::IdentityRotated, "the client's connection was ended").source(error)
        }
        _ => client_gone().source(error),
    }
}
