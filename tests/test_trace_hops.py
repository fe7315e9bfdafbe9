"""One trace over several services and hops: client, two Pillions, an application, a Pillion, another application; and
with an Envoy in the middle."""

import json
import re
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.client import fetch
from support.collector import Collector
from support.config import http_config
from support.fleet import Fleet, answers
from support.peers import envoy_with
from support.rotel import Rotel
from support.tls import spiffe
from support.upstream import header
from support.wait import eventually

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
#: The application's own span, as its SDK would make it.
OURS = "00f067aa0ba902b7"
CALM = {"breaker": "off", "ejection": "off", "balancer": "roundRobin"}


class Served:
    """An HTTP server in a thread, of whatever handler. Use as a context manager."""

    def __init__(self, handler):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_port
        self.address = f"127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


class Application(Served):
    """A service that asks another one, on behalf of whoever asks it: it carries on the trace with a span of its own."""

    def __init__(self, behind: str):
        class Handler(Quiet):
            def do_GET(self):
                version, trace, _, flags = self.headers["traceparent"].split("-")
                application.seen.append(self.headers["traceparent"])
                answer = fetch(behind, target=self.path, headers=[("traceparent", "-".join([version, trace, OURS, flags]))])
                self.send_response(answer.status)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

        application = self
        self.seen: list[str] = []
        super().__init__(Handler)


@dataclass
class Story:
    """What is sent through the five hops, and what came of it."""

    edge: object
    first: Application
    last: Fleet
    proxies: dict = field(default_factory=dict)


@pytest.fixture
def play(pillion, pki):
    """`play(otlp)`: client -> edge -> (mTLS) -> front -> first application -> ambassador -> last application, which fails
    at one of its endpoints."""
    with ExitStack() as stack:

        def start(otlp) -> Story:
            def telling(service):
                return {"tracing": {}, "otlp": {**otlp, "resource": {"service.name": service}}}

            last = stack.enter_context(Fleet(answers(503), answers(body=b"well"), count=2))
            ambassador = pillion({**http_config(*last.addresses, upstream=CALM), **telling("ambassador")})
            first = stack.enter_context(Application(ambassador.address()))
            front = pillion({
                **http_config(first.address, listener={"tls": {}}), "identity": pki.workload("front").config,
                "trust": [pki.trust], **telling("front"),
            })
            edge = pillion({
                **http_config(front.address(), upstream={"tls": {"peers": [spiffe("front")]}}),
                "identity": pki.workload("edge").config, "trust": [pki.trust], **telling("edge"),
            })
            response = fetch(edge.address(), target="/story", headers=[("traceparent", f"00-{TRACE}-{SPAN}-01")])
            assert (response.status, response.body) == (200, b"well")
            return Story(edge, first, last, {"edge": edge, "front": front, "ambassador": ambassador})

        yield start


def test_five_hops_make_one_trace(play):
    with Collector() as collector:
        story = play(collector.config)
        collector.wait_for(lambda spans: len(spans) >= 7)
        spans = collector.spans
    assert len(spans) == 7 and {span.trace_id for span in spans} == {TRACE}

    def one(service, kind, parent):
        found = [span for span in spans if (span.resource["service.name"], span.kind, span.parent_id) == (service, kind, parent)]
        assert len(found) == 1, [(span.resource["service.name"], span.kind, span.parent_id) for span in spans]
        return found[0]

    chain = []
    for service, kind in [("edge", "server"), ("edge", "client"), ("front", "server"), ("front", "client")]:
        chain.append(one(service, kind, chain[-1].span_id if chain else SPAN))
    assert story.first.seen == [f"00-{TRACE}-{chain[-1].span_id}-01"], "what the application has for a parent"
    third = one("ambassador", "server", OURS)
    attempts = sorted((span for span in spans if span.parent_id == third.span_id),
                      key=lambda span: span.attributes.get("http.request.resend_count", 0))
    assert [span.attributes.get("http.request.resend_count") for span in attempts] == [None, 1]
    assert [span.attributes["http.response.status_code"] for span in attempts] == [503, 200]
    assert [span.status for span in attempts] == ["error", "unset"]
    assert [attempt.header("traceparent") for attempt in story.last.attempts] == [f"00-{TRACE}-{span.span_id}-01" for span in attempts]
    for span in [*chain, third]:
        assert span.status == "unset" and span.attributes["http.response.status_code"] == 200
    assert [span.attributes["network.protocol.version"] for span in chain] == ["1.1", "2", "2", "1.1"]
    assert chain[1].attributes["pillion.peer.identity"] == spiffe("front")
    assert chain[2].attributes["pillion.peer.identity"] == spiffe("edge")
    starts = [span.message.start_time_unix_nano for span in [*chain, third, *attempts]]
    assert starts == sorted(starts), "each hop begins after the one before it"
    for name, proxy in story.proxies.items():
        line = proxy.access(path="/story")
        assert line["trace_id"] == TRACE, name


