"""One line a request, always."""

import json
import os
import re
import signal

import grpc
import pytest
from support.client import RawClient, chunked, fetch
from support.collector import Collector, attributes, plain
from support.config import http_config, tcp_config
from support.grpc_app import SERVICE, GrpcApp, GrpcClient
from support.ports import free_port
from support.wait import TIMEOUT, eventually
from support.wire import Closed

KEYS = {"start_time", "listener", "route", "upstream", "endpoint", "method", "authority", "path", "protocol", "status",
        "grpc_status", "flags", "reason", "detail", "bytes_received", "bytes_sent", "duration_ms", "upstream_ms", "peer", "peer_identity",
        "request_id", "user_agent", "trace_id", "span_id", "evidence"}


def test_a_line_tells_everything(pillion, echo):
    proxy = pillion(http_config(echo.address, timeouts={}))
    fetch(proxy.address(), "POST", "/a?size=1000", {"User-Agent": "tester/1", "Host": "shop.test:80"}, b"hello")
    line = proxy.access(path="/a?size=1000")
    assert KEYS <= set(line), KEYS - set(line)
    assert (line["listener"], line["upstream"], line["endpoint"]) == ("web", "app", echo.address)
    assert line["route"].startswith("all")
    assert (line["method"], line["authority"], line["protocol"]) == ("POST", "shop.test:80", "HTTP/1.1")
    assert (line["status"], line["bytes_received"], line["bytes_sent"]) == (200, 5, 1000)
    assert line["user_agent"] == "tester/1"
    assert line["peer"].startswith("127.0.0.1")
    assert not line["reason"] and line["evidence"] == []
    assert line["grpc_status"] is None
    assert line["duration_ms"] >= 0
    assert line["start_time"][:2] == "20"


def test_bytes_are_those_of_the_body(pillion, echo):
    proxy = pillion(http_config(echo.address))
    with RawClient(proxy.address()) as client:
        client.send_request("POST", "/chunked?size=5000&chunked", {"Transfer-Encoding": "chunked"})
        client.send(chunked(b"a" * 100, b"b" * 200))
        client.read_response("POST")
        client.request("HEAD", "/head?size=100")
    line = proxy.access(path="/chunked?size=5000&chunked")
    assert (line["bytes_received"], line["bytes_sent"]) == (300, 5000)
    assert proxy.access(path="/head?size=100")["bytes_sent"] == 0


def test_one_line_a_request_and_no_more(pillion, echo):
    proxy = pillion(http_config(echo.address))
    with RawClient(proxy.address()) as client:
        for number in range(200):
            client.get(f"/{number}")
    fetch(proxy.address(), "GET", "/last")
    proxy.access(path="/last")
    paths = [line["path"] for line in proxy.access_log()]
    assert sorted(paths) == sorted([f"/{number}" for number in range(200)] + ["/last"])


