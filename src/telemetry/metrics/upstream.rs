//! What an upstream counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use super::{
    cells::{ByFault, ByReason, Count, Entered, Level, PerWorker},
    common::{Common, Settings, Timed},
    durations::Durations,
    endpoint::{EndpointMetrics, Endpoints, Live},
    family::{Kind, Value},
    health::HealthMetrics,
    route,
    scrape::{Families, Scraped},
};
use crate::{
    error::Reason,
    policy::retry::Withheld,
    tls::FaultKind,
    upstream::{Board, Budget, Endpoint, Limits},
};

/// The handle of one upstream. Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct UpstreamMetrics {
    cells: PerWorker<Cells>,
    pub health: HealthMetrics,
    /// Names are resolved by the control thread alone, so it is a single writer as well.
    resolved: Count,
    unresolved: Count,
    /// Locked by the control thread alone.
    shown: Mutex<Shown>,
    durations: Mutex<Arc<Durations>>,
    endpoints: Endpoints,
    common: Arc<Common>,
}

/// What is counted elsewhere and shown here.
#[derive(Debug, Default)]
struct Shown {
    budget: Weak<Budget>,
    limits: Weak<Limits>,
}

#[derive(Debug, Default)]
struct Cells {
    handshakes: Count,
    handshakes_failed: ByFault,
    connections: Level,
    idle: Level,
    connect_failures: ByReason,
    pool_hits: Count,
    pool_misses: Count,
    requests: Level,
    pending: Level,
    limited: ByReason,
    within_zone: Count,
    across_zones: Count,
    retries: Count,
    withheld: [Count; Withheld::ALL.len()],
    hedges: Count,
    hedges_won: Count,
    races_retried: Count,
    races_failed: Count,
    copies: [Count; CopyFate::ALL.len()],
}

/// What became of a copy of a request that was for a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFate {
    Answered,
    Failed,
    /// Too many were under way.
    Skipped,
}

