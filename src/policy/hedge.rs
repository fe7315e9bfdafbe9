//! A second attempt beside one that takes long.
//!
//! Guards an idempotent request against the one endpoint that is slow just now: a further attempt
//! elsewhere, within the same attempts and budget as retries; the first good response is taken and
//! the others are cancelled.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{
    Answer, Terms, Trail,
    alarm::Alarm,
    attempt::{self, Failed, Turn},
    attempts::{self, History, Kept},
};
use crate::{
    config::model::Hedge,
    error::Result,
    http::message::Request,
    upstream::{EndpointId, RetryPermit},
};

type Outcome = Result<Answer, Box<Failed>>;

/// An attempt under way.
struct Runner<'a> {
    future: Pin<Box<dyn Future<Output = Outcome> + 'a>>,
    endpoint: Option<EndpointId>,
    since: Instant,
    is_hedge: bool,
    _permit: Option<RetryPermit>,
}

/// Runs the attempts of an idempotent call, the body of which several may read at once.
pub(super) async fn run<'a>(
    terms: &'a Terms<'a>,
    request: &mut Request,
    body: Kept,
    hedge: Hedge,
) -> Result<Answer> {
    let mut history = History::new(terms);
    let delay = match hedge {
        Hedge::After(delay) => Some(delay),
        // Nothing is known of a new upstream: then nothing is too slow for it.
        Hedge::P95 => terms.upstream.latencies.p95(),
    };
    let mut running = vec![Runner::start(terms, request, &body, &[], None)];
    let mut alarm = delay.map(|delay| terms.client.worker.timers.alarm(terms.start + delay));
    loop {
        match poll_fn(|cx| poll(&mut running, terms.trail, &mut alarm, cx)).await {
            Event::Slow => {
                alarm = None;
                let now = Instant::now();
                let spent = history.spent() + running.len() as u8;
                if spent >= terms.retry.attempts {
                    continue;
                }
                let Ok(permit) = history.permit(terms, now) else {
                    continue;
                };
                let mut tried = history.tried().to_vec();
                tried.extend(running.iter().filter_map(|runner| runner.endpoint));
                attempts::announce(request, spent, terms.grpc);
                running.push(Runner::start(terms, request, &body, &tried, Some(permit)));
                terms.upstream.metrics.hedged(terms.client.worker.id);
                alarm = delay.map(|delay| terms.client.worker.timers.alarm(now + delay));
            }
            Event::Ended(at, Ok(answer)) => {
                let winner = running.swap_remove(at);
                terms.upstream.latencies.observe(winner.since.elapsed());
                if winner.is_hedge {
                    terms.upstream.metrics.hedge_won(terms.client.worker.id);
                }
                terms.trail.stands(&answer);
                return Ok(answer);
            }
            Event::Ended(at, Err(failed)) => {
                running.swap_remove(at);
                if running.is_empty() {
                    drop(running);
                    return history.go_on(terms, request, body, failed).await;
                }
                // The one that is under way is the retry.
                history.note(&failed);
                history.tell_race(terms, &failed, true);
                history.keep(failed.what);
            }
        }
    }
}

enum Event {
    /// The one in this place.
    Ended(usize, Outcome),
    Slow,
}

fn poll(
    running: &mut [Runner<'_>],
    trail: &Trail,
    alarm: &mut Option<Alarm<'_>>,
    cx: &mut Context<'_>,
) -> Poll<Event> {
    for (at, runner) in running.iter_mut().enumerate() {
        if let Poll::Ready(outcome) = runner.future.as_mut().poll(cx) {
            return Poll::Ready(Event::Ended(at, outcome));
        }
        // It picked its endpoint as it was polled first.
        runner.endpoint = runner.endpoint.or_else(|| trail.endpoint_id());
    }
    match alarm {
        Some(alarm) => alarm.poll(cx).map(|()| Event::Slow),
        None => Poll::Pending,
    }
}

impl<'a> Runner<'a> {
    /// Begins an attempt with a copy of the request, elsewhere than those that were tried.
    fn start(
        terms: &'a Terms<'a>,
        request: &Request,
        body: &Kept,
        tried: &[EndpointId],
        permit: Option<RetryPermit>,
    ) -> Self {
        let mut copy = Request {
            head: request.head.clone(),
            expects_continue: request.expects_continue,
            ..Request::default()
        };
        let whole = body.restore(&mut copy);
        debug_assert!(whole, "a body that two may read is kept");
        let tried = tried.to_vec();
        let since = Instant::now();
        let future = Box::pin(async move {
            let turn = Turn {
                tried: &tried,
                ..Turn::default()
            };
            attempt::run(terms, &mut copy, turn, since).await
        });
        Self {
            future,
            endpoint: None,
            since,
            is_hedge: permit.is_some(),
            _permit: permit,
        }
    }
}
