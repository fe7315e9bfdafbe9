//! Upstreams at run time: their endpoints, which of them takes a request, and what may be held of
//! them at once.
//!
//! An [`Upstream`] outlives the configuration it came from: a reload that doesn't touch it keeps
//! the `Arc`, and one that does makes a [successor](Upstream::successor) that shares the endpoints
//! and limits. [`crate::discovery`] publishes addresses into it; workers pick from it.

pub mod balancer;
pub mod budget;
pub mod checks;
pub mod concurrency;
mod connect;
pub mod dial;
pub mod endpoint;
pub mod health;
pub mod idle_age;
pub mod latencies;
mod levels;
pub mod limits;
mod opening;
pub mod pool;
pub mod resolution;
pub mod set;
mod sticky;

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
};

use arc_swap::{ArcSwap, Guard};
use serde_json::{Value, json};
use tokio::time::Instant;

pub use self::{
    budget::Budget,
    dial::{Opened, dial},
    endpoint::{Endpoint, EndpointId, InFlight, Target, Verdict, Wish},
    health::Board,
    latencies::Latencies,
    limits::{ConnectionPermit, Limits, PendingPermit, RequestPermit, RetryPermit},
    set::EndpointSet,
    sticky::Sticky,
};
use self::{
    health::Urgency,
    resolution::{LookupFailure, Resolution},
    set::{Manner, Priority, Vacancy, Wanted},
};
use crate::{
    config::model::{self, EndpointAddress},
    error::{Error, Reason, Replay, Result},
    telemetry::{
        UpstreamMetrics,
        metrics::{Attempted, Durations},
    },
    tls::{Materials, client::ClientTls},
};

/// A service: endpoints that are picked from, and limits over all workers.
#[derive(Debug)]
pub struct Upstream {
    pub config: Arc<model::Upstream>,
    lasting: Lasting,
    pub tls: Option<Arc<ClientTls>>,
    pub durations: Arc<Durations>,
    endpoints: ArcSwap<EndpointSet>,
    /// The position of round robin.
    cursor: AtomicUsize,
    /// There was none before it: the first endpoints of its names are not new, all is.
    first: bool,
    /// One for each of `config.endpoints`; used for names. Only the control thread locks it.
    names: Mutex<Vec<Resolution>>,
}

/// What all configurations of an upstream share.
#[derive(Clone, Debug)]
pub struct Lasting {
    pub limits: Arc<Limits>,
    pub budget: Arc<Budget>,
    pub latencies: Arc<Latencies>,
    pub health: Arc<Board>,
    pub metrics: Arc<UpstreamMetrics>,
}

impl Deref for Upstream {
    type Target = Lasting;

    fn deref(&self) -> &Lasting {
        &self.lasting
    }
}

impl Upstream {
    /// Addresses are endpoints at once, names when discovery has found them.
    pub fn new(
        config: Arc<model::Upstream>,
        metrics: Arc<UpstreamMetrics>,
        materials: &Materials,
    ) -> Arc<Self> {
        let tls = client_tls(&config, materials);
        let names = vec![Resolution::default(); config.endpoints.len()];
        let health = Board::new(&config, Arc::clone(&metrics), Instant::now());
        let workers = metrics.workers();
        let budget = Arc::new(Budget::new(config.retry_budget, workers, Instant::now()));
        let limits = Limits::new(config.limits);
        metrics.shows(&budget, &limits);
        metrics.stands_on(&health);
        let lasting = Lasting {
            limits,
            budget,
            latencies: Arc::default(),
            health,
            metrics,
        };
        Self::assemble(config, lasting, tls, names, None)
    }

    /// An attempt at an endpoint has brought the head of a response, or failed.
    pub fn attempted(&self, worker: usize, endpoint: &Arc<Endpoint>, attempt: &Attempted<'_>) {
        if !self.durations.is_enabled() {
            return;
        }
        self.durations.attempted(worker, attempt);
        let metrics = endpoint
            .metrics
            .get_or_init(|| self.metrics.endpoint(endpoint));
        metrics.attempted(worker, attempt.result);
    }

