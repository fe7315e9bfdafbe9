//! One exchange with an HTTP/2 upstream, and the connection that it shares with others.

mod slot;

use std::{
    cell::Cell,
    future::{Future as _, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, StatusCode, Version};
use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep, timeout},
};

pub use self::slot::Slot;
use super::{
    CONNECTION_WINDOW, STREAM_WINDOW,
    body::{Incoming, Outgoing, Side, Stopped},
    connection::{Limits, Role},
    frame::{Code, Fault},
    keepalive::KeepAlive,
    link::{Driver, Link, StreamHandle, put_fields},
    receive::Head,
    section::{ReceivedResponse, Section},
    send::Block,
    streams::Broken,
    tunnel::StreamIo,
};
use crate::{
    error::{Error, Reason, Replay, Result},
    http::{
        input::Input,
        message::{
            Body, CONTINUE_WAIT, Frame, MAX_INTERIM, MAX_RESPONSE_HEAD, Request, Response, Upgrade,
            is_bodiless,
        },
        name::{self, Kind},
        upgrade::Tunnel,
    },
    net::Loss,
    tls::{Leash, alpn::Spoken},
    upstream::Opened,
};

/// Streams that we put on one connection at most, whatever more the upstream would allow: a
/// second connection costs less than waiting behind the first one's window.
const MAX_STREAMS: u32 = 100;
/// How long a new connection may take to tell whether it knows RFC 8441.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);

/// An upstream with open streams that has been silent for so long is asked whether it is there. Not
/// earlier: a gRPC server takes PINGs less than five minutes apart for abuse, and closes the
/// connection at the third. That its host is gone the kernel's probes find out in a minute and a
/// half.
const SILENCE: Duration = Duration::from_secs(6 * 60);

/// A connection to an HTTP/2 upstream.
pub struct Http2 {
    link: Rc<Link>,
    /// What ends it, where there is TLS.
    leash: Option<Rc<Leash>>,
    /// It leads to another Pillion.
    link_to_pillion: bool,
    /// Notified when the upstream's first SETTINGS have come.
    settled: Rc<Notify>,
    active: Cell<u32>,
    /// Notified when a stream has ended.
    room: Rc<Notify>,
    pub born: Instant,
    idle_since: Cell<Instant>,
}

impl std::fmt::Debug for Http2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2")
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

impl Http2 {
    /// Speaks HTTP/2 on `stream`; `held` is dropped when the connection has ended, `room` notified
    /// whenever one of its streams has.
    pub fn open<H: 'static>(opened: Opened, held: H, room: Rc<Notify>, now: Instant) -> Rc<Self> {
        let limits = Limits {
            streams: 0,
            head: MAX_RESPONSE_HEAD,
            stream_window: STREAM_WINDOW,
            window: CONNECTION_WINDOW,
        };
        let link = Link::new(Role::Client, limits);
        let settled = Rc::<Notify>::default();
        let Opened { stream, spoken } = opened;
        let leash = stream.leash();
        let driver = Driver::new(Rc::clone(&link), stream, Input::default());
        tokio::task::spawn_local(drive(driver, Rc::clone(&settled), held));
        Rc::new(Self {
            link,
            leash,
            link_to_pillion: spoken == Some(Spoken::Link),
            settled,
            active: Cell::new(0),
            room,
            born: now,
            idle_since: Cell::new(now),
        })
    }

    /// Whether it can take one more stream now.
    pub fn has_room(&self) -> bool {
        let room = self.link.with(|core| {
            let limit = core.peer.streams.min(MAX_STREAMS);
            (core.room().is_some() && !core.is_full()).then_some(limit)
        });
        room.is_some_and(|limit| self.active.get() < limit) && !self.is_retired()
    }

    /// Its identity or its trust has been replaced.
    pub fn is_retired(&self) -> bool {
        self.leash.as_ref().is_some_and(|leash| leash.is_retired())
    }

    pub fn is_closed(&self) -> bool {
        self.link.with(|core| core.room().is_none())
    }

    /// Since when no stream is open; `None` while one is.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.active.get() == 0).then(|| self.idle_since.get())
    }

    /// Takes no new streams; those that are open go on.
    pub fn retire(&self) {
        self.link.with(|core| core.leave_now());
    }

    /// Whether the upstream takes `CONNECT` with `:protocol` (RFC 8441). It says so in its first
    /// SETTINGS.
    async fn knows_extended_connect(&self) -> bool {
        let settled = async {
            let news = self.settled.notified();
            if !self.link.with(|core| core.peer.settled) {
                news.await;
            }
        };
        let _ = timeout(SETTINGS_WAIT, settled).await;
        self.link.with(|core| core.peer.extended_connect)
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.retire();
    }
}

