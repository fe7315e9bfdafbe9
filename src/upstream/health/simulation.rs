//! The board against endpoints that exist only as numbers: seeded, thousands of runs, what must
//! always hold checked after every step, no clock but the one of the simulation.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Tally, ejection,
    machine::State,
    window::{Counts, Window},
};
use crate::{
    config::model::{self, Backoff, Breaker, Ejection, EndpointAddress},
    error::Reason,
    telemetry::Registry,
    tls::Materials,
    upstream::{EndpointId, InFlight, Upstream, Verdict, Wish},
};

const BACKOFF: Backoff = Backoff {
    base: Duration::from_secs(1),
    max: Duration::from_secs(30),
};

/// Chances of a million.
#[derive(Clone, Copy, Debug, Default)]
struct Server {
    unreachable: u32,
    fails: u32,
    neutral: u32,
    /// The client leaves.
    dropped: u32,
}

const HEALTHY: Server = Server {
    unreachable: 0,
    fails: 0,
    neutral: 0,
    dropped: 0,
};

const fn failing(fails: u32) -> Server {
    Server { fails, ..HEALTHY }
}

const DEAD: Server = Server {
    unreachable: 1_000_000,
    ..HEALTHY
};

struct Simulation {
    upstream: Arc<Upstream>,
    servers: Vec<Server>,
    now: Instant,
    examined: Instant,
    rng: fastrand::Rng,
    /// Requests on their way: when they end, and where.
    running: Vec<(Instant, usize, InFlight)>,
    picked: Vec<u64>,
    refused: u64,
    probes: u64,
}

pub(super) fn upstream(servers: usize, edit: impl FnOnce(&mut model::Upstream)) -> Arc<Upstream> {
    let address = |index: usize| EndpointAddress::Ip(([10, 0, 0, index as u8], 80).into());
    let mut config = model::Upstream::plain("app", (0..servers).map(address));
    edit(&mut config);
    let metrics = Registry::new(1).upstream("app");
    Upstream::new(Arc::new(config), metrics, &Materials::default())
}

impl Simulation {
    fn new(servers: &[Server], seed: u64, edit: impl FnOnce(&mut model::Upstream)) -> Self {
        let upstream = upstream(servers.len(), edit);
        let now = Instant::now();
        Self {
            upstream,
            servers: servers.to_vec(),
            now,
            examined: now,
            rng: fastrand::Rng::with_seed(seed),
            running: Vec::new(),
            picked: vec![0; servers.len()],
            refused: 0,
            probes: 0,
        }
    }

