//! Attempts until one brings a response that stands, or none may follow.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Answer, Call, Terms, Then,
    attempt::{self, Failed, Turn, What},
    hedge,
    retry::{self, Class, Situation, Withheld},
};
use crate::{
    error::{Error, Replay, Result},
    http::{message::Request, name, replay::Recording},
    tls::alpn::Offer,
    upstream::{EndpointId, RetryPermit},
};

/// Runs the attempts of a call.
pub(super) async fn run(call: Call<'_>) -> Result<Answer> {
    let Call { request, terms } = call;
    let upstream = terms.upstream;
    terms.trail.upstream(upstream);
    if let Some(deadline) = terms.deadline
        && deadline.at <= terms.start
    {
        // Nobody waits for what it would cost.
        return Err(deadline.missed().replay(Replay::NeverSent));
    }
    upstream.budget.deposit(terms.client.worker.id, terms.start);
    if terms.spent > 0 {
        announce(request, terms.spent, terms.grpc);
    }
    let body = Kept::of(terms, request);
    if let Some(hedge) = terms.retry.hedge
        && body.allows_two_at_once()
        && request.upgrade.is_none()
        && terms.is_idempotent(request)
    {
        return Box::pin(hedge::run(terms, request, body, hedge)).await;
    }
    let first = Turn {
        last: terms.retry.attempts <= 1,
        ..Turn::default()
    };
    match attempt::run(terms, request, first, terms.start).await {
        Ok(answer) => Ok(answer),
        Err(failed) => {
            let history = History::new(terms);
            Box::pin(history.go_on(terms, request, body, failed)).await
        }
    }
}

/// What is left of a request's body for attempts after the first.
pub(super) enum Kept {
    /// There is none.
    Empty,
    Recorded(Recording),
    /// Nothing was kept: it is there as long as no attempt has taken of it.
    Once,
}

impl Kept {
    /// Keeps the body of a request that may have to be sent again: where attempts can fail that
    /// have taken of it and may be repeated.
    fn of(terms: &Terms<'_>, request: &mut Request) -> Self {
        if request.body.is_empty() {
            return Self::Empty;
        }
        if terms.retry.attempts <= 1 {
            return Self::Once;
        }
        Self::start(terms, request)
    }

    /// The same whatever the policy says of attempts.
    pub(super) fn start(terms: &Terms<'_>, request: &mut Request) -> Self {
        if request.body.is_empty() {
            return Self::Empty;
        }
        if request.upgrade.is_some() {
            return Self::Once;
        }
        // Over HTTP/1.1 nobody says that a request was refused.
        let repeated = attempt::protocol(terms.upstream, request) != Offer::Http1
            || terms.is_idempotent(request);
        let limit = terms.retry.max_buffered_bytes;
        let recording = repeated.then(|| Recording::start(&mut request.body, limit));
        recording.flatten().map_or(Self::Once, Self::Recorded)
    }

    fn allows_two_at_once(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Recorded(recording) => recording.is_bounded(),
            Self::Once => false,
        }
    }

    /// Puts the body back into the request for another attempt; false where that is impossible.
    pub(super) fn restore(&self, request: &mut Request) -> bool {
        match self {
            Self::Empty => true,
            Self::Recorded(recording) => match recording.play() {
                Some(body) => {
                    request.body = body;
                    true
                }
                None => false,
            },
            Self::Once => !request.body.is_empty(),
        }
    }
}

/// What is known of the attempts so far.
pub(super) struct History {
    tried: Vec<EndpointId>,
    /// By others on the way too.
    spent: u8,
    raced: bool,
    /// The last real response, for when no better one comes.
    last: Option<Answer>,
    /// The last attempt's error, for when another one has nowhere to go.
    error: Option<Error>,
}

impl History {
    pub(super) fn new(terms: &Terms<'_>) -> Self {
        Self {
            tried: Vec::new(),
            spent: terms.spent,
            raced: false,
            last: None,
            error: None,
        }
    }