/// The task of a connection.
async fn drive<H>(mut driver: Driver, settled: Rc<Notify>, held: H) {
    let mut keep_alive = KeepAlive::after(SILENCE);
    let mut is_settled = false;
    let end = poll_fn(|cx| {
        driver.begin();
        loop {
            let input = driver.poll_input(cx, take_head)?;
            if !is_settled && driver.link.with(|core| core.peer.settled) {
                is_settled = true;
                settled.notify_waiters();
            }
            if let Poll::Ready(Err(error)) = driver.poll_output(cx) {
                return Poll::Ready(Err(Broken::Lost(Loss::of(&error))));
            }
            if input.is_pending() && !driver.can_go_on() {
                break;
            }
        }
        let (over, busy) = driver.link.with(|core| (core.is_over(), !core.is_empty()));
        if over {
            return Poll::Ready(Ok(()));
        }
        let ping = || driver.link.with(|core| core.ping());
        if keep_alive.poll(cx, driver.heard, busy, ping).is_ready() {
            return Poll::Ready(Err(Broken::Silent));
        }
        // The PING, where it was time for one: nothing else wakes this task before it is due.
        if let Poll::Ready(Err(error)) = driver.poll_output(cx) {
            return Poll::Ready(Err(Broken::Lost(Loss::of(&error))));
        }
        driver.rest(cx, keep_alive.is_at_rest());
        Poll::Pending
    })
    .await;
    settled.notify_waiters();
    let broken = end.err().unwrap_or(Broken::Lost(Loss::Closed));
    if end.is_err() {
        tracing::debug!(error = %broken, "HTTP/2 connection to an upstream ended");
    }
    driver.link.with(|core| core.end(broken));
    drop(held);
    if matches!(broken, Broken::Fault(_)) || end.is_ok() {
        driver.close().await;
    }
}

/// The head of a response, interim ones too.
fn take_head(link: &Rc<Link>, head: Head, section: Section) -> Result<(), Fault> {
    let Some(to_head) = link.with(|core| Some(core.stream(head.key)?.mail.to_head)) else {
        return Ok(());
    };
    let received = read_head(&head, section, to_head);
    link.with(|core| {
        if let Err(error) = &received {
            let what = "the response's head is malformed";
            tracing::debug!(%error, "{what}");
            core.malformed(head.key, Code::PROTOCOL_ERROR, what)?;
        }
        let final_length = match &received {
            Ok(response) if !response.head.status.is_informational() => Some(
                response
                    .length
                    .filter(|_| !is_bodiless(to_head, response.head.status)),
            ),
            _ => None,
        };
        if let Some(length) = final_length {
            core.expect(head.key, length);
        }
        let Some(stream) = core.stream(head.key) else {
            return Ok(());
        };
        let mail = &mut stream.mail;
        match received {
            Ok(response) if response.head.status.is_informational() => {
                mail.continued |= response.head.status == StatusCode::CONTINUE;
                mail.interim += 1;
                if mail.interim > MAX_INTERIM {
                    let what = "too many interim responses";
                    return core.malformed(head.key, Code::ENHANCE_YOUR_CALM, what);
                }
            }
            received => mail.head = Some(received),
        }
        Ok(())
    })
}

/// What the head of a response says; an interim one too.
pub(crate) fn read_head(head: &Head, section: Section, to_head: bool) -> Result<ReceivedResponse> {
    let malformed = |what| Err(Error::new(Reason::UpstreamProtocol, what));
    let response = section.response(head.cut)?;
    let status = response.head.status;
    // RFC 9113 section 8.6: there is nothing to switch from.
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return malformed("101 Switching Protocols over HTTP/2");
    }
    if status.is_informational() && head.end {
        return malformed("an interim response that ends the stream");
    }
    let less = head.end && response.length.is_some_and(|length| length > 0);
    if less && !is_bodiless(to_head, status) {
        return malformed("less content than content-length tells");
    }
    Ok(response)
}

