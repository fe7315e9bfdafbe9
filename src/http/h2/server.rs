//! An HTTP/2 connection from a client.
//!
//! The connection and all its streams are one task: a turn polls every stream that has something
//! to say, then the connection writes all their frames at once.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, Stream as _};
use h2::{Reason as Code, RecvStream, server::SendResponse};
use http::{Method, Request as HttpRequest, StatusCode, header, uri::Scheme};
use tokio::time::{Instant, timeout};

use super::{
    CONNECTION_WINDOW, DATA_FRAME_BUDGET, MAX_FAULTY_STREAMS, MAX_PENDING_RESETS, SEND_BUFFER,
    STREAM_WINDOW,
    body::{Incoming, Outgoing, Received, Side, Stopped},
    keepalive::KeepAlive,
    link::Link,
    tunnel::StreamIo,
};
use crate::{
    error::{Error, Reason, Result},
    http::{
        Client, OPENING, PREFACE,
        exchange::{self, Reply},
        h1::head::MAX_HEADERS,
        message::{Body, Request, RequestHead, Upgrade},
        pace::Pace,
        upgrade,
    },
    net::Stream,
    router::Authority,
    telemetry::access_log::Protocol,
};

/// How long a connection without streams waits, after the first GOAWAY, for the client to answer
/// and so bring about the second.
const GOAWAY_WAIT: Duration = Duration::from_secs(1);

/// Serves streams until the connection ends. `input` was read while the protocol was detected.
pub async fn serve(stream: Stream, input: BytesMut, client: Rc<Client>) {
    let limits = client.limits();
    if !begins_with_settings(&input) {
        return refused(
            &client,
            Reason::BadRequest,
            "the HTTP/2 preface lacks its SETTINGS",
        );
    }
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(u32::try_from(limits.max_head_size).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_FAULTY_STREAMS))
        .enable_connect_protocol();
    let link = Link::new(stream, input);
    let handshake = builder.handshake::<_, Bytes>(link.clone());
    let mut conn = match timeout(limits.head_timeout, handshake).await {
        Ok(Ok(conn)) => conn,
        Ok(Err(error)) => return ended(&client, error),
        Err(_) => return refused(&client, Reason::HeadTimeout, "no HTTP/2 preface in time"),
    };

    link.gather();
    let mut streams = FuturesUnordered::new();
    let mut ending = pin!(client.ended());
    let mut idle = pin!(tokio::time::sleep(limits.http2_idle_timeout));
    let ping = conn.ping_pong().map(RefCell::new).map(Rc::new);
    let mut keep_alive = KeepAlive::new(ping);
    let (mut going, mut cut) = (false, false);
    let mut busy = false;
    let mut turn = |cx: &mut Context<'_>| {
        loop {
            // Accepting also reads, and writes what the streams have queued.
            loop {
                match conn.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        streams.push(serve_stream(Rc::clone(&client), request, respond));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => break,
                }
            }
            // All that can go on do so before the next write, which is then one for all of them.
            let mut progress = false;
            while let Poll::Ready(Some(())) = Pin::new(&mut streams).poll_next(cx) {
                progress = true;
            }
            if progress {
                continue;
            }
            if cut {
                return Poll::Ready(Ok(()));
            }
            let mut tired = false;
            if !streams.is_empty() {
                busy = true;
            } else {
                if std::mem::take(&mut busy) {
                    let patience = if going {
                        GOAWAY_WAIT
                    } else {
                        limits.http2_idle_timeout
                    };
                    idle.as_mut().reset(Instant::now() + patience);
                }
                tired = idle.as_mut().poll(cx).is_ready();
            }
            if keep_alive.poll(cx, link.heard(), busy).is_ready() {
                tracing::debug!("an HTTP/2 client answers no PING");
                return Poll::Ready(Ok(()));
            }
            if tired && going {
                cut = true;
                conn.abrupt_shutdown(Code::NO_ERROR);
                continue;
            }
            // Two steps (RFC 9113 section 6.8): h2 first promises to take all that is on the way.
            if !going && (tired || ending.as_mut().poll(cx).is_ready()) {
                going = true;
                conn.graceful_shutdown();
                idle.as_mut().reset(Instant::now() + GOAWAY_WAIT);
                continue;
            }
            return Poll::Pending;
        }
    };
    let end = poll_fn(|cx| {
        let end = turn(cx);
        // Also what was said last, a GOAWAY: as much of it as the client takes now.
        match (link.poll_write_out(cx), end) {
            (Poll::Ready(Err(error)), Poll::Pending) => {
                tracing::debug!(%error, "HTTP/2 connection from a client ended");
                Poll::Ready(Ok(()))
            }
            (_, end) => end,
        }
    })
    .await;
    if let Err(error) = end {
        ended(&client, error);
    }
}

