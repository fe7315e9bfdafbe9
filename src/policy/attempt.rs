//! One attempt: an endpoint is picked, a connection found, the request sent, the outcome judged.
//!
//! What it says of the endpoint is told here; whether another attempt follows is decided by
//! [`attempts`](super::attempts).

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use http::{Method, Version};
use tokio::time::Instant;

use super::{
    Answer, Held, Line, Outcome, Terms,
    retry::{self, Asked, Class, Withheld},
    trail::Mark,
};
use crate::{
    config::model::UpstreamProtocol,
    error::{Error, Origin, Reason, Result},
    http::{
        Client, grpc, h1, h2, headers,
        message::{Begun, Body, Frame, Request, Response, Upgrade},
        name, upgrade,
    },
    telemetry::metrics::Attempted,
    tls::{Leash, alpn::Offer},
    upstream::{EndpointId, InFlight, Upstream, Verdict, Wish, pool::Way},
};

/// Which attempt of a request it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn<'a> {
    /// Where the others went.
    pub(super) tried: &'a [EndpointId],
    /// Not on a connection that was used before: such a one has just failed.
    pub(super) fresh: bool,
    /// Nobody asks whether another attempt may follow: a bad response is as good as any.
    pub(super) last: bool,
}

/// An attempt that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) what: What,
    pub(super) class: Class,
    /// Where it went; `None` where there was nowhere to go.
    pub(super) endpoint: Option<EndpointId>,
    /// What the upstream said about being asked again.
    pub(super) asked: Option<Asked>,
    /// Attempts that others behind the endpoint have spent on it.
    pub(super) spent_behind: u8,
}

#[derive(Debug)]
pub(super) enum What {
    Error(Error),
    /// A response with a status that counts as a failure.
    Answer(Answer),
}

/// Runs one.
///
/// # Errors
/// Boxed, as everything about failures: the space for it would be part of every request.
pub(super) async fn run(
    terms: &Terms<'_>,
    request: &mut Request,
    turn: Turn<'_>,
    now: Instant,
) -> Result<Answer, Box<Failed>> {
    let worker = &terms.client.worker;
    let wish = Wish {
        tried: turn.tried,
        key: terms.key,
        idempotent: terms.is_idempotent(request),
    };
    let in_flight = terms
        .upstream
        .pick(now, &mut worker.rng.borrow_mut(), wish)
        .map_err(|error| {
            terms.trail.nowhere(terms, error.reason, now);
            Failed::of(error, None)
        })?;
    let course = Course {
        mark: terms.trail.attempt(terms, request, &in_flight, now),
        method: request.head.method.clone(),
        line: RefCell::default(),
        terms,
    };
    if let Some(crosses) = in_flight.crosses_zones() {
        terms.upstream.metrics.zone_chosen(worker.id, crosses);
    }
    terms.tell_deadline(request, now);
    let outcome = {
        let _counted = terms.upstream.metrics.running(worker.id);
        let watched = Watched(Some(&in_flight), &course);
        let outcome = in_time(&course, request, &in_flight, turn.fresh, now).await;
        watched.ended();
        outcome
    };
    let now = Instant::now();
    match outcome {
        Ok(response) => {
            in_flight.head_received(now);
            terms.trail.head(now);
            course.count(&in_flight, Ok(response.head.status.as_u16()), now);
            judge(&course, request, response, in_flight, turn.last, now)
        }
        Err(error) => {
            if let Some(verdict) = retry::verdict(&error) {
                in_flight.settle(verdict, now);
            }
            // That the client broke off is no more the endpoint's doing than that it left.
            if error.reason.row().origin != Origin::Client {
                course.count(&in_flight, Err(error.reason), now);
            }
            course.ended(&in_flight, Outcome::Failed(error.reason));
            Err(Failed::of(error, Some(in_flight.endpoint().id)))
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Answer(answer) => write!(f, "answered {}", answer.response.head.status),
        }
    }
}

