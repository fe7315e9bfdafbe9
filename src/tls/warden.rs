//! A worker's watch over its TLS connections: when something was rotated, and when a connection's
//! time comes.

use std::{future::pending, rc::Rc};

use rustls::pki_types::UnixTime;
use tokio::time::{Instant, sleep_until};

use super::roster::{Holding, LookUp, Party};
use crate::worker::Worker;

/// Runs as long as the worker lives.
pub async fn run(worker: Rc<Worker>) {
    let roster = &worker.tls.roster;
    let mut seen = marks(&worker);
    loop {
        let event = worker.events.notified();
        let marks = marks(&worker);
        let changed = std::mem::replace(&mut seen, marks) != marks || roster.take_doubt();
        let holding = |party: &Party| holding(&worker, party);
        let moved = {
            let changed = changed.then_some(&holding as LookUp<'_>);
            let rng = &mut worker.rng.borrow_mut();
            roster.review(Instant::now(), UnixTime::now(), changed, rng)
        };
        if moved {
            // Idle connections look at their leash again.
            worker.events.notify_waiters();
        }
        let due = async {
            match roster.due() {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = event => {}
            () = due => {}
            () = roster.sooner() => {}
        }
    }
}

/// What connections were judged by last: the materials, and the configuration that uses them.
fn marks(worker: &Worker) -> (u64, u64) {
    (
        worker.shared.materials.load().generation,
        worker.generation(),
    )
}

fn holding(worker: &Worker, party: &Party) -> Holding {
    match party {
        Party::Client { listener, .. } => worker
            .plan(*listener)
            .and_then(|plan| plan.tls.as_ref()?.holding())
            .map_or(Holding::Nothing, Holding::Client),
        Party::Endpoint { upstream, .. } => worker
            .with_snapshot(|snapshot| snapshot.upstreams.get(upstream)?.tls.clone())
            .and_then(|tls| tls.holding())
            .map_or(Holding::Nothing, Holding::Endpoint),
    }
}