    /// The same upstream under another configuration: endpoints whose address stays keep their
    /// identity (with connections, counts, estimates), names their last good answer, and what is
    /// held now counts against the new limits. Under other settings of TLS every endpoint is a new
    /// one: no request must take a connection that was made with the old ones. `self` works on for
    /// who still has it.
    pub fn successor(&self, config: Arc<model::Upstream>, materials: &Materials) -> Arc<Self> {
        let endpoints = self.endpoints.load();
        let (tls, previous) = if config.tls == self.config.tls {
            (self.tls.clone(), endpoints.endpoints())
        } else {
            (client_tls(&config, materials), &[][..])
        };
        let known: HashMap<&EndpointAddress, Resolution> = self
            .config
            .endpoints
            .iter()
            .map(|endpoint| &endpoint.address)
            .zip(self.names().iter().cloned())
            .collect();
        let names = config
            .endpoints
            .iter()
            .map(|endpoint| known.get(&endpoint.address).cloned().unwrap_or_default())
            .collect();
        self.limits.set(config.limits);
        self.health.configure(&config, Instant::now());
        self.budget.set(config.retry_budget);
        Self::assemble(config, self.lasting.clone(), tls, names, Some(previous))
    }

    fn assemble(
        config: Arc<model::Upstream>,
        lasting: Lasting,
        tls: Option<Arc<ClientTls>>,
        names: Vec<Resolution>,
        previous: Option<&[Arc<Endpoint>]>,
    ) -> Arc<Self> {
        let first = previous.is_none();
        let previous = previous.unwrap_or_default();
        let joining = !previous.is_empty();
        let now = Instant::now();
        let set = build_set(&config, &names, previous, joining, now);
        lasting.health.admit(set.weighted(), now);
        Arc::new(Self {
            first,
            durations: lasting.metrics.durations(),
            lasting,
            tls,
            endpoints: ArcSwap::from_pointee(set),
            // Not 0: of many proxies started together not all shall begin with the same endpoint.
            cursor: AtomicUsize::new(fastrand::usize(..1 << 20)),
            names: Mutex::new(names),
            config,
        })
    }

    /// The endpoints of this moment.
    pub fn endpoints(&self) -> Guard<Arc<EndpointSet>> {
        self.endpoints.load()
    }

    /// The balancer's choice, counted as in flight until the guard is dropped.
    pub fn pick(&self, now: Instant, rng: &mut fastrand::Rng, wish: Wish<'_>) -> Result<InFlight> {
        let set = self.endpoints.load();
        if !self.health.is_quiet() {
            return self.pick_carefully(&set, now, rng, wish);
        }
        match set.pick(&self.cursor, now, rng, wish) {
            Some((endpoint, crosses)) => Ok(InFlight::start(endpoint.clone(), now).zoned(crosses)),
            None => Err(vacant(&set)),
        }
    }

    /// The same while some endpoints take no requests.
    fn pick_carefully(
        &self,
        set: &EndpointSet,
        now: Instant,
        rng: &mut fastrand::Rng,
        wish: Wish<'_>,
    ) -> Result<InFlight> {
        let board = &self.health;
        let probe = |urgency| {
            let suits = |id| !wish.tried.contains(&id) && set.contains(id);
            let (endpoint, probe) = board.probe(suits, urgency, now)?;
            Some(InFlight::probing(endpoint, probe, now))
        };
        // What can be sent again and belongs to no endpoint is best to find out with.
        let urgency = if wish.idempotent && wish.key.is_none() {
            Urgency::Ready
        } else {
            Urgency::Reluctant
        };
        // A second attempt should succeed, not explore.
        if wish.tried.is_empty()
            && let Some(probe) = probe(urgency)
        {
            return Ok(probe);
        }
        let picked = if board.panics() {
            set.pick(&self.cursor, now, rng, wish)
        } else {
            set.pick_available(&self.cursor, now, rng, wish)
        };
        if let Some((endpoint, crosses)) = picked {
            return Ok(InFlight::start(endpoint.clone(), now).zoned(crosses));
        }
        if set.weighted().all(|(_, weight)| weight == 0) {
            return Err(vacant(set));
        }
        probe(Urgency::LastResort).ok_or_else(|| board.refusal(set.endpoints().len(), now))
    }

