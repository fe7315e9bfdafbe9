//! One exchange with an HTTP/1.1 upstream.
//!
//! Everything happens where the response is polled: the request's body goes up and the response
//! comes down in the client's own task, without a channel or a task between them. What is left of
//! an upload when the head of the response arrives is carried on by [`ResponseBody`].

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{Method, StatusCode};
use tokio::time::Sleep;

use super::{
    decode::{Decoder, Step},
    encode,
    head::{self, Framing, ReceivedResponse},
    scan::Scanner,
};
use crate::{
    error::{Error, Reason, Replay, Result},
    http::{
        headers,
        message::{
            Body, CONTINUE_WAIT, Frame, MAX_INTERIM, MAX_RESPONSE_HEAD, Request, Response, Upgrade,
        },
        name,
        upgrade::Tunnel,
    },
    net::{ByteStream, Loss, pipe::Pipe},
    upstream::pool::{Http1, Pools},
};

/// Sends `request` on `conn` and waits for the head of the response. The connection goes back to
/// `pools` when the response has been read to its end and can live on.
///
/// # Errors
/// With the request's head and body left in `request` only if nothing of the body was taken.
pub async fn send(conn: Box<Http1>, request: &mut Request, pools: &Rc<Pools>) -> Result<Response> {
    let mut exchange = Exchange::start(conn, request);
    let outcome = poll_fn(|cx| exchange.poll_head(cx)).await;
    let head = match outcome {
        Ok(head) => head,
        Err(error) => {
            if error.replay == Replay::Reused {
                pools.raced(&exchange.conn);
            }
            request.body = exchange.upload.give_back();
            return Err(error);
        }
    };
    exchange.finish(head, request.upgrade.as_ref(), pools)
}

/// The request's way up.
#[derive(Debug)]
struct Upload {
    body: Body,
    framing: Framing,
    state: Uploading,
    started: bool,
}

#[derive(Debug)]
enum Uploading {
    /// For `100 Continue`, a final response, or the end of patience.
    Waits(Pin<Box<Sleep>>),
    Streams,
    Done,
    /// The upstream takes no more; its response may still come.
    Refused,
}

#[derive(Debug)]
struct Exchange {
    conn: Box<Http1>,
    upload: Upload,
    method: Method,
    scanner: Scanner,
    interim: u8,
    /// Whether a byte of response has come.
    answered: bool,
}

