//! The state machines of all endpoints of one upstream.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use super::{
    OPEN, UNHEALTHY,
    checked::{CheckResult, Finding, Opinion},
    ejection::Tally,
    machine::{Cause, Found, Probe, State},
    members::{Member, Members, longest_probe},
};
use crate::{
    config::model::{self, Breaker, Ejection, HealthCheck},
    error::{Error, Reason, Replay},
    telemetry::{UpstreamMetrics, metrics::STATES},
    upstream::endpoint::{Endpoint, EndpointId},
};

/// [`Board::attention`] while every endpoint takes requests.
const QUIET: u64 = u64::MAX;
/// The same while one doesn't, but none is to be probed.
const NOTHING_DUE: u64 = u64::MAX - 1;
/// A probe waits this long for a request that could be sent again if it fails; then any will do.
const PREFERENCE: Duration = Duration::from_secs(1);

/// What is known of the health of an upstream's endpoints; shared by all workers and all
/// generations.
#[derive(Debug)]
pub struct Board {
    upstream: Arc<str>,
    metrics: Arc<UpstreamMetrics>,
    /// What stamps count from.
    born: Instant,
    /// When a probe is due, or something else is: a stamp, [`QUIET`] or [`NOTHING_DUE`].
    attention: AtomicU64,
    panics: AtomicBool,
    /// A probe is on its way.
    probes: AtomicBool,
    /// For what an endpoint was last closed to requests: a [`Cause`].
    last_cause: AtomicU8,
    /// Checks have taken out every endpoint.
    all_unhealthy: AtomicBool,
    /// What the last check that took one out had found: a [`CheckResult`].
    last_result: AtomicU8,
    /// Endpoints have come or gone.
    changed: Notify,
    /// The breaker's limits, where settling can see them without the lock.
    consecutive_failures: AtomicU32,
    connect_failures: AtomicU32,
    inside: Mutex<Members>,
}

impl Board {
    pub(in crate::upstream) fn new(
        config: &model::Upstream,
        metrics: Arc<UpstreamMetrics>,
        now: Instant,
    ) -> Arc<Self> {
        let board = Self {
            upstream: Arc::clone(&config.name),
            metrics,
            born: now,
            attention: AtomicU64::new(QUIET),
            panics: AtomicBool::new(false),
            probes: AtomicBool::new(false),
            last_cause: AtomicU8::new(Cause::Unreachable as u8),
            all_unhealthy: AtomicBool::new(false),
            last_result: AtomicU8::new(CheckResult::Failure as u8),
            changed: Notify::new(),
            consecutive_failures: AtomicU32::new(u32::MAX),
            connect_failures: AtomicU32::new(u32::MAX),
            inside: Mutex::new(Members {
                breaker: None,
                ejection: None,
                checks: Vec::new(),
                members: Vec::new(),
                rng: fastrand::Rng::new(),
            }),
        };
        board.configure(config, now);
        Arc::new(board)
    }

    /// From now on by these rules. What is open for a cause that is switched off is closed.
    pub(in crate::upstream) fn configure(&self, config: &model::Upstream, now: Instant) {
        let inside = &mut *self.lock();
        inside.breaker = config.breaker;
        inside.ejection = config.ejection;
        inside.checks.clone_from(&config.health_checks);
        for member in &mut inside.members {
            member.check_by(&config.health_checks);
        }
        let limit = |of: fn(&Breaker) -> u32| config.breaker.as_ref().map_or(u32::MAX, of);
        self.consecutive_failures
            .store(limit(|breaker| breaker.consecutive_failures), Relaxed);
        self.connect_failures
            .store(limit(|breaker| breaker.connect_failures), Relaxed);
        for index in 0..inside.members.len() {
            let cause = inside.members[index].machine.state().cause();
            if cause.is_some_and(|cause| !inside.is_on(cause)) {
                self.close(&mut inside.members[index], "switched off", now);
            }
        }
        self.refresh(inside, now);
    }

