//! What variables are taken for.

use super::*;

fn read(variables: &[(&str, &str)]) -> Otel {
    Otel::read(&|name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

fn endpoint(otel: &Otel, signal: Signal) -> Option<(String, bool)> {
    let endpoint = otel.of(signal).endpoint.as_ref()?;
    Some((endpoint.uri.to_string(), endpoint.exact))
}

#[test]
fn nothing_and_emptiness_say_nothing() {
    let otel = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", " "),
        ("OTEL_SDK_DISABLED", ""),
    ]);
    for signal in Signal::ALL {
        assert_eq!(otel.exports(signal), None);
        assert_eq!(endpoint(&otel, signal), None);
    }
    assert!(otel.resource.is_empty() && otel.warnings.is_empty() && !otel.disabled);
}

#[test]
fn a_collector_is_wish_enough_for_spans_alone() {
    let otel = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")]);
    assert_eq!(otel.exports(Signal::Traces), Some(true));
    assert_eq!(otel.exports(Signal::Metrics), None);
    assert_eq!(otel.exports(Signal::Logs), None);
    let asked = read(&[
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
    ]);
    assert_eq!(asked.exports(Signal::Metrics), Some(true));
    assert_eq!(asked.exports(Signal::Logs), Some(true));
    assert_eq!(asked.exports(Signal::Traces), None);
}

#[test]
fn a_collector_for_a_signal_is_wish_enough_for_it() {
    for (name, signal) in [
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", Signal::Metrics),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", Signal::Logs),
    ] {
        let otel = read(&[(name, "http://c:4317")]);
        for each in Signal::ALL {
            assert_eq!(otel.exports(each), (each == signal).then_some(true));
        }
        let off = (signal::exporter_variable(signal), "none");
        let otel = read(&[(name, "http://c:4317"), (&off.0, off.1)]);
        assert_eq!(otel.exports(signal), Some(false));
    }
}

#[test]
fn words_are_taken_in_either_case() {
    let otel = read(&[
        ("OTEL_TRACES_SAMPLER", "ParentBased_ALWAYS_OFF"),
        ("OTEL_PROPAGATORS", "B3,TraceContext"),
        ("OTEL_METRICS_EXPORTER", "OTLP"),
        ("OTEL_LOGS_EXPORTER", "NONE"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "HTTP/Protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP"),
    ]);
    assert_eq!(otel.warnings.len(), 0, "{:?}", otel.warnings);
    let sampler = otel.sampler.unwrap();
    assert_eq!((sampler.parent_based, sampler.ratio), (true, 0.0));
    use Propagator::*;
    assert_eq!(otel.propagators, Some(vec![B3, TraceContext]));
    assert_eq!(otel.exports(Signal::Metrics), Some(true));
    assert_eq!(otel.exports(Signal::Logs), Some(false));
    assert_eq!(otel.traces.protocol, Some(OtlpProtocol::HttpProtobuf));
    assert_eq!(otel.traces.gzip, Some(true));
    assert_eq!(
        read(&[("OTEL_PROPAGATORS", "NONE")]).propagators,
        Some(vec![])
    );
}

#[test]
fn no_limit_of_time_is_a_day() {
    let day = Some(Duration::from_secs(24 * 60 * 60));
    let otel = read(&[
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "0"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
    ]);
    assert_eq!(
        (otel.traces.timeout, otel.traces.export_timeout),
        (day, day)
    );
    assert_eq!(otel.metrics.export_timeout, day);
    assert_eq!(otel.traces.delay, None);
    assert_eq!(otel.warnings.len(), 1);
}

