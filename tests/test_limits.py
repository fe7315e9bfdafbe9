"""Nothing is unbounded: memory, descriptors, connections, requests."""

import hashlib
import threading

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.upstream import OK, PATTERN, pattern, reply
from support.wait import TIMEOUT, eventually
from support.wire import Closed

MIB = 1024 * 1024
BIG = 100 * MIB


def digest_of(size: int) -> str:
    digest = hashlib.sha256()
    for piece in pattern(size):
        digest.update(piece)
    return digest.hexdigest()


@pytest.mark.parametrize("switch", ["", "&chunked"])
def test_a_large_download_streams(pillion, echo, connect, switch):
    proxy = pillion(http_config(echo.address))
    fetch(proxy.address())
    before = proxy.rss()
    client = connect(proxy.address())
    client.record = False
    client.send_request("GET", f"/?size={BIG}{switch}")
    response = client.frame(client.read_head(), response_to="GET")
    digest, most = hashlib.sha256(), 0
    for number, piece in enumerate(client.body(response)):
        digest.update(piece)
        if number % 100 == 0:
            most = max(most, proxy.rss())
    assert digest.hexdigest() == digest_of(BIG)
    assert most - before < 24 * MIB, f"memory grew by {(most - before) / MIB:.1f} MiB"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_upload_streams(pillion, echo, connect, framing):
    proxy = pillion(http_config(echo.address))
    fetch(proxy.address())
    before, most = proxy.rss(), 0
    client = connect(proxy.address())
    field = ("Content-Length", str(BIG)) if framing == "length" else ("Transfer-Encoding", "chunked")
    client.send_request("POST", "/", [field])
    for number, piece in enumerate(pattern(BIG)):
        client.send(piece if framing == "length" else b"%x\r\n%s\r\n" % (len(piece), piece))
        if number % 100 == 0:
            most = max(most, proxy.rss())
    if framing == "chunked":
        client.send(b"0\r\n\r\n")
    account = client.read_response("POST").json()
    assert (account["length"], account["sha256"]) == (BIG, digest_of(BIG))
    assert most - before < 24 * MIB, f"memory grew by {(most - before) / MIB:.1f} MiB"


def test_a_slow_reader_holds_the_upstream_back(pillion, raw_upstream, connect):
    """Back-pressure: what the client doesn't read stays at the upstream, not in Pillion."""
    stalled, sent = threading.Event(), []

    def script(connection):
        connection.read_head()
        connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n")
        connection.sock.settimeout(1)
        view, total = memoryview(PATTERN), 0
        while total < BIG:
            try:
                total += connection.sock.send(view[total % len(PATTERN):][: BIG - total])
            except TimeoutError:
                sent.append(total)
                stalled.set()
                connection.sock.settimeout(TIMEOUT)
        connection.close()

    upstream = raw_upstream(script)
    proxy = pillion(http_config(upstream.address))
    before = proxy.rss()
    client = connect(proxy.address())
    client.record = False
    client.send_request("GET", "/")
    assert stalled.wait(TIMEOUT), "the upstream was never held back"
    # What is on its way lies in the kernel's socket buffers, at most a few MiB a socket.
    assert sent[0] < 40 * MIB
    assert proxy.rss() - before < 16 * MIB
    response = client.frame(client.read_head(), response_to="GET")
    assert sum(len(piece) for piece in client.body(response)) == BIG


def test_a_slow_upstream_holds_the_client_back(pillion, raw_upstream, connect):
    go = threading.Event()

    def script(connection):
        connection.record = False
        request = connection.frame(connection.read_head())
        assert go.wait(TIMEOUT)
        total = sum(len(piece) for piece in connection.body(request))
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n%09d" % total)

    proxy = pillion(http_config(raw_upstream(script).address))
    before = proxy.rss()
    client = connect(proxy.address())
    client.send_request("POST", "/", {"Content-Length": str(BIG)})
    client.sock.settimeout(1)
    total, view = 0, memoryview(PATTERN)
    with pytest.raises(TimeoutError):
        while total < BIG:
            total += client.sock.send(view[total % len(PATTERN):][: BIG - total])
    assert total < 40 * MIB
    assert proxy.rss() - before < 16 * MIB
    go.set()
    client.sock.settimeout(TIMEOUT)
    while total < BIG:
        total += client.sock.send(view[total % len(PATTERN):][: BIG - total])
    assert int(client.read_response("POST").body) == BIG


def test_a_flood_of_pipelined_requests_is_held_back(pillion, echo, connect):
    """A client that asks and asks and never reads an answer."""
    proxy = pillion(http_config(echo.address))
    fetch(proxy.address())
    before = proxy.rss()
    client = connect(proxy.address())
    client.sock.settimeout(1)
    requests = b"GET /flood?size=100000 HTTP/1.1\r\nHost: app.test\r\n\r\n" * 1000
    with pytest.raises(TimeoutError):
        for _ in range(1000):
            client.send(requests)
    assert proxy.rss() - before < 8 * MIB
    assert fetch(proxy.address()).status == 200


def test_memory_of_idle_connections_is_small(pillion, echo):
    proxy = pillion(http_config(echo.address))
    fetch(proxy.address())
    before, count = proxy.rss(), 500
    clients = [RawClient(proxy.address()) for _ in range(count)]
    try:
        for client in clients:
            assert client.get("/").status == 200
        grown = proxy.rss() - before
        # The aim (12 KB) is measured by the benchmark; this only catches a buffer that stays.
        assert grown / count < 64 * 1024, f"{grown / count / 1024:.1f} KiB a connection"
    finally:
        for client in clients:
            client.close()


