//! An HTTP/2 connection from a client.
//!
//! The connection and all its streams are one task: a turn polls every stream that has something
//! to say, then the connection writes all their frames at once.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use futures_util::stream::{FuturesUnordered, Stream as _};
use http::{Method, StatusCode};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    CONNECTION_WINDOW, STREAM_WINDOW,
    body::{Incoming, Outgoing, Received, Side, Stopped},
    connection::{Limits, Role},
    frame::{Code, Fault},
    keepalive::KeepAlive,
    link::{Driver, Link, StreamHandle, put_fields},
    receive::Head,
    section::{ReceivedRequest, Section},
    streams::Broken,
    tunnel::StreamIo,
};
use crate::{
    config::model::HttpListener,
    error::{Error, Reason},
    http::{
        Client, PREFACE,
        exchange::{self, Reply},
        head_timeout,
        input::Input,
        message::{Body, Request, Response, is_bodiless},
        name::{self, Kind},
        pace::Pace,
        upgrade,
    },
    net::{Loss, Stream},
    telemetry::access_log::Protocol,
};

/// How long a connection without streams waits, after the first GOAWAY, for the client to answer
/// and so bring about the second.
const GOAWAY_WAIT: Duration = Duration::from_secs(1);

/// Serves streams until the connection ends. `input` was read while the protocol was detected, and
/// begins with the preface.
pub async fn serve(stream: Stream, mut input: Input, client: Rc<Client>) {
    let settings = client.limits();
    let limits = Limits {
        streams: settings.max_concurrent_streams,
        head: settings.max_head_size,
        stream_window: STREAM_WINDOW,
        window: CONNECTION_WINDOW,
    };
    let preface = PREFACE.len().min(input.len());
    input.advance(preface);
    let mut driver = Driver::new(Link::new(Role::Server, limits), stream, input);
    let mut streams = FuturesUnordered::new();
    let mut life = Life::new(settings);
    let mut ended = pin!(client.ended());
    let mut generation = client.worker.seen();
    let end = poll_fn(|cx| {
        driver.begin();
        let newest = client.worker.seen();
        if std::mem::replace(&mut generation, newest) != newest {
            // Each looks whether it is still let in.
            streams = std::mem::take(&mut streams).into_iter().collect();
        }
        loop {
            let input = driver.poll_input(cx, |link, head, section| {
                let (handle, request) = accept(link, head, section)?;
                // Boxed, since the set moves what it takes more than once.
                let begun = life.begun.take();
                let client = Rc::clone(&client);
                streams.push(Box::pin(serve_stream(client, handle, request, begun)));
                Ok(())
            });
            if let Poll::Ready(Err(broken)) = input {
                return Poll::Ready(End::Broken(broken));
            }
            driver.link.with(|core| core.take_woken());
            // All that can go on do so before the next write, which is then one for all of them.
            while let Poll::Ready(Some(())) = Pin::new(&mut streams).poll_next(cx) {}
            if let Poll::Ready(Err(error)) = driver.poll_output(cx) {
                return Poll::Ready(End::Broken(Broken::Lost(Loss::of(&error))));
            }
            let woken = driver.link.with(|core| core.take_woken());
            if input.is_pending() && !woken && !driver.can_go_on() {
                break;
            }
        }
        if let Poll::Ready(end) = life.poll(cx, &driver, !streams.is_empty(), ended.as_mut()) {
            return Poll::Ready(end);
        }
        // What life had to say.
        if let Poll::Ready(Err(error)) = driver.poll_output(cx) {
            return Poll::Ready(End::Broken(Broken::Lost(Loss::of(&error))));
        }
        driver.rest(cx, life.keep_alive.is_at_rest());
        Poll::Pending
    })
    .await;
    driver.begin();
    // Each tells by itself how it ended.
    drop(streams);
    let broken = match end {
        End::Over => None,
        End::HeadTimeout => {
            let limit = life.settings.head_timeout;
            let begun = life.head.map(|timer| timer.deadline() - limit);
            refused(&client, begun, &head_timeout(limit));
            let what = "a head that does not end";
            Some(Broken::Fault(Fault::new(Code::ENHANCE_YOUR_CALM, what)))
        }
        End::Broken(broken) => {
            tracing::debug!(error = %broken, "HTTP/2 connection from a client ended");
            if let Broken::Fault(fault) = broken {
                let error = Error::new(Reason::BadRequest, "").detail(format!("HTTP/2: {fault}"));
                refused(&client, None, &error);
            }
            Some(broken)
        }
    };
    if let Some(broken) = broken {
        driver.link.with(|core| core.end(broken));
        if !matches!(broken, Broken::Fault(_)) {
            return;
        }
    }
    Box::pin(driver.close()).await;
}