#[test]
fn how_metrics_are_sent_is_no_choice() {
    let warnings = |what, value| {
        let name = format!("OTEL_EXPORTER_OTLP_METRICS_{what}");
        read(&[(&name, value)]).warnings
    };
    const TIME: &str = "TEMPORALITY_PREFERENCE";
    assert!(warnings(TIME, "Cumulative").is_empty());
    assert_eq!(
        warnings(TIME, "delta"),
        [
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE is ignored: cumulative is what is sent"
        ]
    );
    const FORM: &str = "DEFAULT_HISTOGRAM_AGGREGATION";
    assert!(warnings(FORM, "explicit_bucket_histogram").is_empty());
    assert_eq!(
        warnings(FORM, "base2_exponential_bucket_histogram").len(),
        1
    );
}

#[test]
fn exemplars_are_filtered() {
    let exemplars = |text| read(&[("OTEL_METRICS_EXEMPLAR_FILTER", text)]).exemplars;
    assert_eq!(exemplars("trace_based"), Some(true));
    assert_eq!(exemplars("always_on"), Some(true));
    assert_eq!(exemplars("ALWAYS_OFF"), Some(false));
    assert_eq!(exemplars("some"), None);
}

#[test]
fn what_is_not_read_is_told() {
    let otel = read(&[
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "1"),
    ]);
    let names = [
        "PATH",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_TRACES_SAMPLER_ARG",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "OTEL_EXPORTER_OTLP_INSECURE",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "OTEL_TRACE_SAMPLER",
    ];
    assert_eq!(
        otel.unread(names.map(str::to_owned), &BTreeSet::new()),
        [
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT is not read",
            "OTEL_TRACE_SAMPLER is not read"
        ]
    );
}

#[test]
fn values_are_limited_by_signal() {
    let lengths = |variables: &[(&str, &str)]| {
        let otel = read(variables);
        [Signal::Traces, Signal::Logs].map(|signal| otel.value_length(signal))
    };
    assert_eq!(lengths(&[]), [4096, 4096]);
    let all = ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "100");
    assert_eq!(lengths(&[all]), [100, 100]);
    let spans = ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "7");
    let records = ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "99999");
    assert_eq!(lengths(&[all, spans, records]), [7, 4096]);
    assert_eq!(lengths(&[(all.0, "0")]), [4096, 4096]);
}

#[test]
fn exporters_can_be_forbidden() {
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
    let off = read(&[base, ("OTEL_TRACES_EXPORTER", "none")]);
    assert_eq!(off.exports(Signal::Traces), Some(false));
    let off = read(&[
        base,
        ("OTEL_SDK_DISABLED", "TRUE"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
    ]);
    assert!(
        Signal::ALL
            .iter()
            .all(|&signal| off.exports(signal) == Some(false))
    );
    let scraped = read(&[("OTEL_METRICS_EXPORTER", "prometheus")]);
    assert_eq!(scraped.exports(Signal::Metrics), Some(false));
    let odd = read(&[base, ("OTEL_TRACES_EXPORTER", "zipkin")]);
    assert_eq!(odd.exports(Signal::Traces), Some(true));
    assert_eq!(odd.warnings.len(), 1);
    let both = read(&[("OTEL_METRICS_EXPORTER", "prometheus, otlp")]);
    assert_eq!(both.exports(Signal::Metrics), Some(true));
}

#[test]
fn what_is_said_of_a_signal_goes_before_what_is_said_of_all() {
    let otel = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/base"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs/here"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "3000"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ]);
    let traces = endpoint(&otel, Signal::Traces).unwrap();
    assert_eq!(traces, ("http://all:4318/base".to_owned(), false));
    let logs = endpoint(&otel, Signal::Logs).unwrap();
    assert_eq!(logs, ("https://logs/here".to_owned(), true));
    assert_eq!(otel.logs.timeout, Some(Duration::from_secs(3)));
    assert_eq!(otel.traces.timeout, Some(Duration::from_secs(2)));
    assert_eq!(otel.metrics.protocol, Some(OtlpProtocol::HttpProtobuf));
    assert_eq!(otel.traces.protocol, None);
    assert_eq!(otel.traces.gzip, Some(true));
}

