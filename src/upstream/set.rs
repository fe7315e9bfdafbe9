//! The endpoints of an upstream at one moment: immutable, replaced as a whole.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    balancer::{self, Chooser, Draw, Gate},
    endpoint::{Endpoint, EndpointId, Target, Wish},
    levels::{Choice, Levels, Place},
};
use crate::{config::model::Balancer, error::Reason};

/// The endpoints of an upstream at one moment.
#[derive(Debug)]
pub struct EndpointSet {
    version: u64,
    endpoints: Vec<Arc<Endpoint>>,
    places: Vec<Place>,
    plan: Plan,
    /// How long an endpoint that has just begun takes to get its whole share; zero: no time.
    slow_start: Duration,
    vacancy: Vacancy,
}

#[derive(Debug)]
enum Plan {
    /// One level, one zone: nearly always.
    Plain(Chooser),
    Levels(Levels),
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
    pub priority: Priority,
    pub zone: Option<Arc<str>>,
}

impl Wanted {
    /// One that nothing more is known of.
    pub const fn plain(target: Target, weight: u32) -> Self {
        Self {
            target,
            host: None,
            weight,
            priority: Priority {
                configured: 0,
                srv: 0,
            },
            zone: None,
        }
    }
}

/// Lower ones come first: that of the configuration, and within it that of an SRV record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    pub configured: u32,
    pub srv: u16,
}

/// How a set is to choose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner<'a> {
    pub(super) balancer: &'a Balancer,
    pub(super) slow_start: Duration,
    /// That of this process.
    pub(super) zone: Option<&'a str>,
    /// Endpoints that were not there before have to start slowly.
    pub(super) newcomers_ramp: bool,
}

impl EndpointSet {
    /// Endpoints of `previous` that are still wanted keep their identity, and with it their
    /// connections, counts and estimates. An address that is wanted twice (under two names, say)
    /// is one endpoint with the sum of the weights, the best priority and the first zone.
    pub(super) fn build(
        wanted: impl IntoIterator<Item = Wanted>,
        manner: Manner<'_>,
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
        let mut merged: Vec<Wanted> = Vec::new();
        for wanted in wanted {
            match index.entry(wanted.target.to_string()) {
                Entry::Occupied(at) => {
                    let first: &mut Wanted = &mut merged[*at.get()];
                    first.weight = first.weight.saturating_add(wanted.weight);
                    first.priority = first.priority.min(wanted.priority);
                    first.zone = first.zone.take().or(wanted.zone);
                }
                Entry::Vacant(free) => {
                    endpoints.push(match known.get(free.key()) {
                        Some(&endpoint)
                            if endpoint.target == wanted.target && endpoint.host == wanted.host =>
                        {
                            endpoint.clone()
                        }
                        _ => {
                            let (target, host) = (wanted.target.clone(), wanted.host.clone());
                            let endpoint = Endpoint::named(target, host, now);
                            if manner.newcomers_ramp {
                                endpoint.ramp.begin(now);
                            }
                            endpoint
                        }
                    });
                    merged.push(wanted);
                    free.insert(endpoints.len() - 1);
                }
            }
        }
        let places = places(&merged, manner.zone);
        Self {
            version: VERSION.fetch_add(1, Ordering::Relaxed),
            plan: match Levels::new(manner.balancer, &endpoints, &places) {
                Some(levels) => Plan::Levels(levels),
                None => {
                    let weights: Vec<u32> = merged.iter().map(|wanted| wanted.weight).collect();
                    Plan::Plain(Chooser::new(manner.balancer, &endpoints, &weights))
                }
            },
            endpoints,
            places,
            slow_start: manner.slow_start,
            vacancy,
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
    pub(super) fn weighted(&self) -> impl Iterator<Item = (&Arc<Endpoint>, u32)> {
        self.placed()
            .map(|(endpoint, place)| (endpoint, place.weight))
    }

    /// Each endpoint with its place.
    pub(super) fn placed(&self) -> impl Iterator<Item = (&Arc<Endpoint>, &Place)> {
        self.endpoints.iter().zip(&self.places)
    }

    /// Whether the endpoint is still wanted. Linear: ask when [`EndpointSet::version`] changes.
    pub fn contains(&self, id: EndpointId) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.id == id)
    }