impl CopyFate {
    const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::Skipped];

    const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl UpstreamMetrics {
    /// A TLS handshake with one of the endpoints came to its end.
    pub fn handshake(&self, worker: usize) {
        self.cells.of(worker).handshakes.increment();
    }

    /// One came to nothing.
    pub fn handshake_failed(&self, worker: usize, kind: FaultKind) {
        self.cells.of(worker).handshakes_failed.of(kind).increment();
    }

    /// A connection was made.
    pub fn connection_opened(&self, worker: usize) {
        self.cells.of(worker).connections.entered.increment();
    }

    /// A connection that had been made is gone.
    pub fn connection_closed(&self, worker: usize) {
        self.cells.of(worker).connections.left.increment();
    }

    /// A connection could not be made.
    pub fn connection_failed(&self, worker: usize, reason: Reason) {
        self.cells
            .of(worker)
            .connect_failures
            .of(reason)
            .increment();
    }

    /// A connection went back to the pool.
    pub fn idle_added(&self, worker: usize) {
        self.cells.of(worker).idle.entered.increment();
    }

    /// A connection left the pool: taken for a request, or closed.
    pub fn idle_removed(&self, worker: usize) {
        self.cells.of(worker).idle.left.increment();
    }

    /// A request found a connection in the pool.
    pub fn pool_hit(&self, worker: usize) {
        self.cells.of(worker).pool_hits.increment();
    }

    /// A request found none and needs a new one.
    pub fn pool_miss(&self, worker: usize) {
        self.cells.of(worker).pool_misses.increment();
    }

    /// A request was given to this upstream; it runs for as long as the answer is held.
    pub fn running(&self, worker: usize) -> Entered<'_> {
        self.cells.of(worker).requests.enter()
    }

    /// A request waits for a connection for as long as the answer is held.
    pub fn waiting(&self, worker: usize) -> Entered<'_> {
        self.cells.of(worker).pending.enter()
    }

    /// An attempt stays in the zone of this process, or leaves it.
    pub fn zone_chosen(&self, worker: usize, crosses: bool) {
        let cells = self.cells.of(worker);
        if crosses {
            &cells.across_zones
        } else {
            &cells.within_zone
        }
        .increment();
    }

    /// A limit of the upstream refused a request.
    pub fn limit_refused(&self, worker: usize, reason: Reason) {
        self.cells.of(worker).limited.of(reason).increment();
    }

    /// A request is sent again.
    pub fn retried(&self, worker: usize) {
        self.cells.of(worker).retries.increment();
    }

    /// A request is not sent again although it failed.
    pub fn retry_withheld(&self, worker: usize, cause: Withheld) {
        self.cells.of(worker).withheld[cause as usize].increment();
    }

    /// A request is sent a second time while the first attempt goes on.
    pub fn hedged(&self, worker: usize) {
        self.cells.of(worker).hedges.increment();
    }

    /// A hedge was answered first.
    pub fn hedge_won(&self, worker: usize) {
        self.cells.of(worker).hedges_won.increment();
    }

    /// An idle connection was closed under a request that was sent again, or could not be.
    pub fn raced(&self, worker: usize, retried: bool) {
        let cells = self.cells.of(worker);
        if retried {
            &cells.races_retried
        } else {
            &cells.races_failed
        }
        .increment();
    }

    /// A copy for the upstream as a mirror has come to its end.
    pub fn copied(&self, worker: usize, fate: CopyFate) {
        self.cells.of(worker).copies[fate as usize].increment();
    }

    /// Shows what is left of this budget, and how these limits stand, from now on.
    pub fn shows(&self, budget: &Arc<Budget>, limits: &Arc<Limits>) {
        let (budget, limits) = (Arc::downgrade(budget), Arc::downgrade(limits));
        *lock(&self.shown) = Shown { budget, limits };
    }

    /// Shows the states of endpoints as this board has them, from now on.
    pub fn stands_on(&self, board: &Arc<Board>) {
        self.endpoints.stand_on(board);
    }

    /// The handle of an endpoint at its first attempt. Locks: ask once.
    pub fn endpoint(&self, endpoint: &Arc<Endpoint>) -> Arc<EndpointMetrics> {
        self.endpoints.meet(endpoint)
    }

    /// The handle for durations under the settings in force. For the control thread only.
    pub fn durations(&self) -> Arc<Durations> {
        let mut durations = lock(&self.durations);
        if !durations.is_current() {
            *durations = Durations::new(&self.common);
        }
        Arc::clone(&durations)
    }

    fn concurrency_limit(&self) -> Option<usize> {
        let limits = lock(&self.shown).limits.upgrade()?;
        limits.concurrency.limit()
    }

    /// How many workers count.
    pub fn workers(&self) -> usize {
        self.cells.workers()
    }

    /// A name was asked for and answered (`true`), or not. For the control thread only.
    pub fn dns_lookup(&self, answered: bool) {
        if answered {
            &self.resolved
        } else {
            &self.unresolved
        }
        .increment();
    }

    /// Requests running now, over all workers.
    pub fn active(&self) -> u64 {
        self.cells.level(|cells| &cells.requests)
    }

    /// Connections open now, over all workers.
    pub fn connections(&self) -> u64 {
        self.cells.level(|cells| &cells.connections)
    }

    /// Connections in the pools now, over all workers.
    pub fn idle(&self) -> u64 {
        self.cells.level(|cells| &cells.idle)
    }

    /// Requests waiting for a connection now, over all workers.
    pub fn pending(&self) -> u64 {
        self.cells.level(|cells| &cells.pending)
    }
}

impl Scraped for UpstreamMetrics {
    const LABEL: &'static str = "upstream";

    fn new(common: &Arc<Common>) -> Self {
        Self {
            cells: PerWorker::new(common.workers),
            health: HealthMetrics::default(),
            resolved: Count::default(),
            unresolved: Count::default(),
            shown: Mutex::default(),
            durations: Mutex::new(Durations::new(common)),
            endpoints: Endpoints::new(common),
            common: Arc::clone(common),
        }
    }

    fn places(settings: &Settings) -> usize {
        PLACES + settings.histogram()
    }

