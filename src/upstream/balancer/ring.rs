//! Ring hash: every endpoint is many points of a circle, and owns the keys before each of them.

use super::{
    hash::nth,
    table::{Member, heaviest},
};

/// Points of the heaviest endpoint: its share is off by some 3 %, that of one a quarter as heavy by
/// 6 %.
const POINTS: u64 = 1024;
/// Of all endpoints together, but each has one at least.
const MAX_POINTS: u64 = 65_536;

/// The points in order, each with the position of its endpoint.
#[derive(Debug)]
pub(super) struct Ring(Vec<(u64, u32)>);

impl Ring {
    /// An endpoint's points depend on its own name and on its weight beside the heaviest: who joins
    /// or leaves takes or gives its own keys only. Above 64 endpoints their number halves now and
    /// then, which takes keys from some points but never gives an endpoint new ones.
    pub(super) fn new(members: &[Member]) -> Self {
        let heaviest = heaviest(members);
        let most = most(members.len() as u64);
        let mut points: Vec<(u64, u32)> = members
            .iter()
            .flat_map(|member| {
                let count = (most * u64::from(member.weight) / heaviest).max(1);
                (0..count).map(|k| (nth(member.hash, k), member.index))
            })
            .collect();
        points.sort_by_key(|&(point, _)| point);
        Self(points)
    }

    /// Who owns a key, then who would if those before didn't exist; some more than once.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let at = self.0.partition_point(|&(point, _)| point < key);
        let (before, after) = self.0.split_at(at);
        after.iter().chain(before).map(|&(_, index)| index as usize)
    }
}

fn most(count: u64) -> u64 {
    let mut most = POINTS;
    while most > 1 && most * count > MAX_POINTS {
        most /= 2;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_bounded() {
        for count in [1_usize, 2, 64, 65, 1000, 70_000] {
            let members: Vec<Member> = (0..count)
                .map(|index| Member::new(index, &index.to_string(), 1000))
                .collect();
            let size = Ring::new(&members).0.len();
            assert!(size <= (MAX_POINTS as usize).max(count), "{count} {size}");
            assert!(size >= 1024.min(count));
        }
    }
}
