//! What it costs to count a request and to write its line.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{Method, StatusCode, Uri};
use pillion::{
    config::model::{AccessLog as Config, LogFormat, LogOutput, Metrics},
    http::request_id::RequestId,
    telemetry::{
        LogWriter, Record, Registry,
        access_log::{Protocol, Template},
        metrics::{Done, Format},
    },
};
use tokio::time::Instant;

criterion_group!(benches, count, log, scrape);
criterion_main!(benches);

fn count(criterion: &mut Criterion) {
    let registry = Registry::new(2);
    let (route, upstream) = (registry.route("shop/0"), registry.upstream("app"));
    criterion.bench_function("count/route", |bencher| {
        bencher.iter(|| {
            route.request_started(black_box(1));
            let done = Done {
                method: &Method::GET,
                status: 200,
                grpc_status: None,
                reason: None,
                protocol: Protocol::Http11,
                secured: false,
                duration: black_box(Duration::from_micros(700)),
                bytes_in: 0,
                bytes_out: 1024,
                trace: None,
            };
            route.request_done(1, &done);
        });
    });
    criterion.bench_function("count/upstream", |bencher| {
        bencher.iter(|| {
            upstream.pool_hit(black_box(1));
            drop(upstream.running(1));
        });
    });
}

/// Some 10,000 series, as `/metrics` has them after a long day: `make bench-scrape` asks a process.
fn scrape(criterion: &mut Criterion) {
    let registry = Registry::new(2);
    registry.configure(&Metrics {
        max_series: 20_000,
        ..Metrics::default()
    });
    let routes: Vec<_> = (0..20)
        .map(|number| registry.route(&format!("shop-{number}/items")))
        .collect();
    for (route, status) in routes
        .iter()
        .flat_map(|route| (200..225).map(move |status| (route, status)))
    {
        for worker in 0..2 {
            let done = Done {
                method: &Method::GET,
                status,
                grpc_status: None,
                reason: None,
                protocol: Protocol::Http2,
                secured: true,
                duration: Duration::from_micros(u64::from(status) * 50),
                bytes_in: 0,
                bytes_out: 1024,
                trace: Some((1, 1)),
            };
            route.request_started(worker);
            route.request_done(worker, &done);
        }
    }
    let text = registry.encode(Format::Prometheus);
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!((10_000..11_000).contains(&series), "{series}");
    for (name, format) in [
        ("scrape/prometheus", Format::Prometheus),
        ("scrape/openmetrics", Format::OpenMetrics),
    ] {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| registry.encode(black_box(format)));
        });
    }
}

/// Lines that the writer has no room for are dropped, as they are in a worker.
fn log(criterion: &mut Criterion) {
    let text = LogFormat::Text(Template::standard().clone());
    for (name, format) in [("log/json", LogFormat::Json), ("log/text", text)] {
        let config = Config {
            format,
            output: LogOutput::File("/dev/null".into()),
            ..Config::default()
        };
        let metrics = Registry::new(1).process().clone();
        let writer = LogWriter::start(&config, metrics).expect("/dev/null can be opened");
        let log = writer.worker();
        let record = record();
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| log.write(black_box(&record)))
        });
        drop(log);
        writer.finish(Duration::from_secs(1));
    }
}

fn record() -> Record {
    let listener: Arc<str> = "web".into();
    let mut record = Record::new(listener, Protocol::Http11, Instant::now());
    record.duration = Duration::from_micros(700);
    record.route = Some("shop/0".into());
    record.upstream = Some("app".into());
    record.endpoint = Some("127.0.0.1:9000".into());
    record.method = Some(Method::GET);
    record.uri = Some(Uri::from_static("/api/v1/items/7?full=1"));
    record.host = Some(b"shop.example"[..].into());
    record.status = Some(StatusCode::OK);
    record.bytes_sent = 1024;
    record.upstream_duration = Some(Duration::from_micros(600));
    record.request_id = Some(RequestId::new(7, 11));
    record.user_agent = Some(b"curl/8.14.1"[..].into());
    record
}