    /// For so long, requests that far apart on average, each answered after up to `takes`.
    fn run(&mut self, length: Duration, apart: Duration, takes: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.step(apart, takes);
        }
    }

    fn step(&mut self, apart: Duration, takes: Duration) {
        self.now += apart.mul_f64(self.rng.f64() * 2.0);
        self.finish(self.now);
        while self.now.saturating_duration_since(self.examined) >= Duration::from_secs(1) {
            self.examined += Duration::from_secs(1);
            self.upstream.health.examine(self.examined);
            self.check();
        }
        let wish = Wish {
            idempotent: self.rng.bool(),
            ..Wish::default()
        };
        match self.upstream.pick(self.now, &mut self.rng, wish) {
            Ok(in_flight) => {
                let index = self.index(in_flight.endpoint().id);
                self.picked[index] += 1;
                self.probes += u64::from(in_flight.is_probe());
                let end = self.now + takes.mul_f64(self.rng.f64());
                self.running.push((end, index, in_flight));
            }
            Err(error) => {
                assert_eq!(error.reason, Reason::BreakerOpen);
                let Tally { open, total, .. } = self.upstream.health.tally();
                assert_eq!(open, total, "refused while there was one to take it");
                self.refused += 1;
            }
        }
        self.check();
    }

    fn finish(&mut self, upto: Instant) {
        while let Some(first) = (0..self.running.len()).min_by_key(|&index| self.running[index].0)
            && self.running[first].0 <= upto
        {
            let (end, index, in_flight) = self.running.swap_remove(first);
            let server = self.servers[index];
            let mut point = self.rng.u32(..1_000_000);
            let mut drawn = |chance: u32| {
                let hit = point < chance;
                point = point.saturating_sub(chance);
                hit
            };
            if drawn(server.unreachable) {
                in_flight.settle(Verdict::Unreachable, end);
            } else if drawn(server.fails) {
                in_flight.settle(Verdict::Failure, end);
            } else if drawn(server.neutral) {
                in_flight.settle(Verdict::Neutral, end);
            } else if !drawn(server.dropped) {
                in_flight.head_received(end);
                in_flight.settle(Verdict::Success, end);
            }
            drop(in_flight);
            self.check();
        }
    }

    fn index(&self, id: EndpointId) -> usize {
        let set = self.upstream.endpoints();
        let mut endpoints = set.endpoints().iter();
        endpoints.position(|endpoint| endpoint.id == id).unwrap()
    }

    /// What holds at any time.
    fn check(&self) {
        let config = &self.upstream.config;
        let tally = self.upstream.health.tally();
        let most = config.ejection.map_or(0, |ejection| {
            tally.total * usize::from(ejection.max_ejected) / 100
        });
        assert!(tally.ejected <= most, "{tally:?}");
        assert!(tally.ejected == 0 || tally.available() > 0, "{tally:?}");
        for index in 0..self.servers.len() {
            let id = self.upstream.endpoints().endpoints()[index].id;
            // One that had no answer for the longest backoff was given up.
            let probes = self.running.iter().filter(|(_, at, in_flight)| {
                let age = self.now.saturating_duration_since(in_flight.started());
                *at == index && in_flight.is_probe() && age < BACKOFF.max
            });
            let probes = probes.count();
            let state = self.upstream.health.state(id);
            match state {
                State::HalfOpen { until, .. } if self.now < until => assert_eq!(probes, 1),
                State::HalfOpen { .. } => assert_eq!(probes, 0),
                State::Open { until, .. } => {
                    assert_eq!(probes, 0);
                    assert!(until.saturating_duration_since(self.now) <= BACKOFF.max);
                }
                // It may have been readmitted as too few others were left.
                State::Closed => assert!(probes <= 1),
            }
            let available = self.upstream.endpoints().endpoints()[index]
                .health
                .is_available();
            assert_eq!(available, state == State::Closed);
        }
        assert_eq!(
            self.upstream.health.is_quiet(),
            tally.available() == tally.total
        );
    }
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn whatever_happens_the_invariants_hold() {
    for seed in 0..2000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(1..=6);
        let share = rng.u8(0..=100);
        let random = |rng: &mut fastrand::Rng| match rng.u8(..4) {
            0 => HEALTHY,
            1 => DEAD,
            _ => Server {
                unreachable: rng.u32(..300_000),
                fails: rng.u32(..400_000),
                neutral: rng.u32(..100_000),
                dropped: rng.u32(..100_000),
            },
        };
        let servers: Vec<Server> = (0..count).map(|_| random(&mut rng)).collect();
        let mut simulation = Simulation::new(&servers, seed, |config| {
            config.ejection = Some(Ejection {
                max_ejected: share,
                ..Ejection::default()
            });
            if seed % 5 == 0 {
                config.breaker = None;
            }
        });
        let apart = MS * rng.u32(1..200);
        for _ in 0..10 {
            // Some outlive the longest probe.
            let takes = [10 * MS, SECOND, 40 * SECOND][rng.usize(..3)];
            for _ in 0..20 {
                simulation.step(apart, takes);
            }
            let index = rng.usize(..count);
            simulation.servers[index] = random(&mut rng);
        }
    }
}

#[test]
fn dead_endpoints_are_left_alone_and_found_again() {
    for seed in 0..10 {
        for count in [1, 3] {
            let mut simulation = Simulation::new(&vec![DEAD; count], seed, |_| {});
            simulation.run(SECOND, MS, MS);
            simulation.picked.fill(0);
            simulation.run(60 * SECOND, 5 * MS, MS);
            // After the first second 2, 4, 8 and so on: a handful in a minute, of 12 000 requests.
            let tried: u64 = simulation.picked.iter().sum();
            assert!(tried <= 9 * count as u64, "{tried}");

            simulation.servers = vec![HEALTHY; count];
            simulation.run(30 * SECOND, 5 * MS, MS);
            let tally = simulation.upstream.health.tally();
            assert_eq!(tally.available(), count, "within the longest backoff");
            simulation.refused = 0;
            simulation.run(SECOND, MS, MS);
            assert_eq!(simulation.refused, 0);
        }
    }
}

