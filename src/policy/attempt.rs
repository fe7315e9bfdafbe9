//! Attempts: an endpoint is picked, a connection found, the request sent.
//!
//! A failed attempt is followed by another one only where that provably can't be felt: nothing
//! was sent at all, or an idempotent request died on a kept-alive connection before a byte of
//! response (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).

use http::{Method, Version};
use tokio::time::Instant;

use super::{Answer, Call, Held};
use crate::{
    config::model::UpstreamProtocol,
    error::{Error, Reason, Replay, Result},
    http::{
        Client, h1, h2,
        message::{Request, Response, Upgrade},
        name, upgrade,
    },
    tls::alpn::Offer,
    upstream::{EndpointId, InFlight, Sticky, Upstream, Verdict, Wish, pool::Way},
};

/// Attempts in all.
const ATTEMPTS: usize = 3;

/// Runs attempts until one brings a response, or none may follow.
pub(super) async fn run(mut call: Call<'_>) -> Result<Answer> {
    let worker = &call.client.worker;
    call.trail.upstream(call.upstream);
    // Allocates only when something has failed.
    let mut tried: Vec<EndpointId> = Vec::new();
    let sticky = sticky(&call);
    let mut now = call.start;
    loop {
        let wish = Wish {
            tried: &tried,
            key: sticky.key,
            ..Wish::default()
        };
        let in_flight = call
            .upstream
            .pick(now, &mut worker.rng.borrow_mut(), wish)?;
        call.trail.attempt(&in_flight, now);
        if let Some(crosses) = in_flight.crosses_zones() {
            call.upstream.metrics.zone_chosen(worker.id, crosses);
        }
        let had_body = !call.request.body.is_empty();
        let outcome = {
            let _counted = call.upstream.metrics.running(worker.id);
            let watched = Watched(Some(&in_flight));
            let outcome = attempt(&mut call, &in_flight, now).await;
            watched.ended();
            outcome
        };
        let error = match outcome {
            Ok(mut response) => {
                if let Some(cookie) = &sticky.cookie {
                    response
                        .head
                        .fields
                        .append(&name::SET_COOKIE, cookie.as_bytes());
                }
                let now = Instant::now();
                in_flight.head_received(now);
                in_flight.settle(Verdict::Success, now);
                call.trail.head(now);
                let held = Held {
                    _request: None,
                    _in_flight: Some(in_flight),
                };
                return Ok(Answer { response, held });
            }
            Err(error) => error,
        };
        if is_endpoints_fault(error.reason) {
            in_flight.settle(verdict(error.reason), Instant::now());
        }
        let body_is_whole = !had_body || !call.request.body.is_empty();
        tried.push(in_flight.endpoint().id);
        let may = body_is_whole && may_repeat(&error, &call.request.head.method);
        if tried.len() == ATTEMPTS || !may {
            return Err(error);
        }
        tracing::debug!(%error, attempts = tried.len(), "attempt failed; another follows");
        now = Instant::now();
    }
}

/// What keeps the request to its endpoint, as it is sent: after the rule's filters.
fn sticky(call: &Call<'_>) -> Sticky {
    let Call {
        request, client, ..
    } = call;
    let secure = client.conn.secured.is_some();
    call.upstream
        .sticky(&request.head.fields, client.address, secure, || {
            worker_random(client)
        })
}

/// An attempt that may be cut, by its deadline or by a client that leaves: the endpoint has then
/// not answered for so long. Without this one that never answers would keep looking fast.
struct Watched<'a>(Option<&'a InFlight>);

impl Watched<'_> {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.0 {
            in_flight.cut(Instant::now());
        }
    }
}

async fn attempt(call: &mut Call<'_>, in_flight: &InFlight, now: Instant) -> Result<Response> {
    let Call {
        request,
        client,
        upstream,
        ..
    } = call;
    let endpoint = in_flight.endpoint();
    let pools = &client.worker.pools;
    let conn = &client.conn;
    if request.upgrade == Some(Upgrade::Connect) {
        let tunnel = Box::pin(pools.tunnel(upstream, endpoint, conn));
        return Ok(upgrade::connected(tunnel.await?));
    }
    let way = match protocol(upstream, request) {
        Offer::Http1 => Way::Connection(pools.http1(upstream, endpoint, now, conn).await?),
        offer => match pools.http2(upstream, endpoint, now, conn, offer).await? {
            // What HTTP/2 can't carry there, HTTP/1.1 can.
            Way::Stream(slot)
                if offer == Offer::Best
                    && matches!(request.upgrade, Some(Upgrade::Protocol(_)))
                    && !slot.knows_extended_connect().await =>
            {
                Way::Connection(pools.http1(upstream, endpoint, now, conn).await?)
            }
            way => way,
        },
    };
    match way {
        Way::Connection(conn) => {
            let restore = upgrade::towards_http1(request, || worker_random(client));
            restore.response(h1::client::send(conn, request, pools).await?)
        }
        Way::Stream(slot) => {
            let restore = upgrade::towards_http2(request);
            restore.response(h2::client::send(slot, request).await?)
        }
    }
}

/// What is spoken with an upstream. One that is reached in plaintext can't be asked: where it is to
/// speak what the client spoke, that was said at the beginning of the request's way.
fn protocol(upstream: &Upstream, request: &Request) -> Offer {
    match (upstream.config.protocol, &upstream.tls) {
        (UpstreamProtocol::Http1, _) => Offer::Http1,
        (UpstreamProtocol::Http2, _) => Offer::Http2,
        (UpstreamProtocol::Auto, Some(_)) => Offer::Best,
        (UpstreamProtocol::Auto, None) if request.head.spoken == Version::HTTP_2 => Offer::Http2,
        (UpstreamProtocol::Auto, None) => Offer::Http1,
    }
}

fn worker_random(client: &Client) -> u128 {
    client.worker.rng.borrow_mut().u128(..)
}

fn may_repeat(error: &Error, method: &Method) -> bool {
    match error.replay {
        // A limit of ours stays where it is; a connection that failed, or that the upstream was
        // leaving, may be followed by a better one.
        Replay::NeverSent => is_endpoints_fault(error.reason),
        Replay::Reused => method.is_idempotent(),
        Replay::Refused | Replay::Unsafe => false,
    }
}

fn verdict(reason: Reason) -> Verdict {
    match reason {
        Reason::ConnectFailed | Reason::ConnectTimeout => Verdict::Unreachable,
        _ => Verdict::Failure,
    }
}

/// A limit of ours, or a client that breaks off, says nothing about the endpoint.
fn is_endpoints_fault(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamClosed
            | Reason::UpstreamReset
            | Reason::UpstreamProtocol
            | Reason::UpstreamHeadTooLarge
    )
}
