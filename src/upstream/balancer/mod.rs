//! Which endpoint takes the next request. No socket, no clock: time and chance are arguments.
//!
//! Weights: an endpoint of weight *w* stands for *w* equal servers behind one address. All three
//! balancers give shares in proportion to the weights as long as the servers are equally good;
//! peak EWMA and least request move load away from those that are slower or busier. A weight of 0
//! takes nothing.

mod ewma;
mod p2c;
mod round_robin;
#[cfg(test)]
mod simulation;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

pub(super) use ewma::Ewma;

use self::{p2c::Slots, round_robin::Wheel};
use super::endpoint::Endpoint;
use crate::config::model::Balancer;

/// A balancer prepared for the weights of one endpoint set.
#[derive(Debug)]
pub(super) enum Chooser {
    PeakEwma(Slots),
    LeastRequest(Slots),
    RoundRobin(Wheel),
}

impl Chooser {
    pub(super) fn new(balancer: Balancer, weights: &[u32]) -> Self {
        match balancer {
            Balancer::PeakEwma => Self::PeakEwma(Slots::new(weights)),
            Balancer::LeastRequest => Self::LeastRequest(Slots::new(weights)),
            Balancer::RoundRobin => Self::RoundRobin(Wheel::new(weights)),
        }
    }

    /// The same balancer over other weights.
    pub(super) fn narrowed(&self, weights: &[u32]) -> Self {
        match self {
            Self::PeakEwma(_) => Self::PeakEwma(Slots::new(weights)),
            Self::LeastRequest(_) => Self::LeastRequest(Slots::new(weights)),
            Self::RoundRobin(_) => Self::RoundRobin(Wheel::new(weights)),
        }
    }

    /// Position in `endpoints`, which are those that the weights were given for; `None` when none
    /// has a weight.
    pub(super) fn pick(
        &self,
        endpoints: &[Arc<Endpoint>],
        cursor: &AtomicUsize,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        match self {
            Self::PeakEwma(slots) => slots.pick(rng, |a, b| {
                let (x, y) = ewma::compare(&endpoints[a].ewma, &endpoints[b].ewma, now);
                // One more than the active ones: the request that is being placed.
                y * (slots.load(b, endpoints[b].active()) + 1.0)
                    < x * (slots.load(a, endpoints[a].active()) + 1.0)
            }),
            Self::LeastRequest(slots) => slots.pick(rng, |a, b| {
                slots.load(b, endpoints[b].active()) < slots.load(a, endpoints[a].active())
            }),
            Self::RoundRobin(wheel) => wheel.at(cursor.fetch_add(1, Ordering::Relaxed)),
        }
    }
}
