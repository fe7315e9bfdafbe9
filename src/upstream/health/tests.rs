//! The board step by step, over a reload, and under several threads.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{machine::State, simulation::upstream};
use crate::{
    config::model::{self, Breaker},
    error::Reason,
    tls::Materials,
    upstream::{InFlight, Verdict, Wish},
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn late_results_are_ignored() {
    let upstream = upstream(1, |_| {});
    let start = Instant::now() + SECOND;
    let mut rng = fastrand::Rng::with_seed(1);
    let id = upstream.endpoints().endpoints()[0].id;
    let mut pick = |now| upstream.pick(now, &mut rng, Wish::default());
    let late: Vec<InFlight> = (0..20).map(|_| pick(start).unwrap()).collect();
    for in_flight in &late[..5] {
        in_flight.settle(Verdict::Failure, start);
    }
    assert_ne!(upstream.health.state(id), State::Closed);
    late[5].settle(Verdict::Success, start);
    assert_ne!(upstream.health.state(id), State::Closed);
    assert_eq!(pick(start).unwrap_err().reason, Reason::BreakerOpen);

    let later = start + SECOND;
    // A probe whose client left gives it back.
    let probe = pick(later).unwrap();
    assert!(probe.is_probe());
    assert!(pick(later).is_err());
    drop(probe);
    let probe = pick(later).unwrap();
    probe.settle(Verdict::Success, later);
    assert_eq!(upstream.health.state(id), State::Closed);
    for in_flight in &late[6..] {
        in_flight.settle(Verdict::Failure, later);
    }
    assert_eq!(upstream.health.state(id), State::Closed);
}

#[test]
fn a_reload_keeps_what_is_known() {
    let before = upstream(2, |_| {});
    let now = Instant::now() + SECOND;
    let mut rng = fastrand::Rng::with_seed(1);
    let first = before.endpoints().endpoints()[0].clone();
    for _ in 0..5 {
        InFlight::start(first.clone(), now).settle(Verdict::Failure, now);
    }
    assert_eq!(before.health.tally().open, 1);
    let mut config = model::Upstream::clone(&before.config);
    config.endpoints.reverse();
    let after = before.successor(Arc::new(config.clone()), &Materials::default());
    for _ in 0..100 {
        let picked = after.pick(now, &mut rng, Wish::default()).unwrap();
        assert_ne!(picked.endpoint().id, first.id);
    }
    config.breaker = None;
    let off = after.successor(Arc::new(config.clone()), &Materials::default());
    assert!(off.health.is_quiet());
    // What no longer belongs to it doesn't count.
    config.breaker = Some(Breaker::default());
    config.endpoints.truncate(1);
    let fewer = off.successor(Arc::new(config), &Materials::default());
    assert_eq!(fewer.health.tally().total, 1);
}

#[test]
fn many_threads_send_one_probe() {
    let upstream = upstream(3, |_| {});
    let start = Instant::now() + SECOND;
    for endpoint in upstream.endpoints().endpoints() {
        for _ in 0..3 {
            InFlight::start(endpoint.clone(), start).settle(Verdict::Unreachable, start);
        }
    }
    assert_eq!(upstream.health.tally().open, 3);
    for round in 1..50_u32 {
        let now = start + round * 31 * SECOND;
        let probes: Vec<InFlight> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|seed| {
                    let upstream = &upstream;
                    scope.spawn(move || {
                        let mut rng = fastrand::Rng::with_seed(seed);
                        (0..50)
                            .filter_map(|_| upstream.pick(now, &mut rng, Wish::default()).ok())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(probes.len(), 3, "one for each");
        for probe in &probes {
            probe.settle(Verdict::Unreachable, now);
        }
    }
}