#[test]
fn recovery_after_a_short_outage_takes_one_backoff() {
    for seed in 0..100 {
        let mut simulation = Simulation::new(&[DEAD], seed, |_| {});
        while simulation.upstream.health.tally().open == 0 {
            simulation.step(MS, MS);
        }
        simulation.servers = vec![HEALTHY];
        simulation.run(SECOND + 10 * MS, MS, MS);
        assert_eq!(simulation.upstream.health.tally().open, 0);
        assert_eq!(simulation.probes, 1);
    }
}

#[test]
fn neutral_answers_neither_open_nor_close() {
    for seed in 0..5 {
        let neutral = Server {
            neutral: 1_000_000,
            ..HEALTHY
        };
        let mut simulation = Simulation::new(&[neutral], seed, |_| {});
        simulation.run(5 * SECOND, MS, MS);
        assert_eq!(simulation.refused, 0);
        simulation.servers = vec![DEAD];
        simulation.run(SECOND, MS, MS);
        simulation.servers = vec![neutral];
        simulation.run(60 * SECOND, 10 * MS, MS);
        assert_eq!(simulation.upstream.health.tally().open, 1);
        simulation.servers = vec![HEALTHY];
        simulation.run(SECOND, 10 * MS, MS);
        assert_eq!(simulation.upstream.health.tally().open, 0);
    }
}

#[test]
fn one_of_two_that_always_fails_is_left_to_the_other() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(&[failing(1_000_000), HEALTHY], seed, |_| {});
        simulation.run(5 * SECOND, 10 * MS, 5 * MS);
        simulation.picked.fill(0);
        simulation.run(60 * SECOND, 10 * MS, 5 * MS);
        assert!(simulation.picked[0] <= 8, "{:?}", simulation.picked);
        assert_eq!(simulation.refused, 0);
    }
}

/// Without the breaker, and under round robin so that nothing else moves load away.
fn only_ejection(config: &mut model::Upstream) {
    config.breaker = None;
    config.balancer = model::Balancer::RoundRobin;
}

/// How long until the first is ejected, if it is within `limit`.
fn detected(servers: &[Server], seed: u64, apart: Duration, limit: Duration) -> Option<Duration> {
    let mut simulation = Simulation::new(servers, seed, only_ejection);
    let start = simulation.now;
    while simulation.now - start < limit {
        simulation.step(apart, MS);
        let id = simulation.upstream.endpoints().endpoints()[0].id;
        if simulation.upstream.health.state(id) != State::Closed {
            return Some(simulation.now - start);
        }
    }
    None
}

/// The quantile of some detection times; those that found nothing are the longest.
fn quantile(mut times: Vec<Option<Duration>>, of: f64) -> Option<Duration> {
    times.sort_by_key(|time| time.unwrap_or(Duration::MAX));
    times[(times.len() as f64 * of) as usize]
}

#[test]
fn equal_endpoints_are_not_ejected() {
    // Ten minutes each of 2 to 5 endpoints that fail alike.
    let mut all = 0;
    for (fails, load) in [
        (0.001, 20),
        (0.05, 10),
        (0.05, 1),
        (0.3, 4),
        (0.5, 2),
        (0.9, 2),
    ] {
        let mut wrong = 0;
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut windows = vec![Window::new(Instant::now()); 2 + seed as usize % 4];
            wrong += u64::from(!stay(&mut windows, fails, load, &mut rng));
        }
        println!("{fails} fail, {load} a second each: {wrong} of 500 runs eject");
        all += wrong;
    }
    assert!(all <= 6, "2 of 1000: {all}");
}

/// Whether ten minutes pass without an ejection.
fn stay(windows: &mut [Window], fails: f64, load: u64, rng: &mut fastrand::Rng) -> bool {
    let start = Instant::now();
    let ejection = Ejection::default();
    (1..=600).all(|second| {
        for window in &mut *windows {
            let counts = Counts {
                trials: load,
                failures: (0..load).filter(|_| rng.f64() < fails).count() as u64,
                slow: 0,
            };
            window.add(counts, ejection.window, start + SECOND * second);
        }
        let counts: Vec<Counts> = windows.iter().map(Window::counts).collect();
        ejection::worst(&counts, &ejection).is_none()
    })
}

