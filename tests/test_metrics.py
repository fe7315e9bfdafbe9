"""What is counted, and how it is told: text, OpenMetrics with exemplars, OTLP."""

import re
import subprocess

import pytest
from support.client import RawClient, fetch
from support.collector import Collector, attributes
from support.config import http_config
from support.metrics import Metrics
from support.ports import free_port
from support.tls import TlsClient, context
from support.wait import eventually
from support.wire import Closed

DURATION = "http_server_request_duration_seconds"
OPEN = "application/openmetrics-text; version=1.0.0"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-01", f"00-{TRACE}-b7ad6b7169203331-00"
EXEMPLAR = re.compile(r' # \{trace_id="([0-9a-f]{32})",span_id="([0-9a-f]{16})"\} ([0-9.e-]+) [0-9]+\.[0-9]{3}$')


def scrape(proxy, accept: str = "") -> str:
    reply = fetch(proxy.admin, "GET", "/metrics", {"Accept": accept} if accept else {})
    assert reply.status == 200
    return reply.body.decode()


def counted(proxy, name: str, count: float, **labels):
    eventually(lambda: proxy.metrics().value(name, **labels) == count, f"{name}{labels} is {count}")


def series(text: str) -> int:
    return sum(1 for line in text.splitlines() if line and not line.startswith("#"))


# Names and labels.


def test_requests_have_the_labels_of_opentelemetry(pillion, echo):
    proxy = pillion(http_config(echo.address))
    fetch(proxy.address(), "GET", "/?status=200")
    fetch(proxy.address(), "POST", "/?status=503")
    fetch(proxy.address(), "BREW", "/?status=404")
    own = {"url_scheme": "http", "network_protocol_version": "1.1"}
    counted(proxy, f"{DURATION}_count", 3)
    metrics = proxy.metrics()
    labels = [have for name, have, _ in metrics.samples if name == f"{DURATION}_count"]
    route = labels[0]["route"]
    assert sorted(labels, key=lambda have: have["http_response_status_code"]) == [
        {"route": route, "http_request_method": "GET", "http_response_status_code": "200", **own},
        {"route": route, "http_request_method": "_OTHER", "http_response_status_code": "404", **own},
        {"route": route, "http_request_method": "POST", "http_response_status_code": "503", "error_type": "503", **own},
    ]
    # Made from the same counts.
    for method, status in (("GET", "2xx"), ("other", "4xx"), ("POST", "5xx")):
        assert metrics.value("pillion_http_requests_total", method=method, status=status) == 1
    assert metrics.value(f"{DURATION}_bucket", le="+Inf") == 3
    bounds = [have["le"] for name, have, _ in metrics.samples if name == f"{DURATION}_bucket"]
    assert len(set(bounds)) == 17 and {"0.0005", "0.075", "10.0", "+Inf"} <= set(bounds)


def test_attempts_count_for_their_upstream_and_endpoint(pillion, echo):
    nobody = f"127.0.0.1:{free_port()}"
    proxy = pillion(http_config(echo.address, nobody, upstream={"balancer": "roundRobin"}))
    for _ in range(4):
        assert fetch(proxy.address()).status == 200
    metrics = proxy.metrics()
    client = "http_client_request_duration_seconds_count"
    assert metrics.value(client, upstream="app", http_response_status_code="200", http_request_method="GET") == 4
    # What is the client's fault there is an error of who asked, and none of who served.
    assert fetch(proxy.address(), "GET", "/?status=404").status == 404
    eventually(lambda: proxy.metrics().value(client, http_response_status_code="404", error_type="404") == 1)
    assert proxy.metrics().value(f"{DURATION}_count", http_response_status_code="404", error_type="404") == 0
    metrics = proxy.metrics()
    failures = metrics.value(client, upstream="app", error_type="connect_failed")
    assert failures > 0
    assert metrics.value("pillion_endpoint_requests_total", upstream="app", endpoint=echo.address, result="2xx") == 4
    assert metrics.value("pillion_endpoint_requests_total", endpoint=nobody, result="failed") == failures
    assert metrics.value("pillion_endpoint_failures_total", endpoint=nobody, reason="connect_failed") == failures
    assert metrics.value("pillion_endpoint_latency_seconds", endpoint=echo.address) > 0
    assert metrics.value("pillion_endpoint_requests_active") == 0
    for endpoint in (echo.address, nobody):
        states = [have["state"] for name, have, value in metrics.samples
                  if name == "pillion_endpoint_state" and have["endpoint"] == endpoint and value]
        assert len(states) == 1, states
    idle = metrics.value("http_client_open_connections", http_connection_state="idle")
    assert idle == metrics.value("pillion_upstream_connections_idle")


