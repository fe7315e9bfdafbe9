//! Everything that was decided before a request came: one configuration, compiled.
//!
//! A [`Snapshot`] never changes. A reload compiles the next one beside it and swaps the pointer;
//! what must outlive a reload (endpoints, pools, breakers, sockets) is not in here by value but
//! carried over by `Arc` when its configuration is the same.

use std::{collections::HashMap, sync::Arc};

use crate::{
    config::model::{
        self, Address, BackendFilters, Config, DirectResponse, Filters, HttpListener, Redirect,
        TcpListener, Timeouts,
    },
    router::Router,
    telemetry::{ListenerMetrics, RouteMetrics},
    upstream::Upstream,
};

/// Names one listening socket for as long as it is open. It stays when a reload renames or changes
/// the listener on it, so a connection finds its listener's newest plan by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u32);

/// The socket that a listener of a configuration got.
#[derive(Clone, Debug)]
pub struct Bound {
    pub id: ListenerId,
    /// Where it really listens: a configured port 0 has become a number.
    pub address: Address,
}

/// One configuration, compiled and immutable.
pub struct Snapshot {
    /// 1 for the first; every accepted reload adds one.
    pub generation: u64,
    pub config: Arc<Config>,
    pub listeners: HashMap<ListenerId, Arc<ListenerPlan>>,
    pub upstreams: HashMap<Arc<str>, Arc<Upstream>>,
}

/// What a connection accepted on one socket is served with.
pub struct ListenerPlan {
    pub id: ListenerId,
    /// The generation it was compiled in.
    pub generation: u64,
    pub config: Arc<model::Listener>,
    /// Where it really listens.
    pub address: Address,
    pub metrics: Arc<ListenerMetrics>,
    pub kind: PlanKind,
}

pub enum PlanKind {
    Http(Box<HttpPlan>),
    Tcp(TcpPlan),
}

/// An HTTP listener: its routes, and who gets what none of them takes.
pub struct HttpPlan {
    pub http: HttpListener,
    pub router: Router<Arc<RoutePlan>>,
    /// The listener's own `upstream`; the plan is named after the listener.
    pub fallback: Option<Arc<RoutePlan>>,
}

/// A TCP listener and where its bytes go.
pub struct TcpPlan {
    pub tcp: TcpListener,
    pub upstream: Arc<Upstream>,
}

/// All that a matched request needs to know.
pub struct RoutePlan {
    /// The rule's name: in the access log and on metrics.
    pub name: Arc<str>,
    pub filters: Filters,
    pub action: PlannedAction,
    pub mirrors: Vec<PlannedMirror>,
    pub timeouts: Timeouts,
    pub metrics: Arc<RouteMetrics>,
}

pub enum PlannedAction {
    Forward(Forward),
    Redirect(Redirect),
    Respond(DirectResponse),
}

/// Weighted upstreams; never empty, at least one weight is not zero.
pub struct Forward {
    backends: Vec<PlannedBackend>,
    total: u64,
}

pub struct PlannedBackend {
    /// Sum of the weights up to and with this one.
    upto: u64,
    pub upstream: Arc<Upstream>,
    pub filters: BackendFilters,
}

/// An upstream that is sent copies.
pub struct PlannedMirror {
    pub upstream: Arc<Upstream>,
    /// Of a million requests.
    pub share: u32,
    /// The copy ends where its body would need a larger buffer than this.
    pub max_buffered_bytes: usize,
}

impl Forward {
    /// The backend for one request. `random` is any number: equal ones choose equally.
    pub fn pick(&self, random: u64) -> &PlannedBackend {
        if let [only] = self.backends.as_slice() {
            return only;
        }
        let point = random % self.total;
        let index = self
            .backends
            .partition_point(|backend| backend.upto <= point);
        &self.backends[index]
    }

    /// All of them, also those of weight 0.
    pub fn backends(&self) -> &[PlannedBackend] {
        &self.backends
    }
}
