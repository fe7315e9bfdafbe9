//! Pages of `docs/` that are made from the code: `PILLION_BLESS=1` writes them, and without it a
//! test holds them to it.

use std::{env, fmt::Write, fs, net::TcpListener, path::Path, sync::Arc, time::Duration};

use http::Method;
use tokio::time::Instant;

use super::{
    AccessDecision, Expiring,
    access_log::Protocol,
    metrics::{Attempted, CopyFate, Done, Format, Registry},
};
use crate::{
    config::model::{Address, EndpointAddress, Question},
    error::{Error, LocalReply, Origin, Reason, Replay},
    http::{fallback::FallbackKind, grpc},
    policy::retry::{Class, Withheld},
    protect::FaultKind,
    tls::{self, Materials},
    upstream::{
        Upstream, Wish,
        health::{Cause, CheckResult, Opinion},
        tests::upstream_config,
    },
};

#[test]
fn reasons() {
    let mut page = String::from(REASONS_HEAD);
    for (origin, title) in [
        (Origin::Client, "The client's side"),
        (Origin::Here, "Decided by Pillion"),
        (Origin::Upstream, "The upstream's side"),
    ] {
        write!(
            page,
            "\n## {title}\n\n| reason | what happened | HTTP | gRPC | error | flag | sent again |\n\
             |---|---|---|---|---|---|---|\n"
        )
        .unwrap();
        for reason in Reason::ALL
            .iter()
            .filter(|reason| reason.row().origin == origin)
        {
            let row = reason.row();
            let name = row.name;
            writeln!(
                page,
                "| [`{name}`](reasons/{name}.md) | {} | {} | {} | `{}` | `{}` | {} |",
                meaning(*reason),
                row.status.as_u16(),
                format_args!("{} `{}`", row.grpc, grpc::name(row.grpc)),
                row.proxy_status,
                row.flag,
                repeated(*reason),
            )
            .unwrap();
        }
    }
    page.push_str(LOCAL_HEAD);
    for reply in LocalReply::ALL {
        let (name, meaning) = (reply.name(), meaning_of_reply(reply));
        let codes = "as written | none | none | `-` | no";
        writeln!(
            page,
            "| [`{name}`](reasons/{name}.md) | {meaning} | {codes} |"
        )
        .unwrap();
    }
    agrees("docs/reasons.md", &page);
}

#[test]
fn metrics() {
    let mut page = String::from(METRICS_HEAD);
    let scrape = busy_scrape();
    let mut help = "";
    for line in scrape.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap().1;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let labels = labels(&scrape, name);
            writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
        }
    }
    agrees("docs/metrics.md", &page);
}

const REASONS_HEAD: &str = "\
# Reasons

Whenever Pillion answers a request by itself, or ends an exchange early, there is one of these
reasons, and it is called the same everywhere: in the `x-pillion-reason` header of the response and the
details of its `Proxy-Status`, as `reason` in the [access log](access-log.md), as `error.type` of the
request's [span](tracing.md), as the label `reason` or `error_type` of the [metrics](metrics.md), whose
exemplars name the trace. The names are stable. Each has a page: what happened, whose fault it is, what
to look at, what to change. The evidence, what each attempt met and what followed, is in the access log
and in the spans of the attempts.

`error` is what `Proxy-Status` says (RFC 9209); `flag` is the short form that Envoy's users know. A
gRPC client gets the gRPC status in place of the HTTP one. Once the head of a response is out, its
status can't change any more: the exchange is cut, and the reason is in log and metric alone.

A reason is what is left when nothing helped: *sent again* says after which failures of an attempt
another one may follow, and with which requests ([retries](retries.md)); responses with a status of
`retry.codes`, or a gRPC status of `retry.grpcCodes`, are followed by another attempt of idempotent
requests as well. Every reason counts in `pillion_http_requests_failed_total` under its name, where
no rule was found yet in `pillion_listener_heads_refused_total`; failed attempts that were made good
count in `pillion_upstream_retries_total`.
";

const LOCAL_HEAD: &str = "
## Said by a rule

Nothing failed: a rule answers by itself. The reason is told in the same places, but for `error.type`
and `error_type`, and counts in `pillion_http_local_replies_total`.

| reason | what happened | HTTP | gRPC | error | flag | sent again |
|---|---|---|---|---|---|---|
";

const fn meaning_of_reply(reply: LocalReply) -> &'static str {
    match reply {
        LocalReply::DirectResponse => "A `DirectResponse` of the rule.",
        LocalReply::Redirect => "A `RequestRedirect` of the rule.",
        LocalReply::FallbackResponse => {
            "The fixed response of the rule's `fallback`, in place of a response whose status is in its `on`."
        }
    }
}

const METRICS_HEAD: &str = "\
# Metrics

`GET /metrics` of the [admin server](admin.md) answers in Prometheus text (0.0.4), or in OpenMetrics
text where `Accept` prefers it. Durations are in seconds, sizes in bytes.