/// Whether the preface is followed by a SETTINGS frame, as it must (RFC 9113 section 3.4); h2 does
/// not look.
fn begins_with_settings(input: &[u8]) -> bool {
    match input.get(PREFACE.len()..OPENING) {
        Some([_, _, _, kind, flags, stream @ ..]) => {
            *kind == 4 && flags & 1 == 0 && matches!(stream, [0 | 0x80, 0, 0, 0])
        }
        _ => false,
    }
}

/// h2 answers what breaks the protocol by itself: it is here that this is seen.
fn ended(client: &Rc<Client>, error: h2::Error) {
    if super::is_quiet(&error) || error.is_remote() {
        tracing::debug!(%error, "HTTP/2 connection from a client ended");
        return;
    }
    let text = error.to_string();
    let error = Error::new(Reason::BadRequest, "").detail(format!("HTTP/2: {text}"));
    let reply = exchange::refused_head(client, Protocol::Http2, None, &error);
    reply.completion.done();
}

fn refused(client: &Rc<Client>, reason: Reason, what: &'static str) {
    let error = Error::new(reason, what);
    let reply = exchange::refused_head(client, Protocol::Http2, None, &error);
    reply.completion.done();
}

async fn serve_stream(
    client: Rc<Client>,
    request: HttpRequest<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (mut head, recv) = request.into_parts();
    let protocol = head.extensions.get::<h2::ext::Protocol>();
    let upgrade = upgrade::asked_by_http2(&head.method, protocol.map(h2::ext::Protocol::as_str));
    let expects_continue = head
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let checked = check(&mut head, upgrade.as_ref());
    let head = RequestHead {
        fields: super::fields_of(&head.headers),
        method: head.method,
        uri: head.uri,
        version: head.version,
    };
    if let Err(error) = checked {
        let reply = exchange::refused_head(&client, Protocol::Http2, Some(&head), &error);
        return write(&mut respond, reply, None, &Rc::default()).await;
    }
    let method = head.method.clone();
    let mut near = None;
    let mut owes_continue = None;
    let (body, received) = if upgrade.is_some() {
        near = Some(recv);
        (Body::Empty, Rc::default())
    } else if recv.is_end_stream() {
        (Body::Empty, Rc::default())
    } else {
        let incoming = Incoming::new(recv, Side::Client, &head.fields);
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
    let mut handled = pin!(exchange::handle(client, &mut request, &uploaded));
    let reply = poll_fn(|cx| {
        if let Poll::Ready(reply) = handled.as_mut().poll(cx) {
            return Poll::Ready(Some(reply));
        }
        if owes_continue.take_if(|body| body.asked()).is_some() {
            let mut interim = http::Response::new(());
            *interim.status_mut() = StatusCode::CONTINUE;
            // Should the stream be gone, the next poll tells.
            let _ = respond.send_informational(interim);
        }
        // A client that resets its stream cancels what was begun for it.
        respond.poll_reset(cx).map(|_| None)
    })
    .await;
    let Some(mut reply) = reply else { return };
    if exchange::is_bodiless(&method, reply.response.head.status) {
        reply.response.body = Body::Empty;
    }
    write(&mut respond, reply, near, &received).await;
}

/// What h2 leaves to its user.
fn check(head: &mut http::request::Parts, upgrade: Option<&Upgrade>) -> Result<()> {
    let hosts = head.headers.get_all(header::HOST).iter().count();
    let authority = head
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    match (hosts, authority) {
        (0, None) => {
            return Err(Error::new(
                Reason::BadRequest,
                "neither :authority nor Host",
            ));
        }
        (0 | 1, Some(authority)) => {
            // RFC 9113 section 8.3.1: they must not name two hosts.
            let host = head.headers.get(header::HOST);
            if host.is_some_and(|host| !same_host(host.as_bytes(), authority, &head.uri)) {
                return Err(Error::new(
                    Reason::BadRequest,
                    "Host differs from :authority",
                ));
            }
        }
        (1, None) => {}
        _ => return Err(Error::new(Reason::BadRequest, "more than one Host")),
    }
    if let Some(authority) = authority
        && (authority.contains(&b'@') || !crate::router::valid_host(authority))
    {
        return Err(Error::new(Reason::BadRequest, "an invalid :authority"));
    }
    if !matches!(head.uri.scheme_str(), None | Some("http" | "https")) {
        return Err(Error::new(Reason::BadRequest, "neither http nor https"));
    }
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Error::new(
            Reason::BadRequest,
            "* is a path for OPTIONS only",
        ));
    }
    if matches!(upgrade, Some(Upgrade::Protocol(protocol)) if protocol.is_empty()) {
        return Err(Error::new(Reason::BadRequest, "an empty :protocol"));
    }
    if super::has_padded_value(&head.headers) {
        return Err(Error::new(
            Reason::BadRequest,
            "a header value begins or ends with whitespace",
        ));
    }
    // What is not a number h2 refuses, but for the empty one.
    if head
        .headers
        .get(header::CONTENT_LENGTH)
        .is_some_and(|length| length.is_empty())
    {
        return Err(Error::new(Reason::BadRequest, "an empty content-length"));
    }
    // Cookies may come in pieces, and go on as one (RFC 9113 section 8.2.3).
    if head.headers.get_all(header::COOKIE).iter().count() > 1 {
        let pieces: Vec<&[u8]> = head
            .headers
            .get_all(header::COOKIE)
            .iter()
            .map(|v| v.as_bytes())
            .collect();
        let whole = pieces.join(&b"; "[..]);
        if let Ok(whole) = http::HeaderValue::from_bytes(&whole) {
            head.headers.insert(header::COOKIE, whole);
        }
    }
    // As many as over HTTP/1.1, which may be what the upstream speaks.
    if head.headers.len() > MAX_HEADERS {
        return Err(Error::new(Reason::HeadTooLarge, "too many headers"));
    }
    Ok(())
}

