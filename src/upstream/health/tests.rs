//! The board step by step, over a reload, and under several threads.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    checked::tests::{check, finding},
    machine::State,
    simulation::upstream,
};
use crate::{
    config::model::{self, Breaker},
    error::Reason,
    tls::Materials,
    upstream::{EndpointId, InFlight, Upstream, Verdict, Wish},
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

/// An upstream whose endpoints are asked one thing, and a way to answer for them.
fn asked(servers: usize, edit: impl FnOnce(&mut model::Upstream)) -> Arc<Upstream> {
    upstream(servers, |config| {
        config.health_checks = vec![check(2, 2)];
        edit(config);
    })
}

fn tell(upstream: &Upstream, id: EndpointId, success: bool, now: Instant) {
    let check = check(2, 2);
    upstream.health.checked(id, &check, finding(success), now);
}

fn ids(upstream: &Upstream) -> Vec<EndpointId> {
    let set = upstream.endpoints();
    set.endpoints().iter().map(|endpoint| endpoint.id).collect()
}

#[test]
fn checks_and_requests_are_kept_apart() {
    let upstream = asked(1, |_| {});
    let id = ids(&upstream)[0];
    let now = Instant::now() + SECOND;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut pick = |now| upstream.pick(now, &mut rng, Wish::default());
    pick(now).unwrap();
    tell(&upstream, id, false, now);
    assert_eq!(pick(now).unwrap_err().reason, Reason::NoHealthyEndpoints);
    assert_eq!(upstream.health.state(id), State::Closed);
    tell(&upstream, id, true, now);
    assert!(upstream.health.is_quiet());
    for _ in 0..5 {
        pick(now).unwrap().settle(Verdict::Failure, now);
    }
    let open = upstream.health.state(id);
    assert!(matches!(open, State::Open { .. }));
    // Neither does one close what the other has opened, nor is a probe spent on what is unhealthy.
    for success in [true, true, false, false] {
        tell(&upstream, id, success, now);
        assert_eq!(upstream.health.state(id), open);
    }
    let later = now + 2 * SECOND;
    assert_eq!(pick(later).unwrap_err().reason, Reason::NoHealthyEndpoints);
    tell(&upstream, id, true, later);
    tell(&upstream, id, true, later);
    let probe = pick(later).unwrap();
    assert!(probe.is_probe());
    probe.settle(Verdict::Success, later);
    assert!(upstream.health.is_quiet());
}

#[test]
fn a_reload_keeps_what_checks_have_found() {
    let before = asked(2, |_| {});
    let now = Instant::now() + SECOND;
    let first = ids(&before)[0];
    tell(&before, first, false, now);
    let mut config = model::Upstream::clone(&before.config);
    config.endpoints.reverse();
    config.health_checks.insert(0, check(5, 5));
    let after = before.successor(Arc::new(config.clone()), &Materials::default());
    assert_eq!(after.health.tally().unhealthy, 1);
    assert!(after.health.last_checked(first, &check(2, 2)).is_some());
    assert!(after.health.last_checked(first, &check(5, 5)).is_none());
    // Without the check that has found it, it is as well as any.
    config.health_checks.pop();
    let other = after.successor(Arc::new(config.clone()), &Materials::default());
    assert!(other.health.is_quiet());
    tell(&other, first, false, now);
    assert!(other.health.is_quiet(), "a check that is no longer made");
}

#[test]
fn whatever_checks_find_only_they_decide_on_it() {
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let panic = [0, 0, 50][rng.usize(..3)];
        let upstream = asked(3, |config| {
            config.ejection.as_mut().unwrap().panic_threshold = panic;
        });
        let ids = ids(&upstream);
        // What the pure part says.
        let mut shadows = vec![super::checked::Checked::new(check(2, 2)); 3];
        let mut now = Instant::now() + SECOND;
        for _ in 0..300 {
            now += Duration::from_millis(rng.u64(..400));
            let at = rng.usize(..3);
            if rng.u8(..4) == 0 {
                let (success, before) = (rng.bool(), upstream.health.state(ids[at]));
                tell(&upstream, ids[at], success, now);
                shadows[at].take(finding(success));
                assert_eq!(upstream.health.state(ids[at]), before, "{seed}");
            }
            let unhealthy = |id: EndpointId| {
                let at = ids.iter().position(|&one| one == id).unwrap();
                super::checked::together(&shadows[at..=at]) == Some(super::Opinion::Unhealthy)
            };
            let all = ids.iter().all(|&id| unhealthy(id));
            match upstream.pick(now, &mut rng, Wish::default()) {
                Ok(picked) => {
                    let id = picked.endpoint().id;
                    assert!(!unhealthy(id) || upstream.health.panics(), "{seed}");
                    assert!(!(unhealthy(id) && picked.is_probe()), "{seed}");
                    let verdicts = [Verdict::Success, Verdict::Failure, Verdict::Unreachable];
                    picked.settle(verdicts[rng.usize(..3)], now);
                }
                Err(error) => {
                    let expected = if all {
                        Reason::NoHealthyEndpoints
                    } else {
                        Reason::BreakerOpen
                    };
                    assert_eq!(error.reason, expected, "{seed}");
                }
            }
        }
    }
}
