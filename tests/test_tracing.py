"""Spans as a collector gets them: every parent, attribute and status."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from support.client import RawClient, fetch
from support.collector import Collector
from support.config import http_config
from support.fleet import Fleet, answers, closes, hangs, resets
from support.grpc_app import SERVICE, GrpcApp, GrpcClient
from support.ports import free_port
from support.tls import spiffe
from support.upstream import reply
from support.wait import eventually

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
#: So that only the attempts decide.
CALM = {"breaker": "off", "ejection": "off", "balancer": "roundRobin"}


@pytest.fixture(scope="module")
def collector():
    with Collector() as collector:
        yield collector


@pytest.fixture
def traced(pillion, collector):
    """`traced(config, **tracing)` starts a proxy whose spans go to the collector."""

    def start(config, **tracing):
        return pillion({**config, "tracing": tracing, "otlp": {**collector.config, "resource": {"service.name": "edge"}}})

    return start


def spans_of(collector, path, count):
    """The request's span of that path, and those of its attempts in the order of their beginning."""

    def whole(spans):
        servers = [span for span in spans if span.kind == "server" and span.attributes.get("url.path") == path]
        below = [span for span in spans if servers and span.parent_id == servers[0].span_id]
        return (servers[0], below) if servers and len(below) >= count else None

    server, below = collector.wait_for(whole)
    assert len(below) == count and {span.trace_id for span in below} <= {server.trace_id}
    return server, sorted(below, key=lambda span: span.attributes.get("http.request.resend_count", 0))


def within(outer, inner):
    assert outer.message.start_time_unix_nano <= inner.message.start_time_unix_nano
    assert inner.message.start_time_unix_nano <= inner.message.end_time_unix_nano <= outer.message.end_time_unix_nano


def test_a_request_and_its_attempt(traced, collector, echo):
    upstream = f"127.0.0.1:{echo.port}"
    rule = {"matches": [{"path": {"value": "/items"}}], "backendRefs": [{"name": "app"}]}
    proxy = traced(http_config(upstream, routes=[{"name": "shop", "rules": [rule]}]))
    headers = [("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"), ("user-agent", "tests/1"), ("x-request-id", "r-1"),
               ("host", proxy.address())]
    with RawClient(proxy.address()) as client:
        assert client.request("POST", "/items/first?id=1&token=secret", headers, body=b"12345").status == 200
        source = client.sock.getsockname()
    server, [attempt] = spans_of(collector, "/items/first", 1)
    assert (server.trace_id, server.parent_id) == (TRACE, SPAN)
    assert (server.name, server.kind, server.status) == ("POST /items/*", "server", "unset")
    assert server.message.trace_state == "a=1" and server.message.flags == 0x301, "its parent is elsewhere"
    size = server.attributes.pop("http.response.body.size")
    assert size > 100
    host, port = proxy.address().split(":")
    assert server.attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "url.path": "/items/first",
        "url.query": "id=1&token=REDACTED",
        "http.route": "/items/*",
        "server.address": host,
        "server.port": int(port),
        "client.address": source[0],
        "network.peer.address": source[0],
        "network.peer.port": source[1],
        "network.protocol.version": "1.1",
        "user_agent.original": "tests/1",
        "http.response.status_code": 200,
        "http.request.body.size": 5,
        "pillion.listener": "web",
        "pillion.route": "shop/0",
        "pillion.upstream": "app",
        "pillion.attempts": 1,
        "pillion.request_id": "r-1",
    }
    assert (attempt.name, attempt.kind, attempt.status) == ("POST", "client", "unset")
    assert attempt.message.flags == 0x101
    assert attempt.attributes == {
        "http.request.method": "POST",
        "url.full": f"http://{proxy.address()}/items/first?id=1&token=REDACTED",
        "server.address": host,
        "server.port": int(port),
        "pillion.upstream": "app",
        "pillion.endpoint": upstream,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": echo.port,
        "network.protocol.version": "1.1",
        "pillion.connection.reused": False,
        "http.response.status_code": 200,
    }
    within(server, attempt)
    assert server.resource["service.name"] == "edge"
    line = proxy.access(path="/items/first?id=1&token=REDACTED")
    assert (line["trace_id"], line["span_id"]) == (TRACE, server.span_id)


