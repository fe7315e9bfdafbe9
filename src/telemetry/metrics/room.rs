//! How many series there may be: a place is taken for each as it comes into being, and given back
//! with what it told of.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// Places for series. What finds none is counted together with others.
#[derive(Debug)]
pub(super) struct Room {
    limit: AtomicUsize,
    taken: AtomicUsize,
    /// Grows whenever there is more room than before: who was refused may ask again.
    changes: AtomicU64,
    refused: AtomicU64,
}

impl Room {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            taken: AtomicUsize::new(0),
            changes: AtomicU64::new(1),
            refused: AtomicU64::new(0),
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

    /// Places for `series`, or none.
    pub(super) fn take(self: &Arc<Self>, series: usize) -> Option<Share> {
        let mut share = Share {
            room: Arc::clone(self),
            series: 0,
        };
        share.grow(series).then_some(share)
    }

    /// See [`Room::changes`].
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Something was not given series of its own, or was left out.
    pub(super) fn refuse(&self, series: usize) {
        self.refused.fetch_add(series as u64, Relaxed);
    }

    /// Series that there was no place for.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
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

    /// Takes more places; whether they were there.
    pub(super) fn grow(&mut self, series: usize) -> bool {
        let limit = self.room.limit();
        let taken = self.room.taken.fetch_update(Relaxed, Relaxed, |taken| {
            taken.checked_add(series).filter(|&taken| taken <= limit)
        });
        if taken.is_err() {
            self.room.refuse(series);
            return false;
        }
        self.series += series;
        true
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
        let mut first = room.take(6).unwrap();
        assert!(room.take(5).is_none());
        assert!(!first.grow(5));
        assert_eq!(room.refused(), 10);
        let before = room.changes();
        assert!(room.take(5).is_none());
        assert_eq!(room.changes(), before, "a refusal makes no room");
        let second = room.take(4).unwrap();
        drop(first);
        assert!(room.changes() > before);
        room.set(4);
        assert!(room.take(1).is_none());
        drop(second);
        assert!(room.take(4).is_some());
    }
}
