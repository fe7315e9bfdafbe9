"""Idle connections that the upstream closes as a request is written to them."""

import random
import threading
import time

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.fleet import Fleet, answers, closes, resets
from support.h2raw import Upstream, dial
from support.upstream import OK
from support.wait import eventually
from support.wire import Closed

NO_BUDGET = {"retryBudget": {"percent": 0, "minPerSecond": 0}}
AGES = {"0ms": [0], "1ms": [1], "5ms": [5], "50ms": [50], "any": [0, 0, 1, 2, 3, 5, 8, 20]}


class Impatient:
    """A script: closes a connection once it has been idle for so many milliseconds, chosen at random."""

    def __init__(self, ages):
        self.ages = ages
        self.seen: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, connection):
        rng = random.Random(connection.number)
        connection.record = False
        try:
            while True:
                request = connection.read_request()
                with self.lock:
                    self.seen.append(request.target)
                connection.send(OK)
                age = rng.choice(self.ages) / 1000
                if age == 0 or not connection.readable(age):
                    break
        except Closed:
            pass
        connection.close()


def races(proxy, result) -> float:
    return proxy.metrics().value("pillion_upstream_keepalive_races_total", upstream="app", result=result)


def shown(proxy) -> dict:
    (upstream,) = proxy.admin_get("/upstreams").json()
    return upstream["endpoints"][0]


@pytest.mark.parametrize("ages", AGES.values(), ids=AGES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_whatever_the_age_at_which_connections_are_closed(pillion, raw_upstream, ages, method):
    """The pauses between requests aim at the moment of the close."""
    app = Impatient(ages)
    proxy = pillion(http_config(raw_upstream(app).address, upstream={"breaker": "off"}))
    rng = random.Random(7)
    failed = []
    with RawClient(proxy.address()) as client:
        for number in range(200):
            pause = max(0, rng.choice(ages) / 1000 + rng.uniform(-1, 1) / 1000)
            assert pause == 0 or not client.readable(pause)
            response = client.request(method, f"/{number}", body=b"once" if method == "POST" else None)
            if response.status != 200:
                assert (response.status, method) == (502, "POST"), response
                failed.append(number)
    if method == "POST":
        assert len(set(app.seen)) == len(app.seen), "seen twice"
    # What crossed a close on the wire, and nothing else.
    assert races(proxy, "failed") == len(failed)
    assert len(failed) <= 20, failed


# A close under the request, as the wire shows it: the connection has carried one before.


def used_then(act):
    return [answers(), act, answers()]


@pytest.mark.parametrize("act", [closes, resets], ids=["closed", "reset"])
def test_an_idempotent_request_takes_another_connection(pillion, act):
    """It is not counted as a retry by the budget, nor against the endpoint."""
    with Fleet(*used_then(act), count=1) as app:
        upstream = {"breaker": {"consecutiveFailures": 1, "connectFailures": 1}, **NO_BUDGET}
        proxy = pillion(http_config(*app.addresses, upstream=upstream))
        with RawClient(proxy.address()) as client:
            assert client.get().status == 200
            assert client.get("/raced").status == 200
        connections = [attempt.connection.number for attempt in app.attempts]
        assert connections == [0, 0, 1]
        assert (races(proxy, "retried"), races(proxy, "failed")) == (1, 0)
        assert proxy.access(path="/raced")["attempts"] == 2
        assert shown(proxy)["idleCloseSeenMs"] is not None


@pytest.mark.parametrize("act", [closes, resets], ids=["closed", "reset"])
def test_another_request_fails_and_is_counted(pillion, act):
    with Fleet(*used_then(act), count=1) as app:
        proxy = pillion(http_config(*app.addresses))
        with RawClient(proxy.address()) as client:
            assert client.get().status == 200
            assert client.request("POST", "/raced", body=b"once").status == 502
        assert (races(proxy, "retried"), races(proxy, "failed")) == (0, 1)
        assert len(app.attempts) == 2


def test_a_first_request_on_a_connection_races_with_nothing(pillion):
    with Fleet(closes, count=1) as app:
        proxy = pillion(http_config(*app.addresses))
        assert fetch(proxy.address(), "POST", body=b"once").status == 502
        assert fetch(proxy.address()).status == 502
        assert (races(proxy, "retried"), races(proxy, "failed")) == (0, 0)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_over_http2_without_a_goaway(pillion, method):
    with Upstream() as upstream:
        proxy = pillion(http_config(upstream.address, upstream={"protocol": "http2", **NO_BUDGET}))
        with dial(proxy.address()) as client:
            stream = client.request()
            with upstream.accept(client) as server:
                server.respond(server.next_request(client))
                assert client.response(stream, server).status == 200
                stream = client.request(method, path="/raced")
                server.next_request(client)
            if method == "POST":
                assert client.response(stream).status == 502
            else:
                with upstream.accept(client) as server:
                    server.respond(server.next_request(client))
                    assert client.response(stream, server).status == 200
        assert races(proxy, "failed" if method == "POST" else "retried") == 1


# What is learnt.


def test_the_age_of_closed_connections_is_learnt(pillion, raw_upstream):
    proxy = pillion(http_config(raw_upstream(Impatient([400])).address))
    assert shown(proxy)["idleCloseSeenMs"] is None
    assert fetch(proxy.address()).status == 200
    # Looked at once a second, without another request.
    seen = eventually(lambda: shown(proxy)["idleCloseSeenMs"], "the age")
    assert 200 <= seen < 20_000


def test_a_server_s_word_is_believed(pillion, echo):
    proxy = pillion(http_config(echo.address))
    response = fetch(proxy.address(), "GET", "/?header=Keep-Alive:timeout%3D1,%20max%3D100&header=Connection:keep-alive")
    assert response.status == 200 and response.header("keep-alive") is None
    # Closed by Pillion long before its own 55 s, and before the server would have.
    start = time.monotonic()
    echo.connection().wait_finished()
    assert time.monotonic() - start < 20
    assert shown(proxy)["idleCloseToldMs"] == 1000
    assert shown(proxy)["idleCloseSeenMs"] is None


def test_a_restart_of_the_endpoint_is_no_age(pillion, raw_upstream):
    """One that closed a connection early, and then keeps the next, is as patient as before."""
    upstream = raw_upstream(lambda connection: serve(connection, once=connection.number == 0))

    def serve(connection, once):
        while True:
            connection.read_request()
            connection.send(OK)
            if once:
                return connection.close()

    proxy = pillion(http_config(upstream.address))
    with RawClient(proxy.address()) as client:
        assert client.get().status == 200
        first = eventually(lambda: shown(proxy)["idleCloseSeenMs"], "the age")
        for _ in range(8):
            assert not client.readable(0.2 + first / 1000)
            assert client.get().status == 200
            if (later := shown(proxy)["idleCloseSeenMs"]) > first:
                break
        assert later > first
