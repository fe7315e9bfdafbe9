//! How many requests an upstream bears at once, found out from how long it takes to answer.
//!
//! While an upstream has places to spare, its answers take as long whatever is in flight; beyond that
//! they queue, and take longer. The limit follows the ratio of both: `limit` × ideal / actual, plus
//! some headroom to find more places with. What is ideal is measured anew from time to time, with so
//! few requests in flight that none can queue.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The limit is never below this, and is this while the ideal is measured.
const LEAST: usize = 3;
/// Samples that the ideal is the mean of.
const MEASURED: u32 = 20;
/// A measurement that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two measurements, and up to half as much more by chance: the proxies before one upstream
/// don't measure together.
const BETWEEN: Duration = Duration::from_secs(60);
/// The limit changes after so long, if there are
const WINDOW: Duration = Duration::from_millis(100);
/// so many samples.
const ENOUGH: u32 = 10;
/// Answers may take so much longer than ideal before that means a queue.
const TOLERANCE: f64 = 1.25;

/// The limit of one upstream, over all workers.
#[derive(Debug)]
pub struct Concurrency {
    /// `usize::MAX`: switched off.
    limit: AtomicUsize,
    /// Never waited for: a sample that meets another one is left out.
    gradient: Mutex<Option<Gradient>>,
}

impl Concurrency {
    pub fn new(adaptive: bool, now: Instant) -> Self {
        let concurrency = Self {
            limit: AtomicUsize::new(usize::MAX),
            gradient: Mutex::new(None),
        };
        concurrency.set(adaptive, now);
        concurrency
    }

    /// Switches it; what it knows stays while it is on.
    pub fn set(&self, adaptive: bool, now: Instant) {
        let mut gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner);
        if gradient.is_some() != adaptive {
            *gradient = adaptive.then(|| Gradient::new(now));
        }
        self.show(gradient.as_ref());
    }

    /// How many requests may be in flight; `None`: as many as there are.
    pub fn limit(&self) -> Option<usize> {
        let limit = self.limit.load(Relaxed);
        (limit != usize::MAX).then_some(limit)
    }

    /// A request that began at `start` was answered now, while `in_flight` were, itself included.
    pub fn answered(&self, start: Instant, now: Instant, in_flight: usize, random: u32) {
        // A half-done change is a limit that the next window puts right.
        let Ok(mut gradient) = self.gradient.try_lock() else {
            return;
        };
        if let Some(gradient) = &mut *gradient {
            gradient.answered(start, now, in_flight, random);
        }
        self.show(gradient.as_ref());
    }

    fn show(&self, gradient: Option<&Gradient>) {
        let limit = gradient.map_or(usize::MAX, Gradient::limit);
        self.limit.store(limit, Relaxed);
    }
}

/// The algorithm.
#[derive(Debug)]
struct Gradient {
    limit: f64,
    /// Seconds to an answer without a queue.
    ideal: Option<f64>,
    /// What has come since the last change of the limit.
    window: Window,
    phase: Phase,
    /// No queue was ever seen: the limit grows fast.
    starting: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The ideal is being measured.
    Measuring,
    /// It is known well enough until then.
    Following { until: Instant },
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    count: u32,
    seconds: f64,
    /// Most requests in flight.
    peak: usize,
}

impl Window {
    const fn new(since: Instant) -> Self {
        Self {
            since,
            count: 0,
            seconds: 0.0,
            peak: 0,
        }
    }

    fn mean(&self) -> f64 {
        self.seconds / f64::from(self.count.max(1))
    }
}

impl Gradient {
    fn new(now: Instant) -> Self {
        Self {
            limit: LEAST as f64,
            ideal: None,
            window: Window::new(now),
            phase: Phase::Measuring,
            starting: true,
        }
    }

    fn limit(&self) -> usize {
        match self.phase {
            Phase::Measuring => LEAST,
            Phase::Following { .. } => self.limit as usize,
        }
    }

    fn answered(&mut self, start: Instant, now: Instant, in_flight: usize, random: u32) {
        let window = &mut self.window;
        if start < window.since {
            // It has queued behind what was there before.
            return;
        }
        let took = now.saturating_duration_since(start).as_secs_f64();
        window.count += 1;
        window.seconds += took.max(1e-6);
        window.peak = window.peak.max(in_flight);
        let age = now.saturating_duration_since(window.since);
        match self.phase {
            Phase::Measuring if window.count >= MEASURED || age >= PATIENCE => {
                // A few samples are better than none, but not better than more.
                if window.count >= MEASURED || self.ideal.is_none() {
                    self.ideal = Some(window.mean());
                }
                self.follow(now, random);
            }
            Phase::Measuring => {}
            Phase::Following { .. } if window.count < ENOUGH || age < WINDOW => {}
            Phase::Following { until } => {
                let window = std::mem::replace(window, Window::new(now));
                let mean = window.mean();
                let ideal = self.ideal.unwrap_or(mean);
                if 2 * window.peak < self.limit as usize {
                    // Nothing is known of what was not tried; but without a crowd there is no queue.
                    self.ideal = Some(ideal.min(mean));
                    if until <= now {
                        self.ideal = Some(mean);
                        self.follow(now, random);
                    }
                    return;
                }
                let gradient = (ideal * TOLERANCE / mean).clamp(0.5, 2.0);
                self.starting &= gradient > 1.1;
                let wanted = self.limit * gradient + self.limit.sqrt();
                // Halfway only: those who came first in this window have queued behind the limit
                // before, and the same correction would be made twice.
                let next = match self.starting {
                    true => self.limit * 1.5,
                    false => (self.limit + wanted) / 2.0,
                };
                self.limit = next.clamp(LEAST as f64, MOST);
                if until <= now {
                    self.phase = Phase::Measuring;
                }
            }
        }
    }

