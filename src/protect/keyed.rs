//! A bucket for each key, and a bound on how many there are.
//!
//! A bucket that is full again is as good as none, so that its place is for whoever comes next.
//! Where all places are taken by buckets in use, further keys share one: who makes up keys gets
//! neither memory nor more requests by it.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    sync::{Mutex, PoisonError},
};

use super::bucket::{Bucket, Empty, Rate};

/// Workers meet at one of these at most for the length of a lookup.
const SHARDS: usize = 64;

#[derive(Debug)]
pub(super) struct Keyed {
    /// Seeded: nobody can choose keys that fall together.
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    /// For each shard.
    max_keys: usize,
    others: Bucket,
}

#[derive(Debug, Default)]
struct Shard {
    /// When each key's bucket is full again, by the hash of the key.
    full_at: HashMap<u64, u64>,
    /// Before this there is no bucket to drop.
    crowded_until: u64,
}

impl Keyed {
    /// `max_keys` is at least 1.
    pub(super) fn new(max_keys: usize) -> Self {
        let shards = max_keys.clamp(1, SHARDS);
        Self {
            hasher: RandomState::new(),
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            max_keys: (max_keys / shards).max(1),
            others: Bucket::default(),
        }
    }

    pub(super) fn take(&self, key: impl Hash, rate: Rate, now: u64) -> Result<(), Empty> {
        let hash = self.hasher.hash_one(key);
        let shard = &self.shards[hash as usize % self.shards.len()];
        // A shard is whole after each step, so that a panic elsewhere leaves nothing half done.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = shard.full_at.get_mut(&hash) {
            *full_at = rate.take(*full_at, now)?;
            return Ok(());
        }
        if shard.has_room(self.max_keys, now) {
            shard.full_at.insert(hash, rate.take(0, now)?);
            return Ok(());
        }
        drop(shard);
        self.others.take(rate, now)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let len = |shard: &Mutex<Shard>| shard.lock().unwrap().full_at.len();
        self.shards.iter().map(len).sum()
    }
}

impl Shard {
    /// Whether one more key has a place here, if need be that of those that are full again.
    fn has_room(&mut self, max_keys: usize, now: u64) -> bool {
        if self.full_at.len() < max_keys {
            return true;
        }
        // A bucket in use is only ever full later, so that there is no need to look before.
        if now < self.crowded_until {
            return false;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        self.crowded_until = self.full_at.values().copied().min().unwrap_or(now);
        self.full_at.len() < max_keys
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate() -> Rate {
        Rate::new(1, Duration::from_secs(1), 2)
    }

    #[test]
    fn keys_don_t_share_what_they_have() {
        let keyed = Keyed::new(1000);
        for key in ["a", "b"] {
            assert!(keyed.take(key, rate(), 0).is_ok());
            assert!(keyed.take(key, rate(), 0).is_ok());
            assert_eq!(keyed.take(key, rate(), 0), Err(Empty(SECOND)));
        }
        assert!(keyed.take("a", rate(), SECOND).is_ok());
        assert!(keyed.take("a", rate(), SECOND).is_err());
    }

    #[test]
    fn made_up_keys_share_one_bucket_and_full_ones_make_room() {
        let keyed = Keyed::new(1);
        assert!(keyed.take("first", rate(), 0).is_ok());
        let made_up = (0..100).filter(|key| keyed.take(key, rate(), 0).is_ok());
        assert_eq!(made_up.count(), 2, "the burst of one bucket");
        assert_eq!(keyed.len(), 1);
        // The first one is full again.
        assert!(keyed.take("second", rate(), SECOND).is_ok());
        assert_eq!(keyed.len(), 1);
        assert!(keyed.take("second", rate(), SECOND).is_ok());
        assert!(keyed.take("second", rate(), SECOND).is_err());
    }

    proptest! {
        #[test]
        fn there_are_never_more_keys_than_allowed_and_no_key_has_more_than_its_share(
            max_keys in 1_usize..200,
            asked in prop::collection::vec((0_u16..500, 0_u64..SECOND / 4), 1..500),
        ) {
            let keyed = Keyed::new(max_keys);
            let mut now = 0;
            let mut granted: HashMap<u16, Vec<u64>> = HashMap::new();
            for (key, step) in asked {
                now += step;
                if keyed.take(key, rate(), now).is_ok() {
                    granted.entry(key).or_default().push(now);
                }
                prop_assert!(keyed.len() <= max_keys);
            }
            // By its own bucket, and by the shared one for as long as it had none.
            for times in granted.values() {
                let window = (times[times.len() - 1] - times[0]) / SECOND;
                prop_assert!(times.len() as u64 <= 2 * (2 + window));
            }
        }
    }
}
