//! Which endpoint takes the next request. No socket, no clock: time and chance are arguments.
//!
//! Weights: an endpoint of weight *w* stands for *w* equal servers behind one address. All
//! balancers give shares in proportion to the weights as long as the servers are equally good;
//! peak EWMA and least request move load away from those that are slower or busier. A weight of 0
//! takes nothing.
//!
//! A `Gate` may keep endpoints out, or let them in for a part of their weight only. Where there
//! is none, nothing of it is left in the code.

mod ewma;
mod hash;
mod maglev;
mod p2c;
mod ramp;
mod ring;
mod round_robin;
#[cfg(test)]
mod simulation;
mod table;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

pub(super) use self::{
    ewma::Ewma,
    hash::{fraction, hash, nth},
    ramp::Ramp,
};
use self::{p2c::Slots, round_robin::Wheel, table::Table};
use super::endpoint::Endpoint;
use crate::config::model::{Balancer, Hashing};

/// Draws that may come to nothing before all endpoints are looked at.
const DRAWS: usize = 8;

/// A balancer prepared for the weights of some endpoints.
#[derive(Debug)]
pub(super) struct Chooser {
    weights: Vec<u32>,
    /// Their sum.
    weight: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    PeakEwma(Slots),
    LeastRequest(Slots),
    RoundRobin(Wheel),
    Hash {
        table: Box<Table>,
        /// Of the mean load, what an endpoint takes before the next in the order is asked.
        bound: Option<f64>,
        /// For requests without a key.
        slots: Slots,
    },
}

/// What a choice is made by.
pub(super) struct Draw<'a> {
    /// The position of round robin.
    pub(super) cursor: &'a AtomicUsize,
    pub(super) now: Instant,
    pub(super) rng: &'a mut fastrand::Rng,
    pub(super) key: Option<u64>,
}

impl Draw<'_> {
    /// The same at another turn of round robin.
    pub(super) fn with<'s>(&'s mut self, cursor: &'s AtomicUsize) -> Draw<'s> {
        Draw {
            cursor,
            now: self.now,
            rng: self.rng,
            key: self.key,
        }
    }
}

/// Who may be chosen.
pub(super) trait Gate {
    /// Whether an endpoint can take requests at all.
    fn is_open(&self, endpoint: &Endpoint) -> bool;

    /// Whether all are open, which saves asking for each.
    fn all_open(&self) -> bool;

    /// Whether an endpoint may take this one.
    fn admits(&self, endpoint: &Endpoint) -> bool;

    /// The part of its weight that an endpoint has at the moment, more than 0 and at most 1.
    fn share(&self, endpoint: &Endpoint) -> f64;
}

/// Everybody, with its whole weight.
pub(super) struct Open;

impl Gate for Open {
    fn is_open(&self, _: &Endpoint) -> bool {
        true
    }

    fn all_open(&self) -> bool {
        true
    }

    fn admits(&self, _: &Endpoint) -> bool {
        true
    }

    fn share(&self, _: &Endpoint) -> f64 {
        1.0
    }
}

impl Chooser {
    /// For endpoints of these weights, in this order.
    pub(super) fn new(balancer: &Balancer, endpoints: &[Arc<Endpoint>], weights: &[u32]) -> Self {
        let weighted = || {
            let labels = endpoints.iter().map(|endpoint| &*endpoint.label);
            labels.zip(weights.iter().copied())
        };
        let hash = |hashing: &Hashing, table| Kind::Hash {
            table: Box::new(table),
            bound: hashing
                .bounded_load
                .map(|percent| f64::from(percent) / 100.0),
            slots: Slots::new(weights),
        };
        Self {
            kind: match balancer {
                Balancer::PeakEwma => Kind::PeakEwma(Slots::new(weights)),
                Balancer::LeastRequest => Kind::LeastRequest(Slots::new(weights)),
                Balancer::RoundRobin => Kind::RoundRobin(Wheel::new(weights)),
                Balancer::RingHash(hashing) => hash(hashing, Table::ring(weighted())),
                Balancer::Maglev(hashing) => hash(hashing, Table::maglev(weighted())),
            },
            weight: weights.iter().map(|&weight| u64::from(weight)).sum(),
            weights: weights.to_vec(),
        }
    }

    /// Position in `endpoints`, which are those that the chooser was made for; `None` when none of
    /// those that the gate admits has a weight.
    pub(super) fn pick(
        &self,
        endpoints: &[Arc<Endpoint>],
        draw: &mut Draw<'_>,
        gate: &impl Gate,
    ) -> Option<usize> {
        let now = draw.now;
        match &self.kind {
            Kind::PeakEwma(slots) => {
                self.cheaper_of_two(slots, endpoints, draw.rng, gate, |a, b| {
                    let (x, y) = ewma::compare(&endpoints[a].ewma, &endpoints[b].ewma, now);
                    let load = |index| {
                        slots.load(index, endpoints[index].active()) / gate.share(&endpoints[index])
                    };
                    // One more than the active ones: the request that is being placed.
                    y * (load(b) + 1.0) < x * (load(a) + 1.0)
                })
            }
            Kind::LeastRequest(slots) => self.less_loaded_of_two(slots, endpoints, draw.rng, gate),
            Kind::RoundRobin(wheel) => {
                let index = wheel.at(draw.cursor.fetch_add(1, Ordering::Relaxed))?;
                if enters(gate, &endpoints[index], draw.rng) {
                    return Some(index);
                }
                drawn(endpoints, draw.rng, gate, |rng| wheel.any(rng))
                    .or_else(|| self.any(endpoints, draw.rng, gate, None))
            }
            Kind::Hash {
                table,
                bound,
                slots,
            } => {
                let Some(key) = draw.key else {
                    return self.less_loaded_of_two(slots, endpoints, draw.rng, gate);
                };
                // A slow start would move keys about for as long as it lasts: no share here.
                let owner = || table.find(key, |index| gate.admits(&endpoints[index]));
                match bound {
                    Some(bound) => {
                        let room = self.room(endpoints, gate, *bound);
                        let fits =
                            |index: usize| f64::from(endpoints[index].active()) < room(index);
                        table
                            .find(key, |index| gate.admits(&endpoints[index]) && fits(index))
                            .or_else(owner)
                    }
                    None => owner(),
                }
            }
        }
    }