def test_a_connection_from_the_pool_is_told(traced, collector, echo):
    proxy = traced(http_config(f"127.0.0.1:{echo.port}"))
    with RawClient(proxy.address()) as client:
        for number in range(2):
            assert client.get(f"/pool/{number}").status == 200
    _, [first] = spans_of(collector, "/pool/0", 1)
    _, [second] = spans_of(collector, "/pool/1", 1)
    assert [span.attributes["pillion.connection.reused"] for span in (first, second)] == [False, True]


def test_retries_stand_side_by_side(traced, collector):
    with Fleet(resets, answers(503), answers(200)) as app:
        proxy = traced(http_config(*app.addresses, upstream=CALM))
        assert fetch(proxy.address(), target="/retried").status == 200
        server, attempts = spans_of(collector, "/retried", 3)
    assert (server.attributes["pillion.attempts"], server.status) == (3, "unset")
    assert [span.attributes.get("http.request.resend_count") for span in attempts] == [None, 1, 2]
    assert [span.status for span in attempts] == ["error", "error", "unset"]
    assert [span.attributes.get("error.type") for span in attempts] == ["upstream_reset", "503", None]
    assert [span.attributes.get("pillion.then") for span in attempts] == ["retried", "retried", None]
    where = [app.addresses[endpoint] for endpoint in app.endpoints]
    assert [span.attributes["pillion.endpoint"] for span in attempts] == where
    assert 0 < attempts[0].attributes["pillion.deadline.left_ms"] <= 15_000
    for attempt in attempts:
        within(server, attempt)
    told = [re.match("00-(.*)-(.*)-03", attempt.header("traceparent")).groups() for attempt in app.attempts]
    assert told == [(server.trace_id, span.span_id) for span in attempts]
    evidence = proxy.access(path="/retried")["evidence"]
    assert [(each["endpoint"], each["outcome"]) for each in evidence[:2]] == [(where[0], "upstream_reset"), (where[1], "status_503")]


def test_a_hedge_is_a_sibling_and_who_loses_is_cut(traced, collector):
    with Fleet(hangs, answers(), count=2) as app:
        rule = {"backendRefs": [{"name": "app"}], "retry": {"hedge": {"delay": "20ms"}}}
        proxy = traced(http_config(*app.addresses, routes=[{"rules": [rule]}], upstream=CALM))
        assert fetch(proxy.address(), target="/hedged").status == 200
        server, [slow, quick] = spans_of(collector, "/hedged", 2)
    assert slow.attributes["error.type"] == "cut" and slow.status == "unset"
    assert quick.attributes["http.request.resend_count"] == 1 and quick.status == "unset"
    assert server.status == "unset" and server.attributes["http.response.status_code"] == 200


@pytest.mark.parametrize("sampling", ["0%", "100%"])
def test_what_followed_is_said_of_the_attempt_that_failed_last(traced, collector, sampling):
    go = threading.Event()

    def resets_late(connection):
        assert go.wait(20)
        resets(connection)

    with Fleet(resets_late, answers(503), count=2) as app, ThreadPoolExecutor() as pool:
        rule = {"backendRefs": [{"name": "app"}], "retry": {"attempts": 2, "hedge": {"delay": "20ms"}}}
        config = http_config(*app.addresses, routes=[{"rules": [rule]}], upstream=CALM)
        proxy = traced(config, sampling=sampling)
        asked = pool.submit(fetch, proxy.address(), target="/both")
        eventually(lambda: proxy.metrics().value("pillion_endpoint_requests_total", result="5xx") == 1, "the hedge's answer")
        go.set()
        assert asked.result(20).status in (502, 503)
    evidence = proxy.access(path="/both")["evidence"]
    told = [(each["attempt"], each["outcome"], each["then"]) for each in evidence]
    assert told == [(1, "upstream_reset", "attempts"), (2, "status_503", None)]


