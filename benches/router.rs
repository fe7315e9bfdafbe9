//! What it costs to find a route, by the number of them, and to read the parts of a request that
//! the search needs.

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::Method;
use pillion::{
    config::model::{
        Action, Backslash, EscapedSlash, Hostname, Match, PathMatch, PathPolicy, Pattern, Route,
        Rule,
    },
    http::fields::Fields,
    router::{Authority, Lookup, Router, normalize},
};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];

/// Requests asked for in turn: enough that a large table doesn't live in the nearest cache.
const REQUESTS: usize = 256;

criterion_group!(benches, find, read);
criterion_main!(benches);

fn find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("find");
    for size in SIZES {
        measure(
            &mut group,
            "hosts",
            size,
            |i| {
                (
                    Some(Hostname::Exact(host(i).into())),
                    PathMatch::Prefix("/".into()),
                )
            },
            |i| (host(i), "/api/v1/items/7".to_owned()),
        );
        measure(
            &mut group,
            "wildcards",
            size,
            |i| {
                (
                    Some(Hostname::Wildcard(host(i).into())),
                    PathMatch::Prefix("/".into()),
                )
            },
            |i| (format!("www.{}", host(i)), "/api/v1/items/7".to_owned()),
        );
        measure(
            &mut group,
            "exact",
            size,
            |i| {
                (
                    None,
                    PathMatch::Exact(format!("/api/service-{i}/items").into()),
                )
            },
            |i| ("shop.example".to_owned(), format!("/api/service-{i}/items")),
        );
        measure(
            &mut group,
            "prefixes",
            size,
            |i| (None, PathMatch::Prefix(format!("/api/service-{i}").into())),
            |i| {
                (
                    "shop.example".to_owned(),
                    format!("/api/service-{i}/items/7"),
                )
            },
        );
    }
    for size in [10, 100] {
        measure(
            &mut group,
            "patterns",
            size,
            |i| {
                let text = format!("^(?:/api/service-{i}/items/[0-9]+)$");
                let pattern = Pattern(regex::Regex::new(&text).expect("a valid expression"));
                (None, PathMatch::Regex(pattern))
            },
            |i| {
                (
                    "shop.example".to_owned(),
                    format!("/api/service-{i}/items/7"),
                )
            },
        );
    }
    group.finish();
}

/// Looks up requests spread evenly over a table of `size` routes.
fn measure(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    size: usize,
    entry: impl Fn(usize) -> (Option<Hostname>, PathMatch),
    request: impl Fn(usize) -> (String, String),
) {
    let router = Router::new((0..size).map(|i| {
        let (hostname, path) = entry(i);
        (route(hostname, path), 0, i)
    }));
    let requests: Vec<_> = (0..REQUESTS)
        .map(|n| request(n * size / REQUESTS))
        .collect();
    let fields = fields();
    let mut next = 0;
    group.bench_with_input(BenchmarkId::new(name, size), &router, |bencher, router| {
        bencher.iter(|| {
            let (host, path) = &requests[next % REQUESTS];
            next += 1;
            let lookup = Lookup {
                host,
                path,
                query: None,
                method: &Method::GET,
                fields: &fields,
            };
            router
                .find(black_box(&lookup))
                .expect("every request has a route")
                .prefix
        });
    });
}

fn read(criterion: &mut Criterion) {
    let policy = PathPolicy {
        escaped_slash: EscapedSlash::Keep,
        backslash: Backslash::Reject,
        merge_slashes: false,
    };
    let mut group = criterion.benchmark_group("normalize");
    let long = "/segment-of-a-path".repeat(50);
    for (name, path) in [
        ("short", "/api/v1/items/7"),
        ("long", long.as_str()),
        ("escapes-kept", "/caf%C3%A9/%E6%97%A5%E6%9C%AC"),
        ("rewritten", "/api/./v1/%7euser/../items/7"),
    ] {
        group.throughput(Throughput::Bytes(path.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| normalize(black_box(path), policy).map(|path| path.len()));
        });
    }
    group.finish();

    criterion.bench_function("authority", |bencher| {
        bencher.iter(|| Authority::parse(black_box(b"shop.example.com:8080")).is_ok());
    });
}

fn host(index: usize) -> String {
    format!("service-{index}.shop.example")
}

fn fields() -> Fields {
    let lines = [("Accept", "*/*"), ("User-Agent", "bench")];
    lines.into_iter().collect()
}

fn route(hostname: Option<Hostname>, path: PathMatch) -> Arc<Route> {
    let rule = Rule::plain(
        "rule",
        vec![Match {
            path,
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        }],
        Action::Forward(Vec::new()),
    );
    Arc::new(Route {
        name: "route".into(),
        listeners: Vec::new(),
        hostnames: hostname.into_iter().collect(),
        rules: vec![rule],
    })
}
