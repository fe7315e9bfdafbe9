"""Attempts as the upstream counts them: what is sent again, what never, how often, on which terms."""

import re
import time

import pytest
from support.client import RawClient, chunked, fetch
from support.config import http_config
from support.fleet import Fleet, answers, breaks_off_in_the_head, closes, hangs, resets
from support.h2raw import CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Code, Upstream, dial, frame
from support.ports import free_port
from support.reactor import Tick
from support.wait import eventually

#: So that only the retries decide.
CALM = {"breaker": "off", "ejection": "off", "balancer": "roundRobin"}
GRPC = [("content-type", "application/grpc"), ("te", "trailers")]


@pytest.fixture
def fleet():
    fleets = []

    def start(*acts, **options):
        fleets.append(Fleet(*acts, **options))
        return fleets[-1]

    yield start
    for each in fleets:
        each.close()


def config(*addresses: str, retry=None, timeouts=None, upstream=None, **options) -> dict:
    rule = {"backendRefs": [{"name": "app"}]}
    if retry is not None:
        rule["retry"] = retry
    if timeouts is not None:
        rule["timeouts"] = timeouts
    routes = [{"name": "all", "rules": [rule]}]
    return http_config(*addresses, routes=routes, upstream={**CALM, **(upstream or {})}, **options)


def value(proxy, name, **labels) -> float:
    return proxy.metrics().value(f"pillion_upstream_{name}_total", upstream="app", **labels)


# Which requests.


def test_what_was_never_sent_is_sent_elsewhere_whatever_it_is(pillion, fleet):
    app = fleet(answers(), count=1)
    proxy = pillion(config(f"127.0.0.1:{free_port()}", *app.addresses))
    for number in range(6):
        assert fetch(proxy.address(), "POST", f"/{number}", body=b"once").status == 200
    assert [attempt.request.target for attempt in app.attempts] == [f"/{number}" for number in range(6)]
    assert {proxy.access(path=f"/{number}")["attempts"] for number in range(6)} <= {1, 2}
    assert value(proxy, "retries") > 0


FAILURES = [resets, closes, breaks_off_in_the_head, answers(502), answers(503), answers(504)]
NAMES = ["reset", "close", "half", "502", "503", "504"]


@pytest.mark.parametrize("fails", FAILURES, ids=NAMES)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_idempotent_requests_are_sent_again(pillion, fleet, fails, method):
    app = fleet(fails, answers())
    proxy = pillion(config(*app.addresses))
    response = fetch(proxy.address(), method, body=b"same" if method == "PUT" else None)
    assert response.status == 200 and response.header("x-pillion-attempts") == "2"
    first, second = app.attempts
    assert first.endpoint != second.endpoint
    assert (first.header("x-pillion-previous-attempts"), second.header("x-pillion-previous-attempts")) == (None, "1")
    assert [attempt.request.body for attempt in app.attempts] == [b"same" if method == "PUT" else b""] * 2
    assert first.header("x-request-id") == second.header("x-request-id")
    line = proxy.access(path="/")
    assert line["attempts"] == 2 and line["endpoint"] == app.addresses[second.endpoint]
    assert value(proxy, "retries") == 1


@pytest.mark.parametrize("fails", FAILURES, ids=NAMES)
def test_others_are_not(pillion, fleet, fails):
    app = fleet(fails, answers())
    proxy = pillion(config(*app.addresses))
    response = fetch(proxy.address(), "POST", body=b"once")
    assert response.status in (502, 503, 504), response
    assert response.header("x-pillion-attempts") is None
    assert len(app.attempts) == 1 and proxy.access(path="/")["attempts"] == 1
    assert value(proxy, "retries") == 0


@pytest.mark.parametrize("fails", FAILURES, ids=NAMES)
def test_unless_a_key_makes_them_idempotent_or_the_route_says_so(pillion, fleet, fails):
    app = fleet(fails, answers(), fails, answers())
    proxy = pillion(config(*app.addresses, timeouts={}))
    assert fetch(proxy.address(), "POST", headers={"Idempotency-Key": "7"}, body=b"a").status == 200
    proxy.must_reload(config(*app.addresses, retry={"idempotent": "always"}))
    assert fetch(proxy.address(), "POST", body=b"b").status == 200
    assert [attempt.request.body for attempt in app.attempts] == [b"a", b"a", b"b", b"b"]