def test_connections_above_the_listeners_limit_are_closed(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, listener={"maxConnections": 2}))
    first, second = connect(proxy.address()), connect(proxy.address())
    assert first.get("/").status == 200
    assert second.get("/").status == 200
    third = connect(proxy.address())
    assert third.recv_all() == b""
    assert first.get("/").status == 200
    eventually(lambda: proxy.metrics().value("pillion_listener_connections_refused_total") >= 1)
    second.close()

    def again():
        try:
            return fetch(proxy.address()).status == 200
        except (Closed, ConnectionError):
            return False

    eventually(again, "a free place to be taken")


def test_no_descriptors_left(pillion, echo):
    """EMFILE: connections that are open are served on, and new ones as soon as there is room."""
    proxy = pillion(http_config(echo.address), prefix=["prlimit", "--nofile=80:80"])
    early = RawClient(proxy.address())
    assert early.get("/").status == 200
    crowd = [RawClient(proxy.address()) for _ in range(150)]
    eventually(lambda: proxy.descriptors() >= 70, "descriptors used up")
    for _ in range(20):
        assert early.get("/").status == 200
    for client in crowd:
        client.close()

    def again():
        try:
            with RawClient(proxy.address(), timeout=2) as client:
                return client.get("/").status == 200
        except (Closed, OSError):
            return False

    eventually(again, "accepting again")
    assert early.get("/").status == 200
    early.close()


def test_descriptors_are_given_back(pillion, echo):
    proxy = pillion(http_config(echo.address))
    fetch(proxy.address())
    before = proxy.descriptors()
    for _ in range(5):
        clients = [RawClient(proxy.address()) for _ in range(40)]
        for client in clients:
            assert client.get("/").status == 200
            client.reset()
    eventually(lambda: proxy.descriptors() <= before + 45, "descriptors given back")


# Limits of an upstream.


def test_requests_above_the_upstreams_limit_are_refused(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, upstream={"limits": {"requests": 2}}))
    held = [connect(proxy.address()).send_request("GET", "/?gate=g") for _ in range(2)]
    echo.wait_heads(2)
    response = fetch(proxy.address(), "GET", "/third")
    line = proxy.refused(response, "request_limit", 503, path="/third")
    assert line["flags"] == "UO"
    echo.open_gate("g")
    for client in held:
        assert client.read_response().status == 200
    eventually(lambda: fetch(proxy.address()).status == 200, "the limit to be free again")


def test_connections_at_the_upstreams_limit_make_requests_wait(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, upstream={"limits": {"connections": 1, "pending": 1}}),
                    env={"PILLION_WORKERS": "1"})
    first = connect(proxy.address()).send_request("GET", "/first?gate=g")
    echo.wait_heads(1)
    second = connect(proxy.address()).send_request("GET", "/second")
    eventually(lambda: proxy.metrics().value("pillion_upstream_requests_pending") == 1, "one request pending")
    proxy.refused(fetch(proxy.address(), "GET", "/third"), "pending_limit", 503, path="/third")
    echo.open_gate("g")
    assert first.read_response().status == 200
    assert second.read_response().status == 200
    assert len(echo.connections) == 1


def test_a_worker_at_the_limit_never_starves(pillion, echo):
    """One connection for all workers: whichever worker a client is on, its request gets through."""
    proxy = pillion(http_config(echo.address, upstream={"limits": {"connections": 1}}), env={"PILLION_WORKERS": "4"})
    clients = [RawClient(proxy.address()) for _ in range(16)]
    try:
        for _ in range(5):
            for client in clients:
                assert client.get("/").status == 200
        # The upstream may see a little later that a connection was closed to make room for another one.
        eventually(lambda: echo.open_connections() <= 1, "one connection")
        # All at once.
        for client in clients:
            client.send_request("GET", "/")
        for client in clients:
            assert client.read_response().status == 200
    finally:
        for client in clients:
            client.close()


def test_a_pending_request_whose_client_leaves_frees_its_place(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, upstream={"limits": {"connections": 1, "pending": 1}}))
    first = connect(proxy.address()).send_request("GET", "/first?gate=g")
    echo.wait_heads(1)
    gone = connect(proxy.address()).send_request("GET", "/gone")
    pending = lambda: proxy.metrics().value("pillion_upstream_requests_pending")  # noqa: E731
    eventually(lambda: pending() == 1)
    gone.reset()
    eventually(lambda: pending() == 0)
    third = connect(proxy.address()).send_request("GET", "/third")
    eventually(lambda: pending() == 1)
    echo.open_gate("g")
    assert first.read_response().status == 200
    assert third.read_response().status == 200


def test_the_pool_keeps_within_its_idle_timeout(pillion, raw_upstream):
    upstream = raw_upstream(reply(OK))
    proxy = pillion(http_config(upstream.address, upstream={"timeouts": {"idle": "300ms"}}))
    assert fetch(proxy.address()).status == 200
    upstream.connection().wait_finished()


def test_a_connection_has_a_maximum_age(pillion, raw_upstream):
    """It ends when it lies in the pool, never under a request."""
    upstream = raw_upstream(reply(OK))
    proxy = pillion(http_config(upstream.address, upstream={"maxConnectionAge": "300ms"}))
    with RawClient(proxy.address()) as client:

        def renewed():
            assert client.get("/").status == 200
            return len(upstream.connections) >= 3

        eventually(renewed, "connections renewed")