fn refused(client: &Rc<Client>, begun: Option<Instant>, error: &Error) {
    let reply = exchange::refused_head(client, Protocol::Http2, begun, None, error);
    reply.completion.done();
}

/// How a connection ends.
enum End {
    /// All was said.
    Over,
    HeadTimeout,
    Broken(Broken),
}

/// What ends a connection, or begins to, without a word from the client.
struct Life {
    settings: HttpListener,
    keep_alive: KeepAlive,
    /// For a connection without streams.
    idle: Pin<Box<Sleep>>,
    /// For a head that has begun.
    head: Option<Pin<Box<Sleep>>>,
    /// When a head began that did not come whole.
    begun: Option<Instant>,
    busy: bool,
    leaving: bool,
}

impl Life {
    fn new(settings: HttpListener) -> Self {
        Self {
            idle: Box::pin(sleep(settings.http2_idle_timeout)),
            settings,
            keep_alive: KeepAlive::default(),
            head: None,
            begun: None,
            busy: false,
            leaving: false,
        }
    }

    /// `busy`: streams are open. `ended` resolves when the connection has to.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        driver: &Driver,
        busy: bool,
        ended: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<End> {
        let core = &driver.link;
        if core.with(|core| core.is_over()) {
            return Poll::Ready(End::Over);
        }
        if !driver.is_inside_head() {
            self.head = None;
            self.begun = None;
        } else {
            if !driver.is_inside_fields() {
                self.begun = None;
            } else if self.begun.is_none() {
                self.begun = Some(Instant::now());
            }
            let patience = self.settings.head_timeout;
            let timer = self.head.get_or_insert_with(|| Box::pin(sleep(patience)));
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::HeadTimeout);
            }
        }
        let was_busy = std::mem::replace(&mut self.busy, busy);
        let mut tired = false;
        if !busy {
            if was_busy {
                let patience = if self.leaving {
                    GOAWAY_WAIT
                } else {
                    self.settings.http2_idle_timeout
                };
                self.idle.as_mut().reset(Instant::now() + patience);
            }
            tired = self.idle.as_mut().poll(cx).is_ready();
        }
        let ping = || core.with(|core| core.ping());
        if self
            .keep_alive
            .poll(cx, driver.heard, busy, ping)
            .is_ready()
        {
            return Poll::Ready(End::Broken(Broken::Silent));
        }
        if self.leaving {
            if tired {
                core.with(|core| core.leave_now());
                return Poll::Ready(End::Over);
            }
        } else if tired || ended.poll(cx).is_ready() {
            // Two steps (RFC 9113 section 6.8): first all that is on the way is promised for.
            self.leaving = true;
            core.with(|core| core.leave());
            self.idle.as_mut().reset(Instant::now() + GOAWAY_WAIT);
            if !busy && self.idle.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Over);
            }
        }
        Poll::Pending
    }
}

/// Takes a request in as its head has come, before anything of its content is looked at.
fn accept(
    link: &Rc<Link>,
    head: Head,
    section: Section,
) -> Result<(StreamHandle, ReceivedRequest), Fault> {
    let handle = StreamHandle::new(Rc::clone(link), head.key);
    let request = section.request(head.cut, head.end);
    link.with(|core| {
        core.expect(head.key, request.length);
        match request.fault {
            Some(_) => core.fault(),
            None => Ok(()),
        }
    })?;
    Ok((handle, request))
}

