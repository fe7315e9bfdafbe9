//! What it costs to count a request and to write its line.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use http::{Method, StatusCode, Uri};
use pillion::{
    config::model::{AccessLog as Config, LogFormat, LogOutput},
    http::request_id::RequestId,
    telemetry::{
        LogWriter, Record, Registry,
        access_log::{Protocol, Template},
        metrics::Done,
    },
};
use tokio::time::Instant;

criterion_group!(benches, count, log);
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
                reason: None,
                protocol: Protocol::Http11,
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