/// Sends `request` as one stream of the slot's connection and waits for the response's head.
///
/// # Errors
/// The request's body is left in `request` if nothing of it was taken.
pub async fn send(slot: Slot, request: &mut Request) -> Result<Response> {
    let conn = &slot.0;
    if let Some(Upgrade::Protocol(_)) = request.upgrade
        && !conn.knows_extended_connect().await
    {
        return Err(Error::new(
            Reason::UpgradeRefused,
            "the upstream's HTTP/2 does not take CONNECT with a protocol (RFC 8441)",
        ));
    }
    if conn.is_closed() {
        return Err(Error::new(
            Reason::UpstreamClosed,
            "the upstream has gone away meanwhile",
        )
        .replay(Replay::NeverSent));
    }
    let rested = conn.active.get() == 1 && conn.idle_since.get() > conn.born;
    let tunnel = request.upgrade.is_some();
    let bare = request.body.is_empty() && !tunnel;
    let stream = StreamHandle::open(&conn.link, bare, |block| put_head(block, request, conn));
    if request.head.method == Method::HEAD {
        stream.mail(|mail| mail.to_head = true);
    }
    let upload = Upload {
        outgoing: if bare {
            Outgoing::ended(stream.clone())
        } else {
            Outgoing::new(stream.clone())
        },
        body: std::mem::take(&mut request.body),
        waits: request
            .expects_continue
            .then(|| Box::pin(sleep(CONTINUE_WAIT))),
        refused: false,
    };
    let mut exchange = Exchange {
        stream,
        upload,
        tunnel,
        rested,
    };
    let received = poll_fn(|cx| exchange.poll_head(cx)).await?;
    let Exchange { stream, upload, .. } = exchange;
    let (head, length) = (received.head, received.length);
    if tunnel && head.status.is_success() {
        return Ok(Response {
            head,
            body: Body::Empty,
            tunnel: Some(Tunnel::http2(StreamIo::new(stream, Some(slot)))),
        });
    }
    let incoming = Incoming::new(stream, Side::Upstream, length);
    let body = if incoming.has_ended() && upload.outgoing.is_done() {
        Body::Empty
    } else {
        Body::Http2Response(Box::new(ResponseBody {
            incoming,
            upload,
            _slot: slot,
        }))
    };
    Ok(Response {
        head,
        body,
        tunnel: None,
    })
}

/// Tells another Pillion what the client spoke, where that is not what is spoken here.
fn put_spoken(block: &mut Block<'_>, spoken: Version, conn: &Http2) {
    let spoken: &[u8] = match spoken {
        Version::HTTP_11 => b"HTTP/1.1",
        Version::HTTP_10 => b"HTTP/1.0",
        _ => return,
    };
    if conn.link_to_pillion {
        block.field(name::X_PILLION_PROTOCOL.as_str().as_bytes(), spoken);
    }
}

/// The head as HTTP/2 writes it: `Host` as `:authority`, a wish to upgrade as `:protocol`.
fn put_head(block: &mut Block<'_>, request: &Request, conn: &Http2) {
    let head = &request.head;
    let protocol = match &request.upgrade {
        Some(Upgrade::Protocol(protocol)) => Some(protocol),
        _ => None,
    };
    let method = protocol.map_or(&head.method, |_| &Method::CONNECT);
    block.field(b":method", method.as_str().as_bytes());
    let scheme: &[u8] = if conn.leash.is_some() {
        b"https"
    } else {
        b"http"
    };
    block.field(b":scheme", scheme);
    let authority = head.fields.get(&name::HOST).unwrap_or(b"localhost");
    block.field(b":authority", authority);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    block.field(b":path", path.as_bytes());
    let without = Kind::Host.bit();
    let Some(protocol) = protocol else {
        put_fields(block, &head.fields, without);
        return put_spoken(block, head.spoken, conn);
    };
    block.field(b":protocol", protocol.as_bytes());
    // RFC 8441 section 5 does without it.
    let mut fields = head.fields.clone();
    fields.remove(&name::SEC_WEBSOCKET_KEY);
    put_fields(block, &fields, without);
    put_spoken(block, head.spoken, conn);
}

#[derive(Debug)]
struct Upload {
    outgoing: Outgoing,
    body: Body,
    /// For `100 Continue`, or the end of patience.
    waits: Option<Pin<Box<Sleep>>>,
    refused: bool,
}