    fn describe(families: &mut Families<'_, '_, Self>) {
        families.family(
            "http_client_request_duration_seconds",
            Kind::Histogram,
            "Attempts, from the choice of the endpoint to the head of the response; error_type is the \
             reason of those that failed without, else the status where it is 4xx or 5xx. An attempt that \
             was given up, as its client left or broke off, or as another one won, is not among them.",
            |metrics, series| lock(&metrics.durations).show_attempts(series),
        );
        let rest = families.common.settings().all_rest(Timed::Attempts);
        families.rest(|series| route::rest(rest, Timed::Attempts, series));
        families.gauges(
            "http_client_open_connections",
            "Connections open now, by whether a request is on them.",
            ["http_connection_state"],
            |metrics| {
                let idle = metrics.idle();
                let active = metrics.connections().saturating_sub(idle);
                vec![(["active"], active), (["idle"], idle)]
            },
        );
        families.gauge(
            "http_client_active_requests",
            "Attempts running now.",
            Self::active,
        );
        families.family(
            "pillion_upstream_concurrency_limit",
            Kind::Gauge,
            "Requests at once that the upstream is found to bear, where `limits.adaptive` asks for that.",
            |metrics, series| {
                if let Some(limit) = metrics.concurrency_limit() {
                    series.put(&[], Value::level(limit as u64));
                }
            },
        );
        families.counter(
            "pillion_upstream_tls_handshakes",
            "TLS handshakes with endpoints.",
            |metrics| metrics.cells.sum(|cells| &cells.handshakes),
        );
        families.events(
            "pillion_upstream_tls_handshakes_failed",
            "TLS handshakes with endpoints that came to nothing, by reason.",
            ["reason"],
            |metrics| metrics.cells.faults(|cells| &cells.handshakes_failed),
        );
        families.counter(
            "pillion_upstream_connections",
            "Connections made.",
            |metrics| metrics.cells.sum(|cells| &cells.connections.entered),
        );
        families.gauge(
            "pillion_upstream_connections_active",
            "Connections open now, idle ones included.",
            Self::connections,
        );
        families.gauge(
            "pillion_upstream_connections_idle",
            "Connections in the pools now.",
            Self::idle,
        );
        families.events(
            "pillion_upstream_connections_failed",
            "Connections that could not be made, by reason.",
            ["reason"],
            |metrics| metrics.cells.reasons(|cells| &cells.connect_failures),
        );
        families.family(
            "pillion_upstream_connect_duration_seconds",
            Kind::Histogram,
            "How long making a connection took, where it succeeded.",
            |metrics, series| lock(&metrics.durations).show_connecting(series),
        );
        families.counters(
            "pillion_upstream_pool_lookups",
            "Requests that looked for a pooled connection, by what they found.",
            ["result"],
            |metrics| {
                vec![
                    (["hit"], metrics.cells.sum(|cells| &cells.pool_hits)),
                    (["miss"], metrics.cells.sum(|cells| &cells.pool_misses)),
                ]
            },
        );
        families.counter(
            "pillion_upstream_requests",
            "Requests given to the upstream.",
            |metrics| metrics.cells.sum(|cells| &cells.requests.entered),
        );
        families.gauge(
            "pillion_upstream_requests_active",
            "Requests running now.",
            Self::active,
        );
        families.gauge(
            "pillion_upstream_requests_pending",
            "Requests waiting for a connection now.",
            Self::pending,
        );
        families.events(
            "pillion_upstream_requests_refused",
            "Requests refused by a limit of the upstream, by reason.",
            ["reason"],
            |metrics| metrics.cells.reasons(|cells| &cells.limited),
        );
        families.counter(
            "pillion_upstream_retries",
            "Attempts that followed a failed one.",
            |metrics| metrics.cells.sum(|cells| &cells.retries),
        );
        families.events(
            "pillion_upstream_retries_withheld",
            "Failed attempts that none followed, by what spoke against it.",
            ["cause"],
            |metrics| {
                let row = |cause: Withheld| {
                    let sum = metrics.cells.sum(|cells| &cells.withheld[cause as usize]);
                    ([cause.name()], sum)
                };
                let rows = Withheld::ALL.into_iter().map(row);
                rows.filter(|&(_, count)| count > 0).collect()
            },
        );
        families.gauge(
            "pillion_upstream_retry_budget_left",
            "Retries and hedges that the budget would allow now.",
            |metrics| {
                let budget = lock(&metrics.shown).budget.upgrade();
                budget.map_or(0, |budget| budget.left(Instant::now()))
            },
        );
        families.counters(
            "pillion_upstream_hedges",
            "Attempts made beside one that took long, by who was answered first.",
            ["result"],
            |metrics| {
                let all = metrics.cells.sum(|cells| &cells.hedges);
                let won = metrics.cells.sum(|cells| &cells.hedges_won);
                vec![(["won"], won), (["lost"], all.saturating_sub(won))]
            },
        );
        families.counters(
            "pillion_upstream_keepalive_races",
            "Idle connections that were closed as a request was sent on them, by what came of the request.",
            ["result"],
            |metrics| {
                vec![
                    (["retried"], metrics.cells.sum(|cells| &cells.races_retried)),
                    (["failed"], metrics.cells.sum(|cells| &cells.races_failed)),
                ]
            },
        );
        families.events(
            "pillion_upstream_mirror_copies",
            "Copies of requests for the upstream as a mirror, by what became of them.",
            ["result"],
            |metrics| {
                let row = |fate: CopyFate| {
                    let sum = metrics.cells.sum(|cells| &cells.copies[fate as usize]);
                    ([fate.name()], sum)
                };
                let rows = CopyFate::ALL.into_iter().map(row);
                rows.filter(|&(_, count)| count > 0).collect()
            },
        );
        families.within(|metrics| metrics.endpoints.live(), Live::describe);
        families.gauges(
            "pillion_upstream_endpoints",
            "Endpoints now, by whether they take requests: `available`, `open` (the breaker), `ejected` or `unhealthy` (by checks alone).",
            ["state"],
            |metrics| metrics.health.endpoints(),
        );
        families.gauges(
            "pillion_upstream_endpoints_checked",
            "Endpoints now, by what health checks say of them.",
            ["state"],
            |metrics| metrics.health.opinions(),
        );
        families.events(
            "pillion_upstream_health_checks",
            "Health checks that have ended, by type and result.",
            ["type", "result"],
            |metrics| metrics.health.checks(),
        );
        families.events(
            "pillion_upstream_breaker_transitions",
            "Changes of the state of an endpoint, by the new one and the cause.",
            ["to", "cause"],
            |metrics| metrics.health.transitions(),
        );
        families.counters(
            "pillion_upstream_ejections",
            "Endpoints ejected, by cause; what a dry run would have ejected apart.",
            ["mode", "cause"],
            |metrics| metrics.health.ejections(),
        );
        families.counters(
            "pillion_upstream_zone_attempts",
            "Attempts where there was a choice between zones, by whether they left the own one.",
            ["zone"],
            |metrics| {
                vec![
                    (["own"], metrics.cells.sum(|cells| &cells.within_zone)),
                    (["other"], metrics.cells.sum(|cells| &cells.across_zones)),
                ]
            },
        );
        families.counters(
            "pillion_upstream_dns_lookups",
            "Names asked for, by what came of it.",
            ["result"],
            |metrics| {
                vec![
                    (["answered"], metrics.resolved.get()),
                    (["failed"], metrics.unresolved.get()),
                ]
            },
        );
    }
}

/// Its series but for those of the histogram, and for some that begin with their first event.
const PLACES: usize = 40;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change to it is whole, so that a panic elsewhere leaves nothing half done.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_over_workers() {
        let metrics = UpstreamMetrics::new(&Common::new(2));
        metrics.connection_opened(0);
        metrics.idle_added(0);
        metrics.connection_opened(1);
        metrics.connection_closed(1);
        assert_eq!((metrics.connections(), metrics.idle()), (1, 1));
        metrics.idle_removed(0);
        assert_eq!(metrics.idle(), 0);
    }
}