def test_a_route_may_trust_no_method(pillion, fleet):
    app = fleet(answers(503))
    proxy = pillion(config(*app.addresses, retry={"idempotent": "never"}))
    assert fetch(proxy.address()).status == 503
    assert len(app.attempts) == 1


def test_other_statuses_are_no_failures_unless_listed(pillion, fleet):
    app = fleet(answers(500))
    proxy = pillion(config(*app.addresses))
    assert fetch(proxy.address()).status == 500 and len(app.attempts) == 1
    proxy.must_reload(config(*app.addresses, retry={"codes": [500]}))
    assert fetch(proxy.address()).status == 500 and len(app.attempts) == 4


# How often, where, and what is told in the end.


def test_every_attempt_goes_elsewhere(pillion, fleet):
    app = fleet(answers(503), resets, answers())
    proxy = pillion(config(*app.addresses))
    for _ in range(5):
        app.attempts.clear()
        assert fetch(proxy.address()).status == 200
        assert sorted(app.endpoints) == [0, 1, 2]


def test_the_last_real_response_is_told_when_attempts_run_out(pillion, fleet):
    app = fleet(answers(503, b"first", x_which="first"), resets, closes, answers())
    proxy = pillion(config(*app.addresses))
    response = fetch(proxy.address())
    assert (response.status, response.body, response.header("x-which")) == (503, b"first", "first")
    assert response.reason is None and response.header("x-pillion-attempts") == "3"
    assert len(app.attempts) == 3
    assert proxy.access(path="/")["endpoint"] == app.addresses[app.endpoints[0]]
    assert value(proxy, "retries_withheld", cause="attempts") == 1


def test_without_one_the_failure_tells_how_many_there_were(pillion, fleet):
    app = fleet(resets)
    proxy = pillion(config(*app.addresses))
    response = fetch(proxy.address())
    assert response.status == 502 and response.header("x-pillion-attempts") == "3"
    assert "after 3 attempts" in proxy.access(path="/")["detail"]


def test_one_attempt_means_no_retry(pillion, fleet):
    app = fleet(resets)
    proxy = pillion(config(*app.addresses, retry={"attempts": 1}))
    assert fetch(proxy.address()).status == 502
    assert len(app.attempts) == 1


def test_an_attempt_s_own_timeout(pillion, fleet):
    app = fleet(hangs, answers())
    proxy = pillion(config(*app.addresses, timeouts={"backendRequest": "100ms"}))
    assert fetch(proxy.address()).status == 200
    assert len(set(app.endpoints)) == 2
    eventually(lambda: app.upstreams[app.endpoints[0]].open_connections() == 0, "the first attempt's end")
    # A POST may have been acted on.
    app.acts = (hangs,)
    app.attempts.clear()
    line = proxy.refused(fetch(proxy.address(), "POST", "/post", body=b""), "attempt_timeout", 504, path="/post")
    assert line["detail"] == "no response head within 100ms (timeouts.backendRequest)"
    assert len(app.attempts) == 1


