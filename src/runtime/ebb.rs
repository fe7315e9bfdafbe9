//! Gives memory back after a burst, and when work has come to rest.

use std::{sync::Arc, time::Duration};

use crate::{
    sys,
    telemetry::metrics::processor_time,
    worker::{Command, Shared},
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// A fall by less is not worth the walk through the heaps: it would give back a megabyte at most.
const FALL: usize = 100;
/// Who has worked this much between two looks, 2 % of a processor, keeps the spare it needs for it,
const BUSY: Duration = Duration::from_millis(100);
/// and who then works no more than this, 0.5 %, can do without. Giving back costs less itself.
const CALM: Duration = Duration::from_millis(25);

/// Watches how much is open, for as long as the process lives. A snapshot that was replaced counts
/// as well: with thousands of routes it weighs tens of megabytes; and so does a rotation, for the code
/// that reads certificates.
pub async fn watch(shared: Arc<Shared>) {
    let (mut tide, mut work) = (Tide::default(), Work::default());
    let (mut generations, mut is_due) = ((0, 0), false);
    // What it took to start.
    sys::release_code();
    sys::keep_spare();
    loop {
        tokio::time::sleep(LOOK).await;
        if is_due {
            sys::trim();
            sys::release_code();
        }
        let newest = (
            shared.snapshot.load().generation,
            shared.materials.load().generation,
        );
        let reloaded = std::mem::replace(&mut generations, newest) != newest;
        // Everything that holds memory: connections on both sides, and requests, which HTTP/2 has
        // many of on one connection. A burst of clients may have come and gone since the last look.
        let inside: usize = {
            let snapshot = shared.snapshot.load();
            let limits = snapshot.upstreams.values().map(|upstream| &upstream.limits);
            limits.map(|up| up.connections() + up.requests()).sum()
        };
        let (highest, now) = (shared.take_highest(), shared.connections());
        let ebbed = tide.has_ebbed(highest + inside, now + inside);
        let rests = work.has_come_to_rest(processor_time());
        is_due = ebbed || rests || reloaded;
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

/// What the process works, and with it what the spare memory of its heaps is good for.
#[derive(Debug, Default)]
struct Work {
    /// Processor time by the last look.
    done: Duration,
    was_busy: bool,
}

impl Work {
    /// Whether a process that was busy has become calm. Told once: what is neither changes nothing.
    fn has_come_to_rest(&mut self, done: Duration) -> bool {
        let latest = done.saturating_sub(std::mem::replace(&mut self.done, done));
        self.was_busy |= latest > BUSY;
        latest < CALM && std::mem::take(&mut self.was_busy)
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

    #[test]
    fn rest_after_work_is_told_once() {
        let mut work = Work::default();
        let mut done = Duration::ZERO;
        let mut look = |milliseconds| {
            done += Duration::from_millis(milliseconds);
            work.has_come_to_rest(done)
        };
        // Never busy.
        assert!([90, 0, 1].map(&mut look).iter().all(|rests| !rests));
        // Busy, less so, calm; still calm.
        assert_eq!(
            [4000, 60, 5000, 60, 5, 5, 0].map(&mut look),
            [false, false, false, false, true, false, false]
        );
        assert_eq!([200, 0].map(&mut look), [false, true]);
    }
}
