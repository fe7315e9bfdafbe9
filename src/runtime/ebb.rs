//! Gives memory back after a burst.

use std::{sync::Arc, time::Duration};

use crate::{
    sys,
    worker::{Command, Shared},
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// A fall by less is not worth the walk through the heaps: it would give back a megabyte at most.
const FALL: usize = 100;

/// Watches how much is open, for as long as the process lives. A snapshot that was replaced counts
/// as well: with thousands of routes it weighs tens of megabytes.
pub async fn watch(shared: Arc<Shared>) {
    let mut tide = Tide::default();
    let (mut generation, mut is_due) = (0, false);
    // What it took to start.
    sys::release_code();
    sys::keep_spare();
    loop {
        tokio::time::sleep(LOOK).await;
        if is_due {
            sys::trim();
            sys::release_code();
        }
        let newest = shared.snapshot.load().generation;
        let reloaded = std::mem::replace(&mut generation, newest) != newest;
        // Everything that holds memory: connections on both sides, and requests, which HTTP/2 has
        // many of on one connection. A burst of clients may have come and gone since the last look.
        let inside: usize = {
            let snapshot = shared.snapshot.load();
            let limits = snapshot.upstreams.values().map(|upstream| &upstream.limits);
            limits.map(|up| up.connections() + up.requests()).sum()
        };
        let (highest, now) = (shared.take_highest(), shared.connections());
        is_due = tide.has_ebbed(highest + inside, now + inside) || reloaded;
        if is_due {
            // Has happened by the next look.
            for worker in 0..shared.workers() {
                shared.send(worker, Command::EmptyCache).await;
            }
        }
    }
}

/// The highest mark since the last ebb.
#[derive(Debug, Default)]
struct Tide {
    highest: usize,
}

impl Tide {
    /// Whether at least a third of what was open is gone. Told once: the mark is lowered to what is
    /// left.
    fn has_ebbed(&mut self, highest: usize, open: usize) -> bool {
        self.highest = self.highest.max(highest);
        let fall = self.highest.saturating_sub(open);
        let ebbed = fall >= FALL && fall * 3 >= self.highest;
        if ebbed {
            self.highest = open;
        }
        ebbed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_fall_is_told_once() {
        let mut tide = Tide::default();
        assert!(!tide.has_ebbed(10_000, 10_000));
        assert!(!tide.has_ebbed(10_000, 9_000));
        assert!(tide.has_ebbed(9_000, 3_000));
        assert!(!tide.has_ebbed(3_000, 3_000));
        assert!(tide.has_ebbed(3_000, 10));
        assert!(!tide.has_ebbed(10, 0));
        // One that rose and fell between two looks.
        assert!(tide.has_ebbed(10_000, 0));
        assert!(!tide.has_ebbed(0, 0));
    }

    #[test]
    fn small_waves_are_none() {
        let mut tide = Tide::default();
        for open in [0, 90, 0, 10_000, 8_000, 9_900] {
            assert!(!tide.has_ebbed(open, open), "{open}");
        }
    }
}
