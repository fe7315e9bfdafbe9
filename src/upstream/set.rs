//! The endpoints of an upstream at one moment: immutable, replaced as a whole.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::{
    balancer::Chooser,
    endpoint::{Endpoint, EndpointId, Target, Wish},
};
use crate::{config::model::Balancer, error::Reason};

/// The endpoints of an upstream at one moment.
#[derive(Debug)]
pub struct EndpointSet {
    version: u64,
    endpoints: Vec<Arc<Endpoint>>,
    weights: Vec<u32>,
    chooser: Chooser,
    vacancy: Vacancy,
    /// The chooser over those that take requests, while some don't.
    narrowed: ArcSwapOption<Narrowed>,
}

#[derive(Debug)]
struct Narrowed {
    /// Of the health board that it was made for.
    version: u64,
    chooser: Chooser,
}

/// What a request is told when there is nothing to pick from.
#[derive(Clone, Debug)]
pub(super) struct Vacancy {
    pub(super) reason: Reason,
    pub(super) detail: Arc<str>,
}

/// An endpoint as configuration and discovery want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub target: Target,
    /// The name that led to it.
    pub host: Option<Arc<str>>,
    /// Share of the load relative to the others of the set; 0 takes none.
    pub weight: u32,
}

impl EndpointSet {
    /// Endpoints of `previous` that are still wanted keep their identity, and with it their
    /// connections, counts and estimates. An address that is wanted twice (under two names, say)
    /// is one endpoint with the sum of the weights.
    pub(super) fn build(
        wanted: impl IntoIterator<Item = Wanted>,
        balancer: Balancer,
        previous: &[Arc<Endpoint>],
        vacancy: Vacancy,
        now: Instant,
    ) -> Self {
        static VERSION: AtomicU64 = AtomicU64::new(1);
        let known: HashMap<String, &Arc<Endpoint>> = previous
            .iter()
            .map(|endpoint| (endpoint.label.to_string(), endpoint))
            .collect();
        let mut index = HashMap::new();
        let mut endpoints = Vec::new();
        let mut weights: Vec<u32> = Vec::new();
        for Wanted {
            target,
            host,
            weight,
        } in wanted
        {
            match index.entry(target.to_string()) {
                Entry::Occupied(at) => {
                    let sum: &mut u32 = &mut weights[*at.get()];
                    *sum = sum.saturating_add(weight);
                }
                Entry::Vacant(free) => {
                    endpoints.push(match known.get(free.key()) {
                        Some(&endpoint) if endpoint.target == target && endpoint.host == host => {
                            endpoint.clone()
                        }
                        _ => Endpoint::named(target, host, now),
                    });
                    weights.push(weight);
                    free.insert(endpoints.len() - 1);
                }
            }
        }
        Self {
            version: VERSION.fetch_add(1, Ordering::Relaxed),
            chooser: Chooser::new(balancer, &weights),
            endpoints,
            weights,
            vacancy,
            narrowed: ArcSwapOption::empty(),
        }
    }

    /// Grows with every set made in this process: a pool that has seen this number has seen this
    /// set, and needs to look for withdrawn endpoints only when it changes.
    pub const fn version(&self) -> u64 {
        self.version
    }

    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Each endpoint with its weight.
    pub fn weighted(&self) -> impl Iterator<Item = (&Arc<Endpoint>, u32)> {
        self.endpoints.iter().zip(self.weights.iter().copied())
    }

    /// Whether the endpoint is still wanted. Linear: ask when [`EndpointSet::version`] changes.
    pub fn contains(&self, id: EndpointId) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.id == id)
    }

    /// The balancer's choice.
    pub(super) fn pick(
        &self,
        cursor: &AtomicUsize,
        now: Instant,
        rng: &mut fastrand::Rng,
        wish: Wish<'_>,
    ) -> Option<&Arc<Endpoint>> {
        let index = if wish.tried.is_empty() {
            self.chooser.pick(&self.endpoints, cursor, now, rng)
        } else {
            // A retry: rare enough to afford a chooser of its own.
            self.choose_from(|one| !wish.tried.contains(&one.id))
                .pick(&self.endpoints, cursor, now, rng)
                .or_else(|| self.chooser.pick(&self.endpoints, cursor, now, rng))
        };
        self.endpoints.get(index?)
    }

    /// The balancer's choice among those that take requests, for when some don't; `version` is that
    /// of the health board.
    pub(super) fn pick_available(
        &self,
        version: u64,
        cursor: &AtomicUsize,
        now: Instant,
        rng: &mut fastrand::Rng,
        wish: Wish<'_>,
    ) -> Option<&Arc<Endpoint>> {
        let untried = |endpoint: &Endpoint| !wish.tried.contains(&endpoint.id);
        let index = if wish.tried.is_empty() {
            None
        } else {
            self.choose_from(|one| one.health.is_available() && untried(one))
                .pick(&self.endpoints, cursor, now, rng)
        };
        let narrowed = || {
            let known = self.narrowed.load();
            if let Some(known) = &*known
                && known.version == version
            {
                return known.chooser.pick(&self.endpoints, cursor, now, rng);
            }
            let chooser = self.choose_from(|one| one.health.is_available());
            let index = chooser.pick(&self.endpoints, cursor, now, rng);
            self.narrowed
                .store(Some(Arc::new(Narrowed { version, chooser })));
            index
        };
        self.endpoints.get(index.or_else(narrowed)?)
    }

    /// The same balancer over some of the endpoints.
    fn choose_from(&self, may: impl Fn(&Endpoint) -> bool) -> Chooser {
        let weights: Vec<u32> = self
            .weighted()
            .map(|(endpoint, weight)| if may(endpoint) { weight } else { 0 })
            .collect();
        self.chooser.narrowed(&weights)
    }

    pub(super) const fn vacancy(&self) -> &Vacancy {
        &self.vacancy
    }
}
