"""Peers that are slow, silent, broken or gone: each gets its answer, everybody else is served on."""

import socket

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.ports import free_port
from support.upstream import OK, EchoUpstream, reply
from support.wait import eventually
from support.wire import Closed

# Clients.


def test_a_slow_head_is_cut(pillion, echo, connect):
    """Slowloris: a byte now and then doesn't keep a head open for longer than its time."""
    proxy = pillion(http_config(echo.address, http={"headTimeout": "500ms"}))
    client = connect(proxy.address())
    client.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n")
    rest = b""
    try:
        while not client.readable(0.05):
            client.send("X: y\r\n")
        rest = client.recv_all()
    except (Closed, ConnectionError):
        pass
    assert rest == b"" or rest.startswith(b"HTTP/1.1 408 "), rest
    proxy.wait_reason("head_timeout")
    line = proxy.access(reason="head_timeout")
    assert line["status"] == 408 and line["detail"] == "no whole head within 500ms (http.headTimeout)"
    assert line["duration_ms"] >= 500, "from the first byte on"
    assert echo.heads == 0
    assert fetch(proxy.address()).status == 200


def test_many_slow_heads_don_t_stop_the_others(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, http={"headTimeout": "1s"}))
    slow = [connect(proxy.address()).send("GET /slow HTTP/1.1\r\nHost:") for _ in range(200)]
    with RawClient(proxy.address()) as client:
        for _ in range(20):
            assert client.get("/").status == 200
    for client in slow:
        rest = client.recv_all()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")


def test_a_silent_client_is_closed(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, http={"headTimeout": "300ms"}))
    client = connect(proxy.address())
    rest = client.recv_all()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")


def test_an_idle_keep_alive_connection_is_closed_without_a_word(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, http={"keepAliveTimeout": "300ms"}))
    client = connect(proxy.address())
    assert client.get("/").status == 200
    client.expect_closed()
    assert all(line["status"] == 200 for line in proxy.access_log())


def test_the_head_timeout_of_a_second_request_starts_with_its_first_byte(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, http={"headTimeout": "300ms", "keepAliveTimeout": "1h"}))
    client = connect(proxy.address())
    assert client.get("/").status == 200
    # Longer idle than a head may take; then a head that stays half.
    assert not client.readable(0.6), "closed while idle"
    client.send("GET /half HTTP/1.1\r\n")
    rest = client.recv_all()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")
    proxy.wait_reason("head_timeout")


def test_a_stalled_request_body_ends_with_the_idle_timeout(pillion, raw_upstream, connect):
    upstream = raw_upstream()
    proxy = pillion(http_config(upstream.address, timeouts={"idle": "300ms", "request": "1h"}))
    client = connect(proxy.address())
    client.send_request("POST", "/stalled", {"Content-Length": "1000"}).send("some")
    response = client.read_response("POST")
    assert response.status in (408, 504), response
    assert response.reason == "idle_timeout"
    assert proxy.access(path="/stalled")["reason"] == "idle_timeout"
    assert len(upstream.connection().wait_finished().split(b"\r\n\r\n", 1)[1]) <= 4
    client.recv_all()


def test_a_slow_body_that_moves_is_not_cut(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, timeouts={"idle": "1s", "request": "1h"}))
    client = connect(proxy.address())
    client.send_request("POST", "/", {"Content-Length": "8"})
    for _ in range(8):
        # The pause, not the clock, is the point: together they are longer than the timeout.
        assert not client.readable(0.2)
        client.send("a")
    assert client.read_response("POST").json()["body"] == "a" * 8


def test_a_client_that_half_closes_gets_its_answer_or_is_taken_for_gone(pillion, echo, connect):
    """A FIN is all that a proxy hears of most clients that leave; what it can't do is hang on."""
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send_request("POST", "/half?gate=g", body=b"hello")
    echo.wait_heads(1)
    client.half_close()
    rest = client.recv_all()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 200")
    assert proxy.access(path="/half?gate=g")["reason"] in ("client_closed", None)


