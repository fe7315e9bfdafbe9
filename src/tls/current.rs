//! What new connections are made with, as of now, and whether it still is by the end of a handshake.

use std::{ops::Deref, sync::Arc};

use arc_swap::ArcSwapOption;

/// One side of TLS, replaced by every rotation. Open connections keep what they were made with.
pub struct Current<S>(ArcSwapOption<S>);

/// What was current when a handshake began.
pub struct Taken<'a, S> {
    side: Arc<S>,
    current: &'a Current<S>,
}

impl<S> Current<S> {
    /// `None`: what it is made of is not there yet.
    pub fn new(side: Option<S>) -> Self {
        Self(ArcSwapOption::new(side.map(Arc::new)))
    }

    pub fn replace(&self, side: Option<S>) {
        self.0.store(side.map(Arc::new));
    }

    pub fn get(&self) -> Option<Arc<S>> {
        self.0.load_full()
    }

    /// The same, to make a connection with.
    pub fn take(&self) -> Option<Taken<'_, S>> {
        Some(Taken {
            side: self.get()?,
            current: self,
        })
    }
}

impl<S> Taken<'_, S> {
    /// Whether nothing was rotated since it was taken.
    pub fn is_current(&self) -> bool {
        let now = self.current.0.load();
        now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &self.side))
    }
}

impl<S> Deref for Taken<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.side
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_seen_by_whoever_took_before_it() {
        let current = Current::new(Some("old"));
        let before = current.take().unwrap();
        assert!(before.is_current());
        current.replace(Some("new"));
        let after = current.take().unwrap();
        assert_eq!((*before, before.is_current()), ("old", false));
        assert_eq!((*after, after.is_current()), ("new", true));
        current.replace(None);
        assert!(!after.is_current() && current.take().is_none());
    }
}
