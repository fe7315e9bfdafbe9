"""Telemetry on its way to a collector: both transports, TLS, retries, drops, the environment.

What the spans say is looked at in test_tracing.py.
"""

import contextlib
import signal
import subprocess
from pathlib import Path

import grpc
import pytest
from support.client import fetch
from support.collector import Collector, attributes
from support.config import http_config
from support.ports import free_port
from support.rotel import Rotel
from support.tls import Pki
from support.wait import eventually

TRANSPORTS = ("grpc", "http")


@pytest.fixture
def collect():
    """`collect("grpc", ...)` starts a collector."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Collector(*args, **options))


@pytest.fixture(params=TRANSPORTS)
def collector(request, collect):
    return collect(request.param)


def traced(upstream: str, otlp: dict, **top) -> dict:
    return http_config(upstream, otlp=otlp, tracing={"sampling": "always"}, accessLog={"enabled": False}, **top)


def ask(proxy, times: int = 1):
    for _ in range(times):
        assert fetch(proxy.address(), "GET", "/").status == 200


def counted(proxy, name: str, **labels) -> float:
    return proxy.metrics().value(f"pillion_otlp_{name}", signal="traces", **labels)


def wait_counted(proxy, name: str, least: float = 1, **labels):
    eventually(lambda: counted(proxy, name, **labels) >= least, f"{name} {labels} at {least}")


def servers(spans) -> list:
    return [span for span in spans if span.kind == "server"]


def test_spans_arrive(pillion, echo, collector):
    proxy = pillion(traced(echo.address, collector.config))
    ask(proxy, 5)
    collector.wait_for(lambda spans: len(servers(spans)) == 5)
    spans = len(collector.spans)
    eventually(lambda: counted(proxy, "exported_total") == spans)
    assert counted(proxy, "dropped_total") == 0
    assert counted(proxy, "exports_total", result="ok") == len(collector.received)
    assert counted(proxy, "queue_bytes") == 0
    assert {scope.name for scope in collector.scopes()} == {"pillion"}
    request = collector.received[0].message.resource_spans[0]
    assert request.schema_url.startswith("https://opentelemetry.io/schemas/")
    assert request.scope_spans[0].schema_url == request.schema_url


def test_who_sends_is_told(pillion, echo, collector):
    otlp = {**collector.config, "resource": {"service.name": "shop", "team": "carts"}}
    proxy = pillion(traced(echo.address, otlp), env={"POD_NAME": "shop-1", "NODE_NAME": "west-7", "POD_NAMESPACE": ""})
    ask(proxy)
    collector.wait_spans(1)
    resource = collector.resources()[0]
    assert resource["service.name"] == "shop"
    assert resource["team"] == "carts"
    assert resource["telemetry.sdk.name"] == "pillion"
    assert resource["telemetry.sdk.language"] == "rust"
    assert resource["process.pid"] == proxy.pid
    assert resource["host.name"]
    assert len(resource["service.instance.id"]) == 36
    assert resource["k8s.pod.name"] == "shop-1"
    assert resource["k8s.node.name"] == "west-7"
    assert "k8s.namespace.name" not in resource


def test_one_connection_carries_many_exports(pillion, echo, collector):
    proxy = pillion(traced(echo.address, collector.config))
    for exports in range(1, 4):
        ask(proxy)
        eventually(lambda: len(collector.received) >= exports)
    wait_counted(proxy, "exports_total", 3, result="ok")
    # The listener's end of the test's own connections is another one.
    connected = subprocess.run(["ss", "-Htn", "state", "established", f"dport = :{collector.port}"],
                               capture_output=True, text=True, check=True).stdout
    assert len(connected.splitlines()) == 1, connected


def test_headers_and_what_is_not_shown_of_them(pillion, echo, collector):
    otlp = {**collector.config, "headers": {"authorization": "Bearer ${TOKEN}", "X-Tenant": "a"}}
    proxy = pillion(traced(echo.address, otlp), env={"TOKEN": "very-secret"})
    ask(proxy)
    collector.wait_spans(1)
    headers = collector.received[0].headers
    assert headers["authorization"] == "Bearer very-secret"
    assert headers["x-tenant"] == "a"
    assert headers["user-agent"].startswith("pillion/")
    shown = proxy.admin_get("/config").body.decode()
    assert "authorization" in shown
    assert "very-secret" not in shown


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_gzip(pillion, echo, collect, transport):
    collector = collect(transport)
    proxy = pillion(traced(echo.address, {**collector.config, "compression": "gzip"}))
    ask(proxy, 3)
    collector.wait_for(lambda spans: len(servers(spans)) == 3)
    if transport == "http":
        assert collector.received[0].headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tls(pillion, echo, collect, transport, tmp_path):
    pki = Pki(tmp_path / "pki")
    collector = collect(transport, files=pki.server("collector", "localhost"))
    tls = {"authorities": [str(pki.ca)]}
    proxy = pillion(traced(echo.address, {**collector.config, "tls": tls}))
    ask(proxy)
    collector.wait_spans(1)
    assert proxy.logs.text and not [line for line in proxy.logs() if line["level"] == "WARN"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tls_with_a_client_certificate(pillion, echo, collect, transport, tmp_path):
    pki = Pki(tmp_path / "pki")
    files = pki.server("collector", "collector.test")
    collector = collect(transport, files=files, client_authorities=pki.authority.pem())
    own = pki.workload("web")
    tls = {"authorities": [str(pki.ca)], "serverName": "collector.test"}
    proxy = pillion(traced(echo.address, {**collector.config, "tls": tls, "timeout": "500ms"}))
    ask(proxy)
    wait_counted(proxy, "dropped_total", cause="failed")
    assert not collector.spans
    proxy.must_reload(traced(echo.address, {**collector.config, "tls": {**tls, **own.config}}))
    ask(proxy)
    collector.wait_spans(1)


def test_a_collector_that_is_not_who_it_should_be_gets_nothing(pillion, echo, collect, tmp_path):
    pki, other = Pki(tmp_path / "pki"), Pki(tmp_path / "other", "other")
    collector = collect("grpc", files=pki.server("collector", "localhost"))
    otlp = {**collector.config, "timeout": "500ms", "tls": {"authorities": [str(other.ca)]}}
    proxy = pillion(traced(echo.address, otlp))
    ask(proxy)
    wait_counted(proxy, "dropped_total", cause="failed")
    told = proxy.logs.wait_for(lambda line: "cannot send telemetry" in line.get("message", ""))
    assert "authority" in told["error"] or "certificate" in told["error"], told
    assert not collector.received


@pytest.mark.parametrize(("transport", "status"), [("grpc", grpc.StatusCode.UNAVAILABLE), ("http", 503), ("http", 429)])
def test_what_may_go_better_is_tried_again(pillion, echo, collect, transport, status):
    collector = collect(transport)
    collector.refuse(status, times=2)
    proxy = pillion(traced(echo.address, collector.config))
    ask(proxy)
    collector.wait_spans(1)
    assert len(collector.refused) == 2
    eventually(lambda: counted(proxy, "exports_total", result="retried") == 2)
    assert counted(proxy, "dropped_total") == 0
    proxy.logs.wait_for(lambda line: "takes telemetry again" in line.get("message", ""))


@pytest.mark.parametrize(
    ("transport", "status"),
    [("grpc", grpc.StatusCode.INVALID_ARGUMENT), ("grpc", grpc.StatusCode.RESOURCE_EXHAUSTED), ("http", 400)],
)
def test_what_would_fail_again_is_dropped(pillion, echo, collect, transport, status):
    collector = collect(transport)
    collector.refuse(status)
    proxy = pillion(traced(echo.address, collector.config))
    ask(proxy)
    wait_counted(proxy, "dropped_total", cause="rejected")
    assert counted(proxy, "exports_total", result="retried") == 0
    ask(proxy)
    collector.wait_spans(1)
    assert len(collector.refused) == 1


@pytest.mark.parametrize(("transport", "status"), [("grpc", grpc.StatusCode.RESOURCE_EXHAUSTED), ("http", 503)])
def test_a_collector_says_when_to_come_again(pillion, echo, collect, transport, status):
    collector = collect(transport)
    collector.refuse(status, retry_after=1)
    proxy = pillion(traced(echo.address, collector.config))
    ask(proxy)
    collector.wait_spans(1)
    # Without it the wait would be a quarter of a second at most.
    assert collector.received[0].at - collector.refused[0].at >= 1
    # Longer than there is time for: dropped at once.
    collector.refuse(status, retry_after=3600)
    ask(proxy)
    wait_counted(proxy, "dropped_total", cause="failed")


@pytest.mark.parametrize(("transport", "status", "asked"), [
    ("grpc", grpc.StatusCode.RESOURCE_EXHAUSTED, 2**63 - 1), ("http", 503, 2**64 - 1),
])
def test_a_wait_beyond_all_clocks_ends_no_exporter(pillion, echo, collect, transport, status, asked):
    collector = collect(transport)
    collector.refuse(status, retry_after=asked)
    proxy = pillion(traced(echo.address, collector.config))
    ask(proxy)
    wait_counted(proxy, "dropped_total", cause="failed")
    other = collect(transport)
    proxy.must_reload(traced(echo.address, other.config))
    ask(proxy)
    other.wait_spans(1)


@pytest.mark.parametrize(("transport", "status"), [("grpc", grpc.StatusCode.UNAVAILABLE), ("http", 429)])
def test_a_collector_that_asked_for_it_is_left_alone(pillion, echo, collect, transport, status):
    collector, other = collect(transport), collect(transport)
    collector.refuse(status, retry_after=1800)
    batch = {"delay": "10ms", "maxBytes": "16KiB", "queue": "32KiB"}
    proxy = pillion(traced(echo.address, {**collector.config, "batch": batch}))
    ask(proxy)
    # The rest is longer than this batch lives.
    wait_counted(proxy, "dropped_total", cause="failed")
    # Those behind it wait where there is room.
    eventually(lambda: ask(proxy, 50) or counted(proxy, "dropped_total", cause="queue_full"))
    assert (len(collector.refused), len(collector.received)) == (1, 0)
    # Another collector has asked for nothing.
    proxy.must_reload(traced(echo.address, {**other.config, "batch": batch}))
    other.wait_spans(10)
    assert (len(collector.refused), len(collector.received)) == (1, 0)


def test_a_drain_does_not_wait_for_a_collector_to_have_rested(pillion, echo, collector):
    collector.refuse(grpc.StatusCode.UNAVAILABLE if collector.protocol == "grpc" else 503, retry_after=1800)
    proxy = pillion(traced(echo.address, collector.config))
    ask(proxy)
    wait_counted(proxy, "dropped_total", cause="failed")
    ask(proxy)
    eventually(lambda: counted(proxy, "queue_bytes") > 0)
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit() == 0
    # It is asked once more: this process does not come again.
    assert len(servers(collector.spans)) == 1


@pytest.mark.parametrize(("transport", "spoken"), [("grpc", "http/protobuf"), ("http", "grpc")])
def test_the_wrong_protocol_is_suspected(pillion, echo, collect, transport, spoken):
    collector = collect(transport)
    proxy = pillion(traced(echo.address, {**collector.config, "protocol": spoken}))
    ask(proxy)
    told = proxy.logs.wait_for(lambda line: "cannot send telemetry" in line.get("message", ""))
    looks = "grpc" if transport == "grpc" else "http/protobuf"
    assert told["hint"] == f"is `otlp.protocol` right? this looks like {looks}", told


def test_the_port_of_another_protocol_is_told(pillion, echo):
    config = traced(echo.address, {"endpoint": "http://127.0.0.1:4318"})
    proxy = pillion(config)
    proxy.must_reload(config)

    def told() -> list[str]:
        return [line["message"] for line in proxy.logs() if "that is the port of http/protobuf" in line["message"]]

    # At the start, and by the reload.
    eventually(lambda: len(told()) == 2)


def test_an_answer_that_never_comes_is_asked_for_again(pillion, echo, collector):
    collector.delay = 6
    proxy = pillion(traced(echo.address, {**collector.config, "timeout": "8s"}))
    ask(proxy)
    # Whoever is quicker: our own patience, or the deadline that the collector was told.
    late = ("did not answer in time", "DeadlineExceeded")
    proxy.logs.wait_for(lambda line: any(each in line.get("error", "") for each in late))
    collector.delay = 0
    collector.wait_spans(1)
    assert counted(proxy, "dropped_total") == 0


@pytest.mark.parametrize("status", [202, 204])
def test_every_success_counts_as_taken(pillion, echo, collect, status):
    collector = collect("http")
    collector.success = status
    proxy = pillion(traced(echo.address, collector.config))
    ask(proxy)
    wait_counted(proxy, "exported_total")
    assert counted(proxy, "dropped_total") == 0


def test_partial_success_is_counted_and_told(pillion, echo, collector):
    collector.rejects = (1, "one too many\nof them")
    proxy = pillion(traced(echo.address, collector.config))
    ask(proxy)
    collector.wait_spans(1)
    wait_counted(proxy, "dropped_total", cause="rejected")
    told = proxy.logs.wait_for(lambda line: "did not take everything" in line.get("message", ""))
    assert (told["rejected"], told["answer"]) == (1, "one too many of them")
    exports = len(collector.received)
    ask(proxy)
    eventually(lambda: len(collector.received) > exports)
    wait_counted(proxy, "dropped_total", 2, cause="rejected")
    assert len([line for line in proxy.logs() if "did not take everything" in line["message"]]) == 1


def test_an_absent_collector_costs_requests_nothing(pillion, echo, collect):
    port = free_port()
    otlp = {
        "endpoint": f"http://127.0.0.1:{port}", "timeout": "300ms",
        "batch": {"delay": "10ms", "maxBytes": "16KiB", "queue": "16KiB"},
    }
    proxy = pillion(traced(echo.address, otlp))
    ask(proxy, 200)
    wait_counted(proxy, "dropped_total", cause="failed")
    eventually(lambda: counted(proxy, "queue_bytes") == 0)
    assert counted(proxy, "exported_total") == 0
    warned = [line for line in proxy.logs() if "cannot send telemetry" in line["message"]]
    assert len(warned) == 1, warned
    # When it comes, what is new arrives, and that is told once as well.
    collector = collect("grpc", port=port)
    ask(proxy)
    eventually(lambda: ask(proxy) or collector.spans)
    proxy.logs.wait_for(lambda line: "takes telemetry again" in line["message"])


def test_a_slow_collector_costs_requests_nothing(pillion, echo, collector):
    collector.delay = 0.5
    batch = {"delay": "10ms", "maxBytes": "16KiB", "queue": "32KiB"}
    proxy = pillion(traced(echo.address, {**collector.config, "batch": batch}))
    # One export takes half a second: the queue fills within it.
    eventually(lambda: ask(proxy, 50) or counted(proxy, "dropped_total", cause="queue_full"))
    assert counted(proxy, "queue_bytes") <= 32 << 10
    collector.delay = 0
    eventually(lambda: counted(proxy, "queue_bytes") == 0)


def test_a_small_queue_is_handed_over_in_parts(pillion, echo, collector):
    batch = {"delay": "10m", "maxBytes": "16KiB", "queue": "16KiB"}
    proxy = pillion(traced(echo.address, {**collector.config, "batch": batch}))
    eventually(lambda: ask(proxy, 5) or len(collector.received) >= 3)
    assert max(received.message.ByteSize() for received in collector.received) < 16 << 10


def test_what_waits_is_sent_at_the_drain(pillion, echo, collector):
    proxy = pillion(traced(echo.address, {**collector.config, "batch": {"delay": "10m"}}))
    ask(proxy, 10)
    assert not collector.spans
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit() == 0
    assert len(servers(collector.spans)) == 10


def test_an_absent_collector_does_not_keep_the_process(pillion, echo):
    otlp = {"endpoint": f"http://127.0.0.1:{free_port()}", "batch": {"delay": "10m"}}
    proxy = pillion(traced(echo.address, otlp))
    ask(proxy, 10)
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit() == 0
    # One try, and no waiting for time to pass.
    assert len([line for line in proxy.logs() if "cannot send telemetry" in line["message"]]) == 1
    assert not [line for line in proxy.logs() if "leaving with telemetry" in line["message"]]


def test_a_reload_leads_elsewhere_and_switches_off_and_on(pillion, echo, collect):
    first, second = collect("grpc"), collect("http")
    proxy = pillion(traced(echo.address, first.config))
    ask(proxy)
    first.wait_spans(1)
    proxy.must_reload(traced(echo.address, second.config))
    ask(proxy)
    second.wait_spans(1)
    seen = len(first.spans)
    off = http_config(echo.address, otlp=second.config)
    proxy.must_reload(off)
    spans = len(second.spans)
    ask(proxy, 3)
    proxy.must_reload(traced(echo.address, first.config))
    ask(proxy)
    first.wait_spans(seen + 1)
    assert len(second.spans) == spans


def test_a_reload_leads_away_from_a_collector_that_is_absent(pillion, echo, collect):
    otlp = {"endpoint": f"http://127.0.0.1:{free_port()}", "timeout": "1h", "batch": {"delay": "10ms"}}
    proxy = pillion(traced(echo.address, otlp))
    ask(proxy)
    wait_counted(proxy, "exports_total", result="retried")
    collector = collect("http")
    proxy.must_reload(traced(echo.address, collector.config))
    # What waited for the other one is not lost.
    collector.wait_spans(1)
    assert counted(proxy, "dropped_total") == 0


def test_another_dead_collector_is_told_of_as_well(pillion, echo):
    def away() -> dict:
        otlp = {"endpoint": f"http://127.0.0.1:{free_port()}", "timeout": "100ms", "batch": {"delay": "10ms"}}
        return traced(echo.address, otlp)

    def told(config: dict):
        ask(proxy)
        port = config["otlp"]["endpoint"].rsplit(":", 1)[1]
        proxy.logs.wait_for(
            lambda line: "cannot send telemetry" in line["message"] and f":{port}" in line["endpoint"]
        )

    first, second = away(), away()
    proxy = pillion(first)
    told(first)
    proxy.must_reload(second)
    told(second)


def test_what_the_environment_switches_off_is_told(pillion, echo, collector):
    config = {**traced(echo.address, collector.config, metrics={"otlp": {}}), "accessLog": {"output": "otlp"}}
    proxy = pillion(config, env={"OTEL_SDK_DISABLED": "true"})
    ask(proxy)
    proxy.must_reload(config)

    def lines() -> list[str]:
        told = [line for line in proxy.logs() if line.get("by") == "OTEL_SDK_DISABLED"]
        return sorted((line["level"].lower() + " " + line["message"]).split(":")[0] for line in told)

    each = [
        "info the environment switches `metrics.otlp` off",
        "info the environment switches `tracing` off",
        "warn the environment switches the export of logs off",
    ]
    # At the start, and by the reload.
    eventually(lambda: lines() == sorted(2 * each), f"what is off in {lines()}")


def threads(proxy) -> list[str]:
    return [Path(task, "comm").read_text().strip() for task in Path(f"/proc/{proxy.pid}/task").iterdir()]


def test_nothing_runs_where_nothing_is_exported(pillion, echo, collector):
    proxy = pillion(http_config(echo.address))
    ask(proxy)
    assert "pillion-export" not in threads(proxy)
    assert counted(proxy, "exports_total") == 0
    # Until a reload says otherwise.
    proxy.must_reload(traced(echo.address, collector.config))
    ask(proxy)
    collector.wait_spans(1)
    assert "pillion-export" in threads(proxy)


@pytest.mark.parametrize("propagators", [["tracecontext"], ["b3multi"], ["baggage"]])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_exports_that_come_by_here_are_not_traced(pillion, echo, collect, transport, propagators):
    """An ambassador in front of the collector, which traces everything."""
    collector, port = collect(transport), free_port()
    config = traced(echo.address, {**collector.config, "endpoint": f"http://127.0.0.1:{port}"})
    config["listeners"].append({"name": "out", "address": f"127.0.0.1:{port}", "upstream": "collector"})
    protocol = "http2" if transport == "grpc" else "http1"
    config["upstreams"].append(
        {"name": "collector", "endpoints": [f"127.0.0.1:{collector.port}"], "protocol": protocol})
    config["tracing"]["propagators"] = propagators
    proxy = pillion({**config, "accessLog": {"enabled": True}})
    for number in range(1, 6):
        ask(proxy)
        collector.wait_spans(2 * number)
    passed = eventually(lambda: [line for line in proxy.access_log() if line["listener"] == "out"], "exports that came by")
    assert not any(line["span_id"] for line in passed)
    assert {span.attributes.get("url.path") for span in servers(collector.spans)} == {"/"}
    assert len(collector.spans) == 10


class TestEnvironment:
    """It goes before the file."""

    def start(self, pillion, echo, config: dict | None = None, **env):
        return pillion(http_config(echo.address, **(config or {})), env={"OTEL_BSP_SCHEDULE_DELAY": "20", **env})

    def test_a_collector_is_enough(self, pillion, echo, collect):
        collector = collect("grpc")
        proxy = self.start(
            pillion, echo,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_SERVICE_NAME="shop",
            OTEL_RESOURCE_ATTRIBUTES="team=carts%2C%20all,service.name=not-this",
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20abc",
        )
        ask(proxy)
        collector.wait_spans(1)
        resource = collector.resources()[0]
        assert (resource["service.name"], resource["team"]) == ("shop", "carts, all")
        assert collector.received[0].headers["authorization"] == "Bearer abc"
        assert not collector.metrics and not collector.logs

    def test_http_has_a_path_for_each_signal(self, pillion, echo, collect):
        collector = collect("http")
        proxy = self.start(
            pillion, echo, OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.endpoint}/base",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf", OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        )
        ask(proxy)
        collector.wait_spans(1)
        assert collector.received[0].headers[":path"] == "/base/v1/traces"
        assert collector.received[0].headers["content-encoding"] == "gzip"

    def test_a_url_for_one_signal_is_used_as_it_is(self, pillion, echo, collect):
        collector, other = collect("http"), collect("http")
        proxy = self.start(
            pillion, echo, {"otlp": other.config},
            OTEL_EXPORTER_OTLP_ENDPOINT=other.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/json",
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.endpoint}/here",
        )
        ask(proxy)
        collector.wait_spans(1)
        assert collector.received[0].headers[":path"] == "/here"
        assert not other.received
        assert [line for line in proxy.logs() if "http/json is not spoken" in line["message"]]

    def test_tls(self, pillion, echo, collect, tmp_path):
        pki = Pki(tmp_path / "pki")
        files = pki.server("collector", "localhost")
        collector = collect("grpc", files=files, client_authorities=pki.authority.pem())
        own = pki.workload("web")
        proxy = self.start(
            pillion, echo, OTEL_EXPORTER_OTLP_ENDPOINT=f"localhost:{collector.port}",
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(pki.ca), OTEL_EXPORTER_OTLP_CLIENT_KEY=str(own.key),
            OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=str(own.certificate),
        )
        ask(proxy)
        collector.wait_spans(1)

    def test_insecure(self, pillion, echo, collect):
        collector = collect("grpc")
        proxy = self.start(
            pillion, echo, OTEL_EXPORTER_OTLP_ENDPOINT=f"127.0.0.1:{collector.port}",
            OTEL_EXPORTER_OTLP_INSECURE="true",
        )
        ask(proxy)
        collector.wait_spans(1)

    def test_values_are_cut(self, pillion, echo, collect):
        collector = collect("grpc")
        proxy = self.start(
            pillion, echo, {"accessLog": {"output": "otlp", "requestHeaders": ["x-long"]}},
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_BLRP_SCHEDULE_DELAY="20",
            OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="9", OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT="5",
        )
        fetch(proxy.address(), "GET", "/abcdefghijkl", {"X-Long": "abcdefghijkl"})
        eventually(lambda: collector.logs, "log records")
        logged = attributes(collector.logs[0].attributes)
        assert (logged["url.path"], logged["http.request.header.x-long"]) == ("/abcdefgh", ["abcdefghi"])
        (server,) = servers(collector.wait_spans(2))
        assert server.attributes["url.path"] == "/abcd"
        texts = [value for span in collector.spans for value in span.attributes.values() if isinstance(value, str)]
        assert max(map(len, texts)) == 5

    def test_metrics_and_log_records_are_asked_for_by_name(self, pillion, echo, collect):
        collector = collect("grpc")
        proxy = self.start(
            pillion, echo, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_METRICS_EXPORTER="otlp",
            OTEL_LOGS_EXPORTER="otlp", OTEL_TRACES_EXPORTER="none", OTEL_METRIC_EXPORT_INTERVAL="100",
            OTEL_BLRP_SCHEDULE_DELAY="20", OTEL_SERVICE_NAME="shop",
        )
        ask(proxy)
        eventually(lambda: collector.metrics and collector.logs, "metrics and log records")
        assert not collector.spans
        for signal_name in ("metrics", "logs"):
            assert collector.resources(signal_name)[0]["service.name"] == "shop"
            eventually(lambda: proxy.metrics().value("pillion_otlp_exported_total", signal=signal_name))

    @pytest.mark.parametrize("wanted", ["metrics", "logs"])
    def test_a_collector_for_a_signal_is_enough(self, pillion, echo, collect, wanted):
        collector = collect("grpc")
        variables = {
            f"OTEL_EXPORTER_OTLP_{wanted.upper()}_ENDPOINT": collector.endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_BLRP_SCHEDULE_DELAY": "20",
        }
        proxy = self.start(pillion, echo, **variables)
        ask(proxy)
        eventually(lambda: getattr(collector, wanted), wanted)
        assert {received.signal for received in collector.received} == {wanted}

    def test_what_is_not_read_is_told(self, pillion, echo):
        proxy = self.start(
            pillion, echo, OTEL_TRACE_SAMPLER="always_on", OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
            OTEL_EXPORTER_OTLP_HEADERS="a=b", OTEL_SPAN_LINK_COUNT_LIMIT="",
        )
        told = [line["message"] for line in proxy.logs() if line["level"] == "WARN"]
        assert told == [
            "OTEL_TRACE_SAMPLER is not read",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE is ignored: cumulative is what is sent",
        ]

    def test_nothing_to_keep_is_told(self, pillion, echo, collect):
        config = {"otlp": collect("grpc").config, "tracing": {"keep": {"errors": True}}}
        proxy = self.start(pillion, echo, config, OTEL_TRACES_SAMPLER="ALWAYS_OFF")
        told = [line["message"] for line in proxy.logs() if "`tracing.keep` keeps none" in line["message"]]
        assert len(told) == 1

    def test_a_share_of_nothing_keeps_what_goes_wrong(self, pillion, echo, collect):
        collector = collect("grpc")
        config = {"otlp": collector.config, "tracing": {"keep": {"slowerThan": "1us"}}}
        proxy = self.start(pillion, echo, config, OTEL_TRACES_SAMPLER="PARENTBASED_ALWAYS_OFF")
        ask(proxy)
        collector.wait_for(servers)

    @pytest.mark.parametrize("variable", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
    def test_off_is_off(self, pillion, echo, collect, variable):
        collector = collect("grpc")
        config = {"otlp": collector.config, "tracing": {"sampling": "always"}}
        proxy = self.start(pillion, echo, config, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **variable)
        ask(proxy, 5)
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_exit() == 0
        assert not collector.received

    def test_batches(self, pillion, echo, collect):
        collector = collect("grpc")
        proxy = self.start(
            pillion, echo, {"otlp": {**collector.config, "batch": {"delay": "10m"}}, "tracing": {"sampling": "always"}},
            OTEL_BSP_SCHEDULE_DELAY="200", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4",
        )
        ask(proxy, 20)
        collector.wait_for(lambda spans: len(servers(spans)) == 20)
        sizes = [len(received.message.resource_spans[0].scope_spans[0].spans) for received in collector.received]
        assert max(sizes) <= 4, sizes

    def test_the_queue_in_spans(self, pillion, echo, collect):
        collector = collect("grpc")
        collector.delay = 0.5
        proxy = self.start(
            pillion, echo, {"otlp": collector.config, "tracing": {"sampling": "always"}},
            OTEL_BSP_MAX_QUEUE_SIZE="8", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4",
        )
        ask(proxy, 100)
        wait_counted(proxy, "dropped_total", cause="queue_full")

    def test_a_queue_of_few_spans(self, pillion, echo, collect):
        collector = collect("grpc")
        proxy = self.start(
            pillion, echo, {"otlp": collector.config, "tracing": {"sampling": "always"}},
            OTEL_BSP_SCHEDULE_DELAY="600000", OTEL_BSP_MAX_QUEUE_SIZE="10", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="20",
        )
        eventually(lambda: ask(proxy, 5) or len(collector.spans) >= 20)
        told = [line["message"] for line in proxy.logs() if "BATCH_SIZE" in line["message"]]
        assert told and told[0].endswith("sent at once, 5")

    def test_the_sampler(self, pillion, echo, collect):
        collector = collect("grpc")
        proxy = self.start(
            pillion, echo, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0",
        )
        ask(proxy, 5)
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        fetch(proxy.address(), "GET", "/", {"traceparent": parent})
        spans = collector.wait_for(servers)
        assert {span.trace_id for span in spans} == {"0af7651916cd43dd8448eb211c80319c"}

    def test_the_propagators(self, pillion, echo, collect):
        collector = collect("grpc")
        proxy = self.start(
            pillion, echo, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_PROPAGATORS="b3",
        )
        fetch(proxy.address(), "GET", "/", {"b3": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"})
        spans = collector.wait_for(servers)
        assert servers(spans)[0].trace_id == "0af7651916cd43dd8448eb211c80319c"

    def test_what_can_not_be_is_told_and_ignored(self, pillion, echo, collect):
        collector = collect("grpc")
        proxy = self.start(
            pillion, echo, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="carrier-pigeon",
            OTEL_EXPORTER_OTLP_TIMEOUT="soon", OTEL_TRACES_EXPORTER="zipkin", OTEL_TRACES_SAMPLER="sometimes",
        )
        ask(proxy)
        collector.wait_spans(1)
        told = " ".join(line["message"] for line in proxy.logs() if line["level"] == "WARN")
        for variable in ("PROTOCOL", "TIMEOUT", "EXPORTER", "SAMPLER"):
            assert f"{variable} is ignored" in told, told


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_collector_of_others_takes_spans(pillion, echo, tmp_path, transport):
    with Rotel(tmp_path) as rotel:
        port = getattr(rotel, transport)
        otlp = {
            "endpoint": f"http://127.0.0.1:{port}", "protocol": "grpc" if transport == "grpc" else "http/protobuf",
            "batch": {"delay": "20ms"}, "resource": {"service.name": "shop-of-mine"},
        }
        proxy = pillion(traced(echo.address, otlp))
        ask(proxy)
        wait_counted(proxy, "exported_total", 2)
        eventually(lambda: "shop-of-mine" in rotel.text(), "the span in Rotel's log")
        assert counted(proxy, "dropped_total") == 0
