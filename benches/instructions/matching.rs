//! Where a request goes, found among many routes and many endpoints. Shared with `make bench`, which
//! times what is counted here.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::Method;
use pillion::{
    config::model::{
        Action, EndpointAddress, Hostname, Match, PathMatch, Route, Rule,
        Upstream as UpstreamConfig,
    },
    http::fields::Fields,
    router::{Lookup, Router},
    telemetry::Registry,
    upstream::{Upstream, Verdict, Wish},
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
        let answered = self.now + Duration::from_millis(1);
        picked.head_received(answered);
        picked.settle(Verdict::Success, answered);
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
    let matched = Match {
        path: PathMatch::Prefix(path.into()),
        headers: Vec::new(),
        query: Vec::new(),
        method: None,
    };
    let rule = Rule::plain("rule", vec![matched], Action::Forward(Vec::new()));
    Route {
        name: "route".into(),
        listeners: Vec::new(),
        hostnames: vec![Hostname::Exact(host.into())],
        rules: vec![rule],
    }
}

fn upstream(endpoints: usize) -> Arc<Upstream> {
    let address = |number: usize| {
        let [_, _, high, low] = u32::try_from(number).expect("few endpoints").to_be_bytes();
        EndpointAddress::Ip(SocketAddr::from(([10, 0, high, low], 9000)))
    };
    let config = UpstreamConfig::plain("app", (0..endpoints).map(address));
    Upstream::new(
        Arc::new(config),
        Registry::new(1).upstream("app"),
        &pillion::tls::Materials::default(),
    )
}