@pytest.mark.parametrize("sampling", ["0%", "100%"])
def test_what_broke_off_is_said_of_the_attempt_that_had_answered(traced, collector, sampling):
    def breaks_off_late(connection):
        eventually(lambda: len(app.attempts) == 2, "the hedge")
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.")
        closes(connection)

    with Fleet(breaks_off_late, hangs, count=2) as app:
        rule = {"backendRefs": [{"name": "app"}], "retry": {"attempts": 2, "hedge": {"delay": "20ms"}}}
        config = http_config(*app.addresses, routes=[{"rules": [rule]}], upstream=CALM)
        proxy = traced(config, sampling=sampling)
        with RawClient(proxy.address()) as client:
            client.send_request(target="/broke")
            client.recv_all()
        evidence = {each["attempt"]: each for each in proxy.access(path="/broke")["evidence"]}
        assert evidence[1]["outcome"] == "response_incomplete"
        assert evidence[1]["endpoint"] == app.addresses[app.endpoints[0]]


@pytest.mark.parametrize("reason, status", [("connect_failed", 503), ("upstream_reset", 502)])
def test_why_a_request_failed(traced, collector, reason, status):
    attempts = 3
    with Fleet(resets, count=1) as app:
        nobody = f"127.0.0.1:{free_port()}"
        proxy = traced(http_config(nobody if reason == "connect_failed" else app.addresses[0], upstream=CALM))
        target = f"/why/{reason}"
        response = fetch(proxy.address(), target=target)
        assert response.status == status
        server, below = spans_of(collector, target, attempts)
    assert server.status == "error" and server.attributes["error.type"] == reason
    assert server.attributes["pillion.reason"] == reason
    assert below[-1].attributes["pillion.then"] == "attempts"
    # One code, wherever one looks.
    assert response.header("x-pillion-reason") == reason
    assert f'details="{reason}' in response.header("proxy-status")
    line = proxy.access(path=target)
    assert line["reason"] == reason and line["trace_id"] == server.trace_id
    assert len(line["evidence"]) == attempts and {each["outcome"] for each in line["evidence"]} == {below[0].attributes["error.type"]}
    assert server.message.status.message == line["detail"] == server.attributes["pillion.detail"]
    metrics = proxy.metrics()
    assert metrics.value("pillion_http_requests_failed_total", reason=reason) == 1
    assert metrics.value("http_server_request_duration_seconds_count", error_type=reason) == 1
    asked = {"Host": proxy.admin, "Accept": "application/openmetrics-text"}
    exemplars = fetch(proxy.admin, "GET", "/metrics", asked).body.decode()
    failed = next(text for text in exemplars.splitlines() if text.startswith("pillion_http_requests_failed_total") and reason in text)
    assert f'trace_id="{server.trace_id}"' in failed


def test_a_deadline_says_what_it_cut(traced, collector):
    with Fleet(hangs, count=1) as app:
        proxy = traced(http_config(app.addresses[0], timeouts={"request": "50ms"}, upstream=CALM))
        assert fetch(proxy.address(), target="/late").status == 504
        server, [attempt] = spans_of(collector, "/late", 1)
    assert server.attributes["error.type"] == attempt.attributes["error.type"] == "request_timeout"
    assert attempt.attributes["pillion.deadline.left_ms"] == 0
    assert (server.status, attempt.status) == ("error", "error")


