//! Priorities and zones: which endpoints of a set a request is for, before one is chosen.
//!
//! A level takes all requests while enough of it is available, and passes on in proportion what is
//! beyond the rest of it. Within a level those in the zone of this process come first.

use std::sync::{Arc, atomic::AtomicUsize};

use super::{
    balancer::{Chooser, Draw, Gate, fraction, nth},
    endpoint::Endpoint,
};
use crate::config::model::Balancer;

/// A level is taken to be planned for more than its load: so much of its weight may be missing (two
/// sevenths, as with Envoy) before it passes requests on.
const SURPLUS: f64 = 1.4;

/// A request leaves the zone where that costs a tenth: little enough that a zone in trouble is
/// relieved before it is slow, too much for the noise of one that is not.
const CROSSING: f64 = 10.0;

/// The endpoints of a set by level, the highest first.
#[derive(Debug)]
pub(super) struct Levels(Vec<Level>);

#[derive(Debug)]
enum Level {
    One(Group),
    Zones {
        near: Group,
        far: Group,
        /// The smallest weight.
        unit: u32,
    },
}

/// Endpoints that are chosen among.
#[derive(Debug)]
struct Group {
    endpoints: Vec<Arc<Endpoint>>,
    chooser: Chooser,
}

/// Where an endpoint stands in its set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) weight: u32,
    /// 0 is the highest.
    pub(super) level: usize,
    /// In the zone of this process.
    pub(super) near: bool,
    pub(super) zone: Option<Arc<str>>,
}

/// The choice, and whether it left the zone; `None` where there are no zones to choose between.
pub(super) type Choice<'a> = (&'a Arc<Endpoint>, Option<bool>);

impl Levels {
    /// `None` if all endpoints are of one level and zone.
    pub(super) fn new(
        balancer: &Balancer,
        endpoints: &[Arc<Endpoint>],
        places: &[Place],
    ) -> Option<Self> {
        let count = places.iter().map(|place| place.level + 1).max()?;
        let group = |level: usize, near: Option<bool>| {
            let (endpoints, weights): (Vec<_>, Vec<_>) = endpoints
                .iter()
                .zip(places)
                .filter(|(_, place)| place.level == level)
                .filter(|(_, place)| near.is_none_or(|near| place.near == near))
                .map(|(endpoint, place)| (Arc::clone(endpoint), place.weight))
                .unzip();
            Group {
                chooser: Chooser::new(balancer, &endpoints, &weights),
                endpoints,
            }
        };
        let levels: Vec<Level> = (0..count)
            .map(|level| {
                let near = group(level, Some(true));
                let far = group(level, Some(false));
                // A key is no use where half of the zones forget it.
                if near.chooser.is_keyed()
                    || near.chooser.weight() == 0
                    || far.chooser.weight() == 0
                {
                    Level::One(group(level, None))
                } else {
                    let weights = [&near, &far].map(|group| group.chooser.weights());
                    let unit = weights.concat().into_iter().filter(|&weight| weight > 0);
                    Level::Zones {
                        unit: unit.min().unwrap_or(1),
                        near,
                        far,
                    }
                }
            })
            .collect();
        match levels.as_slice() {
            [Level::One(_)] => None,
            _ => Some(Self(levels)),
        }
    }

    /// `None` when nobody is admitted.
    pub(super) fn pick(&self, draw: &mut Draw<'_>, gate: &impl Gate) -> Option<Choice<'_>> {
        let chosen = if gate.all_open() && self.0[0].weight() > 0 {
            0
        } else {
            let healths: Vec<f64> = self.0.iter().map(|level| level.health(gate)).collect();
            // By the key, where there is one, so that it keeps to its level.
            let point = match draw.key {
                Some(key) => fraction(nth(key, 1)),
                None => draw.rng.f64(),
            };
            level_at(point, &healths)?
        };
        let others = (0..self.0.len()).filter(|&level| level != chosen);
        std::iter::once(chosen)
            .chain(others)
            .find_map(|level| self.0[level].pick(draw, gate))
    }
}

impl Level {
    /// The part of its weight that is open.
    fn health(&self, gate: &impl Gate) -> f64 {
        let open: u64 = self.groups().map(|group| group.open_weight(gate)).sum();
        open as f64 / self.weight().max(1) as f64
    }

    fn weight(&self) -> u64 {
        self.groups().map(|group| group.chooser.weight()).sum()
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        let (first, second) = match self {
            Self::One(group) => (group, None),
            Self::Zones { near, far, .. } => (near, Some(far)),
        };
        std::iter::once(first).chain(second)
    }

