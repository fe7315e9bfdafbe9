//! What an upstream may be sent on top of its requests.
//!
//! Guards an upstream that fails against being asked ever more because it fails: retries and
//! hedges of all workers and routes together stay within a share of its requests and a floor.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::time::Instant;

use crate::{config::model::RetryBudget, telemetry::metrics::cells::PerWorker};

/// Over how many seconds requests and retries are weighed against each other.
pub const WINDOW: u64 = 10;
/// Places of a ring of seconds: no two seconds that are looked at share one.
const RING: usize = 16;

/// The budget of one upstream.
///
/// Whenever a retry is let through, the retries of the last [`WINDOW`] seconds, itself included,
/// are at most the share of the requests in that time plus the floor.
#[derive(Debug)]
pub struct Budget {
    born: Instant,
    /// Packed, so that a reload can change it: percent above, floor below.
    rule: AtomicU64,
    /// Written by each worker alone, so that a request adds with a plain store.
    requests: PerWorker<Ring>,
    /// Retries are rare: they may lock.
    retries: Mutex<Seconds>,
}

/// Counts by second: the second above, the count below.
#[derive(Debug, Default)]
struct Ring([AtomicU64; RING]);

/// The same for one who holds the lock: each second with its count.
type Seconds = [(u64, u64); RING];

impl Budget {
    pub fn new(rule: RetryBudget, workers: usize, now: Instant) -> Self {
        let budget = Self {
            born: now,
            rule: AtomicU64::new(0),
            requests: PerWorker::new(workers),
            retries: Mutex::default(),
        };
        budget.set(rule);
        budget
    }

    /// Another rule, over the same counts.
    pub fn set(&self, rule: RetryBudget) {
        let packed = u64::from(rule.percent) << 32 | u64::from(rule.min_per_second);
        self.rule.store(packed, Relaxed);
    }

    /// A request was given to the upstream.
    pub fn deposit(&self, worker: usize, now: Instant) {
        let second = self.second(now);
        let cell = &self.requests.of(worker).0[second as usize % RING];
        let counted = cell.load(Relaxed);
        let counted = if counted >> 32 == second {
            counted
        } else {
            second << 32
        };
        cell.store(counted + 1, Relaxed);
    }

    /// Whether one retry more may be sent; it counts from now on.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        let second = self.second(now);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        if self.left_beside(&retries, second) == 0 {
            return false;
        }
        let place = &mut retries[second as usize % RING];
        if place.0 != second {
            *place = (second, 0);
        }
        place.1 += 1;
        true
    }

    /// Retries that may be sent now, for whoever looks.
    pub fn left(&self, now: Instant) -> u64 {
        let second = self.second(now);
        let retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        self.left_beside(&retries, second)
    }

    /// What is left beside those retries. The seconds are whole, the window is not: of requests
    /// those are left out that may lie before it, of retries those are kept.
    fn left_beside(&self, retries: &Seconds, second: u64) -> u64 {
        let spent: u64 = retries
            .iter()
            .filter(|(at, _)| at + WINDOW >= second)
            .map(|(_, count)| count)
            .sum();
        self.allowed(second).saturating_sub(spent)
    }

    fn allowed(&self, second: u64) -> u64 {
        let rule = self.rule.load(Relaxed);
        let (percent, floor) = (rule >> 32, rule & u64::from(u32::MAX));
        let requests: u64 = self
            .requests
            .iter()
            .flat_map(|ring| &ring.0)
            .map(|cell| cell.load(Relaxed))
            .filter(|counted| (counted >> 32) + WINDOW > second)
            .map(|counted| counted & u64::from(u32::MAX))
            .sum();
        requests * percent / 100 + floor * WINDOW
    }

    /// From 1 on, so that an empty place is not this second's: long enough ago not to count is 0.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_secs() + WINDOW + 2
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RULE: RetryBudget = RetryBudget {
        percent: 20,
        min_per_second: 3,
    };

    #[test]
    fn a_floor_a_share_and_no_more() {
        let start = Instant::now();
        let budget = Budget::new(RULE, 2, start);
        assert_eq!((0..100).filter(|_| budget.withdraw(start)).count(), 30);
        for worker in [0, 1] {
            (0..50).for_each(|_| budget.deposit(worker, start));
        }
        assert_eq!(budget.left(start), 20);
        assert_eq!((0..100).filter(|_| budget.withdraw(start)).count(), 20);
        let later = start + Duration::from_secs(12);
        assert_eq!(budget.left(later), 30, "what was spent is forgotten");
        let none = RetryBudget {
            percent: 0,
            min_per_second: 0,
        };
        budget.set(none);
        assert!(!budget.withdraw(later));
    }

    /// The invariant, over traffic of all kinds: bursts, silences, several workers.
    #[test]
    fn never_exceeded_over_any_window() {
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let rule = RetryBudget {
                percent: rng.u32(..=100),
                min_per_second: rng.u32(..5),
            };
            let start = Instant::now();
            let budget = Budget::new(rule, 3, start);
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            let mut now = start;
            let pause = [1, 30, 700, 9_000][rng.usize(..4)];
            for _ in 0..300 {
                now += Duration::from_millis(rng.u64(..pause));
                for _ in 0..rng.usize(..4) {
                    budget.deposit(rng.usize(..3), now);
                    requests.push(now);
                }
                for _ in 0..rng.usize(..4) {
                    if !budget.withdraw(now) {
                        continue;
                    }
                    retries.push(now);
                    let window = Duration::from_secs(WINDOW);
                    let within = |at: &&Instant| now.duration_since(**at) <= window;
                    let requests = requests.iter().filter(within).count() as u64;
                    let allowed = requests * u64::from(rule.percent) / 100
                        + u64::from(rule.min_per_second) * WINDOW;
                    let spent = retries.iter().filter(within).count() as u64;
                    assert!(spent <= allowed, "seed {seed}: {spent} > {allowed}");
                }
            }
        }
    }

    #[test]
    fn workers_that_withdraw_at_once_share_one_budget() {
        let start = Instant::now();
        let budget = Budget::new(RULE, 4, start);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter(|_| budget.withdraw(start)).count()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(taken, 30);
    }
}
