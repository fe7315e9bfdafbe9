//! Servers that are not all alike: broken, new, of another level or zone, chosen by a key.

use super::*;
use crate::config::model::{Hashing, StickyKey};

fn hashing(bounded_load: Option<u32>) -> [Balancer; 2] {
    let hashing = Hashing {
        key: StickyKey::Source,
        bounded_load,
    };
    [
        Balancer::RingHash(hashing.clone()),
        Balancer::Maglev(hashing),
    ]
}

fn assert_near(share: f64, expected: f64, slack: f64, what: impl std::fmt::Debug) {
    assert!(
        (share - expected).abs() <= slack,
        "{share} is not {expected} within {slack}: {what:?}"
    );
}

#[tokio::test]
async fn what_turns_slow_loses_its_traffic_within_a_second() {
    for seed in 0..12 {
        for count in [2, 3, 5] {
            let servers = vec![server(1, 2_000); count];
            let mut simulation = Simulation::new(&Balancer::PeakEwma, &servers, seed);
            simulation.run(5_000, 200);
            simulation.servers[0].micros *= 50;
            // One second.
            simulation.run(5_000, 200);
            let shares = simulation.run(5_000, 200);
            assert!(shares[0] < 0.02, "{count} {seed} {shares:?}");
        }
    }
}

#[tokio::test]
async fn who_is_down_takes_nothing_and_leaves_it_to_all_others() {
    for balancer in ALL.into_iter().chain(hashing(None)) {
        for seed in 0..5 {
            for count in [2, 3, 12] {
                let servers = vec![server(1, 2_000); count];
                let mut simulation = Simulation::new(&balancer, &servers, seed);
                simulation.keys = 10_000;
                simulation.shut(0, true);
                let shares = simulation.run(6_000, 400);
                assert_eq!(shares[0], 0.0);
                let fair = 1.0 / (count - 1) as f64;
                for &share in &shares[1..] {
                    assert_near(share, fair, fair * 0.3, (&balancer, count, seed, &shares));
                }
                // Also when hardly one is left.
                for index in 0..count - 1 {
                    simulation.shut(index, true);
                }
                assert_eq!(simulation.run(200, 400)[count - 1], 1.0);
            }
        }
    }
}

/// A fourth server joins three, with a slow start of 10 s.
fn joined(balancer: &Balancer, seed: u64) -> Simulation {
    let mut servers = vec![server(1, 2_000); 3];
    let mut simulation = Simulation::new(balancer, &servers, seed);
    simulation.run(2_000, 400);
    servers.push(server(1, 2_000));
    let before = simulation.set.endpoints().to_vec();
    let (slow_start, now) = (Duration::from_secs(10), simulation.at(simulation.now));
    simulation.set = build(balancer, &servers, &before, slow_start, now);
    simulation.servers = servers;
    simulation.taken.push(0);
    simulation
}

#[tokio::test]
async fn a_new_server_gets_its_share_little_by_little() {
    for balancer in &ALL {
        for seed in 0..5 {
            // Once with a few requests for each at a time, once with one at a time.
            for apart in [200, 5_000] {
                let mut simulation = joined(balancer, seed);
                let second = 1_000_000 / apart as usize;
                let mut expected = 0.1;
                for _ in 0..10 {
                    // In the middle of this second.
                    let part = expected + 0.045;
                    let share = simulation.run(second, apart)[3];
                    let fair = part / (3.0 + part);
                    let slack = if apart == 200 { 0.05 } else { 0.08 };
                    assert_near(share, fair, slack, (balancer, apart, part, seed));
                    expected += 0.09;
                }
                let share = simulation.run(second * 5, apart)[3];
                assert_near(share, 0.25, 0.06, (balancer, apart, seed));
            }
        }
    }
}