    /// These are the endpoints from now on; those without a weight don't count. What is known of
    /// those that stay is kept.
    pub(in crate::upstream) fn admit<'a>(
        self: &Arc<Self>,
        endpoints: impl Iterator<Item = (&'a Arc<Endpoint>, u32)>,
        now: Instant,
    ) {
        let inside = &mut *self.lock();
        let mut before = std::mem::take(&mut inside.members);
        for (endpoint, _) in endpoints.filter(|&(_, weight)| weight > 0) {
            let known = before.iter().position(|member| member.id == endpoint.id);
            inside.members.push(match known {
                Some(index) => before.swap_remove(index),
                None => {
                    // Endpoints never change their upstream, so it is this board if it is one.
                    endpoint.health.board.get_or_init(|| Arc::clone(self));
                    endpoint.health.since.store(self.stamp(now), Relaxed);
                    let mut member = Member::new(endpoint, now);
                    member.check_by(&inside.checks);
                    member
                }
            });
        }
        for member in before {
            // Who still has an old set may use it.
            if let Some(endpoint) = member.endpoint.upgrade() {
                endpoint.health.gate.store(0, Relaxed);
            }
        }
        self.refresh(inside, now);
        self.changed.notify_one();
    }

    /// Every endpoint takes requests. One relaxed load.
    pub(in crate::upstream) fn is_quiet(&self) -> bool {
        self.attention.load(Relaxed) == QUIET
    }

    /// Requests go to all endpoints, as too few are available.
    pub(in crate::upstream) fn panics(&self) -> bool {
        self.panics.load(Relaxed)
    }

    /// An endpoint that is due for a probe, which the caller's request becomes. Most calls on a
    /// board that isn't quiet cost a look at the clock.
    pub(in crate::upstream) fn probe(
        &self,
        suits: impl Fn(EndpointId) -> bool,
        urgency: Urgency,
        now: Instant,
    ) -> Option<(Arc<Endpoint>, Probe)> {
        let stamp = self.stamp(now);
        let due = self.attention.load(Relaxed);
        let patience = match urgency {
            Urgency::Ready | Urgency::LastResort => 0,
            Urgency::Reluctant => PREFERENCE.as_nanos() as u64,
        };
        if due >= NOTHING_DUE || due.saturating_add(patience) > stamp {
            return None;
        }
        // Who holds the lock is about to probe, most likely; without a choice, wait and see.
        let mut inside = match urgency {
            Urgency::LastResort => self.lock(),
            _ => self.inside.try_lock().ok()?,
        };
        let inside = &mut *inside;
        for index in 0..inside.members.len() {
            let backoff = inside.backoff(index);
            let random = inside.rng.u32(..);
            let member = &mut inside.members[index];
            if member.machine.lapse(backoff, random, now) {
                self.metrics.health.reopened(member.cause());
                tracing::info!(upstream = %self.upstream, endpoint = %member.label(),
                    "the probe of an endpoint found nothing for too long");
            }
        }
        let probe = inside.members.iter_mut().find_map(|member| {
            // A probe is a request, and a check has said that it is in vain.
            if !suits(member.id) || member.is_unhealthy() {
                return None;
            }
            let endpoint = member.endpoint.upgrade()?;
            let patience = longest_probe(inside.breaker, inside.ejection);
            let probe = member.machine.probe(patience, now)?;
            self.metrics.health.probed(member.cause());
            Some((endpoint, probe))
        });
        self.refresh(inside, now);
        probe
    }

    /// What a request is told when no endpoint takes it.
    pub(in crate::upstream) fn refusal(&self, endpoints: usize, now: Instant) -> Error {
        if self.all_unhealthy.load(Relaxed) {
            let result = CheckResult::ALL[usize::from(self.last_result.load(Relaxed))].name();
            let detail = format!(
                "upstream {}: health checks find none of {endpoints} endpoints healthy, last: {result}",
                self.upstream
            );
            return Error::new(Reason::NoHealthyEndpoints, "")
                .detail(detail)
                .replay(Replay::NeverSent);
        }
        let due = self.attention.load(Relaxed);
        let next = if self.probes.load(Relaxed) || due >= NOTHING_DUE {
            "a probe is on its way".to_owned()
        } else {
            let wait = Duration::from_nanos(due.saturating_sub(self.stamp(now)));
            format!("next probe in {} ms", wait.as_millis())
        };
        let cause = Cause::ALL[usize::from(self.last_cause.load(Relaxed))].name();
        let detail = format!(
            "upstream {}: none of {endpoints} endpoints takes requests, last: {cause}; {next}",
            self.upstream
        );
        Error::new(Reason::BreakerOpen, "")
            .detail(detail)
            .replay(Replay::NeverSent)
    }

