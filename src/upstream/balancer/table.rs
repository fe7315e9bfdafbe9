//! Balancing by key: requests of one key go to one endpoint, in every replica, across restarts,
//! and whatever the order in which the endpoints were found.

use super::{hash::hash, maglev::Maglev, ring::Ring};

/// Which endpoint owns which key.
#[derive(Debug)]
pub(super) enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

/// An endpoint as a table sees it.
#[derive(Debug)]
pub(super) struct Member {
    /// Its position in the set.
    pub(super) index: u32,
    /// Of its address as text.
    pub(super) hash: u64,
    /// More than 0.
    pub(super) weight: u32,
}

impl Member {
    pub(super) fn new(index: usize, label: &str, weight: u32) -> Self {
        Self {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            hash: hash(label.as_bytes()),
            weight,
        }
    }
}

impl Table {
    pub(super) fn ring<'a>(endpoints: impl Iterator<Item = (&'a str, u32)>) -> Self {
        Self::Ring(Ring::new(&members(endpoints)))
    }

    pub(super) fn maglev<'a>(endpoints: impl Iterator<Item = (&'a str, u32)>) -> Self {
        Self::Maglev(Maglev::new(&members(endpoints)))
    }

    /// The first of those in the key's order that will do. Every endpoint with a weight is in that
    /// order, so that an endpoint that won't do moves its own keys only.
    pub(super) fn find(&self, key: u64, mut will_do: impl FnMut(usize) -> bool) -> Option<usize> {
        match self {
            Self::Ring(ring) => ring.walk(key).find(|&index| will_do(index)),
            Self::Maglev(maglev) => maglev.walk(key).find(|&index| will_do(index)),
        }
    }
}

/// Those with a weight, in an order that depends on nothing but themselves.
fn members<'a>(endpoints: impl Iterator<Item = (&'a str, u32)>) -> Vec<Member> {
    let mut members: Vec<Member> = endpoints
        .enumerate()
        .filter(|&(_, (_, weight))| weight > 0)
        .map(|(index, (label, weight))| Member::new(index, label, weight))
        .collect();
    members.sort_by_key(|member| member.hash);
    members
}

/// The largest weight, 1 at least.
pub(super) fn heaviest(members: &[Member]) -> u64 {
    let weights = members.iter().map(|member| member.weight);
    u64::from(weights.max().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 10_000;

    type Build = fn(&[(String, u32)]) -> Table;

    fn ring(endpoints: &[(String, u32)]) -> Table {
        Table::ring(endpoints.iter().map(|(label, weight)| (&**label, *weight)))
    }

    fn maglev(endpoints: &[(String, u32)]) -> Table {
        Table::maglev(endpoints.iter().map(|(label, weight)| (&**label, *weight)))
    }

    const BOTH: [(&str, Build); 2] = [("ring", ring), ("maglev", maglev)];

    fn endpoints(weights: &[u32], seed: u64) -> Vec<(String, u32)> {
        let mut rng = fastrand::Rng::with_seed(seed);
        weights
            .iter()
            .map(|&weight| (format!("10.{}.{}.1:80", rng.u8(..), rng.u8(..)), weight))
            .collect()
    }

    /// The owner of each key, by name.
    fn owners<'e>(
        table: &Table,
        endpoints: &'e [(String, u32)],
        without: &[usize],
    ) -> Vec<&'e str> {
        (0..KEYS)
            .map(|key| {
                let key = hash(&key.to_le_bytes());
                let index = table.find(key, |index| !without.contains(&index)).unwrap();
                &*endpoints[index].0
            })
            .collect()
    }

    #[test]
    fn shares_follow_weights() {
        for (name, build) in BOTH {
            for seed in 0..4 {
                for weights in [&[1, 1][..], &[1, 3], &[1, 2, 5], &[10; 10], &[0, 7, 7]] {
                    let endpoints = endpoints(weights, seed);
                    let owners = owners(&build(&endpoints), &endpoints, &[]);
                    let total: u32 = weights.iter().sum();
                    for (label, weight) in &endpoints {
                        let taken = owners.iter().filter(|owner| *owner == label).count();
                        let share = taken as f64 / KEYS as f64;
                        let fair = f64::from(*weight) / f64::from(total);
                        let slack = if name == "ring" { 0.25 } else { 0.1 };
                        assert!(
                            (share - fair).abs() <= fair * slack,
                            "{name} {weights:?} {seed}: {share} not {fair}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn who_is_unavailable_moves_its_own_keys_only_and_spreads_them() {
        for (name, build) in BOTH {
            let endpoints = endpoints(&[1; 5], 3);
            let table = build(&endpoints);
            let before = owners(&table, &endpoints, &[]);
            let after = owners(&table, &endpoints, &[2]);
            let gone = &*endpoints[2].0;
            let mut heirs = std::collections::HashMap::<_, u64>::new();
            for (before, after) in before.iter().zip(after) {
                if *before == gone {
                    *heirs.entry(after).or_default() += 1;
                } else {
                    assert_eq!(*before, after, "{name}");
                }
            }
            assert!(heirs.len() == 4 && !heirs.contains_key(&gone));
            let fair = heirs.values().sum::<u64>() / 4;
            for taken in heirs.values() {
                assert!((fair * 7 / 10..fair * 13 / 10).contains(taken), "{name}");
            }
        }
    }

    #[test]
    fn one_more_or_less_moves_hardly_more_than_its_share() {
        for (name, build) in BOTH {
            for seed in 0..4 {
                for count in [3, 5, 10, 30] {
                    let all = endpoints(&vec![1; count], seed);
                    let fewer = [&all[..1], &all[2..]].concat();
                    let before = owners(&build(&all), &all, &[]);
                    let after = owners(&build(&fewer), &fewer, &[]);
                    let moved = before
                        .iter()
                        .zip(&after)
                        .filter(|(before, after)| **before != all[1].0 && before != after)
                        .count();
                    let extra = moved as f64 / KEYS as f64;
                    let allowed = if name == "ring" { 0.0 } else { 0.03 };
                    assert!(extra <= allowed, "{name} {count} {seed}: {extra}");
                }
            }
        }
    }

    #[test]
    fn order_and_replica_do_not_matter() {
        for (_, build) in BOTH {
            let one = endpoints(&[1, 2, 3, 4], 9);
            let mut other = one.clone();
            other.rotate_left(2);
            other.swap(0, 1);
            let left = owners(&build(&one), &one, &[]);
            assert_eq!(left, owners(&build(&other), &other, &[]));
        }
    }

    #[test]
    fn the_lightest_is_found_and_nobody_is_nobody() {
        for (_, build) in BOTH {
            let mut endpoints = endpoints(&[u32::MAX, u32::MAX], 1);
            endpoints.push(("light".to_owned(), 1));
            let table = build(&endpoints);
            assert_eq!(table.find(7, |index| index == 2), Some(2));
            assert_eq!(table.find(7, |_| false), None);
            assert_eq!(build(&[]).find(7, |_| true), None);
        }
    }
}
