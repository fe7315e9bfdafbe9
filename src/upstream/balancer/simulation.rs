//! The balancers against servers that exist only as numbers: seeded, thousands of requests a run,
//! no clock but the one of the simulation.

mod placed;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    config::model::Balancer,
    error::Reason,
    upstream::{
        endpoint::{Endpoint, EndpointId, InFlight, Target, Verdict, Wish},
        set::{EndpointSet, Manner, Priority, Vacancy, Wanted},
    },
};

const ALL: [Balancer; 3] = [
    Balancer::PeakEwma,
    Balancer::LeastRequest,
    Balancer::RoundRobin,
];

#[derive(Clone, Copy)]
struct Server {
    weight: u32,
    /// Mean; each answer takes between half and one and a half of it.
    micros: u64,
    fails: bool,
    /// So many requests at once are served at full speed; more share it.
    capacity: u32,
    priority: u32,
    zone: Option<&'static str>,
}

const fn server(weight: u32, micros: u64) -> Server {
    Server {
        weight,
        micros,
        fails: false,
        capacity: u32::MAX,
        priority: 0,
        zone: None,
    }
}

struct Simulation {
    set: EndpointSet,
    servers: Vec<Server>,
    cursor: AtomicUsize,
    start: Instant,
    now: u64,
    rng: fastrand::Rng,
    /// When they end, in microseconds; the requests by the index of their server.
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    running: Vec<Option<(usize, InFlight)>>,
    taken: Vec<u64>,
    /// Those that left the zone.
    crossed: u64,
    /// Only servers that are available are asked.
    careful: bool,
    /// How many keys the requests have; 0: none.
    keys: u64,
}

impl Simulation {
    fn new(balancer: &Balancer, servers: &[Server], seed: u64) -> Self {
        let start = Instant::now();
        Self {
            set: build(balancer, servers, &[], Duration::ZERO, start),
            servers: servers.to_vec(),
            cursor: AtomicUsize::new(0),
            start,
            now: 1,
            rng: fastrand::Rng::with_seed(seed),
            ends: BinaryHeap::new(),
            running: Vec::new(),
            taken: vec![0; servers.len()],
            crossed: 0,
            careful: false,
            keys: 0,
        }
    }

    /// A server goes down, or is back.
    fn shut(&mut self, index: usize, shut: bool) {
        self.set.endpoints()[index].health.set_available(!shut);
        self.careful = true;
    }

    fn at(&self, micros: u64) -> Instant {
        self.start + Duration::from_micros(micros)
    }

    /// So many requests come, that far apart on average; returns the share of each server.
    fn run(&mut self, requests: usize, apart: u64) -> Vec<f64> {
        self.taken.fill(0);
        self.crossed = 0;
        for _ in 0..requests {
            self.now += self.rng.u64(apart / 2..=apart + apart / 2);
            self.finish(self.now);
            self.request(&[]);
        }
        let total = self.taken.iter().sum::<u64>() as f64;
        self.taken
            .iter()
            .map(|&taken| taken as f64 / total)
            .collect()
    }

    fn request(&mut self, tried: &[EndpointId]) -> EndpointId {
        let now = self.at(self.now);
        let key = (self.keys > 0).then(|| super::hash(&self.rng.u64(..self.keys).to_le_bytes()));
        let wish = Wish {
            tried,
            key,
            ..Wish::default()
        };
        let (endpoint, crosses) = if self.careful {
            self.set
                .pick_available(&self.cursor, now, &mut self.rng, wish)
        } else {
            self.set.pick(&self.cursor, now, &mut self.rng, wish)
        }
        .unwrap();
        let endpoint = endpoint.clone();
        self.crossed += u64::from(crosses == Some(true));
        let id = endpoint.id;
        let index = self
            .set
            .endpoints()
            .iter()
            .position(|other| other.id == id)
            .unwrap();
        self.taken[index] += 1;
        let Server {
            micros, capacity, ..
        } = self.servers[index];
        let micros = micros * u64::from(endpoint.active() + 1).div_ceil(u64::from(capacity));
        let took = self.rng.u64(micros / 2..=micros + micros / 2);
        self.ends
            .push(Reverse((self.now + took, self.running.len() as u64)));
        self.running
            .push(Some((index, InFlight::start(endpoint, now))));
        id
    }

    fn finish(&mut self, upto: u64) {
        while let Some(&Reverse((end, request))) = self.ends.peek()
            && end <= upto
        {
            self.ends.pop();
            let (index, in_flight) = self.running[request as usize].take().unwrap();
            if self.servers[index].fails {
                in_flight.settle(Verdict::Failure, self.at(end));
            } else {
                in_flight.head_received(self.at(end));
            }
        }
        // What ends never is counted never: no endpoint may be left with requests it hasn't got.
        let counted: u32 = self
            .set
            .endpoints()
            .iter()
            .map(|endpoint| endpoint.active())
            .sum();
        assert_eq!(counted as usize, self.ends.len());
    }
}

fn build(
    balancer: &Balancer,
    servers: &[Server],
    previous: &[Arc<Endpoint>],
    slow_start: Duration,
    now: Instant,
) -> EndpointSet {
    let wanted = servers.iter().zip(1..).map(|(server, port)| Wanted {
        zone: server.zone.map(Arc::from),
        priority: Priority {
            configured: server.priority,
            srv: 0,
        },
        ..Wanted::plain(Target::tcp(([127, 0, 0, 1], port).into()), server.weight)
    });
    let vacancy = Vacancy {
        reason: Reason::NoEndpoints,
        detail: "none".into(),
    };
    let manner = Manner {
        balancer,
        slow_start,
        zone: Some("here"),
        newcomers_ramp: !previous.is_empty(),
    };
    EndpointSet::build(wanted, manner, previous, vacancy, now)
}