def test_that_a_client_leaves_is_no_failure_of_ours(traced, collector):
    with Fleet(hangs, count=1) as app:
        proxy = traced(http_config(app.addresses[0], upstream=CALM))
        with RawClient(proxy.address()) as client:
            client.send_request(target="/left")
            eventually(lambda: app.attempts, "the request at the upstream")
        server, [attempt] = spans_of(collector, "/left", 1)
    assert server.attributes["error.type"] == "client_closed" and server.status == "unset"
    assert "http.response.status_code" not in server.attributes
    assert attempt.attributes["error.type"] == "cut" and attempt.status == "unset"


def test_that_a_client_sends_no_good_body_is_no_failure_of_an_attempt(traced, collector):
    with Fleet(hangs, count=1) as app:
        proxy = traced(http_config(app.addresses[0], upstream=CALM))
        with RawClient(proxy.address()) as client:
            client.send(b"POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            eventually(lambda: proxy.metrics().value("http_client_active_requests") == 1, "an attempt")
            client.send(b"no size\r\n")
            server, [attempt] = spans_of(collector, "/bad", 1)
    for span in (server, attempt):
        assert span.attributes["error.type"] == "request_body_invalid" and span.status == "unset"


def test_refusals_before_a_route_have_spans_too(traced, collector, echo):
    config = http_config(f"127.0.0.1:{echo.port}", routes=[{"hostnames": ["only.example"], "rules": [{"backendRefs": [{"name": "app"}]}]}])
    proxy = traced(config)
    assert fetch(proxy.address(), target="/nobody").status == 404
    server, _ = spans_of(collector, "/nobody", 0)
    assert server.name == "GET" and server.attributes["error.type"] == "no_route"
    assert "http.route" not in server.attributes and server.status == "unset", "what it asked for is not there"


def test_methods_that_nobody_knows_have_one_name(traced, collector, echo):
    proxy = traced(http_config(f"127.0.0.1:{echo.port}"))
    assert fetch(proxy.address(), "BREW", "/pot").status == 200
    server, [attempt] = spans_of(collector, "/pot", 1)
    assert server.name == "HTTP /*" and attempt.name == "HTTP"
    for span in (server, attempt):
        assert span.attributes["http.request.method"] == "_OTHER"
        assert span.attributes["http.request.method_original"] == "BREW"


def test_whatever_clients_send_spoils_no_export(traced, collector, echo):
    proxy = traced(http_config(f"127.0.0.1:{echo.port}"))
    hostile = b"\xff\xfe" * 3000
    with RawClient(proxy.address()) as client:
        client.send(b"GET /hostile?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\nUser-Agent: " + hostile + b"\r\nX-Request-Id: " +
                    b"\xe9" * 8 + f"\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=".encode() + hostile + b"\r\n\r\n")
        assert client.read_response().status == 200
    server, [attempt] = spans_of(collector, "/hostile", 1)
    assert server.message.trace_state == "" and attempt.status == "unset"
    assert server.attributes["user_agent.original"].startswith("\ufffd")
    assert len(server.attributes["url.query"]) == len(attempt.attributes["url.full"]) == 4096


def test_calls_of_grpc(traced, collector):
    with GrpcApp() as app:
        proxy = traced(http_config(app.address, upstream={"protocol": "http2"}))
        with GrpcClient(proxy.address()) as client:
            assert client.unary(b"hello") == b"hello"
            with pytest.raises(grpc.RpcError):
                client.fail(b"")
            with pytest.raises(grpc.RpcError):
                list(client.fail_late(b""))

    def call(method, status, code):
        server, [attempt] = spans_of(collector, f"/{SERVICE}/{method}", 1)
        assert server.name == attempt.name == f"{SERVICE}/{method}"
        for span in (server, attempt):
            assert span.attributes["rpc.system.name"] == "grpc" and span.attributes["rpc.method"] == span.name
            told = span.attributes["rpc.response.status_code"], span.attributes["rpc.grpc.status_code"]
            assert told == (status, code) and span.attributes["network.protocol.version"] == "2"
        return [(span.attributes.get("error.type"), span.status) for span in (server, attempt)]

    well = (None, "unset")
    assert call("Unary", "OK", 0) == [well, well]
    # The caller's mistake, and so no failure of the server, but one of the call.
    assert call("Fail", "FAILED_PRECONDITION", 9) == [well, ("FAILED_PRECONDITION", "error")]
    assert call("FailLate", "DATA_LOSS", 15) == [("DATA_LOSS", "error")] * 2


def test_who_is_at_the_other_end(traced, collector, pki, pillion, echo):
    far = pillion({
        **http_config(f"127.0.0.1:{echo.port}", listener={"tls": {}}), "identity": pki.workload("far").config,
        "trust": [pki.trust], "tracing": {}, "otlp": collector.config,
    })
    near = traced({
        **http_config(far.address(), upstream={"tls": {"peers": [spiffe("far")]}}),
        "identity": pki.workload("near").config, "trust": [pki.trust],
    })
    assert fetch(near.address(), target="/who").status == 200
    _, attempts = collector.wait_for(lambda spans: one_of_each(spans, "/who"))
    behind = collector.wait_for(lambda spans: [span for span in spans if span.parent_id == attempts.span_id])[0]
    for span, who in ((attempts, "far"), (behind, "near")):
        assert span.attributes["tls.protocol.version"] == "1.3"
        assert span.attributes["pillion.peer.identity"] == spiffe(who)
        assert span.attributes["network.protocol.version"] == "2"
    assert attempts.attributes["url.full"].startswith("https://") and behind.attributes["url.scheme"] == "https"


def one_of_each(spans, path):
    """The span without a parent of that path, and the one below it."""
    first = [span for span in spans if span.attributes.get("url.path") == path and not span.parent_id]
    below = [span for span in spans if first and span.parent_id == first[0].span_id]
    return (first[0], below[0]) if below else None


def test_a_rule_that_samples_has_the_whole_of_it(traced, collector, echo):
    rule = {"tracing": {"sampling": "always"}, "backendRefs": [{"name": "app"}]}
    proxy = traced(http_config(f"127.0.0.1:{echo.port}", routes=[{"rules": [rule]}]), sampling="0%")
    headers = [("traceparent", f"00-{TRACE}-{SPAN}-00"), ("tracestate", "a=1"), ("tracestate", "b=2"), ("user-agent", "late/1")]
    assert fetch(proxy.address(), target="/late-sampled", headers=headers).status == 200
    server, [attempt] = spans_of(collector, "/late-sampled", 1)
    assert server.message.trace_state == attempt.message.trace_state == "a=1,b=2"
    assert server.attributes["user_agent.original"] == "late/1" and server.parent_id == SPAN


def test_tls_that_came_to_nothing_is_https_all_the_same(traced, collector, echo, pki):
    upstream = {**CALM, "tls": {"peers": [spiffe("nobody")]}}
    config = {**http_config(f"127.0.0.1:{echo.port}", upstream=upstream), "identity": pki.workload("edge").config, "trust": [pki.trust]}
    proxy = traced(config)
    assert fetch(proxy.address(), target="/no-tls").status in (502, 504)
    _, attempts = spans_of(collector, "/no-tls", 3)
    assert {span.attributes["url.full"].split(":")[0] for span in attempts} == {"https"}


def test_what_is_not_sampled_makes_no_span(traced, collector, echo):
    proxy = traced(http_config(f"127.0.0.1:{echo.port}"), sampling="0%")
    before = len(collector.spans)
    fetch(proxy.address(), target="/unseen")
    fetch(proxy.address(), target="/seen", headers=[("traceparent", f"00-{TRACE}-{SPAN}-01")])
    spans_of(collector, "/seen", 1)
    assert len(collector.spans) == before + 2


def test_what_goes_wrong_or_is_slow_may_be_kept(traced, collector, moody):
    upstream = moody(500)
    rule = {"backendRefs": [{"name": "app"}]}
    never = {"matches": [{"path": {"value": "/never"}}], "tracing": {"sampling": "never"}, **rule}
    config = http_config(f"127.0.0.1:{upstream.port}", routes=[{"rules": [never, rule]}], upstream=CALM)
    proxy = traced(config, sampling="0%", keep={"errors": True})
    before = len(collector.spans)
    assert fetch(proxy.address(), target="/never").status == 500
    assert fetch(proxy.address(), target="/kept").status == 500
    server, [attempt] = spans_of(collector, "/kept", 1)
    assert (server.status, attempt.status) == ("error", "error")
    line = proxy.access(path="/kept")
    assert (line["trace_id"], line["span_id"]) == (server.trace_id, server.span_id)
    upstream.become(200)
    assert fetch(proxy.address(), target="/well").status == 200
    proxy.must_reload({**config, "tracing": {"sampling": "0%", "keep": {"slowerThan": "1us"}}, "otlp": collector.config})
    assert fetch(proxy.address(), target="/slow").status == 200
    spans_of(collector, "/slow", 1)
    assert len(collector.spans) == before + 4, "neither what is never recorded nor what was well"


def test_the_answer_that_a_fallback_replaces_has_ended(traced, collector, moody, raw_upstream):
    """Its span ends with its head, and what breaks later is none of its doing."""
    late = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive."
    spare = raw_upstream(reply(late, requests=1))
    rule = {
        "backendRefs": [{"name": "app"}],
        "fallback": {"on": [500], "backendRef": {"name": "spare"}},
    }
    more = [{"name": "spare", "endpoints": [spare.address]}]
    config = http_config(f"127.0.0.1:{moody(500).port}", routes=[{"rules": [rule]}], more_upstreams=more, upstream=CALM)
    proxy = traced(config)
    with RawClient(proxy.address()) as client:
        client.send_request(target="/replaced")
        assert client.read_head().status == 200
        client.recv_all()
    server, [replaced, broken] = spans_of(collector, "/replaced", 2)
    assert replaced.attributes["error.type"] == "500" and broken.attributes["error.type"] == "response_incomplete"
    assert replaced.message.end_time_unix_nano <= broken.message.start_time_unix_nano
    assert broken.message.end_time_unix_nano == server.message.end_time_unix_nano
    outcomes = [each["outcome"] for each in proxy.access(path="/replaced")["evidence"]]
    assert outcomes == ["status_500", "response_incomplete"] or outcomes == ["response_incomplete"]


@pytest.mark.parametrize("sampling", ["0%", "100%"])
def test_what_broke_off_and_what_is_not_repeated_is_evidence(traced, collector, raw_upstream, moody, sampling):
    cut = raw_upstream(reply(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.", requests=1))
    proxy = traced(http_config(cut.address, upstream=CALM), sampling=sampling)
    with RawClient(proxy.address()) as client:
        client.send_request(target="/cut")
        client.recv_all()
    [item] = proxy.access(path="/cut")["evidence"]
    assert (item["endpoint"], item["outcome"]) == (cut.address, "response_incomplete")
    proxy = traced(http_config(f"127.0.0.1:{moody(503).port}", upstream=CALM), sampling=sampling)
    assert fetch(proxy.address(), "POST", "/once").status == 503
    assert [each["then"] for each in proxy.access(path="/once")["evidence"]] == ["unsafe"]
    assert fetch(proxy.address(), target="/thrice").status == 503
    assert [each["then"] for each in proxy.access(path="/thrice")["evidence"]] == ["retried", "retried", "attempts"]


def test_what_a_rule_answers_is_told_everywhere(traced, collector, moody):
    """Nothing failed, and still it is Pillion's own."""
    direct = {"type": "DirectResponse", "directResponse": {"statusCode": 503, "body": "closed"}}
    redirect = {"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}
    fallback = {"on": [500], "response": {"statusCode": 200, "body": "[]"}}
    rules = [
        {"name": "direct_response", "matches": [{"path": {"value": "/direct"}}], "filters": [direct]},
        {"name": "redirect", "matches": [{"path": {"value": "/there"}}], "filters": [redirect]},
        {"name": "fallback_response", "backendRefs": [{"name": "app"}], "fallback": fallback},
    ]
    proxy = traced(http_config(f"127.0.0.1:{moody(500).port}", routes=[{"rules": rules}], upstream=CALM))
    for target, reason, status in [
        ("/direct", "direct_response", 503), ("/there", "redirect", 302), ("/other", "fallback_response", 200)
    ]:
        response = fetch(proxy.address(), "POST", target)
        assert (response.status, response.header("x-pillion-reason")) == (status, reason)
        assert response.header("proxy-status") == f'pillion; details="{reason}"'
        server, _ = spans_of(collector, target, int(reason == "fallback_response"))
        assert (server.attributes["pillion.reason"], server.attributes.get("error.type")) == (
            reason, "503" if status == 503 else None)
        line = proxy.access(path=target)
        assert (line["reason"], line["flags"]) == (reason, "-")
        assert proxy.metrics().value("pillion_http_local_replies_total", route=reason, reason=reason) == 1
    assert not proxy.metrics().value("pillion_http_requests_failed_total")


def test_a_head_that_can_t_be_read_has_a_span(traced, collector, echo):
    proxy = traced(http_config(f"127.0.0.1:{echo.port}", http={"maxHeadSize": "8KiB"}))
    with RawClient(proxy.address()) as client:
        client.send(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n")
        assert client.read_response().status == 431
    span = collector.wait_for(lambda spans: [span for span in spans if span.attributes.get("error.type") == "head_too_large"])[0]
    assert (span.name, span.kind, span.status) == ("HTTP", "server", "unset")
    assert proxy.access(reason="head_too_large")["trace_id"] == span.trace_id


def test_a_fallback_is_an_attempt_at_another_upstream(traced, collector, echo):
    rule = {
        "backendRefs": [{"name": "app"}],
        "fallback": {"on": ["connect_failed"], "backendRef": {"name": "spare"}},
        "retry": {"attempts": 1},
    }
    spare = {"name": "spare", "endpoints": [f"127.0.0.1:{echo.port}"]}
    config = http_config(f"127.0.0.1:{free_port()}", routes=[{"rules": [rule]}], more_upstreams=[spare], upstream=CALM)
    proxy = traced(config)
    assert fetch(proxy.address(), target="/spare").status == 200
    server, [failed, well] = spans_of(collector, "/spare", 2)
    assert [span.attributes["pillion.upstream"] for span in (failed, well)] == ["app", "spare"]
    assert failed.attributes["error.type"] == "connect_failed" and "error.type" not in well.attributes
    assert "connect_failed" in server.attributes["pillion.detail"]


def test_mirrors_and_checks_make_no_spans(traced, collector, echo, echo_upstream):
    shadow = echo_upstream("shadow")
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "shadow"}}}
    rule = {"backendRefs": [{"name": "app"}], "filters": [mirror]}
    more = [{"name": "shadow", "endpoints": [f"127.0.0.1:{shadow.port}"]}]
    config = http_config(f"127.0.0.1:{echo.port}", routes=[{"rules": [rule]}], more_upstreams=more,
                         upstream={"healthChecks": [{"type": "http", "path": "/check", "interval": "50ms", "timeout": "50ms"}]})
    proxy = traced(config)
    assert fetch(proxy.address(), target="/mirrored").status == 200
    server, _ = spans_of(collector, "/mirrored", 1)
    shadow.wait_heads(1)
    [copy] = shadow.requests
    assert dict(copy["headers"])["traceparent"].split("-")[1:3] == [server.trace_id, server.span_id]
    assert not [span for span in collector.spans if span.attributes.get("url.path") == "/check"]
