//! The objects of one kind, by name.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{
    common::Common,
    exemplar::now,
    ledger::Ledger,
    room::Share,
    scrape::{Families, Object, Scrape, Scraped},
};

/// The name of what there was no room for, whatever its kind.
pub(super) const OVERFLOW: &str = "_overflow";

#[derive(Debug)]
pub(super) struct Group<T> {
    common: Arc<Common>,
    objects: Mutex<BTreeMap<Arc<str>, Entry<T>>>,
}

#[derive(Debug)]
struct Entry<T> {
    /// Weak, so that a removed object takes its series along.
    object: Weak<T>,
    /// When it was last asked for. What a newer configuration does not ask for was removed, though
    /// connections that are at rest may hold it for a while.
    epoch: u64,
    since: u64,
    ledger: Arc<Ledger>,
    /// What all that found no place share has none either: room is kept for it.
    _places: Option<Share>,
}

impl<T: Scraped> Group<T> {
    pub(super) fn new(common: &Arc<Common>) -> Self {
        Self {
            common: Arc::clone(common),
            objects: Mutex::default(),
        }
    }

    /// The object that is in use under this name, a new one, or the one for all that there is no
    /// room for.
    pub(super) fn get(&self, name: &str) -> Arc<T> {
        let mut objects = self.lock();
        let epoch = self.common.epoch();
        if let Some(object) = current(&mut objects, name, epoch) {
            return object;
        }
        objects.retain(|_, entry| entry.object.strong_count() > 0);
        // What was made for other settings counts on unseen for those who hold it.
        objects.remove(name);
        let wanted = T::places(&self.common.settings());
        let places = match name {
            OVERFLOW => None,
            _ => self.common.room.reserve(wanted),
        };
        if places.is_none() && name != OVERFLOW {
            self.common.room.refuse(wanted);
        }
        let name = if places.is_some() { name } else { OVERFLOW };
        if let Some(object) = current(&mut objects, name, epoch) {
            return object;
        }
        let object = Arc::new(T::new(&self.common));
        let entry = Entry {
            object: Arc::downgrade(&object),
            epoch,
            since: now(),
            ledger: Arc::new(Ledger::new(&self.common.room)),
            _places: places,
        };
        objects.insert(name.into(), entry);
        object
    }

    pub(super) fn describe(&self, scrape: &mut Scrape<'_>) {
        let mut objects = self.live();
        let epoch = self.common.epoch();
        objects.retain(|object| object.epoch == epoch);
        T::describe(&mut Families {
            scrape,
            common: &self.common,
            objects: &objects,
            labels: T::labels,
        });
    }

    /// All that somebody holds.
    pub(super) fn live(&self) -> Vec<Object<T>> {
        let mut live = Vec::new();
        self.lock().retain(|name, entry| {
            let Some(metrics) = entry.object.upgrade() else {
                return false;
            };
            live.push(Object {
                name: Arc::clone(name),
                metrics,
                ledger: Arc::clone(&entry.ledger),
                since: entry.since,
                epoch: entry.epoch,
            });
            true
        });
        live
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Entry<T>>> {
        // Each change is one call on the map, so a panic elsewhere leaves it whole.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn current<T: Scraped>(
    objects: &mut BTreeMap<Arc<str>, Entry<T>>,
    name: &str,
    epoch: u64,
) -> Option<Arc<T>> {
    let entry = objects.get_mut(name)?;
    let object = entry.object.upgrade()?;
    entry.epoch = epoch;
    object.is_current().then_some(object)
}
