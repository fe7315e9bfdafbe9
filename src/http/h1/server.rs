//! An HTTP/1.1 connection from a client, from its first byte to its last.
//!
//! One task reads a head, runs the exchange and writes the response; while it waits it watches
//! the client, so that one who leaves cancels what was begun for it. Between requests the
//! connection holds no buffer.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut};
use http::{Method, StatusCode, Version};
use tokio::time::{Instant, timeout};

use super::{
    decode::{Decoder, Step},
    encode,
    farewell::{close, linger},
    head::{self, Framing, HeadError, ReceivedRequest},
    rest::Rest,
    scan::{self, Scanner},
    sender::{Sender, client_gone, client_lost},
    wire::Wire,
};
use crate::{
    error::{Error, Reason, Result},
    http::{
        Client,
        exchange::{self, Reply},
        head_timeout, http_plan,
        input::Input,
        message::{Body, Frame, Request, is_bodiless},
        pace::Pace,
        upgrade,
    },
    net::{ByteStream, Loss, Stream, pipe::Pipe, tls::Cut},
    telemetry::access_log::Protocol,
};

/// Read ahead of a pipelining client while its request is served, at most this much.
const READ_AHEAD: usize = 16 * 1024;

/// Serves requests until the connection ends. `input` was read while the protocol was detected.
pub async fn serve(stream: Stream, input: Input, client: Rc<Client>) {
    let inbound = Rc::new(RefCell::new(Inbound::new(Wire::new(stream, input))));
    let mut rest = pin!(Rest::new(&client));
    loop {
        if inbound.borrow().wire.input.is_empty() {
            inbound.borrow_mut().wire.input.rest();
            let readable = |cx: &mut Context<'_>| inbound.borrow().wire.stream.poll_readable(cx);
            if !rest.as_mut().wait(readable).await {
                return inbound.borrow_mut().wire.stream.take_leave();
            }
        }
        let begun = Cell::new(None);
        let head = match next_head(&inbound, &client, &begun).await {
            Ok(Some(head)) => head,
            Ok(None) => return inbound.borrow_mut().wire.stream.take_leave(),
            Err(error) => return Box::pin(refuse(&inbound, &client, begun.get(), error)).await,
        };
        // Boxed, so that an idle connection does not carry the space of a busy one. Space kept from
        // one request to the next, even for a second, stays with the process after a burst.
        match Box::pin(serve_one(&inbound, &client, head, begun.get())).await {
            After::Next => {}
            After::Close => return close(&inbound).await,
            After::Abort => return,
            After::Tunnel(tunnel, completion) => {
                let Some(inbound) = Rc::into_inner(inbound) else {
                    return;
                };
                let wire = inbound.into_inner().wire;
                return Box::pin(upgrade::run_http1(wire, *tunnel, completion)).await;
            }
        }
    }
}

/// Answers a client that began with a handshake of TLS where nobody expects one. The answer can't be
/// read by it, but by whoever looks at the wire; the client's own words are "wrong version".
pub async fn refuse_tls(stream: Stream, input: Input, client: Rc<Client>) {
    let inbound = RefCell::new(Inbound::new(Wire::new(stream, input)));
    let error = Error::new(
        Reason::UnexpectedTls,
        "the client speaks TLS, and this listener takes plaintext only",
    );
    refuse(&inbound, &client, None, error).await;
}

/// The connection's reading side and where its writes are gathered, shared by the connection and
/// the body of the request that it is serving. Never borrowed across an await.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) wire: Wire,
    pub(super) decoder: Decoder,
    /// `100 Continue` is owed before the body is read.
    owes_continue: bool,
    /// Bytes of the body read so far.
    received: u64,
}