    fn pick(&self, draw: &mut Draw<'_>, gate: &impl Gate) -> Option<Choice<'_>> {
        match self {
            Self::One(group) => Some((group.pick(draw, gate)?.endpoint, None)),
            Self::Zones { near, far, unit } => {
                let here = near.pick(draw, gate);
                // The turns of round robin are for the near ones: every second of them is none.
                let turn = AtomicUsize::new(draw.rng.usize(..));
                let there = far.pick(&mut draw.with(&turn), gate);
                let (Some(here), Some(there)) = (here, there) else {
                    let crosses = here.is_none();
                    return Some((here.or(there)?.endpoint, Some(crosses)));
                };
                let (cost, elsewhere) = near.chooser.costs(
                    (here.endpoint, here.load(*unit)),
                    (there.endpoint, there.load(*unit)),
                    draw.now,
                );
                Some(if stays(cost, elsewhere) {
                    (here.endpoint, Some(false))
                } else {
                    (there.endpoint, Some(true))
                })
            }
        }
    }
}

/// One of a group.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    endpoint: &'a Arc<Endpoint>,
    weight: u32,
}

impl Candidate<'_> {
    /// In flight for each `unit` of weight.
    fn load(&self, unit: u32) -> f64 {
        f64::from(self.endpoint.active()) * f64::from(unit) / f64::from(self.weight.max(1))
    }
}

impl Group {
    fn pick(&self, draw: &mut Draw<'_>, gate: &impl Gate) -> Option<Candidate<'_>> {
        let index = self.chooser.pick(&self.endpoints, draw, gate)?;
        Some(Candidate {
            endpoint: &self.endpoints[index],
            weight: self.chooser.weights()[index],
        })
    }

    fn open_weight(&self, gate: &impl Gate) -> u64 {
        self.chooser.open_weight(&self.endpoints, gate)
    }
}

/// Whether a request stays in the zone, at what it would cost there and elsewhere. With more load
/// than the zone can take the two stay in this proportion, so that exactly the rest leaves.
fn stays(near: f64, far: f64) -> bool {
    near <= far * CROSSING
}

/// The part of the requests that each level takes, by the part of its weight that is available.
/// They add up to 1, unless nothing is available at all.
fn shares(healths: &[f64]) -> Vec<f64> {
    let mut left = 1.0_f64;
    let mut shares: Vec<f64> = healths
        .iter()
        .map(|health| {
            let takes = (health * SURPLUS).min(left);
            left -= takes;
            takes
        })
        .collect();
    let taken: f64 = shares.iter().sum();
    if taken > 0.0 {
        shares.iter_mut().for_each(|share| *share /= taken);
    }
    shares
}

/// The level of a point between 0 and 1; `None` if nothing is available.
fn level_at(point: f64, healths: &[f64]) -> Option<usize> {
    let mut end = 0.0;
    let mut last = None;
    for (level, share) in shares(healths).into_iter().enumerate() {
        if share > 0.0 {
            end += share;
            last = Some(level);
            if point < end {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_pass_on_what_is_beyond_them() {
        for (healths, expected) in [
            (&[1.0, 1.0][..], &[1.0, 0.0][..]),
            // Five of seven are enough.
            (&[0.72, 1.0], &[1.0, 0.0]),
            (&[0.5, 1.0], &[0.7, 0.3]),
            (&[0.25, 0.25, 1.0], &[0.35, 0.35, 0.3]),
            (&[0.0, 1.0], &[0.0, 1.0]),
            // Together less than all: what is there takes it, in proportion.
            (&[0.1, 0.3], &[0.25, 0.75]),
            (&[0.0, 0.0], &[0.0, 0.0]),
        ] {
            for (share, expected) in shares(healths).iter().zip(expected) {
                assert!((share - expected).abs() < 1e-9, "{healths:?}");
            }
        }
    }

    #[test]
    fn every_point_has_a_level() {
        let healths = [0.25, 0.0, 0.25, 1.0];
        for (point, level) in [(0.0, 0), (0.34, 0), (0.36, 2), (0.71, 3), (1.0, 3)] {
            assert_eq!(level_at(point, &healths), Some(level));
        }
        assert_eq!(level_at(0.5, &[0.0, 0.0]), None);
        assert_eq!(level_at(0.5, &[]), None);
    }
}