def test_the_line_comes_when_the_exchange_is_over(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send_request("GET", "/held?size=200000&midgate=g")
    client.read_head()
    fetch(proxy.address(), "GET", "/fence")
    proxy.access(path="/fence")
    assert not [line for line in proxy.access_log() if line["path"].startswith("/held")]
    echo.open_gate("g")
    client.recv_exact(200_000)
    assert proxy.access(path="/held?size=200000&midgate=g")["bytes_sent"] == 200_000


def test_hostile_text_stays_one_line_of_json(pillion, echo):
    proxy = pillion(http_config(echo.address))
    agent = 'a"b\\c\td{"x":1}' + "\x80\xff" + "e" * 3000
    fetch(proxy.address(), "GET", "/hostile?%0a%22", {"User-Agent": agent})
    line = proxy.access(path="/hostile?%0a%22")
    assert line["user_agent"].startswith('a"b\\c\td{"x":1}')
    for text in proxy.access_log.text:
        json.loads(text)


def test_a_refused_head_has_its_line_while_the_client_stays(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send(b"BAD\r\n\r\n")
    assert client.read_response("GET").status == 400
    line = proxy.access(status=400)
    assert line["reason"] == "bad_request" and line["bytes_sent"] > 0


def grpc_line(proxy, method: str) -> dict:
    return proxy.access(path=f"/{SERVICE}/{method}")


def test_how_calls_of_grpc_ended(pillion):
    with GrpcApp() as app:
        proxy = pillion(http_config(app.address, upstream={"protocol": "http2"}))
        with GrpcClient(proxy.address()) as client:
            client.unary(b"x", timeout=TIMEOUT)
            # A status in trailers after messages, and one in a head that is all there is.
            with pytest.raises(grpc.RpcError):
                list(client.fail_late(b"", timeout=TIMEOUT))
            with pytest.raises(grpc.RpcError):
                client.fail(b"", timeout=TIMEOUT)
        ends = {"Unary": grpc.StatusCode.OK, "FailLate": grpc.StatusCode.DATA_LOSS,
                "Fail": grpc.StatusCode.FAILED_PRECONDITION}
        for method, status in ends.items():
            line = grpc_line(proxy, method)
            assert (line["status"], line["grpc_status"]) == (200, status.value[0]), line
            assert (line["flags"], line["reason"]) == ("-", None), "it is the application's own word"


def test_what_callers_of_grpc_were_told_by_pillion(pillion):
    proxy = pillion(http_config(f"127.0.0.1:{free_port()}", upstream={"protocol": "http2", "breaker": "off"}))
    with GrpcClient(proxy.address()) as client, pytest.raises(grpc.RpcError):
        client.unary(b"x", timeout=TIMEOUT)
    line = grpc_line(proxy, "Unary")
    assert (line["status"], line["grpc_status"], line["reason"]) == (200, 14, "connect_failed")


def test_failed_requests_have_lines_too(pillion, echo):
    proxy = pillion(http_config(echo.address, timeouts={"request": "300ms"}))
    assert fetch(proxy.address(), "GET", "/slow?gate=g").status == 504
    with pytest.raises(Closed):
        fetch(proxy.address(), "GET", "/cut?size=100&cut=10")
    with RawClient(proxy.address()) as client:
        client.send_request("GET", "/left?gate=h")
        echo.wait_heads(3)
        client.reset()
    for path, reason in {"/slow?gate=g": "request_timeout", "/cut?size=100&cut=10": "response_incomplete",
                         "/left?gate=h": "client_closed"}.items():
        line = proxy.access(path=path)
        assert line["reason"] == reason and line["flags"], line
        proxy.wait_reason(reason)


def test_text_format(pillion, echo):
    proxy = pillion(http_config(echo.address, accessLog={"format": "text"}))
    fetch(proxy.address(), "GET", "/text", {"User-Agent": 'quo"ted\\'})
    eventually(lambda: proxy.access_log.text)
    (line,) = proxy.access_log.text
    assert "/text" in line and "200" in line and "GET" in line
    assert 'quo"ted\\"' not in line, "quotes of the client end no field"


def test_a_template(pillion, echo):
    template = '{{{method} "{path}" {status} {reason} {request_header:x-tenant} {response_header:content-length}}} {trace_id}'
    proxy = pillion(http_config(echo.address, accessLog={"format": "text", "template": template}))
    fetch(proxy.address(), "GET", "/t?size=7", {"X-Tenant": 'b"lue'})
    eventually(lambda: proxy.access_log.text)
    (line,) = proxy.access_log.text
    assert re.fullmatch(r'\{GET "/t\?size=7" 200 - b\\"lue 7\} [0-9a-f]{32}', line), line


def test_calls_of_grpc_in_text(pillion):
    with GrpcApp() as app:
        proxy = pillion(http_config(app.address, upstream={"protocol": "http2"}, accessLog={
            "format": "text", "template": "{path} {status} {grpc_status} {reason}"}))
        with GrpcClient(proxy.address()) as client, pytest.raises(grpc.RpcError):
            list(client.fail_late(b"", timeout=TIMEOUT))
        eventually(lambda: proxy.access_log.text)
        assert proxy.access_log.text == [f"/{SERVICE}/FailLate 200 15 -"]


def test_a_template_with_a_mistake(pillion, echo):
    proxy = pillion(http_config(echo.address, accessLog={"format": "text"}))
    fetch(proxy.address(), "GET", "/before")
    reply = proxy.reload(http_config(echo.address, accessLog={"format": "text", "template": "{statsu}"}))
    assert reply.status == 422 and b"did you mean `status`" in reply.body, reply.body


def test_only_errors_slow_ones_and_a_share(pillion, echo):
    log = {"filter": {"errors": True, "slowerThan": "1h"}}
    proxy = pillion(http_config(echo.address, accessLog=log, timeouts={"request": "300ms"}))
    for number in range(20):
        assert fetch(proxy.address(), "GET", f"/{number}").status == 200
    assert fetch(proxy.address(), "GET", "/missing?status=404").status == 404
    assert fetch(proxy.address(), "GET", "/failed?status=503").status == 503
    assert fetch(proxy.address(), "GET", "/slow?gate=g").status == 504
    proxy.access(path="/slow?gate=g")
    assert {line["path"] for line in proxy.access_log()} == {"/failed?status=503", "/slow?gate=g"}
    eventually(lambda: proxy.metrics().value("pillion_access_log_filtered_total") == 21)
    proxy.must_reload(http_config(echo.address, accessLog={"filter": {"percent": 50}}))
    before = len(proxy.access_log())
    for number in range(200):
        fetch(proxy.address(), "GET", f"/share/{number}")
    eventually(lambda: proxy.metrics().value("pillion_access_log_filtered_total") - 21 + len(proxy.access_log()) - before == 200)
    assert 50 < len(proxy.access_log()) - before < 150


def test_connections_are_filtered_too(pillion, echo):
    proxy = pillion(tcp_config(echo.address, accessLog={"format": "text", "template": "{protocol} {bytes_sent} {path}",
                                                        "filter": {"slowerThan": "1us"}}))
    with RawClient(proxy.address("tcp")) as client:
        client.send_request("GET", "/held?gate=g")
        echo.wait_heads(1)
        echo.open_gate("g")
        client.read_response("GET")
    eventually(lambda: proxy.access_log.text)
    (line,) = proxy.access_log.text
    assert line.startswith("TCP ") and line.endswith(" -")


def test_secrets_are_not_shown(pillion, echo):
    proxy = pillion(http_config(echo.address, accessLog={"requestHeaders": ["authorization", "referer", "x-tenant", "x-none"],
                                                         "responseHeaders": ["set-cookie", "content-length"]}))
    path = "/redacted?size=3&TOKEN=s3cret1&%61pi%5Fkey=s3cret2&a=1;password=s3cret3&header=set-cookie:s3cret4"
    fetch(proxy.address(), "GET", path, {"Authorization": "Bearer s3cret5", "X-Tenant": "blue",
                                         "Referer": "http://x.test/cb?code=s3cret6&b=2"})
    line = proxy.access(status=200)
    assert line["path"].startswith("/redacted?size=3&TOKEN=REDACTED&%61pi%5Fkey=REDACTED&a=1;password=REDACTED&")
    assert line["request_headers"] == {"authorization": "REDACTED", "referer": "http://x.test/cb?code=REDACTED&b=2",
                                       "x-tenant": "blue", "x-none": None}
    assert line["response_headers"] == {"set-cookie": "REDACTED", "content-length": "3"}
    for text in proxy.access_log.text:
        for number in (1, 2, 3, 5, 6):
            assert f"s3cret{number}" not in text


def test_a_list_of_one_s_own_replaces_the_default(pillion, echo):
    proxy = pillion(http_config(echo.address, accessLog={"requestHeaders": ["authorization", "x-mine"]},
                                redact={"headers": ["X-Mine"], "queryParameters": []}))
    fetch(proxy.address(), "GET", "/a?token=shown", {"Authorization": "shown", "X-Mine": "hidden"})
    line = proxy.access(path="/a?token=shown")
    assert line["request_headers"] == {"authorization": "shown", "x-mine": "REDACTED"}


def test_what_failed_attempts_met_is_evidence(pillion, echo):
    closed_port = f"127.0.0.1:{free_port()}"
    proxy = pillion(http_config(closed_port, echo.address, upstream={"balancer": "roundRobin", "breaker": "off"}))
    for number in range(4):
        assert fetch(proxy.address(), "GET", f"/{number}").status == 200
    tried = proxy.access_log.wait_for(lambda line: line["attempts"] == 2)
    assert tried["status"] == 200 and not tried["reason"]
    (evidence,) = tried["evidence"]
    assert (evidence["attempt"], evidence["upstream"], evidence["endpoint"]) == (1, "app", closed_port)
    assert (evidence["outcome"], evidence["then"]) == ("connect_failed", "retried")
    assert evidence["duration_ms"] >= 0 and evidence["deadline_left_ms"] > 0


def test_every_line_has_a_trace(pillion, echo):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-00"}
    for tracing in ({}, {"tracing": {"sampling": "never"}}, {"tracing": {"sampling": "100%"}}):
        proxy = pillion(http_config(echo.address, **tracing))
        fetch(proxy.address(), "GET", "/own")
        fetch(proxy.address(), "GET", "/brought", headers)
        with RawClient(proxy.address()) as client:
            client.send(b"BAD\r\n\r\n")
            assert client.read_response("GET").status == 400
        refused = proxy.access(status=400)
        own, brought = proxy.access(path="/own"), proxy.access(path="/brought")
        assert brought["trace_id"] == trace and brought["span_id"] is None, tracing
        for line in (own, refused):
            assert re.fullmatch("[0-9a-f]{32}", line["trace_id"]), (tracing, line)
        assert (own["span_id"] is not None) == ("100%" in str(tracing)), (tracing, own)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_records_at_a_collector(pillion, echo, protocol):
    with Collector(protocol) as collector:
        log = {"output": "otlp", "requestHeaders": ["x-tenant", "authorization"]}
        proxy = pillion(http_config(echo.address, accessLog=log, otlp=collector.config, tracing={"sampling": "100%"}))
        headers = {"Host": "shop.test:80", "User-Agent": "tester/1", "X-Tenant": "blue", "Authorization": "Basic s3cret"}
        fetch(proxy.address(), "POST", "/record?size=9&token=s3cret", headers, b"hello")
        fetch(proxy.address(), "GET", "/missing?status=404")
        fetch(proxy.address(), "GET", "/failed?status=503")
        records = eventually(lambda: collector.logs if len(collector.logs) >= 3 else None, "three log records")
        by_path = {attributes(record.attributes)["url.path"]: record for record in records}
        record = by_path["/record"]
        assert record.event_name == "pillion.access" and record.severity_text == "INFO" and record.severity_number == 9
        assert plain(record.body) == "POST /record?size=9&token=REDACTED 200"
        assert record.time_unix_nano == record.observed_time_unix_nano > 1_700_000_000 * 10**9
        found = attributes(record.attributes)
        assert found["pillion.duration_ms"] >= found["pillion.upstream_ms"] >= 0
        assert len(found) == len(record.attributes), "every attribute is there once"
        expected = {"http.request.method": "POST", "url.query": "size=9&token=REDACTED", "http.response.status_code": 200,
                    "http.request.body.size": 5, "http.response.body.size": 9, "client.address": "127.0.0.1",
                    "network.protocol.version": "1.1", "server.address": "shop.test", "server.port": 80,
                    "user_agent.original": "tester/1", "pillion.listener": "web", "pillion.upstream": "app",
                    "pillion.endpoint": echo.address, "pillion.attempts": 1, "pillion.flags": "-",
                    "http.request.header.x-tenant": ["blue"], "http.request.header.authorization": ["REDACTED"]}
        assert found | expected == found
        assert by_path["/missing"].severity_text == "WARN" and by_path["/failed"].severity_text == "ERROR"
        # Record and span find each other.
        span = collector.wait_for(lambda spans: next(
            (span for span in spans if span.kind == "server" and span.attributes["url.path"] == "/record"), None))
        assert (record.trace_id.hex(), record.span_id.hex()) == (span.trace_id, span.span_id)
        assert len(record.trace_id) == 16 and len(record.span_id) == 8 and record.flags & 1
        assert collector.resources("logs")[0]["service.name"]
        assert proxy.access_log.text == []


def test_connections_and_unsampled_requests_have_records(pillion, echo):
    with Collector() as collector:
        config = http_config(echo.address, accessLog={"filter": {"slowerThan": "1us"}}, otlp=collector.config)
        config["listeners"].append({"name": "tcp", "address": "127.0.0.1:0", "protocol": "tcp", "upstream": "app"})
        proxy = pillion(config, env={"OTEL_LOGS_EXPORTER": "otlp"})
        for name, path in (("web", "/slow?gate=a"), ("tcp", "/slow?gate=b")):
            with RawClient(proxy.address(name)) as client:
                client.send_request("GET", path)
                echo.wait_heads(1 if name == "web" else 2)
                echo.open_gate(path[-1])
                client.read_response("GET")
        records = eventually(lambda: collector.logs if len(collector.logs) >= 2 else None, "two log records")
        web, tcp = sorted(records, key=lambda record: plain(record.body).startswith("TCP"))
        assert len(web.trace_id) == 16 and not web.span_id and not web.flags
        found = attributes(tcp.attributes)
        assert plain(tcp.body) == "TCP app" and found["network.transport"] == "tcp" and found["pillion.bytes_sent"] > 0
        assert "url.path" not in found


def test_an_absent_collector_stops_nothing(pillion, echo):
    closed_port = free_port()
    proxy = pillion(http_config(echo.address, accessLog={"output": "otlp"}, otlp={
        "endpoint": f"http://127.0.0.1:{closed_port}", "batch": {"delay": "20ms", "maxBytes": "16KiB", "queue": "32KiB"}}))
    with RawClient(proxy.address()) as client:
        for _ in range(400):
            assert client.get("/" + "x" * 1000).status == 200
    eventually(lambda: proxy.metrics().value("pillion_otlp_dropped_total", signal="logs", cause="queue_full") > 0)
    assert fetch(proxy.address(), "GET", "/after").status == 200


def test_off(pillion, echo):
    proxy = pillion(http_config(echo.address, accessLog={"enabled": False}))
    fetch(proxy.address())
    proxy.signal(15)
    assert proxy.wait_exit() == 0
    assert proxy.access_log.text == []


def test_a_file(pillion, echo):
    """A relative path is relative to the configuration."""
    proxy = pillion(http_config(echo.address, accessLog={"output": "access.log"}))
    fetch(proxy.address(), "GET", "/filed")
    path = proxy.directory / "access.log"
    eventually(lambda: path.exists() and "/filed" in path.read_text())
    assert json.loads(path.read_text())["path"] == "/filed"
    assert proxy.access_log.text == []


def test_a_file_is_rotated_by_sighup(pillion, echo):
    proxy = pillion(http_config(echo.address, accessLog={"output": "access.log"}))
    path, moved = proxy.directory / "access.log", proxy.directory / "access.log.1"
    fetch(proxy.address(), "GET", "/before")
    eventually(lambda: "/before" in path.read_text())
    path.rename(moved)
    proxy.signal(signal.SIGHUP)
    eventually(path.exists)
    fetch(proxy.address(), "GET", "/after")
    eventually(lambda: "/after" in path.read_text())
    assert "/after" not in moved.read_text() and "/before" not in path.read_text()


def test_standard_error(pillion, echo):
    proxy = pillion(http_config(echo.address, accessLog={"output": "stderr"}))
    fetch(proxy.address(), "GET", "/to-stderr")
    proxy.logs.find(path="/to-stderr")


def test_the_last_lines_are_written_before_the_exit(pillion, echo):
    proxy = pillion(http_config(echo.address))
    with RawClient(proxy.address()) as client:
        for number in range(50):
            client.get(f"/{number}")
    proxy.signal(15)
    assert proxy.wait_exit() == 0
    assert len(proxy.access_log()) == 50


def test_a_reader_that_stops_reading_stops_nothing(pillion, echo, tmp_path):
    """A pipe that nobody empties: lines are dropped and counted, requests are not."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        proxy = pillion(http_config(echo.address, accessLog={"output": str(fifo)}))
        with RawClient(proxy.address()) as client:
            for number in range(5000):
                assert client.get("/" + "x" * 8000).status == 200
                # What the pipe and the queue hold comes first.
                if number % 100 == 99 and proxy.metrics().value("pillion_access_log_dropped_total") > 0:
                    break
            else:
                raise AssertionError("no line was dropped")
            assert client.get("/after").status == 200
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_exit() == 0
    finally:
        os.close(reader)


def test_a_pipe_without_a_reader_holds_up_nobody(pillion, echo, tmp_path):
    """Neither the start, nor a reload, nor a rotation; and another output takes over from a pipe that is full."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    into_pipe = http_config(echo.address, accessLog={"output": str(fifo)})
    proxy = pillion(into_pipe)
    assert fetch(proxy.address()).status == 200
    proxy.signal(signal.SIGHUP)
    proxy.must_reload(http_config(echo.address))
    proxy.must_reload(into_pipe)
    with RawClient(proxy.address()) as client:
        for _ in range(40):
            assert client.get("/" + "x" * 8000).status == 200
    proxy.must_reload(http_config(echo.address))
    assert fetch(proxy.address(), target="/again").status == 200
    proxy.access(path="/again")


def test_a_file_that_can_not_be_opened_is_named(pillion, echo):
    proxy = pillion(http_config(echo.address))
    reply = proxy.reload(http_config(echo.address, accessLog={"output": "./no-such-folder/access.log"}))
    assert reply.status == 422
    assert "no-such-folder/access.log: No such file" in json.loads(reply.body)["problems"][0]["message"]