    /// Follows a failed attempt by others for as long as that may help and harms nobody.
    pub(super) async fn go_on(
        mut self,
        terms: &Terms<'_>,
        request: &mut Request,
        body: Kept,
        mut failed: Box<Failed>,
    ) -> Result<Answer> {
        loop {
            self.note(&failed);
            let (wait, _permit) = match self.next(terms, request, &body, &failed) {
                Ok(next) => {
                    terms.trail.then(Then::Retried);
                    self.tell_race(terms, &failed, true);
                    next
                }
                Err(withheld) => {
                    self.tell_race(terms, &failed, false);
                    if failed.class != Class::Final {
                        terms.withheld(withheld);
                    }
                    return self.give_up(terms, *failed);
                }
            };
            let class = failed.class;
            tracing::debug!(what = %failed.what, ?class, ?wait, "an attempt failed; another follows");
            self.keep(failed.what);
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            self.announce(terms, request);
            let turn = Turn {
                tried: &self.tried,
                fresh: class == Class::Raced,
                last: self.spent + 1 >= terms.retry.attempts,
            };
            failed = match attempt::run(terms, request, turn, Instant::now()).await {
                Ok(answer) => {
                    Answer::let_go(self.last.take());
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
        }
    }

    /// Takes note of an attempt that failed.
    pub(super) fn note(&mut self, failed: &Failed) {
        let own = u8::from(failed.endpoint.is_some());
        self.spent = self.spent.saturating_add(failed.spent_behind.max(own));
        // A connection that was closed under the request says nothing against the endpoint.
        if failed.class != Class::Raced {
            self.tried.extend(failed.endpoint);
        }
    }

    /// Counts a connection that was closed under the request.
    pub(super) fn tell_race(&self, terms: &Terms<'_>, failed: &Failed, retried: bool) {
        if failed.class == Class::Raced {
            let metrics = &terms.upstream.metrics;
            metrics.raced(terms.client.worker.id, retried);
        }
    }

    /// Whether another one follows: after which wait, and with the right to it.
    fn next(
        &mut self,
        terms: &Terms<'_>,
        request: &mut Request,
        body: &Kept,
        failed: &Failed,
    ) -> Result<(Duration, Option<RetryPermit>), Withheld> {
        let now = Instant::now();
        let situation = Situation {
            class: failed.class,
            idempotent: terms.is_idempotent(request),
            spent: self.spent,
            has_body: body.restore(request),
            has_others: terms.upstream.endpoints().endpoints().len() > self.tried.len(),
            asked: failed.asked,
            left: terms
                .deadline
                .map(|deadline| deadline.at.saturating_duration_since(now)),
            random: terms.client.worker.rng.borrow_mut().u32(..),
        };
        let wait = retry::decide(terms.retry, situation)?;
        // One race is lost by chance, and the next attempt takes a new connection: it puts a request
        // in the place of one that most likely was never seen, where a retry adds one.
        if failed.class == Class::Raced && !std::mem::replace(&mut self.raced, true) {
            return Ok((wait, None));
        }
        Ok((wait, Some(self.permit(terms, now)?)))
    }

    /// The right to send one request more than came, if the upstream bears it.
    pub(super) fn permit(&self, terms: &Terms<'_>, now: Instant) -> Result<RetryPermit, Withheld> {
        let upstream = terms.upstream;
        let permit = upstream.limits.retry().ok_or(Withheld::Limit)?;
        if upstream.budget.withdraw(now) {
            Ok(permit)
        } else {
            Err(Withheld::Budget)
        }
    }

    pub(super) fn keep(&mut self, what: What) {
        match what {
            What::Answer(answer) => Answer::let_go(self.last.replace(answer)),
            What::Error(error) => self.error = Some(error),
        }
    }

    /// Says in the request that it is not the first of its kind, so that those behind spare it.
    fn announce(&self, terms: &Terms<'_>, request: &mut Request) {
        terms.upstream.metrics.retried(terms.client.worker.id);
        announce(request, self.spent, terms.grpc);
    }

    pub(super) fn spent(&self) -> u8 {
        self.spent
    }

    pub(super) fn tried(&self) -> &[EndpointId] {
        &self.tried
    }

    /// What the client is told: a response of the upstream if there was one.
    fn give_up(self, terms: &Terms<'_>, failed: Failed) -> Result<Answer> {
        match (failed.what, self.last) {
            (What::Answer(answer), last) => {
                Answer::let_go(last);
                Ok(answer)
            }
            (What::Error(_), Some(answer)) => {
                terms.trail.stands(&answer);
                Ok(answer)
            }
            (What::Error(error), None) => {
                // That nobody is left to ask is no news beside why that is so.
                let error = match self.error {
                    Some(earlier) if failed.endpoint.is_none() => earlier,
                    _ => error,
                };
                if self.spent < 2 {
                    return Err(error);
                }
                let detail = format!("{} (after {} attempts)", error.detail, self.spent);
                Err(error.detail(detail))
            }
        }
    }
}

/// Writes how many attempts came before.
pub(super) fn announce(request: &mut Request, spent: u8, grpc: bool) {
    let mut text = itoa::Buffer::new();
    let text = text.format(spent).as_bytes();
    let fields = &mut request.head.fields;
    fields.insert(&name::X_PILLION_PREVIOUS_ATTEMPTS, text);
    if grpc {
        fields.insert(&name::GRPC_PREVIOUS_RPC_ATTEMPTS, text);
    }
}
