//! A connection to an HTTP/1.1 upstream, and its place in the upstream's counts.

use std::sync::Arc;

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
    pub(super) lease: Lease,
    pub(super) idle_since: Instant,
    /// Not to be used again from then on.
    pub(super) expires: Option<Instant>,
    pub(super) reusable: bool,
}

impl Http1 {
    /// Neither too old nor too long idle, still open, and nothing unasked-for has come in.
    pub(super) fn is_usable(&mut self, now: Instant) -> bool {
        let idle = self.lease.upstream.config.idle_timeout;
        now.saturating_duration_since(self.idle_since) < idle
            && self.expires.is_none_or(|at| now < at)
            && !self.wire.stream.is_retired()
            && self.wire.stream.is_silent()
    }
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