impl Inbound {
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            wire,
            decoder: Decoder::new(Framing::None),
            owes_continue: false,
            received: 0,
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        if std::mem::take(&mut self.owes_continue) {
            self.wire
                .output
                .head()
                .put_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        loop {
            match self.decoder.step(&mut self.wire.input) {
                Ok(Step::Data(data)) => {
                    self.received += data.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Ok(Step::Trailers(fields)) => {
                    return Poll::Ready(Some(Ok(Frame::Trailers(fields))));
                }
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => {
                    let why = match error {
                        HeadError::Bad(why) => why,
                        _ => "the trailer section is over the limit",
                    };
                    return Poll::Ready(Some(Err(Error::new(Reason::RequestBodyInvalid, why))));
                }
            }
            // The client may be waiting for our 100 before it sends what we wait for. A client that
            // does not read may still write: the two directions don't wait for each other.
            if let Poll::Ready(Err(error)) = self.wire.poll_flush(cx) {
                return Poll::Ready(Some(Err(broken_off(error))));
            }
            match ready!(self.wire.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Some(Err(incomplete()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(broken_off(error)))),
            }
        }
    }

    /// See [`Body::poll_pipe`].
    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe>>> {
        // What is owed to the client is told where the body is asked for.
        if self.decoder.opaque() == 0 || self.owes_continue || !self.wire.output.is_empty() {
            return Poll::Ready(None);
        }
        match ready!(self.wire.poll_pipe(cx, self.decoder.opaque())) {
            Some(Ok(pipe)) => {
                self.decoder.passed(pipe.len());
                self.received += pipe.len() as u64;
                Poll::Ready(Some(Ok(pipe)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(broken_off(error)))),
            None => Poll::Ready(None),
        }
    }

    /// Ready when the client has gone. Reads ahead a little, which is how one finds out.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.decoder.is_done() && self.wire.input.len() < READ_AHEAD {
            match ready!(self.wire.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    /// Drops what is left of a body that nobody wants, if it has arrived already.
    fn finish_body(&mut self) -> bool {
        while !self.decoder.is_done() && !self.owes_continue {
            match self.decoder.step(&mut self.wire.input) {
                Ok(Step::Data(_) | Step::Trailers(_)) => {}
                Ok(Step::End) => break,
                Ok(Step::More) | Err(_) => return false,
            }
        }
        self.decoder.is_done()
    }
}

fn broken_off(error: io::Error) -> Error {
    let mut incomplete = incomplete();
    if Loss::of(&error) == Loss::Rotated {
        incomplete.reason = Reason::IdentityRotated;
    }
    incomplete.source(error)
}

fn incomplete() -> Error {
    Error::new(
        Reason::RequestBodyIncomplete,
        "the client left inside the request body",
    )
}

/// The body of the request being served.
#[derive(Debug)]
pub struct RequestBody(Rc<RefCell<Inbound>>);

impl RequestBody {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        self.0.borrow_mut().poll_body(cx)
    }

    pub fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe>>> {
        self.0.borrow_mut().poll_pipe(cx)
    }

    pub fn length(&self) -> Option<u64> {
        self.0.borrow().decoder.remaining()
    }
}

/// Reads the head of a request that has begun, and notes when that was, where it did not come whole;
/// `None` when the connection is over.
async fn next_head(
    inbound: &RefCell<Inbound>,
    client: &Client,
    begun: &Cell<Option<Instant>>,
) -> Result<Option<ReceivedRequest>> {
    let (max_head_size, limit) = {
        let plan = client.plan();
        let limits = &http_plan(&plan).http;
        (limits.max_head_size, limits.head_timeout)
    };
    let mut scanner = Scanner::default();
    let mut empty_lines = 0;
    let read = poll_fn(|cx| {
        let wire = &mut inbound.borrow_mut().wire;
        loop {
            scan::skip_empty_lines(&mut wire.input, &mut empty_lines, &mut scanner)?;
            let next = head::next_request(&wire.input, &mut scanner, max_head_size)?;
            if let Some((length, head)) = next {
                wire.input.advance(length);
                wire.input.release();
                return Poll::Ready(Ok::<_, HeadError>(Some(head)));
            }
            match wire.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    if begun.get().is_none() && !wire.input.is_empty() {
                        begun.set(Some(Instant::now()));
                    }
                    return Poll::Pending;
                }
            }
        }
    });
    // A head that came in one piece, as nearly all do, sets no timer.
    let mut read = pin!(read);
    let head = match poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
        Poll::Ready(done) => done,
        Poll::Pending => match timeout(limit, read).await {
            Ok(done) => done,
            // Woken for nothing, or by an empty line: no request was begun.
            Err(_) if inbound.borrow().wire.input.is_empty() => return Ok(None),
            Err(_) => return Err(head_timeout(limit)),
        },
    };
    match head {
        Ok(None) if !inbound.borrow().wire.input.is_empty() => Err(Error::new(
            Reason::ClientClosed,
            "the client left inside the request head",
        )),
        Ok(head) => Ok(head),
        Err(error) => Err(error.of_request()),
    }
}