    /// The part of its weight that an endpoint has at a moment.
    pub(super) fn share(&self, endpoint: &Endpoint, now: Instant) -> f64 {
        endpoint.ramp.share(self.slow_start, now)
    }

    /// The balancer's choice, and whether it left the zone.
    pub(super) fn pick(
        &self,
        cursor: &AtomicUsize,
        now: Instant,
        rng: &mut fastrand::Rng,
        wish: Wish<'_>,
    ) -> Option<Choice<'_>> {
        if let Plan::Plain(chooser) = &self.plan
            && wish.tried.is_empty()
            && self.slow_start.is_zero()
        {
            let mut draw = Draw {
                cursor,
                now,
                rng,
                key: wish.key,
            };
            let index = chooser.pick(&self.endpoints, &mut draw, &balancer::Open)?;
            return Some((&self.endpoints[index], None));
        }
        self.pick_by(false, cursor, now, rng, wish)
    }

    /// The balancer's choice among those that take requests, for when some don't.
    pub(super) fn pick_available(
        &self,
        cursor: &AtomicUsize,
        now: Instant,
        rng: &mut fastrand::Rng,
        wish: Wish<'_>,
    ) -> Option<Choice<'_>> {
        self.pick_by(true, cursor, now, rng, wish)
    }

    fn pick_by(
        &self,
        only_available: bool,
        cursor: &AtomicUsize,
        now: Instant,
        rng: &mut fastrand::Rng,
        wish: Wish<'_>,
    ) -> Option<Choice<'_>> {
        let mut draw = Draw {
            cursor,
            now,
            rng,
            key: wish.key,
        };
        let door = Door {
            only_available,
            tried: wish.tried,
            slow_start: self.slow_start,
            now,
        };
        let untried = self.pick_through(&door, &mut draw);
        if untried.is_some() || wish.tried.is_empty() {
            return untried;
        }
        // Better the same again than none.
        self.pick_through(&Door { tried: &[], ..door }, &mut draw)
    }

    fn pick_through(&self, door: &Door<'_>, draw: &mut Draw<'_>) -> Option<Choice<'_>> {
        match &self.plan {
            Plan::Plain(chooser) => {
                let index = chooser.pick(&self.endpoints, draw, door)?;
                Some((&self.endpoints[index], None))
            }
            Plan::Levels(levels) => levels.pick(draw, door),
        }
    }

    pub(super) const fn vacancy(&self) -> &Vacancy {
        &self.vacancy
    }
}

/// What a request asks of an endpoint.
struct Door<'a> {
    only_available: bool,
    tried: &'a [EndpointId],
    slow_start: Duration,
    now: Instant,
}

impl Gate for Door<'_> {
    fn is_open(&self, endpoint: &Endpoint) -> bool {
        !self.only_available || endpoint.health.is_available()
    }

    fn all_open(&self) -> bool {
        !self.only_available
    }

    fn admits(&self, endpoint: &Endpoint) -> bool {
        self.is_open(endpoint) && !self.tried.contains(&endpoint.id)
    }

    fn share(&self, endpoint: &Endpoint) -> f64 {
        endpoint.ramp.share(self.slow_start, self.now)
    }
}

/// Priorities may have gaps, levels have none.
fn places(wanted: &[Wanted], zone: Option<&str>) -> Vec<Place> {
    let priorities: BTreeSet<Priority> = wanted.iter().map(|wanted| wanted.priority).collect();
    wanted
        .iter()
        .map(|wanted| Place {
            weight: wanted.weight,
            level: priorities.range(..wanted.priority).count(),
            near: zone.is_some() && wanted.zone.as_deref() == zone,
            zone: wanted.zone.clone(),
        })
        .collect()
}