    /// Why so many failures in a row open the breaker, if they do.
    pub(super) fn is_too_much(&self, streak: u32, unreachable: u32) -> Option<Cause> {
        if unreachable >= self.connect_failures.load(Relaxed) {
            Some(Cause::Unreachable)
        } else if streak >= self.consecutive_failures.load(Relaxed) {
            Some(Cause::Failures)
        } else {
            None
        }
    }

    /// Opens the breaker of an endpoint that has failed too often.
    pub(super) fn trip(&self, id: EndpointId, cause: Cause, now: Instant) {
        let inside = &mut *self.lock();
        // Another worker may have been first, or a success have come in between.
        if let Some(index) = inside.index(id)
            && let Some(endpoint) = inside.members[index].endpoint.upgrade()
            && endpoint.health.streak() > 0
        {
            self.open(inside, index, cause, now);
            self.refresh(inside, now);
        }
    }

    /// Takes what a probe found.
    pub(super) fn probed(&self, id: EndpointId, probe: Probe, found: Found, now: Instant) {
        let inside = &mut *self.lock();
        let Some(index) = inside.index(id) else {
            return;
        };
        let backoff = inside.backoff(index);
        let random = inside.rng.u32(..);
        let has_breaker = inside.breaker.is_some();
        let member = &mut inside.members[index];
        let before = member.cause();
        let found = match (found, before) {
            // Without a breaker it stays what it is.
            (Found::Failing(_), Some(cause)) if !has_breaker => Found::Failing(cause),
            (Found::Failing(Cause::Failures), Some(cause)) if cause.is_ejection() => {
                Found::Failing(cause)
            }
            _ => found,
        };
        if !member.machine.probed(probe, found, backoff, random, now) {
            return;
        }
        match found {
            Found::Healthy => {
                self.metrics.health.closed(before);
                member.begin_anew(self.stamp(now), now);
                tracing::info!(upstream = %self.upstream, endpoint = %member.label(),
                    cause = before.map(Cause::name), "an endpoint takes requests again");
            }
            Found::Failing(cause) => {
                self.metrics.health.reopened(Some(cause));
                self.last_cause.store(cause as u8, Relaxed);
                tracing::debug!(upstream = %self.upstream, endpoint = %member.label(),
                    cause = cause.name(), "the probe of an endpoint failed");
            }
            Found::Nothing => {}
        }
        self.refresh(inside, now);
    }

    /// Takes what a check of an endpoint has found. One that is no longer asked says nothing.
    pub(in crate::upstream) fn checked(
        &self,
        id: EndpointId,
        check: &HealthCheck,
        finding: Finding,
        now: Instant,
    ) {
        let inside = &mut *self.lock();
        let Some(index) = inside.index(id) else {
            return;
        };
        let member = &mut inside.members[index];
        let before = member.opinion();
        let kind = &check.question;
        let asked = member.checks.iter_mut();
        let Some(checked) = asked.into_iter().find(|checked| checked.check == *check) else {
            return;
        };
        let (result, error) = (finding.result, finding.error.clone());
        self.metrics.health.checked(kind, result);
        if !checked.take(finding) {
            return;
        }
        let opinion = member.opinion();
        match (before, opinion) {
            (_, Some(Opinion::Unhealthy)) if before != opinion => {
                self.last_result.store(result as u8, Relaxed);
                tracing::warn!(upstream = %self.upstream, endpoint = %member.label(),
                    check = kind.name(), result = result.name(), error,
                    "an endpoint is unhealthy");
            }
            (Some(Opinion::Unhealthy), _) if before != opinion => {
                if let Some(endpoint) = member.endpoint.upgrade() {
                    endpoint.ramp.begin(now);
                }
                tracing::info!(upstream = %self.upstream, endpoint = %member.label(),
                    check = kind.name(), "an endpoint is healthy again");
            }
            _ => {}
        }
        self.refresh(inside, now);
    }

