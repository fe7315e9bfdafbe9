//! One exchange with an HTTP/2 upstream, and the connection that it shares with others.

use std::{
    cell::{Cell, RefCell},
    future::{Future as _, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{PingPong, Reason as Code, client::ResponseFuture};
use http::{Method, Uri, header, uri};
use tokio::{
    sync::{Notify, OnceCell},
    time::Instant,
};

use super::{
    CONNECTION_WINDOW, DATA_FRAME_BUDGET, MAX_RESPONSE_HEAD, SEND_BUFFER, STREAM_WINDOW,
    body::{Incoming, Outgoing, Side, Stopped},
    keepalive::KeepAlive,
    link::Link,
    tunnel::StreamIo,
};
use crate::{
    error::{Error, Reason, Replay, Result},
    http::{
        message::{Body, Frame, Request, Response, ResponseHead, Upgrade},
        name::{self, Kind},
        upgrade::Tunnel,
    },
    net::Stream,
};

/// Streams that we put on one connection at most, whatever more the upstream would allow: a
/// second connection costs less than waiting behind the first one's window.
const MAX_STREAMS: usize = 100;
/// How long a new connection may take to tell whether it knows RFC 8441.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A connection to an HTTP/2 upstream.
pub struct Http2 {
    send: RefCell<h2::client::SendRequest<Bytes>>,
    ping: Option<Rc<RefCell<PingPong>>>,
    /// Set once the upstream's first SETTINGS have come, or have been waited for.
    settled: OnceCell<()>,
    active: Cell<usize>,
    closed: Cell<bool>,
    /// Notified when a stream has ended.
    room: Rc<Notify>,
    pub born: Instant,
    idle_since: Cell<Instant>,
}

impl std::fmt::Debug for Http2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2")
            .field("active", &self.active)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Http2 {
    /// Speaks the preface on `stream`; `held` is dropped when the connection has ended, `room`
    /// notified whenever one of its streams has.
    ///
    /// # Errors
    /// The preface could not be written.
    pub async fn open<H: 'static>(
        stream: Stream,
        held: H,
        room: Rc<Notify>,
        now: Instant,
    ) -> Result<Rc<Self>> {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_RESPONSE_HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(DATA_FRAME_BUDGET)
            .initial_max_send_streams(MAX_STREAMS);
        let link = Link::new(stream, BytesMut::new());
        let handshake = builder.handshake(link.clone());
        let (send, mut connection) = handshake.await.map_err(|error| {
            Error::new(
                Reason::ConnectFailed,
                "the HTTP/2 preface could not be sent",
            )
            .source(error)
            .replay(Replay::NeverSent)
        })?;
        let ping = connection.ping_pong().map(RefCell::new).map(Rc::new);
        let mut keep_alive = KeepAlive::new(ping.clone());
        let http2 = Rc::new(Self {
            send: RefCell::new(send),
            ping,
            settled: OnceCell::new(),
            active: Cell::new(0),
            closed: Cell::new(false),
            room,
            born: now,
            idle_since: Cell::new(now),
        });
        let driven = Rc::downgrade(&http2);
        link.gather();
        tokio::task::spawn_local(async move {
            let end = poll_fn(|cx| {
                if let Poll::Ready(end) = Pin::new(&mut connection).poll(cx) {
                    return Poll::Ready(end.map_err(|error| error.to_string()));
                }
                let busy = driven.upgrade().is_some_and(|http2| http2.active.get() > 0);
                if keep_alive.poll(cx, link.heard(), busy).is_ready() {
                    return Poll::Ready(Err("it answers no PING".to_owned()));
                }
                match link.poll_write_out(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error.to_string())),
                    _ => Poll::Pending,
                }
            });
            if let Err(error) = end.await {
                tracing::debug!(%error, "HTTP/2 connection to an upstream ended");
            }
            if let Some(http2) = driven.upgrade() {
                http2.closed.set(true);
            }
            drop(held);
        });
        Ok(http2)
    }

    /// Whether it can take one more stream now. An upstream that has said GOAWAY is found out
    /// here, before it is given a request.
    pub fn has_room(&self) -> bool {
        if self.closed.get() {
            return false;
        }
        let mut send = self.send.borrow_mut();
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(_)) = send.poll_ready(&mut cx) {
            self.closed.set(true);
            return false;
        }
        self.active.get() < send.current_max_send_streams().min(MAX_STREAMS)
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Since when no stream is open; `None` while one is.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.active.get() == 0).then(|| self.idle_since.get())
    }

    /// Takes no new streams; those that are open go on.
    pub fn retire(&self) {
        self.closed.set(true);
    }

    /// Whether the upstream takes `CONNECT` with `:protocol` (RFC 8441). It says so in its first
    /// SETTINGS, which a PONG can't overtake.
    async fn knows_extended_connect(&self) -> bool {
        if self.send.borrow().is_extended_connect_protocol_enabled() {
            return true;
        }
        // One asks, the others wait with it.
        let settled = async {
            if let Some(ping) = &self.ping {
                let _ = ping.borrow_mut().send_ping(h2::Ping::opaque());
                let pong = poll_fn(|cx| ping.borrow_mut().poll_pong(cx));
                let _ = tokio::time::timeout(SETTINGS_WAIT, pong).await;
            }
        };
        self.settled.get_or_init(|| settled).await;
        self.send.borrow().is_extended_connect_protocol_enabled()
    }
}