#[test]
fn a_host_without_a_scheme_is_tls_unless_said_otherwise() {
    let host = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
    let secure = endpoint(&read(&[host]), Signal::Traces).unwrap();
    assert_eq!(secure.0, "https://collector:4317/");
    let insecure = read(&[host, ("OTEL_EXPORTER_OTLP_INSECURE", "true")]);
    assert_eq!(
        endpoint(&insecure, Signal::Traces).unwrap().0,
        "http://collector:4317/"
    );
}

#[test]
fn a_url_that_holds_credentials_is_not_repeated() {
    for url in ["http://u:hunter2@c:4317", "https://c/?api-key=hunter2"] {
        let otel = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", url)]);
        assert_eq!(endpoint(&otel, Signal::Traces), None);
        assert_eq!(otel.warnings.len(), 1);
        assert!(!otel.warnings[0].contains("hunter2"), "{:?}", otel.warnings);
    }
}

#[test]
fn a_certificate_comes_with_its_key() {
    const PARTS: [(&str, &str); 2] = [
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "c.crt"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "c.key"),
    ];
    let both = read(&PARTS);
    assert!(both.traces.identity.is_some() && both.logs.identity.is_none());
    for (alone, other) in [
        (PARTS[0], "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
        (PARTS[1], "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE"),
    ] {
        let otel = read(&[alone]);
        assert!(otel.traces.identity.is_none());
        let [warning] = &otel.warnings[..] else {
            panic!("{:?}", otel.warnings)
        };
        assert_eq!(
            *warning,
            format!("{} is ignored: {other} is not set", alone.0)
        );
    }
}

#[test]
fn metrics_are_sent_once_a_second_at_most() {
    let interval = |text| {
        let otel = read(&[("OTEL_METRIC_EXPORT_INTERVAL", text)]);
        (otel.metric_interval, otel.warnings.len())
    };
    let second = Duration::from_secs(1);
    assert_eq!(interval("1000"), (Some(second), 0));
    assert_eq!(interval("999"), (Some(second), 1));
    assert_eq!(interval("0"), (None, 1));
}

#[test]
fn headers_and_resources_are_percent_decoded() {
    let otel = read(&[
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "Authorization=Basic%20YTpi, x-a = 1=2 ,,broken",
        ),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=old,team%2Ename=%C3%BCber%2C%20all",
        ),
        ("OTEL_SERVICE_NAME", "shop"),
    ]);
    let headers = otel.traces.headers.unwrap();
    let shown: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    assert_eq!(shown, [("authorization", "Basic YTpi"), ("x-a", "1=2")]);
    assert!(headers.iter().all(|(_, value)| value.is_sensitive()));
    assert_eq!(&*otel.resource["service.name"], "shop");
    assert_eq!(&*otel.resource["team.name"], "\u{fc}ber, all");
    assert_eq!(otel.warnings.len(), 1);
    for broken in ["%zz=1", "a=1,b=%zz", "a=1,b=%+F", "a=1,b=%4"] {
        let broken = read(&[("OTEL_RESOURCE_ATTRIBUTES", broken)]);
        assert!(broken.resource.is_empty() && broken.warnings.len() == 1);
    }
}

#[test]
fn samplers() {
    let sampler = |name, argument| {
        let otel = read(&[
            ("OTEL_TRACES_SAMPLER", name),
            ("OTEL_TRACES_SAMPLER_ARG", argument),
        ]);
        otel.sampler
            .map(|sampler| (sampler.parent_based, sampler.ratio))
    };
    assert_eq!(sampler("always_on", ""), Some((false, 1.0)));
    assert_eq!(sampler("parentbased_always_off", ""), Some((true, 0.0)));
    assert_eq!(
        sampler("parentbased_traceidratio", "0.25"),
        Some((true, 0.25))
    );
    assert_eq!(sampler("traceidratio", "7"), Some((false, 1.0)));
    assert_eq!(sampler("traceidratio", "NaN"), Some((false, 1.0)));
    assert_eq!(sampler("jaeger_remote", ""), None);
}