    /// Whether requests of one key go to one endpoint.
    pub(super) const fn is_keyed(&self) -> bool {
        matches!(self.kind, Kind::Hash { .. })
    }

    /// What a request costs on either of two endpoints, each with its load.
    pub(super) fn costs(
        &self,
        here: (&Endpoint, f64),
        there: (&Endpoint, f64),
        now: Instant,
    ) -> (f64, f64) {
        let (x, y) = match self.kind {
            Kind::PeakEwma(_) => ewma::compare(&here.0.ewma, &there.0.ewma, now),
            _ => (1.0, 1.0),
        };
        (x * (here.1 + 1.0), y * (there.1 + 1.0))
    }

    pub(super) fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// The sum of the weights.
    pub(super) const fn weight(&self) -> u64 {
        self.weight
    }

    /// The same of those that are open.
    pub(super) fn open_weight(&self, endpoints: &[Arc<Endpoint>], gate: &impl Gate) -> u64 {
        endpoints
            .iter()
            .zip(&self.weights)
            .filter(|(endpoint, _)| gate.is_open(endpoint))
            .map(|(_, &weight)| u64::from(weight))
            .sum()
    }

    fn less_loaded_of_two<G: Gate>(
        &self,
        slots: &Slots,
        endpoints: &[Arc<Endpoint>],
        rng: &mut fastrand::Rng,
        gate: &G,
    ) -> Option<usize> {
        let load =
            |index| slots.load(index, endpoints[index].active()) / gate.share(&endpoints[index]);
        self.cheaper_of_two(slots, endpoints, rng, gate, |a, b| load(b) < load(a))
    }

    /// Draws two slots and returns the endpoint of the better one; `cheaper(a, b)` says that `b`
    /// beats `a`.
    fn cheaper_of_two<G: Gate>(
        &self,
        slots: &Slots,
        endpoints: &[Arc<Endpoint>],
        rng: &mut fastrand::Rng,
        gate: &G,
        cheaper: impl FnOnce(usize, usize) -> bool,
    ) -> Option<usize> {
        let first = drawn(endpoints, rng, gate, |rng| slots.draw(rng))
            .or_else(|| self.any(endpoints, rng, gate, None))?;
        if slots.is_one() {
            return Some(first);
        }
        let second = drawn(endpoints, rng, gate, |rng| slots.draw_beside(first, rng))
            .or_else(|| self.any(endpoints, rng, gate, Some(first)));
        let Some(second) = second else {
            return Some(first);
        };
        Some(if second != first && cheaper(first, second) {
            second
        } else {
            first
        })
    }

    /// Looks at all endpoints: for when hardly one is admitted.
    #[cold]
    fn any(
        &self,
        endpoints: &[Arc<Endpoint>],
        rng: &mut fastrand::Rng,
        gate: &impl Gate,
        except: Option<usize>,
    ) -> Option<usize> {
        let mut total = 0.0;
        let mut found = None;
        for (index, &weight) in self.weights.iter().enumerate() {
            if weight > 0 && Some(index) != except && gate.admits(&endpoints[index]) {
                let weight = f64::from(weight) * gate.share(&endpoints[index]);
                total += weight;
                // Each stays with the probability that its weight has among those seen so far.
                if rng.f64() * total < weight {
                    found = Some(index);
                }
            }
        }
        found
    }

    /// What each endpoint may have in flight beside a request that is being placed, where none may
    /// have more than `bound` times its part (Mirrokni et al., SODA 2018).
    fn room(
        &self,
        endpoints: &[Arc<Endpoint>],
        gate: &impl Gate,
        bound: f64,
    ) -> impl Fn(usize) -> f64 {
        let (mut active, mut weights) = (1.0, 0.0);
        for (index, endpoint) in endpoints.iter().enumerate() {
            if gate.admits(endpoint) {
                active += f64::from(endpoint.active());
                weights += f64::from(self.weights[index]);
            }
        }
        move |index| (bound * active * f64::from(self.weights[index]) / weights).ceil()
    }
}

/// The first of some draws that enters.
#[inline]
fn drawn<G: Gate>(
    endpoints: &[Arc<Endpoint>],
    rng: &mut fastrand::Rng,
    gate: &G,
    draw: impl Fn(&mut fastrand::Rng) -> Option<usize>,
) -> Option<usize> {
    for _ in 0..DRAWS {
        let index = draw(rng)?;
        if enters(gate, &endpoints[index], rng) {
            return Some(index);
        }
    }
    None
}

/// Whether an endpoint that was drawn by its weight takes the draw.
#[inline]
fn enters(gate: &impl Gate, endpoint: &Endpoint, rng: &mut fastrand::Rng) -> bool {
    if !gate.admits(endpoint) {
        return false;
    }
    let share = gate.share(endpoint);
    share >= 1.0 || rng.f64() < share
}
