//! How many series there may be: a place is taken for each as it comes into being, and given back
//! with what it told of.
//!
//! What a configuration brings has its places first: a tenth of all is never given to what begins
//! with traffic, so that there is room for what a later configuration adds.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// Places for series. What finds none is counted together with others.
#[derive(Debug)]
pub(super) struct Room {
    limit: AtomicUsize,
    taken: AtomicUsize,
    /// Grows whenever there is more room than before: who was refused may ask again.
    changes: AtomicU64,
    refused: AtomicU64,
    /// By family, what series without a place would have told. Locked by scrapes alone.
    folded: Mutex<BTreeMap<&'static str, u64>>,
}

impl Room {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            taken: AtomicUsize::new(0),
            changes: AtomicU64::new(1),
            refused: AtomicU64::new(0),
            folded: Mutex::default(),
        })
    }

    /// Places that are taken above a lowered limit stay until they are given back.
    pub(super) fn set(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
        self.changes.fetch_add(1, Relaxed);
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// Places for what a configuration brings, or none.
    pub(super) fn reserve(self: &Arc<Self>, series: usize) -> Option<Share> {
        let mut share = Share::empty(self);
        share.take(series, self.limit()).then_some(share)
    }

    /// Places for what begins with traffic, or none.
    pub(super) fn take(self: &Arc<Self>, series: usize) -> Option<Share> {
        let mut share = Share::empty(self);
        share.grow(series).then_some(share)
    }

    /// Places for what can't be left out, whether they are there or not.
    pub(super) fn insist(self: &Arc<Self>, series: usize) -> Share {
        let mut share = Share::empty(self);
        share.insist(series);
        share
    }

    /// See [`Room::changes`].
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Something new was not given series of its own.
    pub(super) fn refuse(&self, series: usize) {
        self.refused.fetch_add(series as u64, Relaxed);
    }

    /// Series that there was no place for.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// A series of the family without a place would have told so much more.
    pub(super) fn fold(&self, family: &'static str, count: u64) {
        *self.all_folded().entry(family).or_default() += count;
    }

    /// What such series of the family would have told; 0: there is none.
    pub(super) fn folded(&self, family: &str) -> u64 {
        self.all_folded().get(family).copied().unwrap_or(0)
    }

    fn all_folded(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        // Each change is one addition, so a panic elsewhere leaves it whole.
        self.folded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Places that are taken until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    series: usize,
}

impl Share {
    /// None yet.
    pub(super) fn empty(room: &Arc<Room>) -> Self {
        let room = Arc::clone(room);
        Self { room, series: 0 }
    }

    pub(super) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Takes more places for what begins with traffic; whether they were there.
    pub(super) fn grow(&mut self, series: usize) -> bool {
        let limit = self.room.limit();
        self.take(series, limit - limit / 10)
    }

    /// Has as many places as this, whether they are there or not: for what can't be left out.
    pub(super) fn insist(&mut self, series: usize) {
        let taken = &self.room.taken;
        if series >= self.series {
            taken.fetch_add(series - self.series, Relaxed);
        } else {
            taken.fetch_sub(self.series - series, Relaxed);
            self.room.changes.fetch_add(1, Relaxed);
        }
        self.series = series;
    }

    fn take(&mut self, series: usize, limit: usize) -> bool {
        let taken = self.room.taken.fetch_update(Relaxed, Relaxed, |taken| {
            taken.checked_add(series).filter(|&taken| taken <= limit)
        });
        self.series += if taken.is_ok() { series } else { 0 };
        taken.is_ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.series > 0 {
            self.room.taken.fetch_sub(self.series, Relaxed);
            self.room.changes.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_whole_and_given_back() {
        let room = Room::new(10);
        let first = room.reserve(6).unwrap();
        assert!(room.reserve(5).is_none());
        let before = room.changes();
        assert!(room.reserve(5).is_none());
        assert_eq!(room.changes(), before, "a refusal makes no room");
        let second = room.reserve(4).unwrap();
        drop(first);
        assert!(room.changes() > before);
        room.set(4);
        assert!(room.reserve(1).is_none());
        drop(second);
        assert!(room.reserve(4).is_some());
    }

    #[test]
    fn a_tenth_is_kept_from_traffic() {
        let room = Room::new(100);
        let mut share = room.take(80).unwrap();
        assert!(!share.grow(11) && share.grow(10));
        assert!(room.take(1).is_none());
        let _reserved = room.reserve(10).unwrap();
        assert!(room.reserve(1).is_none());
    }

    #[test]
    fn what_cannot_be_left_out_takes_its_places() {
        let room = Room::new(10);
        let mut share = Share::empty(&room);
        share.insist(12);
        assert!(room.reserve(1).is_none());
        share.insist(4);
        assert!(room.reserve(6).is_some());
    }
}