def test_a_collector_of_others_has_the_whole_of_it(play, tmp_path):
    with Rotel(tmp_path) as rotel:
        play({"endpoint": f"http://127.0.0.1:{rotel.grpc}", "batch": {"delay": "20ms"}})
        pattern = re.compile(r"Trace ID *: (\w+)\n *Parent ID *: (\w*)\n *ID *: (\w+)\n *Name *: (.*)\n *Kind *: SPAN_KIND_(\w+)")
        eventually(lambda: len(pattern.findall(rotel.text())) == 7, "seven spans in Rotel's log")
        spans = pattern.findall(rotel.text())
    assert {trace for trace, *_ in spans} == {TRACE}
    ids = {span for _, _, span, *_ in spans}
    elsewhere = [parent for _, parent, *_ in spans if parent not in ids]
    assert sorted(elsewhere) == sorted([SPAN, OURS]), "only what others began is not there"
    assert sorted(kind for *_, kind in spans) == ["CLIENT"] * 4 + ["SERVER"] * 3
    assert {name for *_, name, _ in spans} == {"GET /*", "GET"}


# With Envoy in the middle.


class Zipkin(Served):
    """Takes what Envoy's Zipkin tracer sends."""

    def __init__(self):
        class Handler(Quiet):
            def chunks(self):
                whole = b""
                while size := int(self.rfile.readline(), 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole

            def do_POST(self):
                length = self.headers["content-length"]
                zipkin.spans += json.loads(self.rfile.read(int(length)) if length else self.chunks())
                self.send_response(202)
                self.send_header("content-length", "0")
                self.end_headers()

        zipkin = self
        self.spans: list[dict] = []
        super().__init__(Handler)


def cluster(port: int, http2: bool) -> str:
    options = "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { " \
        '"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, ' \
        "explicit_http_config: { http2_protocol_options: {} } } }"
    return f"""{{ name: tracing, connect_timeout: 1s, load_assignment: {{ cluster_name: tracing, endpoints: [ {{ lb_endpoints: [
      {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }}{", " + options if http2 else ""} }}"""


def around_envoy(pillion, directory, collector, echo, tracer, propagators, more):
    """client -> near -> Envoy -> far -> application; the spans of both, and what the application got."""
    tracing = {"tracing": {"propagators": propagators}, "otlp": collector.config}
    far = pillion({**http_config(f"127.0.0.1:{echo.port}"), **tracing})
    provider = f"tracing: {{ provider: {tracer} }}"
    options = "explicit_http_config: { http_protocol_options: {} }"
    with envoy_with(directory, far.address(), options, manager=provider, cluster=more) as envoy:
        near = pillion({**http_config(envoy.address), **tracing})
        account = json.loads(fetch(near.address(), target="/through").body)
        collector.wait_for(lambda spans: len([span for span in spans if "pillion.listener" in span.attributes]) == 2)
        ours = [span for span in collector.spans if span.resource.get("telemetry.sdk.name") == "pillion"]
        root = next(span for span in ours if not span.parent_id)
        sent = next(span for span in ours if span.parent_id == root.span_id)
        received = next(span for span in ours if span.kind == "server" and span is not root)
        assert {span.trace_id for span in ours} == {root.trace_id}
        assert received.parent_id not in ("", sent.span_id), "Envoy's own span lies between"
        yield account, sent, received


def test_an_envoy_in_the_middle_with_trace_context(pillion, tmp_path, echo):
    with Collector() as collector:
        tracer = """{ name: envoy.tracers.opentelemetry, typed_config: {
          "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: envoy,
          grpc_service: { envoy_grpc: { cluster_name: tracing }, timeout: 1s } } }"""
        for account, sent, received in around_envoy(
                pillion, tmp_path, collector, echo, tracer, ["tracecontext"], cluster(collector.port, True)):
            last = header(account, "traceparent").split("-")
            assert last[1] == sent.trace_id and last[3] == "01"
            collector.wait_for(lambda spans: any(span.resource["service.name"] == "envoy" for span in spans))
            [between] = [span for span in collector.spans if span.resource["service.name"] == "envoy"]
            assert (between.trace_id, between.parent_id) == (sent.trace_id, sent.span_id)
            assert received.parent_id == between.span_id


@pytest.mark.parametrize("form", ["b3", "b3multi"])
def test_an_envoy_in_the_middle_with_b3(pillion, tmp_path, echo, form):
    with Collector() as collector, Zipkin() as zipkin:
        tracer = """{ name: envoy.tracers.zipkin, typed_config: {
          "@type": type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: tracing,
          collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON, trace_id_128bit: true,
          shared_span_context: false } }"""
        # Envoy writes X-B3-*, whatever it reads.
        for account, sent, received in around_envoy(
                pillion, tmp_path, collector, echo, tracer, [form, "b3multi"], cluster(zipkin.port, False)):
            assert header(account, "x-b3-traceid") == sent.trace_id and header(account, "x-b3-sampled") == "1"
            eventually(lambda: zipkin.spans, "Envoy's span")
            between = [span for span in zipkin.spans if span["traceId"] == sent.trace_id]
            assert [span["parentId"] for span in between if span["kind"] == "SERVER"] == [sent.span_id]
            assert received.parent_id in {span["id"] for span in between}