async fn serve_stream(
    client: Rc<Client>,
    stream: StreamHandle,
    received: ReceivedRequest,
    begun: Option<Instant>,
) {
    stream.seen();
    let ReceivedRequest {
        head,
        upgrade,
        length,
        ended,
        fault,
    } = received;
    if let Some(error) = fault {
        let reply = exchange::refused_head(&client, Protocol::Http2, begun, Some(&head), &error);
        return write(&stream, reply, &Rc::default()).await;
    }
    let expect = head.fields.get(&name::EXPECT);
    let expects_continue =
        !ended && expect.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    let method = head.method.clone();
    let mut owes_continue = None;
    let (body, received) = if upgrade.is_some() || ended {
        (Body::Empty, Rc::default())
    } else {
        let incoming = Incoming::new(stream.clone(), Side::Client, length);
        let received = incoming.received();
        owes_continue = expects_continue.then(|| incoming.received());
        (Body::Http2Request(Box::new(incoming)), received)
    };
    let has_body = !body.is_empty();
    let mut request = Request {
        head,
        body,
        expects_continue,
        upgrade,
    };
    let uploaded = || (has_body && !received.data_ended()).then(|| received.bytes());
    let mut handled = pin!(exchange::handle(client, begun, &mut request, &uploaded));
    let reply = poll_fn(|cx| {
        if let Poll::Ready(reply) = handled.as_mut().poll(cx) {
            return Poll::Ready(Some(reply));
        }
        if owes_continue.take_if(|body| body.asked()).is_some() {
            stream.head(false, |block| block.field(b":status", b"100"));
        }
        // A client that resets its stream cancels what was begun for it.
        stream.poll_broken(cx).map(|_| None)
    })
    .await;
    let Some(mut reply) = reply else { return };
    if is_bodiless(method == Method::HEAD, reply.response.head.status) {
        reply.response.body = Body::Empty;
    }
    write(&stream, reply, &received).await;
}

async fn write(stream: &StreamHandle, reply: Reply, received: &Received) {
    let Reply {
        mut response,
        mut completion,
    } = reply;
    if completion.is_cut() {
        stream.reset(Code::INTERNAL_ERROR);
        return completion.done();
    }
    if let Some(tunnel) = response.tunnel.take() {
        put_head(stream, StatusCode::OK, &response, false);
        let near = StreamIo::new(stream.clone(), None);
        return Box::pin(upgrade::run_http2(near, tunnel, completion)).await;
    }
    let bare = response.body.is_empty();
    if let Some(broken) = stream.broken() {
        return completion.failed(&gone(broken));
    }
    put_head(stream, response.head.status, &response, bare);
    if bare {
        completion.bytes(received.bytes(), 0);
        return completion.done();
    }
    let mut pace = Pace::new(completion.pacing());
    let mut outgoing = Outgoing::new(stream.clone());
    let sent = poll_fn(|cx| {
        if let Poll::Ready(done) = outgoing.poll(cx, &mut response.body) {
            return Poll::Ready(done.map_err(|stopped| match stopped {
                Stopped::Body(error) => error,
                Stopped::Stream(broken) => gone(broken),
            }));
        }
        if let Some(error) = completion.refused() {
            return Poll::Ready(Err(error));
        }
        pace.poll(cx, outgoing.sent + received.bytes()).map(Err)
    })
    .await;
    completion.bytes(received.bytes(), outgoing.sent);
    completion.ended(outgoing.status);
    match sent {
        Ok(()) => completion.done(),
        Err(error) => {
            outgoing.reset(Code::INTERNAL_ERROR);
            completion.failed(&error);
        }
    }
}

fn put_head(stream: &StreamHandle, status: StatusCode, response: &Response, bare: bool) {
    stream.head(bare, |block| {
        block.field(b":status", status.as_str().as_bytes());
        let Body::Full(body) = &response.body else {
            return put_fields(block, &response.head.fields, 0);
        };
        put_fields(block, &response.head.fields, Kind::ContentLength.bit());
        let mut length = itoa::Buffer::new();
        block.field(b"content-length", length.format(body.len()).as_bytes());
    });
}

/// Why a response could not be brought to its end.
fn gone(broken: Broken) -> Error {
    let error = Error::new(Reason::ClientClosed, "");
    match broken {
        Broken::Reset(code) => error.detail(format!("the client reset the stream: {code}")),
        Broken::Malformed(what) => Error::new(Reason::RequestBodyInvalid, what),
        Broken::Lost(Loss::Rotated) => {
            Error::new(Reason::IdentityRotated, "the client's connection was ended").source(broken)
        }
        _ => error.detail("the client's connection ended").source(broken),
    }
}