enum After {
    Next,
    /// Politely: what was written shall arrive.
    Close,
    /// The response could not be finished, and the client has to notice.
    Abort,
    Tunnel(Box<upgrade::Tunnel>, exchange::Completion),
}

async fn serve_one(
    inbound: &Rc<RefCell<Inbound>>,
    client: &Rc<Client>,
    head: ReceivedRequest,
    begun: Option<Instant>,
) -> After {
    let ReceivedRequest {
        head,
        framing,
        keep_alive,
        expects_continue,
    } = head;
    {
        let inbound = &mut *inbound.borrow_mut();
        inbound.decoder = Decoder::new(framing);
        inbound.wire.input.expect(inbound.decoder.opaque());
        inbound.owes_continue = expects_continue;
        inbound.received = 0;
    }
    let body = match framing {
        Framing::None => Body::Empty,
        _ => Body::Http1Request(RequestBody(Rc::clone(inbound))),
    };
    let (method, version) = (head.method.clone(), head.version);
    let upgrade = upgrade::asked_by_http1(&head);
    let uploaded = || {
        let inbound = inbound.borrow();
        (!inbound.decoder.is_done()).then_some(inbound.received)
    };
    let reply = {
        // What is left of it must be gone when the response is written.
        let mut request = Request {
            head,
            body,
            expects_continue,
            upgrade,
        };
        let client = Rc::clone(client);
        let mut exchange = pin!(exchange::handle(client, begun, &mut request, &uploaded));
        poll_fn(|cx| {
            if let Poll::Ready(reply) = exchange.as_mut().poll(cx) {
                return Poll::Ready(Some(reply));
            }
            inbound.borrow_mut().poll_gone(cx).map(|()| None)
        })
        .await
    };
    // Dropping the exchange has cancelled and recorded it.
    let Some(reply) = reply else {
        return After::Abort;
    };
    write_reply(inbound, client, reply, &method, version, keep_alive).await
}