    /// Takes what discovery found, or failed to find, under the name at `index` of
    /// `config.endpoints`. The endpoint set is replaced if that changes it; endpoints that stay
    /// keep their identity.
    pub fn publish(&self, index: usize, outcome: Result<Vec<Wanted>, LookupFailure>, now: Instant) {
        self.metrics.dns_lookup(outcome.is_ok());
        let mut names = self.names();
        let Some(name) = names.get_mut(index) else {
            return;
        };
        let joining = name.resolved().is_some() || !self.first;
        let changed = name.apply(outcome, now);
        let previous = self.endpoints.load();
        let joining = joining && !previous.endpoints().is_empty();
        // Also without a change while there is nothing: the set holds the reason to give.
        if changed || previous.endpoints().is_empty() {
            let set = build_set(&self.config, &names, previous.endpoints(), joining, now);
            self.health.admit(set.weighted(), now);
            self.endpoints.store(Arc::new(set));
        }
    }

    /// What was found last under the name at `index` of `config.endpoints`.
    pub fn found(&self, index: usize) -> Vec<Wanted> {
        self.names()
            .get(index)
            .map(|name| name.found().to_vec())
            .unwrap_or_default()
    }

    /// The state for `GET /upstreams`.
    pub fn describe(&self) -> Value {
        let now = Instant::now();
        let set = self.endpoints.load();
        let endpoints: Vec<Value> = set
            .placed()
            .map(|(endpoint, place)| {
                let share = set.share(endpoint, now);
                let alternative = match &endpoint.target {
                    Target::Tcp { alternative, .. } => alternative.map(|other| other.to_string()),
                    Target::Unix(_) => None,
                };
                let mut shown = json!({
                    "address": &*endpoint.label,
                    "alternative": alternative,
                    "weight": place.weight,
                    "effectiveWeight": f64::from(place.weight) * share,
                    "priority": place.level,
                    "zone": place.zone,
                    "active": endpoint.active(),
                    "ewmaMs": endpoint.latency().map(|latency| latency.as_secs_f64() * 1e3),
                });
                for (key, value) in self.health.describe(endpoint.id, now) {
                    shown[key] = value;
                }
                for (key, value) in endpoint.idle_age.describe(now) {
                    shown[key] = value;
                }
                shown
            })
            .collect();
        let names: Vec<Value> = self
            .config
            .endpoints
            .iter()
            .zip(self.names().iter())
            .filter_map(|(endpoint, name)| {
                let age = name.resolved().map(|at| now.saturating_duration_since(at));
                Some(json!({
                    "name": written(&endpoint.address)?,
                    "found": name.found().len(),
                    "resolvedSecondsAgo": age.map(|age| age.as_secs_f64()),
                    "error": name.error(),
                }))
            })
            .collect();
        json!({
            "name": &*self.config.name,
            "balancer": self.config.balancer,
            "zone": self.config.zone,
            "endpoints": endpoints,
            "dns": names,
            "limits": self.limits.describe(),
        })
    }

    fn names(&self) -> MutexGuard<'_, Vec<Resolution>> {
        // Every change to it is whole, so that a panic elsewhere leaves nothing half done.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn vacant(set: &EndpointSet) -> Error {
    let Vacancy { reason, detail } = set.vacancy();
    Error::new(*reason, "")
        .detail(detail.to_string())
        .replay(Replay::NeverSent)
}

/// A name as the configuration has it; `None` for an address.
fn written(address: &EndpointAddress) -> Option<String> {
    match address {
        EndpointAddress::Ip(_) | EndpointAddress::Unix(_) => None,
        EndpointAddress::Dns { host, port } => Some(format!("{host}:{port}")),
        EndpointAddress::Srv { name } => Some(format!("srv:{name}")),
    }
}