    fn follow(&mut self, now: Instant, random: u32) {
        let more = f64::from(random) / f64::from(u32::MAX) / 2.0;
        self.phase = Phase::Following {
            until: now + BETWEEN.mul_f64(1.0 + more),
        };
        self.window = Window::new(now);
    }
}

/// More than any upstream is sent at once.
const MOST: f64 = 1e7;

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    /// A server with so many places, each of which takes so long for a request; what finds none free
    /// queues.
    struct Server {
        /// When each place is free.
        places: BinaryHeap<Reverse<Duration>>,
        service: Duration,
    }

    #[derive(Debug)]
    struct Outcome {
        /// Answers a second.
        goodput: f64,
        slowest: Duration,
        limit: usize,
    }

    /// Requests come at `rate` a second for so long; what is beyond the limit is refused at once.
    fn simulate(
        seed: u64,
        places: usize,
        service: Duration,
        rate: f64,
        length: Duration,
    ) -> Outcome {
        let mut rng = fastrand::Rng::with_seed(seed);
        let base = Instant::now();
        let concurrency = Concurrency::new(true, base);
        let mut server = Server {
            places: (0..places).map(|_| Reverse(Duration::ZERO)).collect(),
            service,
        };
        let mut in_flight: BinaryHeap<Reverse<(Duration, Duration)>> = BinaryHeap::new();
        let (mut now, mut answers, mut slowest) = (Duration::ZERO, 0_u32, Duration::ZERO);
        // The first second is for finding out.
        let warm = Duration::from_secs(1) + service * 20;
        while now < length {
            now += Duration::from_secs_f64(-rng.f64().max(1e-12).ln() / rate);
            while let Some(&Reverse((end, start))) = in_flight.peek().filter(|next| next.0.0 <= now)
            {
                let crowd = in_flight.len();
                in_flight.pop();
                concurrency.answered(base + start, base + end, crowd, rng.u32(..));
                if end > warm {
                    answers += 1;
                    slowest = slowest.max(end - start);
                }
            }
            if concurrency
                .limit()
                .is_some_and(|limit| in_flight.len() < limit)
            {
                let Reverse(free) = server.places.pop().unwrap();
                let end = free.max(now) + server.service;
                server.places.push(Reverse(end));
                in_flight.push(Reverse((end, now)));
            }
        }
        Outcome {
            goodput: f64::from(answers) / (length - warm).as_secs_f64(),
            slowest,
            limit: concurrency.limit().unwrap(),
        }
    }

    #[test]
    fn ten_times_too_much_leaves_nine_tenths_of_the_goodput() {
        for seed in 0..20 {
            for (places, millis) in [(1, 10), (4, 50), (10, 20), (100, 100), (500, 100)] {
                let service = Duration::from_millis(millis);
                let capacity = places as f64 / service.as_secs_f64();
                let length = Duration::from_secs(20);
                let outcome = simulate(seed, places, service, 10.0 * capacity, length);
                let told = format!("{places} places of {millis} ms: {outcome:?}");
                assert!(outcome.goodput >= 0.9 * capacity, "{told}");
                // What is let in waits at most a few turns; more where the fewest that are let in
                // are more than there are places.
                let turns = 5 * LEAST.div_ceil(places) as u32;
                assert!(outcome.slowest <= service * turns, "{told}");
            }
        }
    }

    #[test]
    fn the_ideal_is_measured_again_at_little_cost() {
        let (service, capacity) = (Duration::from_millis(20), 500.0);
        let length = Duration::from_secs(600);
        let outcome = simulate(7, 10, service, 10.0 * capacity, length);
        assert!(outcome.goodput >= 0.9 * capacity, "{outcome:?}");
        assert!((10..40).contains(&outcome.limit), "{outcome:?}");
    }

    #[test]
    fn an_upstream_that_bears_its_load_refuses_little() {
        let service = Duration::from_millis(50);
        let outcome = simulate(3, 1000, service, 500.0, Duration::from_secs(30));
        assert!(outcome.goodput >= 0.97 * 500.0, "{outcome:?}");
    }

    #[test]
    fn it_can_be_switched() {
        let now = Instant::now();
        let concurrency = Concurrency::new(false, now);
        concurrency.answered(now, now, 1, 0);
        assert_eq!(concurrency.limit(), None);
        concurrency.set(true, now);
        assert_eq!(concurrency.limit(), Some(LEAST));
        concurrency.set(false, now);
        assert_eq!(concurrency.limit(), None);
    }
}
