//! Everything that was decided before a request came: one configuration, compiled.
//!
//! A [`Snapshot`] never changes. A reload compiles the next one beside it and swaps the pointer;
//! what must outlive a reload (endpoints, pools, breakers, sockets) is not in here by value but
//! carried over by `Arc` when its configuration is the same.

mod fallback;

use std::{collections::HashMap, sync::Arc};

use http::HeaderName;
use tokio::{sync::Semaphore, time::Instant};

pub use self::fallback::{PlannedFallback, PlannedResort};
use crate::{
    access::{self, Policy, Provider},
    config::model::{
        self, Action, Address, Backend, BackendFilters, Config, DirectResponse, Fallback, Filters,
        HttpListener, Importance, ListenerKind, Redirect, Resort, Retry, Route, Rule, Sampling,
        TcpListener, Timeouts, Tracing,
    },
    protect::Guard,
    router::Router,
    telemetry::{ListenerMetrics, Registry, RouteMetrics, attributes::Block, trace::told_of_route},
    tls::{Materials, server::ServerTls},
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
    pub jwt_providers: HashMap<Arc<str>, Arc<Provider>>,
    /// By the names of a route and of its rule.
    pub guards: HashMap<RuleName, Arc<Guard>>,
}

/// The name of a route, and that of one of its rules.
pub type RuleName = (Arc<str>, Arc<str>);

/// What a connection accepted on one socket is served with.
pub struct ListenerPlan {
    pub id: ListenerId,
    /// The generation it was compiled in.
    pub generation: u64,
    pub config: Arc<model::Listener>,
    /// Where it really listens.
    pub address: Address,
    pub metrics: Arc<ListenerMetrics>,
    /// `None`: plaintext.
    pub tls: Option<Arc<ServerTls>>,
    /// `None`: requests are not traced.
    pub tracing: Option<Arc<Tracing>>,
    /// Who may call; `None`: whoever can connect. The same one as before as long as it decides
    /// alike.
    pub access: Option<Arc<Policy>>,
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
    /// A header by which a client says how long it will wait.
    pub deadline_header: Option<HeaderName>,
    pub retry: Retry,
    pub importance: Importance,
    /// In place of the sampling that holds for all.
    pub sampling: Option<Sampling>,
    /// The paths that it is for, where that is one kind: `/items/*`.
    pub pattern: Option<Arc<str>>,
    /// What its spans have in common.
    pub(crate) told: Block,
    pub fallback: Option<Box<PlannedFallback>>,
    /// `None`: whatever matches goes on.
    pub guard: Option<Arc<Guard>>,
    pub metrics: Arc<RouteMetrics>,
}

pub enum PlannedAction {
    Forward(Forward),
    Redirect(Redirect),
    Respond(DirectResponse),
}

/// Weighted upstreams; never empty, and one has a weight.
pub struct Forward {
    pub backends: Vec<PlannedBackend>,
    /// Sum of the weights up to and with each one.
    sums: Vec<u64>,
}

pub struct PlannedBackend {
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
    /// One for each copy that may be under way.
    pub places: Arc<Semaphore>,
}

impl Snapshot {
    /// Compiles a configuration whose names are resolved. `sockets` has one for every listener.
    /// What `previous` has and the configuration leaves as it was is carried over.
    pub fn compile(
        config: Arc<Config>,
        sockets: &HashMap<Arc<str>, Bound>,
        previous: Option<&Self>,
        registry: &Registry,
        materials: &Materials,
    ) -> Self {
        let generation = previous.map_or(1, |previous| previous.generation + 1);
        registry.configure(&config.metrics);
        // Before rules, of which there may be more than there is room for.
        let listeners = config.listeners.iter();
        let named: Vec<_> = listeners.map(|it| registry.listener(&it.name)).collect();
        let upstreams = config
            .upstreams
            .iter()
            .map(|upstream| {
                (
                    Arc::clone(&upstream.name),
                    carry_over(upstream, previous, registry, materials),
                )
            })
            .collect();
        let jwt_providers = {
            let before = previous.map(|previous| &previous.jwt_providers);
            access::keys::providers(&config.jwt_providers, before)
        };
        let guards = guards(&config, previous);
        let compiler = Compiler {
            config: &config,
            upstreams: &upstreams,
            jwt_providers: &jwt_providers,
            guards: &guards,
            registry,
        };
        let rules = compiler.rules();
        let listeners = config
            .listeners
            .iter()
            .zip(named)
            .map(|(listener, metrics)| {
                let Bound { id, address } = sockets[&listener.name].clone();
                let before = previous.and_then(|previous| previous.listeners.get(&id));
                metrics.listens(&address);
                let plan = ListenerPlan {
                    id,
                    generation,
                    access: compiler.access(listener, &address, before),
                    address,
                    config: Arc::clone(listener),
                    metrics,
                    tracing: config.tracing.clone(),
                    tls: server_tls(listener, id, previous, materials),
                    kind: compiler.kind(listener, &rules),
                };
                (id, Arc::new(plan))
            })
            .collect();
        Self {
            generation,
            listeners,
            upstreams,
            jwt_providers,
            guards,
            config,
        }
    }
}