def test_a_client_that_vanishes_mid_response_is_noticed(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send_request("GET", f"/big?size={50 * 1024 * 1024}")
    client.read_head()
    client.reset()
    assert proxy.access(path="/big?size=52428800")["reason"] == "client_closed"
    eventually(lambda: echo.open_connections() == 0, "the upstream connection to be given up")


def test_garbage_after_a_request_ends_the_connection_after_the_answer(pillion, echo, connect):
    client = connect(pillion(http_config(echo.address)).address())
    client.send_request("GET", "/first").send(b"\x00\x01\x02garbage\r\n\r\n")
    assert client.read_response().json()["target"] == "/first"
    assert client.read_response().status == 400
    client.expect_closed()


# Upstreams.


@pytest.fixture
def answer(pillion, raw_upstream):
    """`answer(script)`: a proxy before an upstream that follows the script."""

    def start(script, **options):
        upstream = raw_upstream(script)
        return pillion(http_config(upstream.address, **options)), upstream

    return start


def sends(*pieces: bytes, then="close"):
    def script(connection):
        connection.read_head()
        for piece in pieces:
            connection.send(piece)
        if then:
            getattr(connection, then)()

    return script


GARBAGE = {
    "binary": b"\x00\xff\xfe garbage\r\n\r\n",
    "tls-alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "ssh": b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\r\n",
    "http-0.9": b"<html>no head at all</html>",
    "status-word": b"HTTP/1.1 abc OK\r\n\r\n",
    "status-short": b"HTTP/1.1 20 OK\r\n\r\n",
    "status-099": b"HTTP/1.1 099 OK\r\n\r\n",
    "version-2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no-colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "space-before-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "bare-cr": b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
    "lengths-differ": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length-word": b"HTTP/1.1 200 OK\r\nContent-Length: one\r\n\r\na",
    "length-plus": b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
    "length-minus": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\na",
    "te-gzip-chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te-chunked-twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_from_the_upstream_is_a_502(answer, name):
    proxy, upstream = answer(sends(GARBAGE[name], then=None))
    response = fetch(proxy.address(), "GET", "/garbage")
    proxy.refused(response, "upstream_protocol", 502, path="/garbage")
    upstream.connection().wait_finished()


def test_both_lengths_from_the_upstream(answer):
    """RFC 9112 section 6.3: an error, or chunked wins and the connection is not used again."""
    script = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
                   then=None)
    proxy, upstream = answer(script)
    response = fetch(proxy.address())
    if response.status == 200:
        assert response.body == b"ab"
    else:
        assert response.status == 502
    upstream.connection().wait_finished()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_closed_before_the_head(answer, how):
    proxy, _ = answer(sends(then=how))
    response = fetch(proxy.address(), "POST", "/closed", body=b"x")
    assert response.reason in ("upstream_closed", "upstream_reset")
    proxy.refused(response, response.reason, 502, path="/closed")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_closed_in_the_middle_of_the_head(answer, how):
    proxy, _ = answer(sends(b"HTTP/1.1 200 OK\r\nContent-Le", then=how))
    response = fetch(proxy.address(), "POST", "/middle", body=b"x")
    assert response.reason in ("upstream_closed", "upstream_reset", "upstream_protocol")
    proxy.refused(response, response.reason, 502, path="/middle")


BROKEN_BODIES = {
    "length-short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome",
    "chunk-short": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nsome",
    "no-last-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
    "half-last-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n",
    "bad-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nzz\r\nxx\r\n0\r\n\r\n",
    "bad-chunk-end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsomething\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_a_body_cut_or_broken_is_never_completed(answer, name, how):
    proxy, _ = answer(sends(BROKEN_BODIES[name], then=how))
    with pytest.raises(Closed):
        response = fetch(proxy.address(), "GET", "/cut")
        # Where nothing had been sent on yet, an error says it better.
        assert response.status == 502
        raise Closed(b"", reset=False)
    line = proxy.access(path="/cut")
    assert line["reason"] in ("response_incomplete", "upstream_protocol", "upstream_reset"), line
    assert line["flags"]


def test_an_upstream_that_never_answers(answer):
    proxy, upstream = answer(None, timeouts={"request": "300ms"})
    response = fetch(proxy.address(), "GET", "/never")
    line = proxy.refused(response, "request_timeout", 504, path="/never")
    # Which limit it was, and how long: in the log, and for the client who has waited for it.
    assert line["detail"] == "no response head within 300ms (timeouts.request)"
    assert line["detail"] in response.body.decode() and line["detail"] in response.header("proxy-status")
    upstream.connection().wait_finished()
    assert proxy.metrics().value("pillion_upstream_requests_active") == 0


def test_an_upstream_that_stalls_in_its_head(answer):
    proxy, _ = answer(sends(b"HTTP/1.1 200 OK\r\nX: ", then=None), timeouts={"request": "300ms"})
    proxy.refused(fetch(proxy.address()), "request_timeout", 504)


def test_an_upstream_that_stalls_in_its_body(answer):
    script = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", then=None)
    proxy, upstream = answer(script, timeouts={"idle": "300ms"})
    with pytest.raises(Closed):
        fetch(proxy.address(), "GET", "/stall")
    line = proxy.access(path="/stall")
    assert (line["reason"], line["detail"]) == ("idle_timeout", "no byte moved within 300ms (timeouts.idle)")
    proxy.wait_reason("idle_timeout")
    upstream.connection().wait_finished()


def test_the_request_timeout_ends_with_the_head_of_the_response(answer):
    """After the head only the idle timeout counts."""

    def script(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for _ in range(5):
            connection.readable(0.2)
            connection.send(b"a")

    proxy, _ = answer(script, timeouts={"request": "500ms", "idle": "5s"})
    assert fetch(proxy.address()).body == b"aaaaa"


def test_the_total_timeout_cuts_a_body_that_moves(answer):
    def script(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not connection.readable(0.02):
            connection.send(b"1\r\na\r\n")

    proxy, upstream = answer(script, timeouts={"total": "500ms"})
    with pytest.raises(Closed):
        fetch(proxy.address(), "GET", "/total")
    line = proxy.access(path="/total")
    assert (line["reason"], line["detail"]) == ("total_timeout", "the exchange was not over within 500ms (timeouts.total)")
    upstream.connection().wait_finished()


def test_the_total_timeout_before_the_head(answer):
    proxy, _ = answer(None, timeouts={"total": "300ms"})
    line = proxy.refused(fetch(proxy.address()), "total_timeout", 504)
    assert line["detail"] == "no response head within 300ms (timeouts.total)"


def test_an_oversized_upstream_head(answer):
    head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(1000)) + b"\r\n"
    proxy, _ = answer(sends(head, then=None))
    proxy.refused(fetch(proxy.address()), "upstream_head_too_large", 502)


def test_an_endless_upstream_head(answer):
    def script(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.send(b"X: " + b"a" * 60_000 + b"\r\n")

    proxy, _ = answer(script)
    before = proxy.rss()
    proxy.refused(fetch(proxy.address()), "upstream_head_too_large", 502)
    assert proxy.rss() - before < 20 * 1024 * 1024


def test_bytes_after_a_response_never_become_the_next_one(answer):
    """A response longer than it said: the rest must not answer somebody else's request."""
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

    def script(connection):
        connection.read_head()
        connection.send(OK + poison)

    proxy, upstream = answer(script)
    with RawClient(proxy.address()) as client:
        for _ in range(5):
            assert client.get("/").body == b"ok"
    assert len(upstream.connections) == 5


def test_a_late_unasked_response_never_becomes_the_next_one(answer):
    sent = []

    def script(connection):
        connection.read_head()
        connection.send(OK)
        # By now the connection lies in the pool, or will in a moment.
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        sent.append(connection.number)

    proxy, upstream = answer(script)
    with RawClient(proxy.address()) as client:
        for number in range(5):
            assert client.get("/").body == b"ok"
            eventually(lambda number=number: number in sent)
            upstream.connection(number).wait_finished()


def test_a_bodiless_response_with_a_body_does_not_poison(answer):
    def script(connection):
        for _ in range(2):
            connection.read_head()
            connection.send(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

    proxy, _ = answer(script)
    with RawClient(proxy.address()) as client:
        assert client.get("/").status == 204
        response = client.get("/")
        assert response.body != b"poison"


def test_a_refused_connection(pillion):
    proxy = pillion(http_config(f"127.0.0.1:{free_port()}"))
    response = fetch(proxy.address(), "GET", "/down")
    line = proxy.refused(response, "connect_failed", 503, path="/down")
    assert (line["flags"], line["upstream"]) == ("UF", "app")
    assert "127.0.0.1" in line["detail"] + (line["endpoint"] or ""), line


def test_a_connect_that_hangs(pillion):
    """A listener with a full queue drops what comes; nobody answers."""


    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = "%s:%d" % listener.getsockname()
        fill = []
        try:
            for _ in range(4):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
                fill.append(sock)
            proxy = pillion(http_config(address, upstream={"timeouts": {"connect": "300ms"}}))
            proxy.refused(fetch(proxy.address()), "connect_timeout", 504)
        finally:
            for sock in fill:
                sock.close()


def test_one_dead_endpoint_of_two_does_not_fail_every_request(pillion, echo):
    """A connection that was refused reached no application; the other endpoint can have it."""
    proxy = pillion(http_config(f"127.0.0.1:{free_port()}", echo.address))
    statuses = [fetch(proxy.address()).status for _ in range(30)]
    assert statuses.count(200) >= 10, statuses
    assert set(statuses) <= {200, 503}


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_keep_alive_race_is_not_felt_where_that_is_safe(answer, how):
    """The pooled connection dies under the request: a GET is sent again, a POST may not be."""

    def script(connection):
        connection.read_request()
        connection.send(OK)
        connection.read_head()
        getattr(connection, how)()

    proxy, upstream = answer(script)
    with RawClient(proxy.address()) as client:
        for _ in range(5):
            assert client.get("/").status == 200
        connections = len(upstream.connections)
        response = client.request("POST", "/", body=b"once")
        assert response.status in (200, 502)
        if response.status == 502:
            assert response.reason in ("upstream_closed", "upstream_reset")
    bodies = b"".join(bytes(one.received) for one in upstream.connections)
    assert bodies.count(b"POST / ") == 1, "a POST was sent twice"
    assert connections >= 2


def test_gauges_come_back_to_nothing(answer):
    """However exchanges end, what counts them is given back."""
    script = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", then=None)
    proxy, _ = answer(script, timeouts={"request": "300ms", "idle": "300ms"})
    for _ in range(3):
        with RawClient(proxy.address()) as client:
            client.send_request("GET", "/left")
            client.read_head()
        with RawClient(proxy.address()) as client:
            client.send_request("POST", "/left", {"Content-Length": "10"}).send("x")
        with pytest.raises(Closed):
            fetch(proxy.address(), "GET", "/stalls")
        with RawClient(proxy.address()) as client:
            client.send("nonsense\r\n\r\n")
            client.read_response()

    def settled():
        metrics = proxy.metrics()
        return all(metrics.value(name) == 0 for name in (
            "http_server_active_requests", "pillion_listener_connections_active", "pillion_upstream_requests_active",
            "pillion_upstream_requests_pending", "pillion_upstream_connections_active",
            "pillion_upstream_connections_idle"))

    eventually(settled, "all gauges at zero")


def test_after_a_fault_the_client_connection_goes_on(answer):
    """A 502 is an answer like any other; the client's connection is not to blame."""

    def script(connection):
        if connection.number == 0:
            connection.read_request()
            connection.close()
        else:
            reply(OK)(connection)

    proxy, _ = answer(script)
    with RawClient(proxy.address()) as client:
        assert client.request("POST", "/", body=b"x").status == 502
        assert client.get("/").status == 200


def test_faults_of_one_upstream_leave_the_other_alone(pillion, raw_upstream):
    routes = [
        {"name": "bad", "rules": [{"matches": [{"path": {"value": "/bad"}}], "backendRefs": [{"name": "app"}],
                                   "timeouts": {"request": "2s"}}]},
        {"name": "good", "rules": [{"backendRefs": [{"name": "good"}]}]},
    ]
    with EchoUpstream("good") as good:
        proxy = pillion(http_config(raw_upstream().address, routes=routes,
                                    more_upstreams=[{"name": "good", "endpoints": [good.address]}]))
        with RawClient(proxy.address()) as bad, RawClient(proxy.address()) as client:
            bad.send_request("GET", "/bad")
            for _ in range(20):
                assert client.get("/good").status == 200
            assert bad.read_response().status == 504