impl Exchange {
    fn start(mut conn: Box<Http1>, request: &mut Request) -> Self {
        let body = std::mem::take(&mut request.body);
        let framing = match body.framed_length(&request.head.fields) {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let connection = request.upgrade.as_ref().and_then(|upgrade| match upgrade {
            Upgrade::Protocol(_) => Some("Upgrade"),
            Upgrade::Connect => None,
        });
        encode::request(conn.wire.output.head(), &request.head, framing, connection);
        let state = if framing == Framing::None {
            Uploading::Done
        } else if request.expects_continue {
            Uploading::Waits(Box::pin(tokio::time::sleep(CONTINUE_WAIT)))
        } else {
            Uploading::Streams
        };
        let upload = Upload {
            body,
            framing,
            state,
            started: false,
        };
        Self {
            conn,
            upload,
            method: request.head.method.clone(),
            scanner: Scanner::default(),
            interim: 0,
            answered: false,
        }
    }

    /// Drives the upload and reads until the final head is there.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ReceivedResponse>> {
        // A failing upload ends the exchange only if it fails on the client's side.
        if let Poll::Ready(Err(error)) = self.upload.poll(cx, &mut self.conn) {
            return Poll::Ready(Err(error));
        }
        loop {
            let input = &mut self.conn.wire.input;
            let next =
                head::next_response(input, &mut self.scanner, MAX_RESPONSE_HEAD, &self.method)
                    .map_err(head::HeadError::of_response)?;
            if let Some((length, head)) = next {
                input.advance(length);
                let status = head.head.status;
                if !is_interim(status) {
                    return Poll::Ready(Ok(head));
                }
                self.note_interim(status)?;
                if let Poll::Ready(Err(error)) = self.upload.poll(cx, &mut self.conn) {
                    return Poll::Ready(Err(error));
                }
                continue;
            }
            if !head::may_be_response(input) {
                // What speaks another protocol may wait for us now, as we would for a line's end.
                return Poll::Ready(Err(head::HeadError::Bad("not HTTP/1").of_response()));
            }
            match ready!(self.conn.wire.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(self.gone(None))),
                Ok(_) => self.answered = true,
                Err(error) => return Poll::Ready(Err(self.gone(Some(error)))),
            }
        }
    }

    /// Interim responses are not passed on: HTTP/1.0 clients and many libraries trip over them.
    fn note_interim(&mut self, status: StatusCode) -> Result<()> {
        self.interim += 1;
        if self.interim > MAX_INTERIM {
            return Err(Error::new(
                Reason::UpstreamProtocol,
                "too many interim responses",
            ));
        }
        if status == StatusCode::CONTINUE && matches!(self.upload.state, Uploading::Waits(_)) {
            self.upload.state = Uploading::Streams;
        }
        Ok(())
    }

    /// The connection ended before a whole head.
    fn gone(&self, cause: Option<io::Error>) -> Error {
        let loss = cause.as_ref().map_or(Loss::Closed, Loss::of);
        let reason = loss.reason().unwrap_or(match loss {
            Loss::Failed(io::ErrorKind::ConnectionReset) => Reason::UpstreamReset,
            _ => Reason::UpstreamClosed,
        });
        let replay = if self.conn.reused && !self.answered && loss.reason().is_none() {
            Replay::Reused
        } else {
            Replay::Unsafe
        };
        let mut error = Error::new(
            reason,
            match (self.answered, self.conn.reused) {
                (true, _) => "the connection ended inside the response head",
                (false, true) => "a kept-alive connection ended before the response",
                (false, false) => "the connection ended before the response",
            },
        );
        if let Some(cause) = cause {
            error = error.source(loss.tell(cause));
        }
        error.replay(replay)
    }

    fn finish(
        self,
        received: ReceivedResponse,
        upgrade: Option<&Upgrade>,
        pools: &Rc<Pools>,
    ) -> Result<Response> {
        let ReceivedResponse {
            head,
            framing,
            keep_alive,
        } = received;
        let switched = match upgrade {
            Some(Upgrade::Connect) => head.status.is_success(),
            Some(Upgrade::Protocol(asked)) => {
                head.status == StatusCode::SWITCHING_PROTOCOLS
                    && head
                        .fields
                        .get(&name::UPGRADE)
                        .is_some_and(|got| got.eq_ignore_ascii_case(asked.as_bytes()))
            }
            None => false,
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS && !switched {
            return Err(Error::new(
                Reason::UpstreamProtocol,
                "the upstream switched to a protocol that was not asked for",
            ));
        }
        if switched {
            if !self.upload.is_done() || !self.conn.wire.output.is_empty() {
                // RFC 9110 section 7.8: the rest of the request would be taken for the tunnel's.
                return Err(Error::new(
                    Reason::UpstreamProtocol,
                    "the upstream switched protocols inside the request",
                ));
            }
            let tunnel = Tunnel::http1(self.conn);
            return Ok(Response {
                head,
                body: Body::Empty,
                tunnel: Some(tunnel),
            });
        }
        let mut conn = self.conn;
        conn.told = headers::keep_alive(&head.fields).or(conn.told);
        let decoder = Decoder::new(framing);
        conn.wire.input.expect(decoder.opaque());
        let mut body = ResponseBody {
            conn: Some(conn),
            decoder,
            upload: self.upload,
            keep_alive,
            pools: Rc::clone(pools),
        };
        let body = if body.decoder.is_done() {
            body.end();
            Body::Empty
        } else {
            Body::Http1Response(Box::new(body))
        };
        Ok(Response {
            head,
            body,
            tunnel: None,
        })
    }
}