- `route` is the name of a rule of a route, `rule` that of one of [`access`](access.md), `reason` one of
  the [reasons](reasons.md), but where handshakes failed one of
  [their own](identity.md#why-a-handshake-failed). No label holds what a client sent: a `method` that is
  not known counts as `other`.
- Series by `reason`, those by `method` and `status`, and histograms by outcome begin with their first
  event; those of an endpoint with its first attempt. A label that would be empty is left out: no
  status where there was no response, no `error_type` where nothing went wrong.
- Series of a removed listener, rule, upstream or endpoint end when nothing uses it any more.
- There are never more series than `metrics.maxSeries` (10,000; 1,000 at least). What the process has
  one of, listeners, upstreams, and the counts that each rule always has come first. What begins with
  traffic takes a place for each series when it is first shown, a histogram as many as it has lines, an
  endpoint seven at its first attempt; all in all nine tenths are taken so, that there be room for what a
  later configuration brings. What finds no place is counted together with all others of its kind, as
  `_overflow`: sums stay right. `pillion_metrics_series_overflowed_total` grows then. Where a reload
  lowers the limit, what has its place keeps it; if that is more than fits, a scrape leaves out series of
  rules.
- Histograms have the bounds of `metrics.buckets`: those that OpenTelemetry advises for requests,
  without its 7.5 s, and three below 5 ms. When a reload changes them, histograms begin anew, and with
  them all that is counted by `route`.
- What begins with `http_` follows OpenTelemetry's conventions for HTTP, with `_` for `.`; over
  [OTLP](otlp.md) its names and attributes are theirs. Of the attributes that they require, some are left
  out: `server.address` and `server.port` of what is told of upstreams, as one has many endpoints
  (`upstream` stands for them all, and `pillion_endpoint_*` tell them apart); `http.route`, for which the
  rule's name is there as `route`; `http.request.method` and `url.scheme` of active requests, which
  nobody counts apart.
- OpenMetrics alone has exemplars: the trace of the last sampled request in a bucket, and of the last
  one that failed for a reason.

| name | type | labels | what it tells |
|---|---|---|---|
";

/// What a process shows in which everything has happened.
fn busy_scrape() -> String {
    let registry = Registry::new(1);
    let reason = Reason::Internal;
    registry.tls().set_expiring(vec![Expiring {
        kind: "identity",
        name: "a".into(),
        at: 0,
    }]);

    let listener = registry.listener("a");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.listens(&Address::Tcp(socket.local_addr().unwrap()));
    listener.refused_head(0, reason, None);
    listener.failed(0, reason);
    listener.handshake_failed(0, tls::FaultKind::ALL[0]);
    listener.peer("a").unwrap().request_done(0, 200);
    let access = registry.access("a", "b");
    access.decided(0, AccessDecision::Denied);

    let route = registry.route("a");
    route.request_started(0);
    let done = Done {
        method: &Method::GET,
        status: 500,
        grpc_status: None,
        reason: Some(reason),
        protocol: Protocol::Http11,
        secured: false,
        duration: Duration::ZERO,
        bytes_in: 0,
        bytes_out: 0,
        trace: None,
    };
    route.request_done(0, &done);
    route.fault_injected(0, FaultKind::Delay);
    route.fell_back(0, FallbackKind::Upstream);
    route.replied(0, LocalReply::DirectResponse);

    let mut config = upstream_config(&[EndpointAddress::Ip(([127, 0, 0, 1], 80).into())]);
    config.limits.adaptive = true;
    let metrics = registry.upstream("a");
    let upstream = Upstream::new(Arc::new(config), metrics, &Materials::default());
    let now = Instant::now();
    let in_flight = upstream
        .pick(now, &mut fastrand::Rng::with_seed(1), Wish::default())
        .unwrap();
    in_flight.observe(Duration::ZERO, now);
    for result in [Ok(500), Err(reason)] {
        let attempt = Attempted {
            method: &Method::GET,
            result,
            took: Duration::ZERO,
            trace: None,
        };
        upstream.attempted(0, in_flight.endpoint(), &attempt);
    }
    let metrics = &upstream.metrics;
    metrics.connection_failed(0, reason);
    metrics.limit_refused(0, reason);
    metrics.handshake_failed(0, tls::FaultKind::ALL[0]);
    metrics.retry_withheld(0, Withheld::ALL[0]);
    metrics.copied(0, CopyFate::Answered);
    metrics.health.opened(Cause::Failures);
    metrics.health.checked(&Question::Tcp, CheckResult::ALL[0]);
    metrics.health.set_checked([Opinion::ALL[0]].into_iter());
    registry.encode(Format::Prometheus)
}

/// The labels that the series of a family carry.
fn labels(scrape: &str, family: &str) -> String {
    let series = scrape.lines().find_map(|line| {
        let rest = line.strip_prefix(family)?;
        rest.strip_prefix("_bucket")
            .unwrap_or(rest)
            .strip_prefix('{')
    });
    let labels = series
        .unwrap_or_default()
        .split("\",")
        .filter_map(|label| label.split_once("=\""));
    let keys = labels.map(|(key, _)| key).filter(|key| *key != "le");
    keys.map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn agrees(path: &str, made: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if env::var_os("PILLION_BLESS").is_some() {
        fs::write(&file, made).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == made,
        "{path} is not what the code makes of it: PILLION_BLESS=1 writes it anew"
    );
}

/// Which requests are sent again after a failure with this reason.
fn repeated(reason: Reason) -> &'static str {
    let class = |replay| Class::of(&Error::new(reason, "").replay(replay));
    let unsent = class(Replay::NeverSent).allows(false);
    let perhaps = class(Replay::Unsafe).allows(true);
    match (unsent, perhaps) {
        _ if reason == Reason::UpstreamReset => "idempotent; any where the stream was refused",
        (true, true) => "idempotent; any where nothing was sent",
        (true, false) => "any where nothing was sent",
        (false, true) => "idempotent",
        (false, false) => "no",
    }
}

/// What happened, for somebody on call.
const fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::BadRequest => "The request head breaks the protocol or could be read in two ways.",
        Reason::HeadTooLarge => "The request head is larger than `maxHeadSize`.",
        Reason::HeadTimeout => "The request head was not complete within `headTimeout`.",
        Reason::RequestBodyInvalid => "The framing of the request body broke on its way.",
        Reason::RequestBodyIncomplete => "The client stopped in the middle of the request body.",
        Reason::ClientClosed => "The client left before the response was complete.",
        Reason::NoRoute => "No rule matches, and the listener has no upstream of its own.",
        Reason::AccessDenied => "No rule of `access` allows it, or one denies it.",
        Reason::TokenMissing => "`access` asks for a token, and there is none.",
        Reason::TokenInvalid => "`access` asks for a token, and the one that came does not hold.",
        Reason::ConnectNotAllowed => "`CONNECT` on a listener without `allowConnect`.",
        Reason::LoopDetected => "The request has passed this listener three times before (`Via`).",
        Reason::UpgradeRefused => {
            "The upgrade that was asked for can't be carried to this upstream."
        }
        Reason::Overloaded => {
            "Pillion is short of memory or time, and refuses by the `priority` of rules; or it has no \
             file descriptor or local port left to connect with."
        }
        Reason::RateLimited => "The rule is asked more often than its `rateLimit` allows.",
        Reason::FaultInjected => {
            "A `fault` of the rule ended it on purpose; status and gRPC status are what it says."
        }
        Reason::Draining => {
            "The drain, or the removal of the listener, came to its deadline before the response did."
        }
        Reason::Internal => "A fault in Pillion; please report it.",
        Reason::NoEndpoints => "The upstream has no endpoint that could be tried.",
        Reason::BreakerOpen => {
            "Every endpoint of the upstream is broken; the detail says why, and when one is probed."
        }
        Reason::NoHealthyEndpoints => {
            "Health checks find every endpoint of the upstream unhealthy."
        }
        Reason::DnsUnresolved => "No name of the upstream has been resolved yet.",
        Reason::ConnectFailed => "The endpoint refused the connection or can't be reached.",
        Reason::ConnectTimeout => "No connection within `timeouts.connect`.",
        Reason::ConnectionLimit => "`limits.connections` of the upstream is reached.",
        Reason::PendingLimit => "`limits.pending` requests wait for a connection already.",
        Reason::RequestLimit => "`limits.requests` of the upstream is reached.",
        Reason::ConcurrencyLimit => {
            "More requests at once than the upstream bears, by how long its answers take \
             (`limits.adaptive`)."
        }
        Reason::UnexpectedTls => {
            "The client began with a TLS handshake, and the listener takes plaintext only."
        }
        Reason::NoIdentity => {
            "The identity that the upstream is to be shown is not there yet (`/readyz?verbose`)."
        }
        Reason::IdentityRotated => {
            "A certificate, or the trust in the peer, came to its end, and the connection could not \
             be replaced in time."
        }
        Reason::UpstreamCertificate => {
            "The upstream's certificate was refused; the detail names it and says why."
        }
        Reason::UpstreamTls => "The TLS handshake with the upstream failed.",
        Reason::UpstreamTlsAlert => {
            "The upstream ended TLS with an alert: most often it refuses our certificate."
        }
        Reason::UpstreamClosed => "The upstream closed the connection before a response.",
        Reason::UpstreamReset => "The upstream reset the connection or the stream.",
        Reason::UpstreamProtocol => "What the upstream answered is not HTTP, or breaks it.",
        Reason::UpstreamHeadTooLarge => "The head of the response is larger than can be taken.",
        Reason::ResponseIncomplete => "The upstream stopped in the middle of the response body.",
        Reason::AttemptTimeout => {
            "The last attempt brought no head of a response within `timeouts.backendRequest`."
        }
        Reason::RequestTimeout => "No head of a response within `timeouts.request`.",
        Reason::TotalTimeout => "The exchange was not over within `timeouts.total`.",
        Reason::IdleTimeout => "Nothing moved in either direction for `timeouts.idle`.",
    }
}
