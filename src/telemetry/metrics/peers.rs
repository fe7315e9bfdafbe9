//! What callers with a certificate ask for, by who they are.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    cells::{Count, PerWorker},
    common::Common,
    exemplar::now,
    family::Value,
    group::OVERFLOW,
    ledger::Ledger,
    room::Share,
    route::{STATUSES, class_of},
    scrape::Series,
};

/// The handle of one caller on one listener. Every `worker` is the number of the calling worker.
#[derive(Debug)]
pub struct PeerMetrics {
    requests: PerWorker<[Count; STATUSES.len()]>,
    since: u64,
    ledger: Ledger,
}

/// The one family there is of them.
pub(super) const REQUESTS: &str = "pillion_peer_requests";

/// Names that have series of their own, of one listener. A name stays when its connections end:
/// what it asked for would be lost between two scrapes otherwise.
const MAX_PEERS: usize = 1000;

impl PeerMetrics {
    /// With places for so many classes of status.
    fn new(common: &Common, places: Share, classes: usize) -> Arc<Self> {
        Arc::new(Self {
            requests: PerWorker::new(common.workers),
            since: now(),
            ledger: Ledger::with(places, classes),
        })
    }

    /// A request of this caller is over; `status` is 0 when there was no response.
    pub fn request_done(&self, worker: usize, status: u16) {
        self.requests.of(worker)[class_of(status)].increment();
    }
}

/// The callers of one listener.
#[derive(Debug)]
pub(super) struct Peers {
    common: Arc<Common>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    peers: HashMap<Arc<str>, Arc<PeerMetrics>>,
    /// The room as it was when a name was refused a place: until it changes there is none.
    refused: u64,
}

impl Peers {
    pub(super) fn new(common: &Arc<Common>) -> Self {
        Self {
            common: Arc::clone(common),
            known: Mutex::default(),
        }
    }

    /// `None`: nothing about requests is counted.
    pub(super) fn get(&self, identity: &str) -> Option<Arc<PeerMetrics>> {
        if !self.common.settings().enabled {
            return None;
        }
        // Each change is one call on the map, so a panic elsewhere leaves it whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = known.peers.get(identity) {
            return Some(Arc::clone(peer));
        }
        let common = &self.common;
        if let Some(place) = self.place(&mut known) {
            let peer = PeerMetrics::new(common, place, 1);
            known.peers.insert(identity.into(), Arc::clone(&peer));
            return Some(peer);
        }
        let others = || {
            let classes = STATUSES.len();
            PeerMetrics::new(common, common.room.insist(classes), classes)
        };
        let others = known.peers.entry(OVERFLOW.into()).or_insert_with(others);
        Some(Arc::clone(others))
    }

    /// For one more name: it is shown by the class of its first request. Others take a place when they
    /// are first shown, as most callers never see all of them. Refusals are counted once, not at each
    /// connection of who was refused.
    fn place(&self, known: &mut Known) -> Option<Share> {
        let room = &self.common.room;
        let changes = room.changes();
        if known.refused == changes {
            return None;
        }
        let fits = known.peers.len() < MAX_PEERS;
        let place = fits.then(|| room.take(1)).flatten();
        if place.is_none() {
            room.refuse(1);
            known.refused = changes;
        }
        place
    }

    pub(super) fn show(&self, series: &mut Series<'_, '_>) {
        // Workers wait for this lock: nothing is written under it.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut peers: Vec<_> = known
            .peers
            .iter()
            .map(|(name, peer)| (Arc::clone(name), Arc::clone(peer)))
            .collect();
        drop(known);
        peers.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (name, peer) in peers {
            series.since(peer.since);
            for (class, status) in STATUSES.into_iter().enumerate() {
                let count = peer.requests.sum(|counts| &counts[class]);
                if count > 0
                    && let Some(count) = peer.ledger.tell(REQUESTS, [status, ""], count)
                {
                    let labels = [("peer_identity", &*name), ("status", status)];
                    series.put(&labels, Value::Count(count, None));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_one_handle_and_too_many_share_one() {
        let common = Common::new(1);
        let peers = Peers::new(&common);
        let first = peers.get("spiffe://a/b").unwrap();
        assert!(Arc::ptr_eq(&first, &peers.get("spiffe://a/b").unwrap()));
        common.room.set(1);
        let second = peers.get("spiffe://a/c").unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &peers.get("spiffe://a/d").unwrap()));
        assert!(Arc::ptr_eq(&second, &peers.get(OVERFLOW).unwrap()));
        assert_eq!(common.room.refused(), 1);
        common.room.set(20);
        let third = peers.get("spiffe://a/d").unwrap();
        assert!(!Arc::ptr_eq(&second, &third));
    }

    #[test]
    fn names_beyond_the_bound_are_told() {
        let common = Common::new(1);
        let peers = Peers::new(&common);
        for number in 0..MAX_PEERS + 10 {
            peers.get(&number.to_string());
        }
        assert_eq!(common.room.refused(), 1);
        assert!(Arc::ptr_eq(
            &peers.get("new").unwrap(),
            &peers.get(OVERFLOW).unwrap()
        ));
    }
}