    /// When the last check of this kind began that has ended.
    pub(in crate::upstream) fn last_checked(
        &self,
        id: EndpointId,
        check: &HealthCheck,
    ) -> Option<Instant> {
        let inside = self.lock();
        let member = &inside.members[inside.index(id)?];
        let mut checks = member.checks.iter();
        checks.find(|checked| checked.check == *check)?.last_began()
    }

    /// Waits until endpoints have come or gone since the last time this was waited for.
    pub(in crate::upstream) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Compares the endpoints, and ejects. For the control thread, once a second.
    pub fn examine(&self, now: Instant) {
        let inside = &mut *self.lock();
        let ejection = inside.ejection;
        let slow_above = if ejection.is_some_and(|ejection| ejection.latency) {
            inside.slow_above()
        } else {
            u64::MAX
        };
        // Without ejection the counts are only shown.
        let window = ejection.unwrap_or_default().window;
        for member in &mut inside.members {
            member.count(window, now);
            if let Some(endpoint) = member.endpoint.upgrade() {
                endpoint.health.slow_above.store(slow_above, Relaxed);
            }
        }
        let Some(ejection) = ejection else {
            return;
        };
        while let Some((index, cause)) = inside.worst(&ejection, now) {
            if ejection.dry_run {
                self.dry_run(inside, index, cause, &ejection, now);
            } else {
                self.open(inside, index, cause, now);
            }
        }
        self.refresh(inside, now);
    }

    /// The state of an endpoint for `GET /upstreams`, as keys of its object.
    pub(in crate::upstream) fn describe(&self, id: EndpointId, now: Instant) -> Vec<(&str, Value)> {
        let inside = self.lock();
        let Some(member) = inside.index(id).map(|index| &inside.members[index]) else {
            return vec![("health", "healthy".into())];
        };
        let (health, until) = match member.machine.state() {
            State::Closed => ("healthy", None),
            State::HalfOpen { .. } => ("halfOpen", None),
            State::Open { cause, until } if cause.is_ejection() => ("ejected", Some(until)),
            State::Open { until, .. } => ("open", Some(until)),
        };
        let wait = until.map(|until| until.saturating_duration_since(now).as_secs_f64());
        let since = now.saturating_duration_since(member.machine.since());
        let endpoint = member.endpoint.upgrade();
        vec![
            ("health", health.into()),
            ("cause", member.cause().map(Cause::name).into()),
            ("changedSecondsAgo", since.as_secs_f64().into()),
            ("probeInSeconds", json!(wait)),
            (
                "consecutiveFailures",
                endpoint
                    .map_or(0, |endpoint| endpoint.health.streak())
                    .into(),
            ),
            (
                "successRate",
                json!(member.window.counts().success().share()),
            ),
            ("checked", member.opinion().map(Opinion::name).into()),
            (
                "checks",
                member
                    .checks
                    .iter()
                    .map(|checked| checked.describe(now))
                    .collect(),
            ),
        ]
    }

    #[cfg(test)]
    pub(super) fn state(&self, id: EndpointId) -> State {
        let inside = self.lock();
        let index = inside.index(id).expect("a member");
        inside.members[index].machine.state()
    }

    /// How each endpoint stands, in the words of [`STATES`].
    pub(crate) fn states(&self) -> Vec<(EndpointId, &'static str)> {
        let state = |member: &Member| match member.cause() {
            Some(cause) if cause.is_ejection() => STATES[2],
            Some(_) => STATES[1],
            None if member.is_unhealthy() => STATES[3],
            None => STATES[0],
        };
        let inside = self.lock();
        let states = inside
            .members
            .iter()
            .map(|member| (member.id, state(member)));
        states.collect()
    }