#[tokio::test]
async fn a_slow_endpoint_gets_a_small_share_but_is_not_forgotten() {
    for balancer in &[Balancer::PeakEwma, Balancer::LeastRequest] {
        for seed in 0..30 {
            let mut servers = vec![server(1, 2_000); 4];
            servers.push(server(1, 20_000));
            // About five requests at a time.
            let mut simulation = Simulation::new(balancer, &servers, seed);
            let shares = simulation.run(20_000, 400);
            assert!(shares[4] < 0.06, "{balancer:?} {seed} {shares:?}");
            assert!(shares[4] > 0.0, "{balancer:?} {seed} {shares:?}");
        }
    }
}

#[tokio::test]
async fn equals_share_equally_and_none_starves() {
    for balancer in &ALL {
        for count in 1..=8 {
            for seed in 0..20 {
                let servers = vec![server(1, 2_000); count];
                let mut simulation = Simulation::new(balancer, &servers, seed);
                // Once with a few requests for each at a time, once with one at a time.
                for (apart, slack) in [(600 / count as u64, 0.25), (4_000, 0.3)] {
                    let shares = simulation.run(10_000, apart);
                    let fair = 1.0 / count as f64;
                    for share in &shares {
                        let off = (share / fair - 1.0).abs();
                        assert!(off < slack, "{balancer:?} {count} {seed} {shares:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn shares_follow_weights_with_and_without_load() {
    for balancer in &ALL {
        for weights in [
            vec![1, 3],
            vec![1, 2, 5],
            vec![100, 300],
            vec![10, 11, 12, 13],
        ] {
            for seed in 0..20 {
                let servers: Vec<Server> = weights
                    .iter()
                    .map(|&weight| server(weight, 2_000))
                    .collect();
                let total: u32 = weights.iter().sum();
                let mut simulation = Simulation::new(balancer, &servers, seed);
                for apart in [50, 4_000] {
                    let shares = simulation.run(10_000, apart);
                    for (share, weight) in shares.iter().zip(&weights) {
                        let fair = f64::from(*weight) / f64::from(total);
                        let off = (share - fair).abs();
                        assert!(
                            off < 0.1,
                            "{balancer:?} {weights:?} {apart} {seed} {shares:?}"
                        );
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn failing_fast_draws_no_load() {
    for seed in 0..30 {
        let mut servers = vec![server(1, 2_000); 3];
        servers[1] = Server {
            fails: true,
            ..server(1, 100)
        };
        let mut simulation = Simulation::new(&Balancer::PeakEwma, &servers, seed);
        let shares = simulation.run(10_000, 1_000);
        assert!(shares[1] < 0.01, "{seed} {shares:?}");
        // Once it works again it is found again.
        simulation.servers[1].fails = false;
        simulation.run(30_000, 1_000);
        let shares = simulation.run(10_000, 1_000);
        assert!(shares[1] > 0.2, "{seed} {shares:?}");
    }
}

#[tokio::test]
async fn a_new_endpoint_is_tried_but_not_flooded() {
    for seed in 0..30 {
        let mut servers = vec![server(1, 2_000); 4];
        let mut simulation = Simulation::new(&Balancer::PeakEwma, &servers, seed);
        simulation.run(5_000, 200);
        // It takes a second for its first answer, in which 5,000 requests come.
        servers.push(server(1, 1_000_000));
        let before = simulation.set.endpoints().to_vec();
        simulation.set = build(
            &Balancer::PeakEwma,
            &servers,
            &before,
            Duration::ZERO,
            simulation.at(simulation.now),
        );
        assert!(before.iter().all(|known| simulation.set.contains(known.id)));
        simulation.servers = servers;
        simulation.taken.push(0);
        simulation.run(2_000, 200);
        assert!(
            (1..50).contains(&simulation.taken[4]),
            "{seed} {:?}",
            simulation.taken
        );
    }
}

#[tokio::test]
async fn tried_endpoints_are_avoided_while_there_is_another() {
    for balancer in &ALL {
        for seed in 0..30 {
            let mut simulation = Simulation::new(
                balancer,
                &[server(1, 1_000), server(3, 100), server(2, 10)],
                seed,
            );
            let first = simulation.request(&[]);
            let second = simulation.request(&[first]);
            let third = simulation.request(&[first, second]);
            assert!(first != second && second != third && third != first);
            simulation.request(&[first, second, third]);

            let mut alone = Simulation::new(balancer, &[server(1, 1_000)], seed);
            let only = alone.request(&[]);
            assert_eq!(alone.request(&[only]), only);
        }
    }
}

#[tokio::test]
async fn no_weight_no_requests() {
    let now = Instant::now();
    let cursor = AtomicUsize::new(0);
    let mut rng = fastrand::Rng::with_seed(1);
    for balancer in &ALL {
        let set = build(
            balancer,
            &[server(0, 1), server(7, 1), server(0, 1)],
            &[],
            Duration::ZERO,
            now,
        );
        let tried = [set.endpoints()[1].id];
        for _ in 0..100 {
            let picked = set.pick(&cursor, now, &mut rng, Wish::default()).unwrap();
            assert_eq!(picked.0.id, set.endpoints()[1].id);
            // Not even when the only one with a weight has been tried.
            let wish = Wish {
                tried: &tried,
                ..Wish::default()
            };
            let picked = set.pick(&cursor, now, &mut rng, wish).unwrap();
            assert_eq!(picked.0.id, set.endpoints()[1].id);
        }
        for servers in [&[][..], &[server(0, 1), server(0, 1)]] {
            let set = build(balancer, servers, &[], Duration::ZERO, now);
            assert!(set.pick(&cursor, now, &mut rng, Wish::default()).is_none());
        }
    }
}
