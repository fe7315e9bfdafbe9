//! Series that begin with their first event: which of them have a place of their own.
//!
//! The counts are there in any case, so that this is asked by scrapes alone. What has no place is
//! told by one series of the family, named `_overflow`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::room::{Room, Share};

/// Those of one object.
#[derive(Debug)]
pub(super) struct Ledger {
    room: Arc<Room>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    rows: BTreeMap<Key, Row>,
    share: Share,
    /// Places of the share that are for rows and that none has yet.
    spare: usize,
}

/// The family, and the values of the labels beside those of the object.
type Key = (&'static str, [&'static str; 2]);

#[derive(Debug, Default)]
struct Row {
    has_place: bool,
    /// How much of the count the `_overflow` of the family has told: it never goes down, and nothing
    /// is told twice.
    elsewhere: u64,
    /// The room as it was when there was no place; 0: never asked for.
    refused: u64,
}

impl Ledger {
    pub(super) fn new(room: &Arc<Room>) -> Self {
        Self::with(Share::empty(room), 0)
    }

    /// Keeps what the object has taken already; so many of these places are for rows.
    pub(super) fn with(share: Share, spare: usize) -> Self {
        let room = Arc::clone(share.room());
        let held = Held {
            rows: BTreeMap::new(),
            share,
            spare,
        };
        Self {
            room,
            held: Mutex::new(held),
        }
    }

    /// What the series tells of this count; `None`: it has no place, and what is new goes to the
    /// `_overflow` of its family.
    pub(super) fn tell(
        &self,
        family: &'static str,
        labels: [&'static str; 2],
        count: u64,
    ) -> Option<u64> {
        // A panic elsewhere leaves no more behind than a place too many.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Held { rows, share, spare } = &mut *held;
        let row = rows.entry((family, labels)).or_default();
        let changes = self.room.changes();
        if !row.has_place && *spare > 0 {
            *spare -= 1;
            row.has_place = true;
        }
        if !row.has_place && row.refused != changes {
            row.has_place = share.grow(1);
            if !row.has_place && row.refused == 0 {
                self.room.refuse(1);
            }
            row.refused = changes;
        }
        let own = count.saturating_sub(row.elsewhere);
        if row.has_place {
            return Some(own);
        }
        row.elsewhere = count;
        self.room.fold(family, own);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [&str; 2] = ["a", ""];

    #[test]
    fn what_has_no_place_is_told_once_and_never_less() {
        let room = Room::new(10);
        let held = room.reserve(10).unwrap();
        let ledger = Ledger::new(&room);
        assert_eq!(ledger.tell("f", KEY, 3), None);
        assert_eq!(ledger.tell("f", KEY, 3), None);
        assert_eq!(ledger.tell("f", KEY, 5), None);
        assert_eq!((room.folded("f"), room.refused()), (5, 1));
        drop(held);
        assert_eq!(ledger.tell("f", KEY, 7), Some(2));
        assert_eq!((room.folded("f"), room.refused()), (5, 1));
        assert_eq!(ledger.tell("g", KEY, 7), Some(7));
    }

    #[test]
    fn what_was_taken_before_is_used_first() {
        let room = Room::new(10);
        let ledger = Ledger::with(room.take(9).unwrap(), 1);
        assert_eq!(ledger.tell("f", KEY, 3), Some(3));
        assert_eq!(ledger.tell("f", ["b", ""], 3), None);
        assert_eq!(ledger.tell("f", KEY, 4), Some(4));
        drop(ledger);
        assert!(room.take(9).is_some());
    }
}