#[tokio::test]
async fn levels_take_what_is_beyond_those_above() {
    for balancer in ALL.into_iter().chain(hashing(None)) {
        for seed in 0..5 {
            let mut servers = vec![server(1, 2_000); 8];
            for (index, server) in servers.iter_mut().enumerate() {
                server.priority = [7, 9, 9][index / 4];
            }
            let mut simulation = Simulation::new(&balancer, &servers, seed);
            simulation.keys = 10_000;
            for (down, below) in [(0, 0.0), (1, 0.0), (2, 0.3), (3, 0.65), (4, 1.0)] {
                for index in 0..4 {
                    simulation.shut(index, index < down);
                }
                let shares = simulation.run(6_000, 400);
                let taken: f64 = shares[4..].iter().sum();
                assert_near(taken, below, 0.03, (&balancer, down, seed, shares));
            }
        }
    }
}

#[tokio::test]
async fn a_key_stays_while_others_move_to_the_next_level() {
    for balancer in hashing(None) {
        let mut servers = vec![server(1, 2_000); 8];
        for server in &mut servers[4..] {
            server.priority = 1;
        }
        let mut simulation = Simulation::new(&balancer, &servers, 1);
        simulation.shut(0, true);
        simulation.shut(1, true);
        simulation.keys = 1;
        let shares = simulation.run(100, 400);
        assert!(shares.contains(&1.0), "{shares:?}");
    }
}

#[tokio::test]
async fn a_zone_is_left_in_proportion_to_what_it_can_not_bear() {
    for balancer in &ALL {
        for seed in 0..5 {
            let mut servers = vec![server(1, 2_000); 4];
            for (index, server) in servers.iter_mut().enumerate() {
                server.capacity = 10;
                server.zone = [Some("here"), Some("there"), None, Some("there")][index];
            }
            let mut simulation = Simulation::new(balancer, &servers, seed);
            // A fifth of what the zone can bear, then all of it twice: 5,000 a second.
            let shares = simulation.run(10_000, 1_000);
            assert!(shares[0] > 0.99, "{balancer:?} {seed} {shares:?}");
            simulation.run(10_000, 100);
            let shares = simulation.run(10_000, 100);
            let near = shares[0];
            assert!((0.3..0.6).contains(&near), "{balancer:?} {seed} {shares:?}");
            for share in &shares[1..] {
                assert_near(*share, (1.0 - near) / 3.0, 0.06, (balancer, seed, &shares));
            }
            assert_near(simulation.crossed as f64 / 10_000.0, 1.0 - near, 1e-9, seed);
            // The zone's endpoint goes: all leave.
            simulation.shut(0, true);
            assert_eq!(simulation.run(1_000, 400)[0], 0.0);
        }
    }
}

#[tokio::test]
async fn one_zone_is_no_zone() {
    for zone in [None, Some("here"), Some("there")] {
        let servers = [Server {
            zone,
            ..server(1, 2_000)
        }; 3];
        let mut simulation = Simulation::new(&Balancer::RoundRobin, &servers, 1);
        let shares = simulation.run(3_000, 400);
        assert!(shares.iter().all(|&share| share == 1.0 / 3.0));
        assert_eq!(simulation.crossed, 0);
    }
}

#[tokio::test]
async fn a_hot_key_spills_only_where_load_is_bounded() {
    for (bounded_load, most) in [(None, 1.0), (Some(125), 0.5)] {
        for balancer in hashing(bounded_load) {
            let mut simulation = Simulation::new(&balancer, &[server(1, 20_000); 4], 1);
            simulation.keys = 1;
            // Some forty in flight.
            simulation.run(2_000, 500);
            let shares = simulation.run(5_000, 500);
            let max = shares.iter().copied().fold(0.0, f64::max);
            assert!(max <= most && max >= most / 2.0, "{balancer:?} {shares:?}");
        }
    }
}

#[tokio::test]
async fn without_a_key_requests_are_spread() {
    for balancer in hashing(None) {
        let shares = Simulation::new(&balancer, &[server(1, 2_000); 4], 1).run(8_000, 400);
        for &share in &shares {
            assert_near(share, 0.25, 0.05, &shares);
        }
    }
}