/// Whether two spellings name one host: neither case nor the scheme's own port makes a difference
/// (RFC 3986 section 6.2.3).
fn same_host(host: &[u8], authority: &[u8], uri: &http::Uri) -> bool {
    if host.eq_ignore_ascii_case(authority) {
        return true;
    }
    let (Ok(one), Ok(other)) = (Authority::parse(host), Authority::parse(authority)) else {
        return false;
    };
    let usual = if uri.scheme() == Some(&Scheme::HTTPS) {
        443
    } else {
        80
    };
    one.host == other.host && one.port.unwrap_or(usual) == other.port.unwrap_or(usual)
}

async fn write(
    respond: &mut SendResponse<Bytes>,
    reply: Reply,
    near: Option<RecvStream>,
    received: &Received,
) {
    let Reply {
        mut response,
        mut completion,
    } = reply;
    let mut head = http::Response::new(());
    *head.status_mut() = response.head.status;
    *head.headers_mut() = super::map_of(&response.head.fields, 0);
    if let (Some(tunnel), Some(recv)) = (response.tunnel.take(), near) {
        *head.status_mut() = StatusCode::OK;
        let Ok(send) = respond.send_response(head, false) else {
            return;
        };
        let near = StreamIo::new(send, recv, None);
        return Box::pin(upgrade::run_http2(near, tunnel, completion)).await;
    }
    if let Body::Full(body) = &response.body {
        head.headers_mut()
            .insert(header::CONTENT_LENGTH, body.len().into());
    }
    let bare = response.body.is_empty();
    let send = match respond.send_response(head, bare) {
        Ok(send) => send,
        Err(error) => {
            let gone = Error::new(Reason::ClientClosed, "the client closed the stream");
            return completion.failed(&gone.source(error));
        }
    };
    if bare {
        completion.bytes(received.bytes(), 0);
        return completion.done();
    }
    let mut pace = Pace::new(completion.pacing());
    let mut outgoing = Outgoing::new(send);
    let sent = poll_fn(|cx| {
        if let Poll::Ready(done) = outgoing.poll(cx, &mut response.body) {
            return Poll::Ready(done.map_err(|stopped| {
                match stopped {
                    Stopped::Body(error) => error,
                    Stopped::Peer(code) => Error::new(Reason::ClientClosed, "")
                        .detail(format!("the client reset the stream: {code}")),
                    Stopped::Connection(error) => {
                        Error::new(Reason::ClientClosed, "the client's connection ended")
                            .source(error)
                    }
                }
            }));
        }
        pace.poll(cx, outgoing.sent + received.bytes()).map(Err)
    })
    .await;
    completion.bytes(received.bytes(), outgoing.sent);
    match sent {
        Ok(()) => completion.done(),
        Err(error) => {
            outgoing.reset(Code::INTERNAL_ERROR);
            completion.failed(&error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_followed_by_settings() {
        let opening = |rest: [u8; 9]| begins_with_settings(&[PREFACE, &rest].concat());
        assert!(opening([0, 0, 0, 4, 0, 0, 0, 0, 0]));
        assert!(opening([0, 0, 6, 4, 0xfe, 0x80, 0, 0, 0]), "unused bits");
        assert!(!opening([0, 0, 0, 4, 1, 0, 0, 0, 0]), "an ACK");
        assert!(!opening([0, 0, 0, 4, 0, 0, 0, 0, 1]), "on a stream");
        assert!(!opening([0, 0, 8, 6, 0, 0, 0, 0, 0]), "a PING");
        assert!(!begins_with_settings(PREFACE));
    }

    #[test]
    fn hosts_are_compared_as_uris_are() {
        let same = |host: &str, authority: &str, scheme: &str| {
            let uri = format!("{scheme}://{authority}/").parse().unwrap();
            same_host(host.as_bytes(), authority.as_bytes(), &uri)
        };
        assert!(same("A.test", "a.TEST", "http"));
        assert!(same("a.test:80", "a.test", "http"));
        assert!(same("a.test", "a.test:443", "https"));
        assert!(!same("a.test:443", "a.test", "http"));
        assert!(!same("b.test", "a.test", "http"));
        assert!(!same("a.test, b.test", "a.test", "http"));
    }
}