/// One stream's place on a connection.
#[derive(Debug)]
pub struct Slot(Rc<Http2>);

impl Slot {
    pub fn take(conn: &Rc<Http2>) -> Self {
        conn.active.set(conn.active.get() + 1);
        Self(Rc::clone(conn))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.room.notify_one();
        if self.0.active.get() == 0 {
            self.0.idle_since.set(Instant::now());
        }
    }
}

/// Sends `request` as one stream of the slot's connection and waits for the response's head.
///
/// # Errors
/// The request's body is left in `request` if nothing of it was taken.
pub async fn send(slot: Slot, request: &mut Request) -> Result<Response> {
    let conn = Rc::clone(&slot.0);
    let sender = conn.send.borrow().clone();
    let mut sender = sender.ready().await.map_err(|error| {
        // The upstream has sent GOAWAY, and lives on for its older streams.
        conn.retire();
        failed(error).replay(Replay::NeverSent)
    })?;
    let upgrade = request.upgrade.clone();
    if let Some(Upgrade::Protocol(_)) = upgrade
        && !conn.knows_extended_connect().await
    {
        return Err(Error::new(
            Reason::UpgradeRefused,
            "the upstream's HTTP/2 does not take CONNECT with a protocol (RFC 8441)",
        ));
    }
    let head = head_of(request)?;
    let bare = request.body.is_empty() && upgrade.is_none();
    let (response, stream) = sender.send_request(head, bare).map_err(|error| {
        if error.is_go_away() || error.is_io() {
            conn.retire();
        }
        // The head has gone with it.
        failed(error)
    })?;
    let upload = Upload {
        outgoing: if bare {
            Outgoing::ended(stream)
        } else {
            Outgoing::new(stream)
        },
        body: std::mem::take(&mut request.body),
        waits: request
            .expects_continue
            .then(|| Box::pin(tokio::time::sleep(CONTINUE_WAIT))),
        refused: false,
    };
    let mut exchange = Exchange {
        response,
        upload,
        tunnel: upgrade.is_some(),
    };
    let response = match poll_fn(|cx| exchange.poll_head(cx)).await {
        Ok(response) => response,
        Err(error) => {
            let code = if error.reason == Reason::UpstreamProtocol {
                Code::PROTOCOL_ERROR
            } else {
                Code::CANCEL
            };
            exchange.upload.outgoing.reset(code);
            return Err(error);
        }
    };
    let (parts, recv) = response.into_parts();
    if super::has_padded_value(&parts.headers) {
        exchange.upload.outgoing.reset(Code::PROTOCOL_ERROR);
        return Err(Error::new(
            Reason::UpstreamProtocol,
            "a header value begins or ends with whitespace",
        ));
    }
    let head = ResponseHead {
        status: parts.status,
        fields: super::fields_of(&parts.headers),
    };
    let Upload { outgoing, .. } = &exchange.upload;
    if exchange.tunnel && head.status.is_success() {
        let Upload { outgoing, .. } = exchange.upload;
        let io = StreamIo::new(outgoing.into_send(), recv, Some(slot));
        let tunnel = Some(Tunnel::http2(io));
        return Ok(Response {
            head,
            body: Body::Empty,
            tunnel,
        });
    }
    let body = if recv.is_end_stream() && outgoing.is_done() {
        Body::Empty
    } else {
        let incoming = Incoming::new(recv, Side::Upstream, &head.fields);
        Body::Http2Response(Box::new(ResponseBody {
            incoming,
            upload: exchange.upload,
            _slot: slot,
        }))
    };
    Ok(Response {
        head,
        body,
        tunnel: None,
    })
}