fn client_tls(config: &model::Upstream, materials: &Materials) -> Option<Arc<ClientTls>> {
    let tls = config.tls.clone()?;
    Some(ClientTls::new(tls, materials))
}

fn build_set(
    config: &model::Upstream,
    names: &[Resolution],
    previous: &[Arc<Endpoint>],
    newcomers_ramp: bool,
    now: Instant,
) -> EndpointSet {
    let wanted = config
        .endpoints
        .iter()
        .zip(names)
        .flat_map(|(endpoint, name)| {
            let placed = |found: Wanted| Wanted {
                weight: found.weight.saturating_mul(endpoint.weight),
                priority: Priority {
                    configured: endpoint.priority,
                    ..found.priority
                },
                zone: endpoint.zone.clone(),
                ..found
            };
            match &endpoint.address {
                EndpointAddress::Ip(address) => {
                    vec![placed(Wanted::plain(Target::tcp(*address), 1))]
                }
                EndpointAddress::Unix(path) => {
                    vec![placed(Wanted::plain(Target::Unix(path.clone()), 1))]
                }
                EndpointAddress::Dns { .. } | EndpointAddress::Srv { .. } => name
                    .found()
                    .iter()
                    .map(|found| Wanted {
                        host: endpoint.address.host(),
                        ..placed(found.clone())
                    })
                    .collect(),
            }
        });
    let manner = Manner {
        balancer: &config.balancer,
        slow_start: config.slow_start,
        zone: config.zone.as_deref(),
        newcomers_ramp,
    };
    EndpointSet::build(wanted, manner, previous, vacancy(config, names), now)
}