impl Snapshot {
    /// In the order of the configuration.
    pub fn rule_names(&self) -> impl Iterator<Item = RuleName> {
        let rules = |route: &Arc<Route>| -> Vec<_> {
            let name = |rule| rule_name(route, rule);
            route.rules.iter().map(name).collect()
        };
        self.config.routes.iter().flat_map(rules)
    }
}

impl Forward {
    /// The backend for one request. `random` is uniform over all its values.
    pub fn pick(&self, random: u32) -> &PlannedBackend {
        match self.backends.as_slice() {
            [only] => only,
            backends => &backends[self.index(random)],
        }
    }

    fn index(&self, random: u32) -> usize {
        let total = self.sums.last().copied().unwrap_or_default();
        let point = (u128::from(random) * u128::from(total)) >> u32::BITS;
        self.sums.partition_point(|&sum| u128::from(sum) <= point)
    }
}

/// An upstream whose configuration is the same stays what it is; a changed one keeps what it has
/// learned about the endpoints that stay.
fn carry_over(
    config: &Arc<model::Upstream>,
    previous: Option<&Snapshot>,
    registry: &Registry,
    materials: &Materials,
) -> Arc<Upstream> {
    let metrics = registry.upstream(&config.name);
    match previous.and_then(|previous| previous.upstreams.get(&config.name)) {
        Some(upstream) if upstream.config == *config && upstream.durations.is_current() => {
            Arc::clone(upstream)
        }
        Some(upstream) => upstream.successor(Arc::clone(config), materials),
        None => Upstream::new(Arc::clone(config), metrics, materials),
    }
}

/// What rules count outlives a reload that leaves them as they are.
fn guards(config: &Config, previous: Option<&Snapshot>) -> HashMap<RuleName, Arc<Guard>> {
    let now = Instant::now();
    let rules = config.routes.iter().flat_map(|route| {
        route
            .rules
            .iter()
            .map(|rule| (rule_name(route, rule), rule))
    });
    rules
        .filter_map(|(name, rule)| {
            let before = previous.and_then(|previous| previous.guards.get(&name));
            let guard = Guard::of(rule, before.map(Arc::as_ref), now)?;
            Some((name, guard))
        })
        .collect()
}

fn rule_name(route: &Route, rule: &Rule) -> RuleName {
    (Arc::clone(&route.name), Arc::clone(&rule.name))
}

/// TLS of a listener whose settings for it are the same stays what it is: its connections were made
/// with it.
fn server_tls(
    listener: &model::Listener,
    id: ListenerId,
    previous: Option<&Snapshot>,
    materials: &Materials,
) -> Option<Arc<ServerTls>> {
    let config = listener.tls.as_ref()?;
    let http = matches!(listener.kind, ListenerKind::Http(_));
    let known = previous.and_then(|previous| previous.listeners.get(&id)?.tls.clone());
    match known.filter(|known| known.is_for(config, http)) {
        Some(known) => Some(known),
        None => Some(ServerTls::new(config.clone(), http, materials)),
    }
}

/// What compiling looks things up in.
struct Compiler<'a> {
    config: &'a Config,
    upstreams: &'a HashMap<Arc<str>, Arc<Upstream>>,
    jwt_providers: &'a HashMap<Arc<str>, Arc<Provider>>,
    guards: &'a HashMap<RuleName, Arc<Guard>>,
    registry: &'a Registry,
}

/// One rule of one route, compiled once for all listeners that serve it.
type PlannedRule<'a> = (&'a Arc<Route>, usize, Arc<RoutePlan>);