impl Upload {
    /// Moves the body towards the upstream. Ready when there is nothing left to do.
    ///
    /// # Errors
    /// The body turned bad on the client's side: the request must stay incomplete.
    fn poll(&mut self, cx: &mut Context<'_>, conn: &mut Http1) -> Poll<Result<()>> {
        loop {
            match &mut self.state {
                Uploading::Waits(patience) => {
                    if ready!(conn.wire.poll_flush(cx)).is_err() {
                        self.refuse();
                        continue;
                    }
                    ready!(patience.as_mut().poll(cx));
                    self.state = Uploading::Streams;
                }
                Uploading::Streams => {
                    let blocked = self.take_frames(cx, conn)?;
                    match conn.wire.poll_flush(cx) {
                        Poll::Ready(Ok(())) if blocked => return Poll::Pending,
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => self.refuse(),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Uploading::Done => {
                    if ready!(conn.wire.poll_flush(cx)).is_err() {
                        self.refuse();
                    }
                    return Poll::Ready(Ok(()));
                }
                Uploading::Refused => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Fills the output from the body. True if the body has nothing to give now.
    fn take_frames(&mut self, cx: &mut Context<'_>, conn: &mut Http1) -> Result<bool> {
        let output = &mut conn.wire.output;
        self.started = true;
        let pipes =
            matches!(self.framing, Framing::Length(_)) && conn.wire.stream.socket().is_some();
        while output.accepts() {
            if pipes {
                match self.body.poll_pipe(cx) {
                    Poll::Ready(Some(pipe)) => {
                        output.piped(pipe?);
                        continue;
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => return Ok(true),
                }
            }
            match self.body.poll_frame(cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => match self.framing {
                    Framing::Chunked => output.chunk(data),
                    _ => output.data(data),
                },
                Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                    if self.framing == Framing::Chunked {
                        encode::last_chunk(output.head(), Some(&trailers));
                    }
                    self.state = Uploading::Done;
                    return Ok(false);
                }
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Ready(None) => {
                    if self.framing == Framing::Chunked {
                        encode::last_chunk(output.head(), None);
                    }
                    self.state = Uploading::Done;
                    return Ok(false);
                }
                Poll::Pending => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The upstream takes no more of it. Its response, often why, may be on the way.
    fn refuse(&mut self) {
        self.state = Uploading::Refused;
        self.body = Body::Empty;
    }

    const fn is_done(&self) -> bool {
        matches!(self.state, Uploading::Done)
    }

    /// The body, if nothing of it has been taken.
    fn give_back(&mut self) -> Body {
        if self.started {
            Body::Empty
        } else {
            std::mem::take(&mut self.body)
        }
    }
}

/// The body of a response, and what is left of the upload.
#[derive(Debug)]
pub struct ResponseBody {
    conn: Option<Box<Http1>>,
    decoder: Decoder,
    upload: Upload,
    keep_alive: bool,
    pools: Rc<Pools>,
}

impl ResponseBody {
    pub const fn length(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// See [`Body::poll_upload`].
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if let Some(conn) = &mut self.conn
            && !self.upload.is_done()
            && let Poll::Ready(Err(error)) = self.upload.poll(cx, conn)
        {
            self.conn = None;
            return Err(error);
        }
        Ok(())
    }

    /// See [`Body::poll_pipe`].
    pub fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe>>> {
        let left = self.decoder.opaque();
        if left == 0 {
            return Poll::Ready(None);
        }
        self.poll_upload(cx)?;
        let Some(conn) = &mut self.conn else {
            return Poll::Ready(None);
        };
        match ready!(conn.wire.poll_pipe(cx, left)) {
            Some(Ok(pipe)) => {
                self.decoder.passed(pipe.len());
                if self.decoder.is_done() {
                    self.end();
                }
                Poll::Ready(Some(Ok(pipe)))
            }
            Some(Err(error)) => self.fail("the connection broke inside the body", Some(error)),
            None => Poll::Ready(None),
        }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        self.poll_upload(cx)?;
        let Some(conn) = &mut self.conn else {
            return Poll::Ready(None);
        };
        loop {
            let step = self.decoder.step(&mut conn.wire.input);
            match step {
                Ok(Step::Data(data)) => {
                    if self.decoder.is_done() {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Ok(Step::Trailers(trailers)) => {
                    self.end();
                    return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                }
                Ok(Step::End) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Ok(Step::More) => match ready!(conn.wire.poll_fill(cx)) {
                    Ok(0) if self.decoder.end_of_input() => {
                        self.end();
                        return Poll::Ready(None);
                    }
                    Ok(0) => return self.fail("the connection ended inside the body", None),
                    Ok(_) => {}
                    Err(error) => {
                        return self.fail("the connection broke inside the body", Some(error));
                    }
                },
                Err(error) => {
                    self.conn = None;
                    return Poll::Ready(Some(Err(error.of_response())));
                }
            }
        }
    }

    fn fail<T>(&mut self, what: &'static str, cause: Option<io::Error>) -> Poll<Option<Result<T>>> {
        self.conn = None;
        let mut error = Error::new(Reason::ResponseIncomplete, what);
        if let Some(cause) = cause {
            let loss = Loss::of(&cause);
            if loss == Loss::Rotated {
                error.reason = Reason::IdentityRotated;
            }
            error = error.source(loss.tell(cause));
        }
        Poll::Ready(Some(Err(error)))
    }

    /// The response is whole. The connection lives on if both sides are done with it; a response
    /// that came before the end of the upload ends the upload, and the connection with it.
    fn end(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        let clean = conn.wire.input.is_empty() && conn.wire.output.is_empty();
        if self.keep_alive && self.upload.is_done() && clean {
            self.pools.check_in(conn);
        }
        self.upload.body = Body::Empty;
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