def test_endpoints_are_blamed_for_what_they_broke_and_not_for_clients(pillion, echo):
    proxy = pillion(http_config(echo.address))
    own = {"upstream": "app", "endpoint": echo.address}
    with RawClient(proxy.address()) as client:
        client.send(b"POST /bad?wait HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        eventually(lambda: proxy.metrics().value("http_client_active_requests") == 1)
        client.send(b"no size\r\n")
        proxy.access(path="/bad?wait", reason="request_body_invalid")
    with pytest.raises(Closed):
        fetch(proxy.address(), "GET", "/cut?size=100&cut=10")
    counted(proxy, "pillion_endpoint_failures_total", 1, reason="response_incomplete", **own)
    metrics = proxy.metrics()
    assert metrics.value("pillion_endpoint_failures_total") == 1
    assert metrics.value("pillion_endpoint_requests_total", result="2xx", **own) == 1
    assert metrics.value("pillion_endpoint_requests_total") == 1
    assert metrics.value("http_client_request_duration_seconds_count", error_type="request_body_invalid") == 0


def test_callers_count_by_the_name_in_their_certificate(pillion, echo, pki):
    files = pki.workload("server")
    listener = {"tls": {}}
    proxy = pillion(http_config(echo.address, listener=listener, identity=files.config, trust=[pki.trust]))
    client = pki.workload("client")
    with TlsClient(proxy.address(), context(pki.ca, client)) as caller:
        for status in (200, 200, 404):
            caller.get(f"/?status={status}")
    name = proxy.access(path="/?status=404")["peer_identity"]
    counted(proxy, "pillion_peer_requests_total", 2, listener="web", peer_identity=name, status="2xx")
    counted(proxy, "pillion_peer_requests_total", 1, listener="web", peer_identity=name, status="4xx")
    assert proxy.metrics().value(f"{DURATION}_count", url_scheme="https") == 3
    assert proxy.metrics().value(f"{DURATION}_count") == 3


def test_figures_of_the_process(pillion, echo):
    proxy = pillion(http_config(echo.address), env={"PILLION_WORKERS": "2"})
    with RawClient(proxy.address()) as client:
        client.get("/")
        counted(proxy, "pillion_worker_connections", 1)
    counted(proxy, "pillion_worker_connections", 0)
    metrics = proxy.metrics()
    names = metrics.names()
    assert {"pillion_accept_queue_overflows_total", "pillion_pressure_level", "process_open_fds",
            "process_resident_memory_bytes", "process_cpu_seconds_total", "pillion_config_generation"} <= names
    workers = {have["worker"] for name, have, _ in metrics.samples if name == "pillion_worker_busy_seconds_total"}
    assert workers == {"0", "1"}
    assert metrics.value("pillion_worker_busy_seconds_total") > 0
    assert ("pillion_listener_accept_queue", {"listener": "web"}, 0.0) in metrics.samples


# Forms.


def test_promtool_likes_both_families_and_names(pillion, echo):
    proxy = pillion(http_config(echo.address))
    for status in (200, 404, 500):
        fetch(proxy.address(), "GET", f"/?status={status}")
    done = subprocess.run(["promtool", "check", "metrics"], input=scrape(proxy), capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_exemplars_are_for_sampled_requests_and_openmetrics(pillion, echo):
    with Collector() as collector:
        proxy = pillion(http_config(echo.address, tracing={}, otlp=collector.config))
        fetch(proxy.address(), "GET", "/none", {"traceparent": UNSAMPLED})
        counted(proxy, f"{DURATION}_count", 1)
        assert " # {" not in scrape(proxy, OPEN)

        fetch(proxy.address(), "GET", "/traced", {"traceparent": SAMPLED})
        counted(proxy, f"{DURATION}_count", 2)
        text = scrape(proxy, OPEN)
        told = [line for line in text.splitlines() if " # {" in line]
        assert {line.split("{")[0] for line in told} == {f"{DURATION}_bucket", "http_client_request_duration_seconds_bucket"}
        for line in told:
            assert EXEMPLAR.search(line)[1] == TRACE, line
        spans = collector.wait_spans(2)
        assert {EXEMPLAR.search(line)[2] for line in told} == {span.span_id for span in spans}
        assert text.endswith("# EOF\n") and f"# UNIT {DURATION} seconds\n" in text
        plain = fetch(proxy.admin, "GET", "/metrics")
        assert plain.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        assert b" # {" not in plain.body and b"# EOF" not in plain.body


def test_a_failure_shows_its_trace(pillion):
    config = http_config(f"127.0.0.1:{free_port()}", tracing={}, otlp={"endpoint": f"http://127.0.0.1:{free_port()}"})
    proxy = pillion(config)
    fetch(proxy.address(), "GET", "/", {"traceparent": SAMPLED})
    counted(proxy, "pillion_http_requests_failed_total", 1)
    line = next(line for line in scrape(proxy, OPEN).splitlines() if line.startswith("pillion_http_requests_failed_total{"))
    assert EXEMPLAR.search(line)[1] == TRACE and 'reason="connect_failed"' in line

    proxy.must_reload({**config, "metrics": {"exemplars": False}})
    other = SAMPLED.replace(TRACE, TRACE[::-1])
    fetch(proxy.address(), "GET", "/", {"traceparent": other})
    counted(proxy, "pillion_http_requests_failed_total", 2)
    assert TRACE[::-1] not in scrape(proxy, OPEN)


# Limits.


def test_series_have_a_limit(pillion, echo):
    proxy = pillion(http_config(echo.address, metrics={"maxSeries": 1000}))
    for status in range(200, 260):
        if status not in (204, 205):
            fetch(proxy.address(), "GET", f"/?status={status}")
    counted(proxy, f"{DURATION}_count", 58)
    text = scrape(proxy)
    metrics = Metrics.parse(text)
    assert series(text) <= 1000
    assert metrics.value("pillion_metrics_series") == series(text)
    assert metrics.value("pillion_metrics_series_limit") == 1000
    assert metrics.value("pillion_metrics_series_overflowed_total") > 0
    rest = metrics.value(f"{DURATION}_count", http_request_method="_overflow")
    assert rest > 30
    # What is there says nothing else for it.
    assert metrics.value("pillion_http_requests_total") == 58
    assert metrics.value("pillion_http_requests_total", method="_overflow") == rest


def test_many_rules_share_what_room_there_is(pillion, echo):
    rules = [{"matches": [{"path": {"type": "Exact", "value": f"/r{n}"}}], "backendRefs": [{"name": "app"}]}
             for n in range(60)]
    proxy = pillion(http_config(echo.address, metrics={"maxSeries": 1000}, routes=[{"name": "many", "rules": rules}]))
    for n in range(60):
        assert fetch(proxy.address(), "GET", f"/r{n}").status == 200
    counted(proxy, f"{DURATION}_count", 60)
    texts = [scrape(proxy) for _ in range(3)]
    for text in texts:
        metrics = Metrics.parse(text)
        assert series(text) <= 1000
        for name in (f"{DURATION}_count", "pillion_http_requests_total", "http_client_request_duration_seconds_count"):
            assert metrics.value(name) == 60, name
        assert metrics.value("pillion_upstream_requests_total", upstream="app") == 60
        assert metrics.value("pillion_endpoint_requests_total", upstream="app") == 60
        assert metrics.value("pillion_listener_connections_total", listener="web") > 0
        rest = [have for name, have, _ in metrics.samples if name == f"{DURATION}_count" and have["route"] == "_overflow"]
        assert len(rest) == 1, rest
    refused = {Metrics.parse(text).value("pillion_metrics_series_overflowed_total") for text in texts}
    assert len(refused) == 1 and refused.pop() > 0


def test_a_limit_has_to_leave_room(pillion, echo):
    proxy = pillion(http_config(echo.address))
    reply = proxy.reload(http_config(echo.address, metrics={"maxSeries": 999}))
    assert reply.status == 422 and "1000" in reply.body.decode()


def test_series_of_what_was_removed_are_gone(pillion, echo, echo_upstream):
    other = echo_upstream("other")
    proxy = pillion(http_config(echo.address, other.address))
    for _ in range(10):
        fetch(proxy.address())
    text = scrape(proxy)
    assert f'endpoint="{other.address}"' in text
    proxy.must_reload(http_config(echo.address))
    eventually(lambda: f'endpoint="{other.address}"' not in scrape(proxy))
    assert f'endpoint="{echo.address}"' in scrape(proxy)


def test_other_buckets_begin_anew_and_the_same_do_not(pillion, echo):
    proxy = pillion(http_config(echo.address))
    fetch(proxy.address())
    counted(proxy, f"{DURATION}_count", 1)
    proxy.must_reload(http_config(echo.address, metrics={"maxSeries": 9000}))
    assert proxy.metrics().value(f"{DURATION}_count") == 1
    proxy.must_reload(http_config(echo.address, metrics={"buckets": ["1ms", "2s"]}))
    assert proxy.metrics().value(f"{DURATION}_count") == 0
    # Connections are what they were.
    assert proxy.metrics().value("pillion_upstream_connections_total") == 1
    fetch(proxy.address())
    counted(proxy, f"{DURATION}_count", 1)
    for name in (DURATION, "http_client_request_duration_seconds", "pillion_upstream_connect_duration_seconds"):
        bounds = [have["le"] for sample, have, _ in proxy.metrics().samples if sample == f"{name}_bucket"]
        assert bounds == ["0.001", "2.0", "+Inf"], name


@pytest.mark.parametrize("buckets, problem", [
    (["5ms", "5ms"], "not longer than the one before"), ([], "1 to 32"), (["0s"], "not longer"),
])
def test_buckets_that_make_no_sense(pillion, echo, buckets, problem):
    proxy = pillion(http_config(echo.address))
    reply = proxy.reload(http_config(echo.address, metrics={"buckets": buckets}))
    assert reply.status == 422 and problem in reply.body.decode()


def test_off_leaves_the_process(pillion, echo):
    proxy = pillion(http_config(echo.address, metrics={"enabled": False}))
    assert fetch(proxy.address()).status == 200
    metrics = proxy.metrics()
    assert not [name for name in metrics.names() if name.startswith(("http_", "pillion_http", "pillion_upstream"))]
    assert {"process_open_fds", "pillion_workers", "pillion_build_info"} <= metrics.names()
    proxy.must_reload(http_config(echo.address))
    fetch(proxy.address())
    counted(proxy, f"{DURATION}_count", 1)


# OTLP.


def newest(collector, name: str):
    found = [metric for metric in collector.metrics if metric.name == name]
    return found[-1] if found else None


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_collector_gets_them_too(pillion, echo, protocol):
    with Collector(protocol) as collector:
        config = http_config(echo.address, tracing={}, otlp=collector.config, metrics={"otlp": {"interval": "1s"}})
        proxy = pillion(config)
        fetch(proxy.address(), "GET", "/?status=503", {"traceparent": SAMPLED})

        def arrived():
            metric = newest(collector, "http.server.request.duration")
            return metric and metric.histogram.data_points

        (point,) = eventually(arrived)
        metric = newest(collector, "http.server.request.duration")
        assert metric.unit == "s" and metric.histogram.aggregation_temporality == 2
        labels = attributes(point.attributes)
        route = labels.pop("route")
        assert labels == {"http.request.method": "GET", "http.response.status_code": 503, "error.type": "503",
                          "url.scheme": "http", "network.protocol.version": "1.1"}
        assert point.count == 1 and point.sum > 0 and sum(point.bucket_counts) == 1
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1 == 17
        assert 0 < point.start_time_unix_nano < point.time_unix_nano
        (exemplar,) = point.exemplars
        assert exemplar.trace_id.hex() == TRACE and exemplar.as_double == pytest.approx(point.sum)

        total = newest(collector, "pillion.http_requests").sum
        assert total.is_monotonic and total.aggregation_temporality == 2
        assert [(attributes(point.attributes), point.as_int) for point in total.data_points] == [
            ({"route": route, "method": "GET", "status": "5xx"}, 1)]
        active = newest(collector, "http.server.active_requests")
        assert active.unit == "{request}" and not active.sum.is_monotonic
        assert newest(collector, "pillion.config_generation").gauge.data_points[0].as_int == 1
        assert newest(collector, "process.cpu.time").sum.data_points[0].as_double > 0
        assert newest(collector, "process.memory.usage").unit == "By"
        counted(proxy, "pillion_otlp_dropped_total", 0)
        assert proxy.metrics().value("pillion_otlp_exported_total", signal="metrics") > 0


def test_the_environment_asks_for_them(pillion, echo):
    with Collector() as collector:
        env = {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "200",
               "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        pillion(http_config(echo.address), env=env)
        eventually(lambda: len([metric for metric in collector.metrics if metric.name == "pillion.workers"]) > 2)
