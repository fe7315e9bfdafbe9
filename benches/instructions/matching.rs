//! Where a request goes, found among many routes and many endpoints. Shared with `make bench`, which
//! times what is counted here.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::Method;
use pillion::{
    config::model::{
        Action, Balancer, DnsPolicy, EndpointAddress, EndpointConfig, Filters, Hostname, Limits,
        Match, PathMatch, Route, Rule, Timeouts, Upstream as UpstreamConfig, UpstreamProtocol,
    },
    http::fields::Fields,
    router::{Lookup, Router},
    telemetry::Registry,
    upstream::{Upstream, Wish},
};
use tokio::time::Instant;

/// Requests asked for in turn: enough that a large table doesn't live in the nearest cache.
const REQUESTS: usize = 256;

/// So many routes, every other one by its host, the rest by their path under one host; one upstream
/// of as many endpoints.
pub(crate) struct Table {
    router: Router<usize>,
    upstream: Arc<Upstream>,
    requests: Vec<(usize, String, String)>,
    fields: Fields,
    rng: fastrand::Rng,
    now: Instant,
    next: usize,
}

impl Table {
    pub(crate) fn new(size: usize) -> Self {
        let router = Router::new((0..size).map(|number| (Arc::new(route(number)), 0, number)));
        let ask = |number: usize| {
            let (host, path) = place(number);
            (number, host, format!("{path}/items/7"))
        };
        let fields = [("Accept", "*/*"), ("User-Agent", "counted")];
        Self {
            router,
            upstream: upstream(size),
            requests: (0..REQUESTS)
                .map(|nth| ask(nth * size / REQUESTS))
                .collect(),
            fields: fields.into_iter().collect(),
            rng: fastrand::Rng::with_seed(7),
            now: Instant::now(),
            next: 0,
        }
    }

    /// One request: its route found, an endpoint picked and given back.
    pub(crate) fn turn(&mut self) {
        let (number, host, path) = &self.requests[self.next % REQUESTS];
        self.next += 1;
        let lookup = Lookup {
            host,
            path,
            query: None,
            method: &Method::GET,
            fields: &self.fields,
        };
        let found = self
            .router
            .find(&lookup)
            .expect("every request has a route");
        assert_eq!(found.plan, number, "a wrong route");
        self.now += Duration::from_micros(10);
        let picked = self.upstream.pick(self.now, &mut self.rng, Wish::default());
        let picked = picked.expect("it has endpoints");
        picked.head_received(self.now + Duration::from_millis(1));
    }
}

/// Host and path prefix of a route.
fn place(number: usize) -> (String, String) {
    if number.is_multiple_of(2) {
        (format!("service-{number}.shop.example"), "/api".to_owned())
    } else {
        ("shop.example".to_owned(), format!("/api/service-{number}"))
    }
}

fn route(number: usize) -> Route {
    let (host, path) = place(number);
    let rule = Rule {
        name: "rule".into(),
        matches: vec![Match {
            path: PathMatch::Prefix(path.into()),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        }],
        filters: Filters::default(),
        action: Action::Forward(Vec::new()),
        timeouts: Timeouts {
            request: Duration::ZERO,
            idle: Duration::ZERO,
            total: Duration::ZERO,
        },
    };
    Route {
        name: "route".into(),
        listeners: Vec::new(),
        hostnames: vec![Hostname::Exact(host.into())],
        rules: vec![rule],
    }
}

fn upstream(endpoints: usize) -> Arc<Upstream> {
    let endpoint = |number: usize| {
        let [_, _, high, low] = u32::try_from(number).expect("few endpoints").to_be_bytes();
        EndpointConfig {
            address: EndpointAddress::Ip(SocketAddr::from(([10, 0, high, low], 9000))),
            weight: 1,
        }
    };
    let config = UpstreamConfig {
        name: "app".into(),
        endpoints: (0..endpoints).map(endpoint).collect(),
        protocol: UpstreamProtocol::Http1,
        tls: None,
        balancer: Balancer::PeakEwma,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(60),
        max_connection_age: Duration::ZERO,
        limits: Limits {
            connections: 10_000,
            pending: 10_000,
            requests: 10_000,
        },
        proxy_protocol: None,
        dns: DnsPolicy {
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
        },
    };
    Upstream::new(
        Arc::new(config),
        Registry::new(1).upstream("app"),
        &pillion::tls::Materials::default(),
    )
}
