//! What it costs to choose an endpoint and to hold what a request holds of its upstream.

use std::{hint::black_box, net::SocketAddr, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pillion::{
    config::model::{Balancer, EndpointAddress, Hashing, StickyKey, Upstream as Config},
    telemetry::Registry,
    upstream::{Upstream, Verdict, Wish},
};
use tokio::time::Instant;

const SIZES: [u16; 4] = [1, 10, 100, 10_000];

const BY_SOURCE: Hashing = Hashing {
    key: StickyKey::Source,
    bounded_load: None,
};

criterion_group!(benches, pick, hold);
criterion_main!(benches);

/// From the choice to the end of the request: pick, head received, guard dropped.
fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for (name, balancer) in [
        ("peak-ewma", Balancer::PeakEwma),
        ("least-request", Balancer::LeastRequest),
        ("round-robin", Balancer::RoundRobin),
        ("ring-hash", Balancer::RingHash(BY_SOURCE)),
        ("maglev", Balancer::Maglev(BY_SOURCE)),
    ] {
        for size in SIZES {
            let upstream = upstream(&balancer, size);
            let mut rng = fastrand::Rng::with_seed(7);
            let mut now = Instant::now();
            group.bench_with_input(
                BenchmarkId::new(name, size),
                &upstream,
                |bencher, upstream| {
                    bencher.iter(|| {
                        now += Duration::from_micros(10);
                        let wish = Wish {
                            key: Some(rng.u64(..)),
                            ..Wish::default()
                        };
                        let picked = upstream
                            .pick(now, &mut rng, wish)
                            .expect("it has endpoints");
                        let answered = now + Duration::from_millis(1);
                        picked.head_received(answered);
                        picked.settle(Verdict::Success, answered);
                    });
                },
            );
        }
    }
    group.finish();
}

fn hold(criterion: &mut Criterion) {
    let upstream = upstream(&Balancer::PeakEwma, 1);
    criterion.bench_function("request-permit", |bencher| {
        bencher.iter(|| black_box(upstream.limits.request()).is_ok());
    });
}

fn upstream(balancer: &Balancer, size: u16) -> Arc<Upstream> {
    let address = |index: u16| {
        let [high, low] = index.to_be_bytes();
        EndpointAddress::Ip(SocketAddr::from(([127, 0, high, low], 9000)))
    };
    let config = Config {
        balancer: balancer.clone(),
        ..Config::plain("app", (1..=size).map(address))
    };
    Upstream::new(
        Arc::new(config),
        Registry::new(1).upstream("app"),
        &pillion::tls::Materials::default(),
    )
}