#[test]
fn one_that_fails_half_of_the_time_is_found_soon() {
    // Requests a second over all three, and the limits for half and for nearly all of the runs.
    for (apart, median, most) in [
        (MS, 1, 1),
        (10 * MS, 2, 3),
        (50 * MS, 6, 12),
        (200 * MS, 20, 40),
    ] {
        let times: Vec<_> = (0..100)
            .map(|seed| {
                detected(
                    &[failing(500_000), HEALTHY, HEALTHY],
                    seed,
                    apart,
                    120 * SECOND,
                )
            })
            .collect();
        let (half, nearly_all) = (quantile(times.clone(), 0.5), quantile(times, 0.95));
        println!("50 %, {apart:?} apart: half within {half:?}, 95 % within {nearly_all:?}");
        assert!(half.is_some_and(|time| time <= SECOND * median + SECOND / 5));
        assert!(nearly_all.is_some_and(|time| time <= SECOND * most + SECOND / 5));
    }
}

#[test]
fn one_that_fails_a_twentieth_is_found_where_there_is_load() {
    for (apart, median) in [(MS, 3), (10 * MS, 30)] {
        let times: Vec<_> = (0..20)
            .map(|seed| {
                detected(
                    &[failing(50_000), HEALTHY, HEALTHY],
                    seed,
                    apart,
                    120 * SECOND,
                )
            })
            .collect();
        let half = quantile(times.clone(), 0.5);
        println!(
            "5 %, {apart:?} apart: half within {half:?}, 95 % within {:?}",
            quantile(times, 0.95)
        );
        assert!(half.is_some_and(|time| time <= SECOND * median), "{half:?}");
    }
}

#[test]
fn the_only_one_and_the_last_one_stay() {
    for seed in 0..20 {
        for servers in [vec![failing(900_000)], vec![failing(900_000), DEAD]] {
            let mut simulation = Simulation::new(&servers, seed, |config| {
                config.breaker = Some(Breaker {
                    consecutive_failures: u32::MAX,
                    ..Breaker::default()
                });
                config.ejection = Some(Ejection {
                    max_ejected: 100,
                    ..Ejection::default()
                });
            });
            simulation.run(60 * SECOND, 20 * MS, MS);
            assert_eq!(simulation.upstream.health.tally().ejected, 0);
        }
    }
}

#[test]
fn panic_sends_requests_to_all() {
    let mut simulation = Simulation::new(&[DEAD, DEAD, HEALTHY], 1, |config| {
        config.balancer = model::Balancer::RoundRobin;
        config.ejection = Some(Ejection {
            panic_threshold: 50,
            ..Ejection::default()
        });
    });
    simulation.run(SECOND, MS, MS);
    simulation.picked.fill(0);
    simulation.run(SECOND, MS, MS);
    let [a, b, c] = simulation.picked[..] else {
        unreachable!("three servers")
    };
    assert!(a > 100 && b > 100 && c > 100, "{:?}", simulation.picked);
    assert_eq!(simulation.upstream.health.tally().open, 2);
}

#[test]
fn a_dry_run_ejects_nothing() {
    let mut simulation = Simulation::new(&[failing(500_000), HEALTHY, HEALTHY], 1, |config| {
        only_ejection(config);
        config.ejection = Some(Ejection {
            dry_run: true,
            ..Ejection::default()
        });
    });
    simulation.run(100 * SECOND, 10 * MS, MS);
    assert_eq!(simulation.probes, 0);
    let counted = simulation.upstream.metrics.health.ejected_in_dry_run();
    assert!((3..=4).contains(&counted), "once in 30 s: {counted}");
}

#[test]
fn slow_answers_eject_where_that_is_wanted() {
    let upstream = upstream(3, |config| {
        only_ejection(config);
        config.ejection = Some(Ejection {
            latency: true,
            ..Ejection::default()
        });
    });
    let start = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let slow = upstream.endpoints().endpoints()[0].id;
    let mut ejected = false;
    for step in 0..3000 {
        let now = start + MS * 10 * step;
        if step % 100 == 0 {
            upstream.health.examine(now);
            ejected |= matches!(upstream.health.state(slow), State::Open { .. });
            assert!(upstream.health.tally().available() >= 2);
        }
        let in_flight = upstream.pick(now, &mut rng, Wish::default()).unwrap();
        let takes = if in_flight.endpoint().id == slow {
            500
        } else {
            rng.u32(5..15)
        };
        in_flight.observe(MS * takes, now);
        in_flight.settle(Verdict::Success, now);
    }
    assert!(ejected);
}