impl Failed {
    fn of(error: Error, endpoint: Option<EndpointId>) -> Box<Self> {
        Box::new(Self {
            class: Class::of(&error),
            what: What::Error(error),
            endpoint,
            asked: None,
            spent_behind: 0,
        })
    }
}

/// An attempt under way, and what is found out about it.
struct Course<'a> {
    terms: &'a Terms<'a>,
    method: Method,
    mark: Mark,
    line: RefCell<Line>,
}

impl Course<'_> {
    /// It goes over this connection.
    fn takes(&self, reused: bool, http2: bool, leash: impl FnOnce() -> Option<Rc<Leash>>) {
        // Not the leash itself: as long as somebody has it, the connection counts as open.
        let leash = self.mark.is_recorded().then(leash).flatten();
        self.line.replace(Line {
            reused: Some(reused),
            http2,
            proven: leash.map(|leash| leash.proven().clone()),
        });
    }

    /// It has brought a response, or failed.
    fn count(&self, in_flight: &InFlight, result: Result<u16, Reason>, now: Instant) {
        let Terms {
            client,
            upstream,
            trail,
            ..
        } = self.terms;
        let attempt = Attempted {
            method: &self.method,
            result,
            took: now.saturating_duration_since(self.mark.start),
            trace: trail.exemplar(self.mark),
        };
        upstream.attempted(client.worker.id, in_flight.endpoint(), &attempt);
    }

    fn ended(&self, in_flight: &InFlight, outcome: Outcome) {
        if self.mark.is_recorded() || outcome.is_failure() {
            let Self { terms, line, .. } = self;
            let trail = terms.trail;
            trail.ended(self.mark, terms, in_flight.endpoint(), line.take(), outcome);
        }
    }
}

/// An attempt that may be cut by its client, by its deadline, or by another one that won. The
/// endpoint has then not answered for so long; without this one that never answers would keep
/// looking fast. Only a deadline is held against it.
struct Watched<'a>(Option<&'a InFlight>, &'a Course<'a>);

impl Watched<'_> {
    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let Some(in_flight) = self.0 else { return };
        let now = Instant::now();
        in_flight.cut(now);
        let deadline = self.1.terms.deadline;
        let missed = deadline.filter(|deadline| deadline.at <= now);
        if let Some(deadline) = missed {
            in_flight.settle(Verdict::Failure, now);
            self.1.count(in_flight, Err(deadline.reason()), now);
        }
        let outcome = missed.map_or(Outcome::Cut, |deadline| Outcome::Failed(deadline.reason()));
        self.1.ended(in_flight, outcome);
    }
}

/// Guards the attempts that may follow against one that never answers.
async fn in_time(
    course: &Course<'_>,
    request: &mut Request,
    in_flight: &InFlight,
    fresh: bool,
    now: Instant,
) -> Result<Response> {
    let terms = course.terms;
    let limit = terms.attempt_timeout;
    let mut sent = pin!(send(course, request, in_flight, fresh, now));
    if limit.is_zero() {
        return sent.await;
    }
    let mut alarm = terms.client.worker.timers.alarm(now + limit);
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = sent.as_mut().poll(cx) {
            return Poll::Ready(outcome);
        }
        alarm.poll(cx).map(|()| {
            let what = format!("no response head within {limit:?} (timeouts.backendRequest)");
            Err(Error::new(Reason::AttemptTimeout, "").detail(what))
        })
    })
    .await
}

