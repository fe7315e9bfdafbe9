//! Connections that a burst has left behind.
//!
//! Each holds a descriptor here and at the endpoint, and keeps memory around it from being given
//! back. They go long before the idle timeout, but not all at once: the next burst may be near.

use std::time::Duration;

use tokio::time::Instant;

use super::Pool;

/// Left unused for so long, a connection is one too many,
const UNUSED: Duration = Duration::from_secs(5);
/// but for so many of them.
const KEPT: usize = 32;

impl Pool {
    /// Closes a part of the surplus; called once a second.
    pub(super) fn shed(&mut self, worker: usize, now: Instant) {
        // The newest is used first: those at the front were not needed the longest.
        let unused = self
            .idle
            .iter()
            .take_while(|conn| now.saturating_duration_since(conn.idle_since) >= UNUSED)
            .count();
        let part = part(unused);
        self.idle.drain(..part);
        for _ in 0..part {
            self.upstream.metrics.idle_removed(worker);
        }
        if part > 0 {
            self.idle.shrink_to(2 * self.idle.len());
        }
    }
}

/// A third of what is too much.
const fn part(unused: usize) -> usize {
    unused.saturating_sub(KEPT).div_ceil(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_s_worth_is_gone_in_half_a_minute() {
        let mut left = 10_000;
        for _ in 0..25 {
            left -= part(left);
        }
        assert_eq!(left, KEPT);
    }

    #[test]
    fn few_are_kept_until_the_idle_timeout() {
        assert_eq!(part(KEPT), 0);
        assert_eq!(part(KEPT + 1), 1);
    }
}