def test_retry_after_is_waited_for(pillion, fleet):
    app = fleet(answers(503, retry_after="1"), answers())
    proxy = pillion(config(*app.addresses))
    start = time.monotonic()
    assert fetch(proxy.address()).status == 200
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("wait", ["2", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_retry_after_beyond_the_cap_is_passed_on(pillion, fleet, wait):
    app = fleet(answers(503, retry_after=wait), answers())
    proxy = pillion(config(*app.addresses))
    response = fetch(proxy.address())
    assert response.status == 503 and response.header("retry-after") == wait
    assert len(app.attempts) == 1
    assert value(proxy, "retries_withheld", cause="asked") == 1


# Bodies.


def sums(attempt) -> list[str]:
    return [value for name, value in attempt.request.trailers if name.lower() == "x-sum"]


@pytest.mark.parametrize("fails", [resets, answers(503)], ids=["reset", "503"])
def test_bodies_are_sent_again_as_they_were(pillion, fleet, fails):
    body = bytes(range(256)) * 100
    app = fleet(fails, answers())
    proxy = pillion(config(*app.addresses))
    assert fetch(proxy.address(), "PUT", "/length", body=body).status == 200
    assert [attempt.request.body for attempt in app.attempts] == [body] * 2
    assert [attempt.header("content-length") for attempt in app.attempts] == [str(len(body))] * 2

    app.attempts.clear()
    pieces = [body[at:at + 1000] for at in range(0, len(body), 1000)]
    with RawClient(proxy.address()) as client:
        client.send_request("PUT", "/chunked", {"Transfer-Encoding": "chunked", "Trailer": "x-sum"})
        client.send(chunked(*pieces, trailers=(("x-sum", "1"),)))
        assert client.read_response("PUT").status == 200
    assert [attempt.request.body for attempt in app.attempts] == [body] * 2
    assert [sums(attempt) for attempt in app.attempts] == [["1"]] * 2

    app.attempts.clear()
    with dial(proxy.address()) as client:
        stream = client.request("PUT", "/h2", [("trailer", "x-sum")], body, trailers=[("x-sum", "2")])
        assert client.response(stream).status == 200
    assert [attempt.request.body for attempt in app.attempts] == [body] * 2
    assert [sums(attempt) for attempt in app.attempts] == [["2"]] * 2


@pytest.mark.parametrize("framing", ["length", "chunked", "h2"])
def test_a_body_that_is_too_large_to_keep_ends_retries_and_never_the_request(pillion, fleet, framing):
    body = b"x" * 300_000
    app = fleet(answers(503), answers())

    def put(path):
        if framing == "h2":
            with dial(proxy.address()) as client:
                return client.response(client.request("PUT", path, body=body)).status
        with RawClient(proxy.address()) as client:
            if framing == "length":
                return client.request("PUT", path, body=body).status
            client.send_request("PUT", path, {"Transfer-Encoding": "chunked"})
            client.send(chunked(*[body[at:at + 10_000] for at in range(0, len(body), 10_000)]))
            return client.read_response("PUT").status

    proxy = pillion(config(*app.addresses, retry={"maxBufferedBytes": "64KiB"}))
    assert put("/fails") == 503
    assert len(app.attempts) == 1
    assert value(proxy, "retries_withheld", cause="body") == 1
    assert put("/works") == 200
    assert app.attempts[-1].request.body == body


# The budget.


def test_a_spent_budget_ends_retries(pillion, fleet):
    app = fleet(answers(503))
    proxy = pillion(config(*app.addresses, upstream={"retryBudget": {"percent": 0, "minPerSecond": 1}}))
    for _ in range(20):
        assert fetch(proxy.address()).status == 503
    # A floor of one a second is ten in a window of ten; a slow run may see the next.
    retries = value(proxy, "retries")
    assert len(app.attempts) == 20 + retries and 10 <= retries < 30
    assert value(proxy, "retries_withheld", cause="budget") > 0


def test_no_budget_no_retries(pillion, fleet):
    app = fleet(answers(503))
    proxy = pillion(config(*app.addresses, upstream={"retryBudget": {"percent": 0, "minPerSecond": 0}}))
    for _ in range(5):
        assert fetch(proxy.address()).status == 503
    assert len(app.attempts) == 5


def test_an_outage_is_not_multiplied(pillion, fleet):
    """20 % and a floor of 30 in the window, however much fails."""
    app = fleet(answers(503))
    proxy = pillion(config(*app.addresses))
    with RawClient(proxy.address()) as client:
        start = time.monotonic()
        for _ in range(200):
            assert client.get().status == 503
        floor = 3 * (time.monotonic() - start + 10)
    assert 200 < len(app.attempts) <= 200 + 0.2 * 200 + floor


def test_several_in_a_row_don_t_multiply(pillion, fleet):
    """The one behind all spends what there is, and those before it hear of that."""
    app = fleet(answers(503))
    third = pillion(config(*app.addresses))
    second = pillion(config(third.address()))
    first = pillion(config(second.address()))
    for number, fails in enumerate([answers(503), resets]):
        app.attempts.clear()
        app.acts = (fails,)
        response = fetch(first.address(), "GET", f"/{number}")
        assert response.status in (502, 503) and response.header("x-pillion-attempts") == "3"
        assert len(app.attempts) == 3
        assert [proxy.access(path=f"/{number}")["attempts"] for proxy in (first, second, third)] == [1, 1, 3]


def test_what_others_have_spent_is_not_spent_again(pillion, fleet):
    app = fleet(resets)
    proxy = pillion(config(*app.addresses))
    assert fetch(proxy.address(), headers={"X-Pillion-Previous-Attempts": "2"}).status == 502
    assert [attempt.header("x-pillion-previous-attempts") for attempt in app.attempts] == ["2"]
    for hostile in ("255", "256", "-1", "x", ""):
        app.attempts.clear()
        assert fetch(proxy.address(), headers={"X-Pillion-Previous-Attempts": hostile}).status == 502
        assert 1 <= len(app.attempts) <= 3


# HTTP/2 and gRPC.


@pytest.fixture
def h2():
    with Upstream() as upstream:
        yield upstream


def h2_config(upstream, **options):
    return config(upstream.address, upstream={"protocol": "http2"}, **options)


def begin(proxy, upstream, *arguments, **request):
    """A client with one request under way, and the upstream's connection that has it."""
    client = dial(proxy.address())
    stream = client.request(*arguments, **request)
    server = upstream.accept(client)
    return client, stream, server, server.next_request(client)


def test_a_refused_stream_is_sent_again_whatever_it_is(pillion, h2):
    proxy = pillion(h2_config(h2))
    client, stream, server, first = begin(proxy, h2, "POST", body=b"once", trailers=[("x-sum", "1")])
    with client, server:
        client.until(lambda: first.ended, server, what="the whole request")
        server.rst(first, Code.REFUSED_STREAM)
        second = server.next_request(client)
        client.until(lambda: second.ended, server, what="the whole request")
        assert bytes(second.data) == b"once" and second.trailer("x-sum") == "1"
        server.respond(second)
        assert client.response(stream, server).status == 200


def test_what_a_goaway_leaves_out_is_sent_again_whatever_it_is(pillion, h2):
    proxy = pillion(h2_config(h2))
    client, stream, server, first = begin(proxy, h2, "POST", body=b"once")
    with client, server:
        client.until(lambda: first.ended, server, what="the whole request")
        server.goaway(0)
        with h2.accept(client, server) as other:
            second = other.next_request(client, server)
            client.until(lambda: second.ended, other, what="the whole request")
            assert bytes(second.data) == b"once"
            other.respond(second)
            assert client.response(stream, server, other).status == 200


def unavailable(server, stream, how, *headers):
    status = [("grpc-status", "14"), ("grpc-message", "later"), *headers]
    if how == "trailers-only":
        server.respond(stream, headers=[GRPC[0], *status])
    else:
        # In one write, as a server does that fails at once: a call whose head is out goes on.
        head = server.head_frames(stream.id, [(":status", "200"), GRPC[0]], False)
        server.send(head + server.head_frames(stream.id, status, True))


HOW = pytest.mark.parametrize("how", ["trailers-only", "trailers"])


@HOW
def test_grpc_unavailable_is_sent_again_where_the_route_says_so(pillion, h2, how):
    proxy = pillion(h2_config(h2, retry={"idempotent": "always"}))
    client, stream, server, first = begin(proxy, h2, "POST", "/s/m", headers=GRPC, body=b"\0\0\0\0\0")
    with client, server:
        client.until(lambda: first.ended, server, what="the whole call")
        unavailable(server, first, how)
        second = server.next_request(client)
        assert second.get("grpc-previous-rpc-attempts") == "1"
        client.until(lambda: second.ended, server, what="the whole call")
        server.respond(second, headers=[GRPC[0]], body=b"\0\0\0\0\0", trailers=[("grpc-status", "0")])
        assert client.response(stream, server).trailer("grpc-status") == "0"


@HOW
def test_grpc_calls_are_not_idempotent_of_themselves(pillion, h2, how):
    proxy = pillion(h2_config(h2))
    client, stream, server, first = begin(proxy, h2, "POST", "/s/m", headers=GRPC, body=b"\0\0\0\0\0")
    with client, server:
        client.until(lambda: first.ended, server, what="the whole call")
        unavailable(server, first, how)
        client.response(stream, server)
        assert "14" in (stream.get("grpc-status"), stream.trailer("grpc-status"))
        assert len(server.streams) == 1


def test_grpc_push_back(pillion, h2):
    proxy = pillion(h2_config(h2, retry={"idempotent": "always"}))
    client, stream, server, first = begin(proxy, h2, "POST", "/s/m", headers=GRPC, body=b"\0\0\0\0\0")
    with client, server:
        start = time.monotonic()
        unavailable(server, first, "trailers-only", ("grpc-retry-pushback-ms", "300"))
        second = server.next_request(client)
        assert time.monotonic() - start >= 0.3
        unavailable(server, second, "trailers-only", ("grpc-retry-pushback-ms", "-1"))
        assert client.response(stream, server).get("grpc-status") == "14"
        assert len(server.streams) == 2


# Deadlines.


def millis(timeout: str) -> float:
    number, unit = re.fullmatch(r"(\d{1,8})([HMSmun])", timeout).groups()
    return int(number) * {"H": 3600e3, "M": 60e3, "S": 1e3, "m": 1, "u": 1e-3, "n": 1e-6}[unit]


def test_every_attempt_is_told_what_is_left(pillion, h2):
    timeouts = {"header": "x-request-timeout"}
    proxy = pillion(h2_config(h2, retry={"idempotent": "always", "attempts": 3}, timeouts=timeouts))
    headers = [*GRPC, ("grpc-timeout", "10S"), ("x-request-timeout", "9s")]
    client, stream, server, request = begin(proxy, h2, "POST", "/s/m", headers=headers, body=b"\0\0\0\0\0")
    with client, server:
        told = []
        while True:
            told.append((millis(request.get("grpc-timeout")), int(request.get("x-request-timeout"))))
            if len(told) == 3:
                break
            server.rst(request, Code.REFUSED_STREAM)
            request = server.next_request(client)
        server.respond(request, headers=[GRPC[0], ("grpc-status", "0")])
        assert client.response(stream, server).get("grpc-status") == "0"
    calls, heads = zip(*told, strict=True)
    # The waits between them are known, the rest is not.
    assert 10_000 >= calls[0] > calls[1] > calls[2] > 0
    assert 9_000 >= heads[0] > heads[1] > heads[2] > 0


def test_a_deadline_of_nothing_is_answered_at_once(pillion, h2):
    proxy = pillion(h2_config(h2, timeouts={"header": "x-request-timeout"}))
    with dial(proxy.address()) as client:
        stream = client.response(client.request("POST", "/s/m", headers=[*GRPC, ("grpc-timeout", "0n")]))
        assert stream.get("grpc-status") == "4", "DEADLINE_EXCEEDED"
        stream = client.response(client.request("GET", "/h", headers=[("x-request-timeout", "0")]))
        assert stream.status == 504 and stream.get("x-pillion-reason") == "request_timeout"
    assert not h2.pending(), "nobody was asked"
    assert proxy.access(path="/s/m")["attempts"] == 0


def test_no_attempt_begins_after_the_deadline(pillion, fleet):
    app = fleet(answers(503, retry_after="1"))
    proxy = pillion(config(*app.addresses, timeouts={"request": "500ms"}))
    assert fetch(proxy.address()).status == 503
    assert len(app.attempts) == 1
    assert value(proxy, "retries_withheld", cause="deadline") == 1


def test_a_client_that_leaves_ends_its_attempts_and_accuses_nobody(pillion, fleet):
    app = fleet(hangs)
    upstream = {"breaker": {"consecutiveFailures": 1, "connectFailures": 1}}
    proxy = pillion(config(*app.addresses, upstream=upstream))
    for number in range(3):
        with RawClient(proxy.address()) as client:
            client.send_request("GET", f"/{number}")
            eventually(lambda: len(app.attempts) == number + 1, "the attempt")
        assert proxy.access(path=f"/{number}")["reason"] == "client_closed"
    eventually(lambda: sum(each.open_connections() for each in app.upstreams) == 0, "the attempts' end")
    assert len(app.attempts) == 3
    assert proxy.metrics().value("pillion_upstream_endpoints", upstream="app", state="available") == 3


def test_a_client_that_leaves_between_attempts_gets_none_more(pillion, fleet):
    app = fleet(answers(503, retry_after="1"), answers())
    proxy = pillion(config(*app.addresses))
    with RawClient(proxy.address()) as client:
        client.send_request("GET", "/")
        eventually(lambda: value(proxy, "requests") == 1 and app.attempts, "the first attempt")
    assert proxy.access(path="/")["reason"] == "client_closed"
    assert value(proxy, "requests") == 1 and len(app.attempts) == 1


@pytest.mark.parametrize("version", ["h1", "h2", "h2-continuation"])
def test_a_deadline_runs_from_the_first_byte_of_the_head(pillion, echo, version):
    """A head that dawdles has used up the time it brought along."""
    proxy = pillion(config(echo.address, timeouts={"header": "x-request-timeout"}))
    if version == "h1":
        with RawClient(proxy.address()) as client:
            client.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n")
            assert not client.readable(0.3)
            client.send("X-Request-Timeout: 200ms\r\n\r\n")
            response = client.read_response()
            assert (response.status, response.reason) == (504, "request_timeout")
            # The next one on the connection has its own.
            assert client.get("/fast", {"X-Request-Timeout": "5s"}).status == 200
    else:
        with dial(proxy.address()) as client, Tick() as tick:
            stream = client.reserve()
            fields = [(":method", "GET"), (":scheme", "http"), (":authority", "app.test"), (":path", "/slow"),
                      ("x-request-timeout", "200ms")]
            frames, at = client.head_frames(stream.id, fields, True), 10
            if version == "h2-continuation":
                block = frames[9:]
                first = frame(HEADERS, END_STREAM, stream.id, block[:4])
                frames, at = first + frame(CONTINUATION, END_HEADERS, stream.id, block[4:]), len(first)
            # The beginning, and after a while the rest.
            client.send(frames[:at])
            end = time.monotonic() + 0.3
            client.until(lambda: time.monotonic() > end, tick)
            client.send(frames[at:])
            assert client.response(stream).status == 504
            fast = client.request(path="/fast", headers=[("x-request-timeout", "5s")])
            assert client.response(fast).status == 200
    line = proxy.access(path="/slow")
    assert line["attempts"] == 0 and line["duration_ms"] >= 200
    assert echo.heads == 1


# Hedging.


def hedged(delay, **retry):
    return {"hedge": {"delay": delay}, **retry}


def test_a_second_attempt_beside_a_slow_one(pillion, fleet):
    app = fleet(hangs, answers())
    proxy = pillion(config(*app.addresses, retry=hedged("50ms")))
    response = fetch(proxy.address())
    assert response.status == 200
    first, second = app.attempts
    assert first.endpoint != second.endpoint
    assert second.header("x-pillion-previous-attempts") == "1"
    # The loser is cancelled, and says nothing more.
    first.connection.wait_finished()
    line = proxy.access(path="/")
    assert line["attempts"] == 2 and line["endpoint"] == app.addresses[second.endpoint]
    assert value(proxy, "hedges", result="won") == 1


def test_a_hedge_over_http2_is_cancelled_by_a_reset(pillion, h2):
    proxy = pillion(h2_config(h2, retry=hedged("50ms")))
    client, stream, server, first = begin(proxy, h2, "PUT", headers=[("content-length", "4")], body=b"both")
    with client, server:
        second = server.next_request(client)
        for each in (first, second):
            client.until(lambda each=each: each.ended, server, what="the whole request")
            assert bytes(each.data) == b"both"
        server.respond(second, body=b"second")
        assert bytes(client.response(stream, server).data) == b"second"
        assert server.expect_rst(first, Code.CANCEL, others=(client,))


def test_a_hedge_after_the_tail_of_what_the_upstream_takes(pillion, fleet):
    app = fleet(answers())
    proxy = pillion(config(*app.addresses, retry=hedged("p95")))
    with RawClient(proxy.address()) as client:
        for _ in range(50):
            assert client.get().status == 200
        app.acts = (*[answers()] * len(app.attempts), hangs, answers())
        assert client.get("/slow").status == 200
    assert proxy.access(path="/slow")["attempts"] == 2


def test_a_post_is_never_hedged(pillion, fleet):
    app = fleet(hangs)
    proxy = pillion(config(*app.addresses, retry=hedged("1ms"), timeouts={"request": "300ms"}))
    assert fetch(proxy.address(), "POST", body=b"once").status == 504
    assert len(app.attempts) == 1


def test_hedges_are_of_the_budget(pillion, fleet):
    app = fleet(hangs)
    upstream = {"retryBudget": {"percent": 0, "minPerSecond": 0}}
    proxy = pillion(config(*app.addresses, retry=hedged("1ms"), timeouts={"request": "300ms"}, upstream=upstream))
    assert fetch(proxy.address()).status == 504
    assert len(app.attempts) == 1


def test_a_hedge_that_fails_leaves_the_first_its_chance(pillion, fleet):
    def late(connection):
        eventually(lambda: len(app.attempts) == 2, "the hedge")
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    app = fleet(late, answers(503))
    proxy = pillion(config(*app.addresses, retry=hedged("50ms")))
    assert fetch(proxy.address()).body == b"late"