#[test]
fn propagators() {
    let propagators = |text| read(&[("OTEL_PROPAGATORS", text)]).propagators;
    use Propagator::*;
    assert_eq!(propagators("b3, baggage,b3"), Some(vec![B3, Baggage]));
    assert_eq!(propagators("tracecontext,xray"), Some(vec![TraceContext]));
    assert_eq!(propagators("none"), Some(vec![]));
    assert_eq!(propagators("xray"), None);
    assert_eq!(propagators("b3multi"), Some(vec![B3Multi]));
}

#[test]
fn a_port_is_one() {
    for url in ["http://c:99999", "c:0"] {
        let otel = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", url)]);
        assert_eq!(endpoint(&otel, Signal::Traces), None);
        assert!(otel.warnings[0].ends_with("is not a port: those are 1 to 65535"));
    }
}

#[test]
fn what_is_ignored_in_a_list_is_told_without_the_rest_and_without_secrets() {
    let warnings = |name, value| read(&[(name, value)]).warnings;
    assert_eq!(
        warnings(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "a=1,hunter2,te=x,hunter3 =x,b=%0A"
        ),
        [
            "pair 2 in OTEL_EXPORTER_OTLP_HEADERS is ignored: it is not name=value",
            "pair 3 in OTEL_EXPORTER_OTLP_HEADERS is ignored: no such header can be sent",
            "pair 5 in OTEL_EXPORTER_OTLP_HEADERS is ignored: its value can't be that of a header",
        ]
    );
    assert_eq!(
        warnings("OTEL_TRACES_EXPORTER", "otlp,console"),
        [
            "`console` in OTEL_TRACES_EXPORTER is ignored: otlp and none are the exporters that there are"
        ]
    );
    assert_eq!(
        warnings("OTEL_TRACES_EXPORTER", "zipkin"),
        ["OTEL_TRACES_EXPORTER is ignored: otlp and none are the exporters that there are"]
    );
}

#[test]
fn what_forbids_an_export_is_named() {
    let by = |variables: &[_]| read(variables).forbidden_by(Signal::Logs);
    let none = ("OTEL_LOGS_EXPORTER", "none");
    assert_eq!(by(&[none]).as_deref(), Some("OTEL_LOGS_EXPORTER"));
    let disabled = ("OTEL_SDK_DISABLED", "true");
    assert_eq!(by(&[none, disabled]).as_deref(), Some("OTEL_SDK_DISABLED"));
    assert_eq!(by(&[("OTEL_LOGS_EXPORTER", "otlp")]), None);
    assert_eq!(by(&[]), None);
}

#[test]
fn a_batch_is_no_larger_than_its_queue() {
    let size = ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "20");
    let queue = |most| read(&[size, ("OTEL_BLRP_MAX_QUEUE_SIZE", most)]);
    let small = queue("10");
    assert_eq!(small.logs.batch_items, Some(10));
    assert_eq!(
        small.warnings,
        [
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE: 20 is more than OTEL_BLRP_MAX_QUEUE_SIZE; half of that is sent at once, 5"
        ]
    );
    assert_eq!(queue("20").logs.batch_items, Some(20));
    assert_eq!(queue("20").warnings.len(), 0);
    assert_eq!(read(&[size]).logs.batch_items, Some(20));
}

#[test]
fn numbers_that_can_not_be_are_ignored_and_told() {
    let otel = read(&[
        ("OTEL_BSP_SCHEDULE_DELAY", "250"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_BLRP_EXPORT_TIMEOUT", "soon"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
    ]);
    assert_eq!(otel.traces.delay, Some(Duration::from_millis(250)));
    assert_eq!(
        (otel.traces.batch_items, otel.traces.queue_items),
        (None, None)
    );
    assert_eq!(otel.logs.export_timeout, None);
    assert_eq!(otel.metric_interval, Some(Duration::from_secs(5)));
    assert_eq!(otel.logs.protocol, Some(OtlpProtocol::HttpProtobuf));
    assert_eq!(otel.warnings.len(), 4);
}