fn vacancy(config: &model::Upstream, names: &[Resolution]) -> Vacancy {
    let unresolved = config
        .endpoints
        .iter()
        .zip(names)
        .find_map(|(endpoint, name)| {
            let written = written(&endpoint.address)?;
            match name.error() {
                Some(error) => Some(format!("{written}: {error}")),
                None if name.resolved().is_none() => Some(format!("{written}: not resolved yet")),
                None => None,
            }
        });
    let name = &config.name;
    match unresolved {
        Some(why) => Vacancy {
            reason: Reason::DnsUnresolved,
            detail: format!("upstream {name}: {why}").into(),
        },
        None => Vacancy {
            reason: Reason::NoEndpoints,
            detail: format!("upstream {name}: no endpoint takes requests").into(),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::Registry;

    /// An upstream `app` of these addresses with weight 1, defaults for the rest.
    pub(crate) fn upstream_config(endpoints: &[EndpointAddress]) -> model::Upstream {
        model::Upstream::plain("app", endpoints.iter().cloned())
    }

    pub(crate) fn upstream(endpoints: &[EndpointAddress]) -> Arc<Upstream> {
        let metrics = Registry::new(1).upstream("app");
        Upstream::new(
            Arc::new(upstream_config(endpoints)),
            metrics,
            &Materials::default(),
        )
    }

    fn ip(last: u8) -> EndpointAddress {
        EndpointAddress::Ip(([127, 0, 0, last], 80).into())
    }

    fn name(host: &str) -> EndpointAddress {
        EndpointAddress::Dns {
            host: host.into(),
            port: 80,
        }
    }

    fn found(last: u8) -> Vec<Wanted> {
        vec![Wanted::plain(
            Target::tcp(([127, 0, 0, last], 80).into()),
            1,
        )]
    }

    fn failure(message: &str) -> Result<Vec<Wanted>, LookupFailure> {
        Err(LookupFailure {
            message: message.into(),
            absent: false,
        })
    }

    fn ids(upstream: &Upstream) -> Vec<(String, EndpointId)> {
        let set = upstream.endpoints();
        set.endpoints()
            .iter()
            .map(|e| (e.label.to_string(), e.id))
            .collect()
    }

    fn pick(upstream: &Upstream) -> Result<InFlight> {
        upstream.pick(
            Instant::now(),
            &mut fastrand::Rng::with_seed(1),
            Wish::default(),
        )
    }

    #[tokio::test]
    async fn requests_are_active_while_their_guard_lives() {
        let upstream = upstream(&[ip(1)]);
        let first = pick(&upstream).unwrap();
        let second = pick(&upstream).unwrap();
        let endpoint = first.endpoint().clone();
        assert_eq!(endpoint.active(), 2);
        first.observe(Duration::from_millis(5), Instant::now());
        assert_eq!(endpoint.latency(), Some(Duration::from_millis(5)));
        drop((first, second));
        assert_eq!(endpoint.active(), 0);
        let shown = upstream.describe();
        assert_eq!(shown["endpoints"][0]["address"], "127.0.0.1:80");
        assert_eq!(shown["endpoints"][0]["ewmaMs"], 5.0);
        assert_eq!(shown["limits"]["requests"]["limit"], 10_000);
    }

    #[tokio::test]
    async fn a_name_has_endpoints_once_published_and_keeps_them() {
        let upstream = upstream(&[name("db")]);
        let error = pick(&upstream).unwrap_err();
        assert_eq!(
            (error.reason, error.replay),
            (Reason::DnsUnresolved, Replay::NeverSent)
        );
        assert_eq!(error.detail, "upstream app: db:80: not resolved yet");

        upstream.publish(0, failure("SERVFAIL"), Instant::now());
        assert_eq!(
            pick(&upstream).unwrap_err().detail,
            "upstream app: db:80: SERVFAIL"
        );

        upstream.publish(0, Ok(found(7)), Instant::now());
        let before = ids(&upstream);
        let version = upstream.endpoints().version();
        upstream.publish(0, failure("timeout"), Instant::now());
        upstream.publish(0, Ok(found(7)), Instant::now());
        assert_eq!(upstream.endpoints().version(), version);
        assert_eq!(ids(&upstream), before);

        upstream.publish(0, Ok(found(8)), Instant::now());
        assert!(upstream.endpoints().version() > version);
        assert!(!upstream.endpoints().contains(before[0].1));
        upstream.publish(0, failure("timeout"), Instant::now());
        let shown = upstream.describe();
        assert_eq!(shown["dns"][0]["name"], "db:80");
        assert_eq!(shown["dns"][0]["error"], "timeout");
    }

    #[tokio::test]
    async fn no_endpoint_is_not_a_matter_of_names() {
        let mut config = upstream_config(&[ip(1)]);
        config.endpoints[0].weight = 0;
        let none = Upstream::new(
            Arc::new(config),
            Registry::new(1).upstream("app"),
            &Materials::default(),
        );
        assert_eq!(pick(&none).unwrap_err().reason, Reason::NoEndpoints);
    }

    #[tokio::test]
    async fn one_address_under_two_names_is_one_endpoint() {
        let upstream = upstream(&[name("a"), ip(1), name("b")]);
        upstream.publish(0, Ok(found(1)), Instant::now());
        upstream.publish(2, Ok(found(2)), Instant::now());
        let set = upstream.endpoints();
        let weights: Vec<u32> = set.placed().map(|(_, place)| place.weight).collect();
        assert_eq!(weights, [2, 1]);
    }

    #[tokio::test]
    async fn a_successor_keeps_what_stays() {
        let upstream = upstream(&[ip(1), name("a"), ip(2)]);
        upstream.publish(1, Ok(found(7)), Instant::now());
        let held = upstream.limits.request().unwrap();
        let before = ids(&upstream);
        let mut config = upstream_config(&[name("a"), ip(3), ip(1)]);
        config.limits.requests = 1;
        let successor = upstream.successor(Arc::new(config), &Materials::default());
        let after = ids(&successor);
        assert_eq!(after[0], before[1]);
        assert_eq!(after[2], before[0]);
        assert!(!before.contains(&after[1]));
        assert_eq!(
            successor.limits.request().unwrap_err().reason,
            Reason::RequestLimit
        );
        drop(held);
        successor.limits.request().unwrap();
        // Who still has the old one is served as before.
        assert_eq!(ids(&upstream), before);
    }
}
