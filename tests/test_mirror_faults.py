"""Mirrors that stall, fail, read slowly or never end: requests are answered as if there were none."""

import threading

import pytest
from support.client import RawClient
from support.config import http_config
from support.reactor import Listener
from support.upstream import OK
from support.wait import eventually
from support.wire import Closed

REQUESTS = 40


def config(app, shadow, timeouts=None, **mirror):
    mirror = {"backendRef": {"name": "shadow"}, **mirror}
    rule = {"backendRefs": [{"name": "app"}], "filters": [{"type": "RequestMirror", "requestMirror": mirror}]}
    if timeouts:
        rule["timeouts"] = timeouts
    more = [{"name": "shadow", "endpoints": [shadow], "breaker": "off"}]
    return http_config(app.address, routes=[{"name": "all", "rules": [rule]}], more_upstreams=more)


def copies(proxy, result) -> float:
    return proxy.metrics().value("pillion_upstream_mirror_copies_total", upstream="shadow", result=result)


def all_is_well(proxy, app, body=b"x" * 100_000, requests=REQUESTS):
    """Every request is answered as it should be, bodies and all."""
    before = len(app.requests)
    with RawClient(proxy.address()) as client:
        for number in range(requests):
            response = client.request("POST", f"/{number}", body=body)
            assert response.status == 200 and response.json()["length"] == len(body)
    assert len(app.requests) == before + requests
    assert all(line["attempts"] == 1 for line in proxy.access_log() if line["status"] == 200)


@pytest.fixture
def held():
    """What a script waits for: the end of the test."""
    event = threading.Event()
    yield event
    event.set()


# A mirror that stalls.


def test_one_that_accepts_and_never_reads(pillion, echo, raw_upstream, held):
    shadow = raw_upstream(lambda connection: held.wait(60))
    proxy = pillion(config(echo, shadow.address, maxInFlight=4, maxBufferedBytes="16KiB"))
    before = proxy.rss()
    all_is_well(proxy, echo)
    assert proxy.rss() - before < 16 << 20
    # No more than are allowed were under way at a time; the others were lost to the buffer or left out.
    assert proxy.metrics().value("pillion_upstream_connections_active", upstream="shadow") <= 4
    assert copies(proxy, "skipped") + copies(proxy, "failed") >= REQUESTS - 4
    assert copies(proxy, "answered") == 0


@pytest.mark.parametrize("timeouts", [None, {"request": "0s"}], ids=["default", "unlimited"])
def test_one_that_never_answers(pillion, echo, raw_upstream, timeouts):
    shadow = raw_upstream()
    proxy = pillion(config(echo, shadow.address, timeouts=timeouts, maxInFlight=3))
    all_is_well(proxy, echo, body=b"small")
    eventually(lambda: len(shadow.connections) == 3, "the copies")
    assert copies(proxy, "skipped") == REQUESTS - 3
    # A place that comes free is used again.
    for connection in list(shadow.connections):
        connection.close()
    eventually(lambda: copies(proxy, "failed") == 3, "the copies' end")
    all_is_well(proxy, echo, body=b"small", requests=1)
    eventually(lambda: len(shadow.connections) == 4, "another copy")


def test_one_that_does_not_even_accept(pillion, echo):
    """With its backlog full a connection takes until the connect timeout."""
    with Listener(backlog=0) as shadow:
        proxy = pillion(config(echo, shadow.address, maxInFlight=5))
        all_is_well(proxy, echo)
        assert copies(proxy, "skipped") >= REQUESTS - 10


def test_its_time_ends_with_the_request_s(pillion, echo, raw_upstream):
    shadow = raw_upstream()
    proxy = pillion(config(echo, shadow.address, timeouts={"request": "300ms"}))
    all_is_well(proxy, echo, body=b"small", requests=3)
    eventually(lambda: copies(proxy, "failed") == 3, "the copies' end")
    eventually(lambda: shadow.open_connections() == 0, "the connections' end")


# A mirror that fails.


def refuses(connection):
    connection.reset()
    raise Closed(b"", True)


def says(answer):
    def script(connection):
        connection.read_head()
        connection.send(answer)
        connection.close()
        raise Closed(b"", False)

    return script


FAILURES = {
    "resets": refuses,
    "closes": lambda connection: connection.close(),
    "garbage": says(b"\x00\x01garbage\r\n\r\n"),
    "half": says(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "500": says(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
    "short": says(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"),
}


@pytest.mark.parametrize("script", FAILURES.values(), ids=FAILURES)
def test_one_that_fails(pillion, echo, raw_upstream, script):
    shadow = raw_upstream(script)
    proxy = pillion(config(echo, shadow.address))
    all_is_well(proxy, echo)
    # None is tried again.
    eventually(lambda: copies(proxy, "failed") + copies(proxy, "answered") == REQUESTS, "the copies' end")
    assert len(shadow.connections) <= REQUESTS
    assert proxy.metrics().value("pillion_upstream_retries_total") == 0


def test_one_that_is_not_there(pillion, echo, raw_upstream):
    shadow = raw_upstream()
    shadow.stop_listening()
    proxy = pillion(config(echo, shadow.address))
    all_is_well(proxy, echo)
    eventually(lambda: copies(proxy, "failed") == REQUESTS, "the copies' end")


# A mirror that reads slowly, and one that talks without end.


def test_one_that_reads_slowly(pillion, echo, raw_upstream, held):
    def script(connection):
        connection.sock.setsockopt(1, 8, 4096)  # SO_RCVBUF
        while connection.recv_some(1024) and not held.wait(0.01):
            pass

    shadow = raw_upstream(script)
    proxy = pillion(config(echo, shadow.address))
    all_is_well(proxy, echo, body=bytes(range(256)) * 40_000, requests=8)
    assert copies(proxy, "answered") == 0


def test_one_that_answers_before_it_has_read(pillion, echo, raw_upstream, held):
    def script(connection):
        connection.read_head()
        connection.send(OK)
        held.wait(60)

    proxy = pillion(config(echo, raw_upstream(script).address, maxBufferedBytes="4KiB"))
    all_is_well(proxy, echo, body=b"x" * 2_000_000, requests=8)


def test_one_whose_answer_has_no_end(pillion, echo, raw_upstream):
    def script(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")

    shadow = raw_upstream(script)
    proxy = pillion(config(echo, shadow.address, maxInFlight=5))
    all_is_well(proxy, echo)
    # Nobody needs all of it.
    eventually(lambda: shadow.open_connections() == 0, "the connections' end")