async fn write_reply(
    inbound: &Rc<RefCell<Inbound>>,
    client: &Client,
    reply: Reply,
    method: &Method,
    version: Version,
    keep_alive: bool,
) -> After {
    let Reply {
        mut response,
        mut completion,
    } = reply;
    if completion.is_cut() {
        inbound.borrow().wire.stream.reset_on_close(true);
        completion.done();
        return After::Abort;
    }
    let status = response.head.status;
    if let Some(tunnel) = response.tunnel.take() {
        let option = (status == StatusCode::SWITCHING_PROTOCOLS).then_some("Upgrade");
        {
            let output = &mut inbound.borrow_mut().wire.output;
            encode::response(output.head(), &response.head, Framing::None, option);
        }
        let mut pace = Pace::new(completion.pacing());
        let flushed = poll_fn(|cx| match inbound.borrow_mut().wire.poll_flush(cx) {
            Poll::Ready(flushed) => Poll::Ready(flushed.map_err(client_lost)),
            Poll::Pending => pace.poll(cx, 0).map(Err),
        })
        .await;
        if let Err(error) = flushed {
            completion.failed(&error);
            return After::Abort;
        }
        return After::Tunnel(Box::new(tunnel), completion);
    }

    let bodiless = is_bodiless(*method == Method::HEAD, status);
    let framing = {
        let length = response.body.framed_length(&response.head.fields);
        encode::framing_for(version, length, bodiless)
    };
    // An upload that goes on beside the response is not ours to drop.
    let is_wanted = Rc::strong_count(inbound) > 1;
    let complete = {
        let mut inbound = inbound.borrow_mut();
        // Who did not get a 100 will not get one now.
        let declined = std::mem::take(&mut inbound.owes_continue);
        !declined && !is_wanted && inbound.finish_body() || inbound.decoder.is_done()
    };
    // A refusal that came before the end of the upload ends the connection: what is left of the
    // body must not be taken for the next request.
    let gives_up = !complete && !status.is_success();
    let mut alive =
        keep_alive && framing != Framing::UntilClose && !gives_up && !client.should_close();
    let option = match (alive, version) {
        (false, Version::HTTP_11) => Some("close"),
        (true, Version::HTTP_10) => Some("keep-alive"),
        _ => None,
    };
    encode::response(
        inbound.borrow_mut().wire.output.head(),
        &response.head,
        framing,
        option,
    );

    let mut pace = Pace::new(completion.pacing());
    let pipes = framing != Framing::Chunked && inbound.borrow().wire.stream.socket().is_some();
    let mut sender = Sender::new(framing, pipes);
    if framing == Framing::None {
        response.body = Body::Empty;
    }
    // Only a reset tells such a body's end from its being cut, wherever that happens.
    let ends_by_closing = framing == Framing::UntilClose;
    if ends_by_closing {
        inbound.borrow().wire.stream.reset_on_close(true);
    }
    let sent = poll_fn(|cx| {
        let sent = sender.poll(cx, inbound, &mut response.body);
        if sent.is_ready() {
            return sent;
        }
        let mut inbound = inbound.borrow_mut();
        if inbound.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(match client.is_cut() {
                true => client_lost(io::Error::other(Cut)),
                false => client_gone(),
            }));
        }
        if let Some(error) = completion.refused() {
            return Poll::Ready(Err(error));
        }
        pace.poll(cx, inbound.received + sender.sent).map(Err)
    })
    .await;
    let mut inbound = inbound.borrow_mut();
    // Also ends an upload that the response has overtaken.
    drop(response);
    completion.bytes(inbound.received, sender.sent);
    completion.ended(sender.status);
    match sent {
        Ok(()) => completion.done(),
        Err(error) => {
            completion.failed(&error);
            // A cut shows in any other framing, and a reset would take responses along that are
            // whole and on their way.
            return if ends_by_closing {
                After::Abort
            } else {
                After::Close
            };
        }
    }
    if ends_by_closing {
        inbound.wire.stream.reset_on_close(false);
    }
    alive &= inbound.finish_body();
    if alive { After::Next } else { After::Close }
}

/// Answers a head that could not be read, and closes.
async fn refuse(
    inbound: &RefCell<Inbound>,
    client: &Rc<Client>,
    begun: Option<Instant>,
    error: Error,
) {
    let mut reply = exchange::refused_head(client, Protocol::Http11, begun, None, &error);
    if error.reason == Reason::ClientClosed {
        return reply.completion.done();
    }
    {
        let output = &mut inbound.borrow_mut().wire.output;
        let response = &reply.response;
        let framing = Framing::Length(response.body.length().unwrap_or(0));
        encode::response(output.head(), &response.head, framing, Some("close"));
        if let Body::Full(body) = &response.body {
            reply.completion.bytes(0, body.len() as u64);
            output.data(body.clone());
        }
    }
    let completion = reply.completion;
    linger(inbound, || completion.done()).await;
}
