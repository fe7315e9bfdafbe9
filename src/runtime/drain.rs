//! The way out: told, listened to, emptied, ended.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::signals::Signals;
use crate::{
    config::model::Drain,
    listener::sockets::Sockets,
    worker::{Lifecycle, Shared},
};

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing was in flight any more.
    Empty,
    /// At the deadline this many connections were open.
    Deadline(usize),
    /// A second signal came, and this many were open.
    Forced(usize),
}

/// Drains: not ready from now on; accepting on for `drain.delay`; then no more connections, and as
/// soon as the last one has ended, or at `drain.deadline` from now, it returns.
pub async fn drain(
    drain: Drain,
    shared: &Shared,
    sockets: &mut Sockets,
    signals: &mut Signals,
) -> Ended {
    let start = Instant::now();
    let deadline = at(start, drain.deadline);
    shared.advance(Lifecycle::Announced);
    tracing::info!(
        delay = ?drain.delay,
        deadline = ?drain.deadline,
        connections = shared.connections(),
        "draining"
    );
    tokio::select! {
        () = sleep_until(at(start, drain.delay).min(deadline)) => {}
        () = signals.end() => return Ended::Forced(shared.connections()),
    }
    sockets.close().await;
    shared.advance(Lifecycle::Draining);
    let ended = tokio::select! {
        ended = timeout_at(deadline, shared.idle()) => ended,
        () = signals.end() => return Ended::Forced(shared.connections()),
    };
    match ended {
        Ok(()) => Ended::Empty,
        Err(_) => Ended::Deadline(shared.connections()),
    }
}

/// A duration too long for the clock is for ever, which a year is.
fn at(start: Instant, after: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    start + after.min(YEAR)
}