    /// How the endpoints stand.
    pub fn tally(&self) -> Tally {
        self.lock().tally()
    }

    /// A moment on this board's clock.
    pub(super) fn stamp(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.born).as_nanos() as u64
    }

    fn open(&self, inside: &mut Members, index: usize, cause: Cause, now: Instant) {
        if inside.members[index].machine.state() != State::Closed {
            return;
        }
        let backoff = inside.backoff_for(cause);
        let random = inside.rng.u32(..);
        let member = &mut inside.members[index];
        let wait = member.machine.open(cause, backoff, random, now);
        self.metrics.health.opened(cause);
        tracing::warn!(upstream = %self.upstream, endpoint = %member.label(), cause = cause.name(),
            probe_in_ms = wait.as_millis() as u64, "an endpoint takes no requests");
        self.last_cause.store(cause as u8, Relaxed);
    }

    fn close(&self, member: &mut Member, why: &'static str, now: Instant) {
        let cause = member.cause();
        self.metrics.health.closed(cause);
        member.machine.close(now);
        member.begin_anew(self.stamp(now), now);
        tracing::info!(upstream = %self.upstream, endpoint = %member.label(),
            cause = cause.map(Cause::name), why, "an endpoint takes requests again");
    }

    fn dry_run(
        &self,
        inside: &mut Members,
        index: usize,
        cause: Cause,
        ejection: &Ejection,
        now: Instant,
    ) {
        let member = &mut inside.members[index];
        member.would_be_ejected = Some(now + ejection.backoff.max);
        self.metrics.health.would_eject(cause);
        tracing::info!(upstream = %self.upstream, endpoint = %member.label(), cause = cause.name(),
            "an endpoint would be ejected if this weren't a dry run");
    }

    /// Makes the rest follow the machines. After every change of one.
    fn refresh(&self, inside: &mut Members, now: Instant) {
        let max_ejected = inside.ejection.map_or(0, |ejection| ejection.max_ejected);
        while inside.tally().must_readmit(max_ejected)
            && let Some(index) = inside.longest_ejected()
        {
            self.close(&mut inside.members[index], "too few others", now);
        }
        let (mut attention, mut probes) = (QUIET, false);
        for member in &inside.members {
            let state = member.machine.state();
            probes |= matches!(state, State::HalfOpen { .. });
            let unhealthy = member.is_unhealthy();
            let gate = match state {
                State::Closed => 0,
                State::Open { until, .. } | State::HalfOpen { until, .. } => {
                    // None that is unhealthy is probed.
                    if !unhealthy {
                        attention = attention.min(self.stamp(until));
                    }
                    OPEN
                }
            } | if unhealthy { UNHEALTHY } else { 0 };
            if gate != 0 {
                attention = attention.min(NOTHING_DUE);
            }
            if let Some(endpoint) = member.endpoint.upgrade() {
                let health = &endpoint.health;
                let before = health.gate.load(Relaxed);
                if before != gate {
                    health.gate.store(gate, Relaxed);
                }
                if (before ^ gate) & OPEN != 0 {
                    health.since.store(self.stamp(now), Relaxed);
                    health.forgive();
                }
            }
        }
        let tally = inside.tally();
        let threshold = inside
            .ejection
            .map_or(0, |ejection| ejection.panic_threshold);
        self.probes.store(probes, Relaxed);
        self.panics.store(tally.is_panic(threshold), Relaxed);
        let all_unhealthy = inside.members.iter().all(Member::is_unhealthy);
        self.all_unhealthy.store(all_unhealthy, Relaxed);
        self.metrics.health.set(tally);
        let opinions = inside.members.iter().filter_map(Member::opinion);
        self.metrics.health.set_checked(opinions);
        // Last: who sees it sees the gates.
        self.attention.store(attention, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        // Every change ends in a refresh, which makes it whole.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much a request wants to be a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Urgency {
    /// It can be sent again if the probe fails.
    Ready,
    /// It can't, or belongs to another endpoint: only if no other has come for a while.
    Reluctant,
    /// There is no other endpoint for it.
    LastResort,
}