async fn send(
    course: &Course<'_>,
    request: &mut Request,
    in_flight: &InFlight,
    fresh: bool,
    now: Instant,
) -> Result<Response> {
    let Terms {
        client, upstream, ..
    } = course.terms;
    let endpoint = in_flight.endpoint();
    let pools = &client.worker.pools;
    let conn = &client.conn;
    if request.upgrade == Some(Upgrade::Connect) {
        let tunnel = Box::pin(pools.tunnel(upstream, endpoint, conn));
        return Ok(upgrade::connected(tunnel.await?));
    }
    let way = match protocol(upstream, request) {
        Offer::Http1 if fresh => Way::Connection(pools.new_http1(upstream, endpoint, conn).await?),
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
            course.takes(conn.reused, false, || conn.wire.stream.leash());
            let restore = upgrade::towards_http1(request, || worker_random(client));
            restore.response(h1::client::send(conn, request, pools).await?)
        }
        Way::Stream(slot) => {
            course.takes(slot.is_older_than(now), true, || slot.leash());
            let restore = upgrade::towards_http2(request);
            restore.response(h2::client::send(slot, request).await?)
        }
    }
}

/// What is spoken with an upstream. One that is reached in plaintext can't be asked: where it is to
/// speak what the client spoke, that was said at the beginning of the request's way.
pub(super) fn protocol(upstream: &Upstream, request: &Request) -> Offer {
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

/// Tells what a response says of the endpoint, and whether it counts as a failed attempt.
fn judge(
    course: &Course<'_>,
    request: &Request,
    mut response: Response,
    in_flight: InFlight,
    last: bool,
    now: Instant,
) -> Result<Answer, Box<Failed>> {
    let terms = course.terms;
    let policy = terms.retry;
    let endpoint = in_flight.endpoint().id;
    let may_follow = !last && Class::Perhaps.allows(terms.is_idempotent(request));
    let is_grpc = terms.grpc && grpc::is_grpc(&response.head.fields);
    let mut is_open = false;
    let status = response.head.status;
    let code = status.as_u16();
    let outcome = if is_grpc {
        let mut grpc_status = grpc::status(&response.head.fields);
        if grpc_status.is_none() && may_follow {
            grpc_status = peek(&mut response.body);
        }
        match grpc_status {
            Some(grpc) => {
                in_flight.settle(retry::verdict_of_grpc(grpc), now);
                Outcome::Grpc {
                    code: grpc,
                    status: code,
                    failed: policy.grpc_codes.contains(grpc),
                }
            }
            None => {
                is_open = true;
                Outcome::Status {
                    code,
                    failed: false,
                }
            }
        }
    } else {
        in_flight.settle(retry::verdict_of_status(status), now);
        let failed = code >= 400 && policy.codes.binary_search(&code).is_ok();
        Outcome::Status { code, failed }
    };
    course.ended(&in_flight, outcome);
    let failed = outcome.is_failure();
    if failed && !may_follow {
        terms.withheld(if last {
            Withheld::Attempts
        } else {
            Withheld::Unsafe
        });
    }
    let asked = (failed && may_follow)
        .then(|| retry::asked(&response.head.fields, SystemTime::now()))
        .flatten();
    let spent_behind = if failed {
        headers::attempts(response.head.fields.get(&name::X_PILLION_ATTEMPTS))
    } else {
        0
    };
    terms.trail.spent_behind(spent_behind);
    let held = Held {
        _request: None,
        in_flight: Some(in_flight),
        attempt: course.mark.number,
        note: course.mark.note,
        is_open,
    };
    let answer = Answer { response, held };
    if !failed || !may_follow {
        return Ok(answer);
    }
    Err(Box::new(Failed {
        what: What::Answer(answer),
        class: Class::Perhaps,
        endpoint: Some(endpoint),
        asked,
        spent_behind,
    }))
}

/// The status of a call that ended right behind its head: a server that fails at once may write
/// them in two frames. Nothing is waited for.
fn peek(body: &mut Body) -> Option<u8> {
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Some(Ok(frame))) = body.poll_frame(&mut cx) else {
        return None;
    };
    let code = match &frame {
        Frame::Trailers(trailers) => grpc::status(trailers),
        Frame::Data(_) => None,
    };
    *body = Begun::body(frame, std::mem::take(body));
    code
}