impl Upload {
    /// # Errors
    /// The body turned bad on the client's side: the request must stay incomplete.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(patience) = &mut self.waits {
            ready!(patience.as_mut().poll(cx));
            self.waits = None;
        }
        if self.refused {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.outgoing.poll(cx, &mut self.body)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Stopped::Body(error)) => Poll::Ready(Err(error)),
            // It has heard enough, or fails: its response, or the failure, is on the other half.
            Err(Stopped::Stream(_)) => {
                self.refused = true;
                self.body = Body::Empty;
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[derive(Debug)]
struct Exchange {
    stream: StreamHandle,
    upload: Upload,
    tunnel: bool,
    /// The connection was idle before it.
    rested: bool,
}

impl Exchange {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ReceivedResponse>> {
        if self.upload.waits.is_some() && self.stream.mail(|mail| mail.continued) == Some(true) {
            self.upload.waits = None;
        }
        if !self.tunnel
            && let Poll::Ready(Err(error)) = self.upload.poll(cx)
        {
            return Poll::Ready(Err(error));
        }
        if let Some(received) = self.stream.mail(|mail| mail.head.take()).flatten() {
            return Poll::Ready(received);
        }
        self.stream
            .poll_broken(cx)
            .map(|broken| Err(failed(broken, self.rested)))
    }
}

fn failed(broken: Broken, rested: bool) -> Error {
    if let Broken::Lost(loss) = broken
        && let Some(reason) = loss.reason()
    {
        return Error::new(reason, "the connection ended before the response").source(broken);
    }
    let (reason, what, replay) = match broken {
        Broken::Lost(_) if rested => (
            Reason::UpstreamClosed,
            "a kept-alive connection ended before the response",
            Replay::Reused,
        ),
        Broken::Lost(_) | Broken::Silent | Broken::GivenUp => (
            Reason::UpstreamClosed,
            "the connection ended before the response",
            Replay::Unsafe,
        ),
        Broken::Reset(Code::REFUSED_STREAM) => (
            Reason::UpstreamReset,
            "the upstream refused the stream",
            Replay::Refused,
        ),
        Broken::Reset(_) => (
            Reason::UpstreamReset,
            "the upstream reset the stream",
            Replay::Unsafe,
        ),
        // Only streams above the last one that the upstream will process fail with it.
        Broken::Unprocessed(_) => (
            Reason::UpstreamReset,
            "the upstream went away before this stream",
            Replay::Refused,
        ),
        Broken::Malformed(_) | Broken::Fault(_) => (
            Reason::UpstreamProtocol,
            "the upstream broke HTTP/2",
            Replay::Unsafe,
        ),
    };
    Error::new(reason, what).source(broken).replay(replay)
}

/// The body of a response, and what is left of the upload.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    upload: Upload,
    _slot: Slot,
}

impl ResponseBody {
    pub const fn length(&self) -> Option<u64> {
        self.incoming.length()
    }

    pub fn has_ended(&self) -> bool {
        self.incoming.has_ended()
    }

    /// See [`Body::poll_upload`].
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<()> {
        if !self.upload.outgoing.is_done()
            && let Poll::Ready(Err(error)) = self.upload.poll(cx)
        {
            self.upload.outgoing.reset(Code::CANCEL);
            return Err(error);
        }
        Ok(())
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame>>> {
        self.poll_upload(cx)?;
        self.incoming.poll_frame(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::{super::connection::Connection, *};

    /// Takes requests and PINGs, and says nothing of its own.
    async fn silent(mut client: DuplexStream) {
        let limits = Limits {
            streams: 10,
            head: MAX_RESPONSE_HEAD,
            stream_window: STREAM_WINDOW,
            window: CONNECTION_WINDOW,
        };
        let mut core = Connection::<()>::new(Role::Server, limits);
        let mut input = BytesMut::zeroed(crate::http::PREFACE.len());
        client.read_exact(&mut input).await.unwrap();
        input.clear();
        loop {
            while let Some(head) = core.receive(&mut input, &mut |_, _| {}).unwrap() {
                core.hold(head.key);
            }
            let written = poll_fn(|cx| core.output.poll_flush(cx, &mut client)).await;
            if written.is_err() || client.read_buf(&mut input).await.unwrap() == 0 {
                return;
            }
        }
    }

    #[test]
    fn an_upstream_that_answers_pings_is_kept() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build_local(Default::default())
            .unwrap();
        runtime.block_on(async {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::task::spawn_local(silent(theirs));
            let opened = Opened {
                stream: crate::net::Stream::Memory(ours),
                spoken: None,
            };
            let conn = Http2::open(opened, (), Rc::default(), Instant::now());
            let mut request = Request::default();
            let response = send(Slot::take(&conn), &mut request);
            let hour = Duration::from_secs(3600);
            assert!(timeout(hour, response).await.is_err());
        });
    }
}