/// The head as HTTP/2 writes it: `Host` as `:authority`, a wish to upgrade as `:protocol`.
fn head_of(request: &Request) -> Result<http::Request<()>> {
    let mut head = http::Request::new(());
    let parts = &request.head;
    let authority = parts
        .fields
        .get(&name::HOST)
        .and_then(|host| uri::Authority::try_from(host).ok());
    let mut target = uri::Parts::default();
    target.scheme = Some(uri::Scheme::HTTP);
    target.path_and_query = Some(
        parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| uri::PathAndQuery::from_static("/")),
    );
    target.authority = Some(authority.unwrap_or_else(|| uri::Authority::from_static("localhost")));
    *head.uri_mut() = Uri::from_parts(target)
        .map_err(|error| Error::new(Reason::BadRequest, "no target URI").source(error))?;
    *head.method_mut() = parts.method.clone();
    *head.version_mut() = http::Version::HTTP_2;
    if let Some(Upgrade::Protocol(protocol)) = &request.upgrade {
        *head.method_mut() = Method::CONNECT;
        let protocol = protocol.to_str().unwrap_or_default();
        head.extensions_mut()
            .insert(h2::ext::Protocol::from(protocol));
    }
    *head.headers_mut() = super::map_of(&parts.fields, Kind::Host.bit());
    if request.upgrade.is_some() {
        // RFC 8441 section 5 does without it.
        head.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
    }
    Ok(head)
}

#[derive(Debug)]
struct Upload {
    outgoing: Outgoing,
    body: Body,
    /// For `100 Continue`, or the end of patience.
    waits: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
    refused: bool,
}

impl Upload {
    /// # Errors
    /// The body turned bad on the client's side: the request must stay incomplete.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if let Some(patience) = &mut self.waits {
            std::task::ready!(patience.as_mut().poll(cx));
            self.waits = None;
        }
        if self.refused {
            return Poll::Ready(Ok(()));
        }
        match std::task::ready!(self.outgoing.poll(cx, &mut self.body)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Stopped::Body(error)) => Poll::Ready(Err(error)),
            // It has heard enough, or fails: its response, or the failure, is on the other half.
            Err(Stopped::Peer(_) | Stopped::Connection(_)) => {
                self.refused = true;
                self.body = Body::Empty;
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[derive(Debug)]
struct Exchange {
    response: ResponseFuture,
    upload: Upload,
    tunnel: bool,
}

impl Exchange {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<h2::RecvStream>>> {
        if !self.tunnel
            && let Poll::Ready(Err(error)) = self.upload.poll(cx)
        {
            return Poll::Ready(Err(error));
        }
        while let Poll::Ready(Some(Ok(interim))) = self.response.poll_informational(cx) {
            // RFC 9113 section 8.6: there is nothing to switch from.
            if interim.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Error::new(
                    Reason::UpstreamProtocol,
                    "101 Switching Protocols over HTTP/2",
                )));
            }
            if interim.status() == http::StatusCode::CONTINUE && self.upload.waits.take().is_some()
            {
                cx.waker().wake_by_ref();
            }
        }
        std::pin::Pin::new(&mut self.response)
            .poll(cx)
            .map_err(failed)
    }
}

fn failed(error: h2::Error) -> Error {
    let code = error.reason();
    if error.is_io() {
        return Error::new(
            Reason::UpstreamClosed,
            "the connection ended before the response",
        )
        .source(error);
    }
    if error.is_reset() && error.is_remote() {
        let replay = if code == Some(Code::REFUSED_STREAM) {
            Replay::Refused
        } else {
            Replay::Unsafe
        };
        return Error::new(Reason::UpstreamReset, "the upstream reset the stream")
            .source(error)
            .replay(replay);
    }
    if error.is_go_away() && error.is_remote() {
        // h2 fails only the streams above the last one that the upstream will process.
        return Error::new(
            Reason::UpstreamReset,
            "the upstream went away before this stream",
        )
        .source(error)
        .replay(Replay::Refused);
    }
    Error::new(Reason::UpstreamProtocol, "the upstream broke HTTP/2").source(error)
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
