//! Finds what is behind the names of upstreams, on the control thread, and publishes it.

mod dns;
mod pairing;
pub mod resolver;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use tokio::task::JoinSet;

use self::resolver::Resolver;
use crate::{config::model::EndpointAddress, upstream::Upstream};

/// The lookups under way for the upstreams of the live configuration.
pub struct Discovery {
    resolver: Arc<Resolver>,
    running: HashMap<Arc<str>, Running>,
}

/// The lookups of one upstream, a task a name. Dropping them ends them.
struct Running {
    upstream: Weak<Upstream>,
    _tasks: JoinSet<()>,
}

impl Discovery {
    /// Asks the name servers of `/etc/resolv.conf` (without one: 127.0.0.1), or the one that the
    /// environment variable `PILLION_DNS` names as `IP:PORT`.
    pub fn new() -> Self {
        Self::with_resolver(Resolver::from_env())
    }

    pub fn with_resolver(resolver: Resolver) -> Self {
        Self {
            resolver: Arc::new(resolver),
            running: HashMap::new(),
        }
    }

    /// Follows a new configuration: lookups for upstreams that are gone end, those of new ones and
    /// of successors begin, the others go on undisturbed. To be called within a tokio runtime.
    pub fn reconcile(&mut self, upstreams: &[Arc<Upstream>]) {
        let mut before = std::mem::take(&mut self.running);
        for upstream in upstreams {
            let name = &upstream.config.name;
            let unchanged = before
                .remove(name)
                .filter(|running| std::ptr::eq(running.upstream.as_ptr(), Arc::as_ptr(upstream)));
            if let Some(running) = unchanged.or_else(|| self.start(upstream)) {
                self.running.insert(name.clone(), running);
            }
        }
    }

    /// `None` if there are only addresses.
    fn start(&self, upstream: &Arc<Upstream>) -> Option<Running> {
        let mut tasks = JoinSet::new();
        for (index, endpoint) in upstream.config.endpoints.iter().enumerate() {
            if matches!(
                endpoint.address,
                EndpointAddress::Dns { .. } | EndpointAddress::Srv { .. }
            ) {
                let upstream = Arc::downgrade(upstream);
                tasks.spawn(dns::follow(self.resolver.clone(), upstream, index));
            }
        }
        (!tasks.is_empty()).then(|| Running {
            upstream: Arc::downgrade(upstream),
            _tasks: tasks,
        })
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self::new()
    }
}
