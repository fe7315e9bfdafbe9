//! A connection to an HTTP/1.1 upstream, and its place in the upstream's counts.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    http::h1::wire::Wire,
    upstream::{ConnectionPermit, EndpointId, Upstream},
};

/// A connection to an HTTP/1.1 upstream.
#[derive(Debug)]
pub struct Http1 {
    pub wire: Wire,
    /// It has carried an exchange before.
    pub reused: bool,
    pub(super) endpoint: EndpointId,
    pub(super) _lease: Lease,
    pub(super) idle_since: Instant,
    /// How long it was idle before the exchange that it carries.
    pub(super) idled: Duration,
    /// How long the endpoint says that it keeps it.
    pub told: Option<Duration>,
    /// Not to be used again from then on.
    pub(super) expires: Option<Instant>,
    pub(super) reusable: bool,
}

impl Http1 {
    /// Looks at a connection that is idle and should not be for `limit` or longer.
    pub(super) fn look(&mut self, now: Instant, limit: Duration) -> State {
        self.idled = now.saturating_duration_since(self.idle_since);
        if self.expires.is_some_and(|at| at <= now) || self.wire.stream.is_retired() {
            State::Retired
        } else if !self.wire.stream.is_silent() {
            State::Closed
        } else if self.idled >= limit {
            State::Outlived
        } else {
            State::Usable
        }
    }
}

/// What an idle connection turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Open, and nothing unasked-for has come in.
    Usable,
    /// Its time is over, however it was used.
    Retired,
    /// The endpoint has closed it, or said why it will.
    Closed,
    /// Open still, but idle for longer than it should be.
    Outlived,
}

/// A connection's place in the upstream's counts.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) upstream: Arc<Upstream>,
    pub(super) worker: usize,
    pub(super) _permit: ConnectionPermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.metrics.connection_closed(self.worker);
    }
}