impl<'a> Compiler<'a> {
    fn rules(&self) -> Vec<PlannedRule<'a>> {
        let plan = |(route, index)| -> PlannedRule<'a> {
            let route: &'a Arc<Route> = route;
            (route, index, Arc::new(self.route(route, index)))
        };
        self.config
            .routes
            .iter()
            .flat_map(|route| (0..route.rules.len()).map(move |index| (route, index)))
            .map(plan)
            .collect()
    }

    fn kind(&self, listener: &model::Listener, rules: &[PlannedRule<'_>]) -> PlanKind {
        match &listener.kind {
            ListenerKind::Tcp(tcp) => PlanKind::Tcp(TcpPlan {
                tcp: tcp.clone(),
                upstream: self.upstream(&tcp.upstream),
            }),
            ListenerKind::Http(http) => PlanKind::Http(Box::new(HttpPlan {
                http: HttpListener::clone(http),
                router: Router::new(
                    rules
                        .iter()
                        .filter(|(route, ..)| route.listeners.contains(&listener.name))
                        .map(|(route, index, plan)| (Arc::clone(route), *index, Arc::clone(plan))),
                ),
                fallback: http
                    .upstream
                    .as_ref()
                    .map(|upstream| Arc::new(self.fallback(&listener.name, upstream))),
            })),
        }
    }

    fn access(
        &self,
        listener: &model::Listener,
        address: &Address,
        before: Option<&Arc<ListenerPlan>>,
    ) -> Option<Arc<Policy>> {
        let port = match address {
            Address::Tcp(address) => Some(address.port()),
            Address::Unix(_) => None,
        };
        let name = &listener.name;
        let rules = self.config.access.iter().filter(|rule| {
            rule.listeners.contains(name)
                && (rule.ports.is_empty() || port.is_some_and(|port| rule.ports.contains(&port)))
        });
        let policy = Policy::new(
            rules.map(|rule| (Arc::clone(rule), self.registry.access(name, &rule.name))),
            |provider| {
                let provider = self.jwt_providers.get(provider);
                Arc::clone(provider.expect("resolved: every provider that is named exists"))
            },
            || self.registry.access(name, ""),
        )?;
        let before = before.and_then(|before| before.access.as_ref());
        let same = before.filter(|before| before.is_same(&policy));
        Some(same.map_or_else(|| Arc::new(policy), Arc::clone))
    }

    fn route(&self, route: &Route, index: usize) -> RoutePlan {
        let rule = &route.rules[index];
        let guard = self.guards.get(&rule_name(route, rule));
        RoutePlan {
            name: Arc::clone(&rule.name),
            filters: rule.filters.clone(),
            action: match &rule.action {
                Action::Forward(backends) => PlannedAction::Forward(self.forward(backends)),
                Action::Redirect(redirect) => PlannedAction::Redirect(redirect.clone()),
                Action::Respond(response) => PlannedAction::Respond(response.clone()),
            },
            mirrors: rule
                .filters
                .mirrors
                .iter()
                .map(|mirror| PlannedMirror {
                    upstream: self.upstream(&mirror.upstream),
                    share: mirror.share,
                    max_buffered_bytes: mirror.max_buffered_bytes,
                    places: Arc::new(Semaphore::new(mirror.max_in_flight)),
                })
                .collect(),
            timeouts: rule.timeouts,
            deadline_header: rule.deadline_header.clone(),
            retry: rule.retry.clone(),
            importance: rule.importance,
            sampling: rule.sampling,
            told: told_of_route(
                &rule.name,
                rule.pattern().as_deref(),
                self.config.span_value_length(),
            ),
            pattern: rule.pattern(),
            fallback: rule
                .fallback
                .as_ref()
                .map(|fallback| Box::new(self.resort(fallback))),
            guard: guard.cloned(),
            metrics: self.registry.route(&rule.name),
        }
    }

    fn resort(&self, fallback: &Fallback) -> PlannedFallback {
        PlannedFallback {
            on: fallback.on,
            on_statuses: fallback.on_statuses.clone(),
            to: match &fallback.to {
                Resort::Backend(upstream) => PlannedResort::Upstream(self.upstream(upstream)),
                Resort::Response(response) => PlannedResort::Respond(response.clone()),
            },
        }
    }

    /// The plan of a listener's own upstream, under the listener's name.
    fn fallback(&self, listener: &Arc<str>, upstream: &Arc<str>) -> RoutePlan {
        let backend = Backend {
            upstream: Arc::clone(upstream),
            weight: 1,
            filters: BackendFilters::default(),
        };
        RoutePlan {
            name: Arc::clone(listener),
            filters: Filters::default(),
            action: PlannedAction::Forward(self.forward(&[backend])),
            mirrors: Vec::new(),
            timeouts: Timeouts::default(),
            deadline_header: None,
            retry: Retry::default(),
            importance: Importance::default(),
            sampling: None,
            told: told_of_route(listener, Some("/*"), self.config.span_value_length()),
            pattern: Some("/*".into()),
            fallback: None,
            guard: None,
            metrics: self.registry.route(listener),
        }
    }

    fn forward(&self, backends: &[Backend]) -> Forward {
        Forward {
            sums: backends
                .iter()
                .scan(0, |sum, backend| {
                    *sum += u64::from(backend.weight);
                    Some(*sum)
                })
                .collect(),
            backends: backends
                .iter()
                .map(|backend| PlannedBackend {
                    upstream: self.upstream(&backend.upstream),
                    filters: backend.filters.clone(),
                })
                .collect(),
        }
    }

    fn upstream(&self, name: &Arc<str>) -> Arc<Upstream> {
        let upstream = self.upstreams.get(name);
        Arc::clone(upstream.expect("resolved: every upstream that is named exists"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const TEXT: &str = "
listeners:
  - { name: web, address: 127.0.0.1:0, upstream: app }
  - { name: db, address: 127.0.0.1:0, protocol: tcp, upstream: other }
routes:
  - name: r
    rules: [{ backendRefs: [{ name: app, weight: 0 }, { name: other, weight: 3 }, { name: app, weight: 1 }] }]
upstreams:
  - { name: app, endpoints: [127.0.0.1:1] }
  - { name: other, endpoints: [127.0.0.1:2] }
";

    fn compile(text: &str, previous: Option<&Snapshot>) -> Snapshot {
        let config = config::parse("test.yaml", text, &|_| None).unwrap().config;
        let listeners = config.listeners.iter().zip(0..);
        let sockets = listeners
            .map(|(listener, id)| {
                let address = listener.address.clone();
                let bound = Bound {
                    id: ListenerId(id),
                    address,
                };
                (Arc::clone(&listener.name), bound)
            })
            .collect();
        Snapshot::compile(
            Arc::new(config),
            &sockets,
            previous,
            &Registry::new(1),
            &Materials::default(),
        )
    }

    #[test]
    fn what_is_not_touched_is_carried_over() {
        let first = compile(TEXT, None);
        let second = compile(&TEXT.replace("127.0.0.1:2", "127.0.0.1:3"), Some(&first));
        assert_eq!((first.generation, second.generation), (1, 2));
        assert!(Arc::ptr_eq(
            &first.upstreams["app"],
            &second.upstreams["app"]
        ));
        assert!(!Arc::ptr_eq(
            &first.upstreams["other"],
            &second.upstreams["other"]
        ));
    }

    #[test]
    fn a_listener_s_own_upstream_is_a_plan_under_its_name() {
        let snapshot = compile(TEXT, None);
        let PlanKind::Http(http) = &snapshot.listeners[&ListenerId(0)].kind else {
            panic!("not HTTP")
        };
        let fallback = http.fallback.as_ref().unwrap();
        assert_eq!(&*fallback.name, "web");
        assert_eq!(fallback.timeouts, Timeouts::default());
        let PlanKind::Tcp(tcp) = &snapshot.listeners[&ListenerId(1)].kind else {
            panic!("not TCP")
        };
        assert_eq!(&*tcp.upstream.config.name, "other");
    }

    #[test]
    fn a_listener_has_the_rules_that_are_for_it_and_keeps_them_while_they_are_the_same() {
        let text = format!(
            "{TEXT}
access:
  - {{ name: all }}
  - {{ name: none, action: deny, listeners: [web], ports: [80] }}
  - {{ name: post, listeners: [web], to: {{ methods: [POST] }} }}"
        )
        .replace(
            "name: web, address: 127.0.0.1:0",
            "name: web, address: 127.0.0.1:81",
        )
        .replace("ports: [80]", "ports: [81]");
        let first = compile(&text, None);
        let policy = |snapshot: &Snapshot, id| snapshot.listeners[&ListenerId(id)].access.clone();
        let names = |snapshot: &Snapshot, id| format!("{:?}", policy(snapshot, id).unwrap());
        assert!(names(&first, 0).contains("none") && names(&first, 0).contains("post"));
        assert!(!names(&first, 1).contains("none") && names(&first, 1).contains("all"));
        let second = compile(
            &text.replace("methods: [POST]", "methods: [PUT]"),
            Some(&first),
        );
        let same = |id| {
            let (before, after) = (policy(&first, id).unwrap(), policy(&second, id).unwrap());
            Arc::ptr_eq(&before, &after)
        };
        assert!(!same(0) && same(1));
        assert!(policy(&compile(TEXT, Some(&second)), 0).is_none());
    }

    #[test]
    fn backends_are_picked_by_weight() {
        let forward = Forward {
            backends: Vec::new(),
            sums: vec![0, 3, 4],
        };
        let index = |random: u32| forward.index(random);
        assert_eq!(index(0), 1, "a weight of zero is never picked");
        assert_eq!(index(u32::MAX / 4 * 3 - 1), 1);
        assert_eq!(index(u32::MAX / 4 * 3 + 4), 2);
        assert_eq!(index(u32::MAX), 2);
    }
}
