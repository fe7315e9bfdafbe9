"""What answers when an upstream can't."""

import contextlib

import pytest
from support.client import RawClient, chunked, fetch
from support.config import http_config
from support.ports import free_port
from support.upstream import EchoUpstream, RawUpstream, header


@pytest.fixture
def spare():
    with EchoUpstream("spare") as upstream:
        yield upstream


def config(address: str, spare: str, fallback: dict, **rule) -> dict:
    """Everything to `app`, with a fallback; the other upstream is `spare`."""
    routes = [{"name": "r", "rules": [{"name": "all", "backendRefs": [{"name": "app"}], "fallback": fallback, **rule}]}]
    return http_config(address, routes=routes, more_upstreams=[{"name": "spare", "endpoints": [spare]}],
                       upstream={"breaker": "off"})


def nowhere() -> str:
    return f"127.0.0.1:{free_port()}"


def fell_back(proxy, kind: str) -> float:
    return proxy.metrics().value("pillion_http_fallbacks_total", route="all", kind=kind)


@contextlib.contextmanager
def failing(answer: bytes = b""):
    """Reads a request and answers it so, or by closing."""

    def script(connection):
        while True:
            connection.read_request()
            connection.send(answer)
            if not answer:
                return connection.close()

    with contextlib.closing(RawUpstream(script)) as upstream:
        yield upstream


STATUS_503 = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"
TO_SPARE = {"backendRef": {"name": "spare"}}
TO_TEXT = {"response": {"statusCode": 200, "body": "[]", "contentType": "application/json"}}


def test_a_fixed_response_stands_in(pillion):
    proxy = pillion(config(nowhere(), nowhere(), TO_TEXT))
    with RawClient(proxy.address()) as client:
        for _ in range(2):
            response = client.request("POST", "/", body=b"hello")
            assert (response.status, response.body, response.reason) == (200, b"[]", "connect_failed")
            assert response.header("content-type") == "application/json"
    line = proxy.access(reason="connect_failed")
    assert line["status"] == 200 and line["detail"].startswith("fallback: app connect_failed"), line
    assert fell_back(proxy, "response") == 2


def test_it_stands_in_when_time_is_over(pillion):
    with contextlib.closing(RawUpstream()) as silent:
        fallback = {"on": ["request_timeout"], **TO_TEXT}
        proxy = pillion(config(silent.address, nowhere(), fallback, timeouts={"request": "50ms"}))
        response = fetch(proxy.address())
    assert (response.status, response.reason) == (200, "request_timeout")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_upstream_gets_what_was_never_sent(pillion, spare, method):
    edits = [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-for", "value": "app"}]}}]
    proxy = pillion(config(nowhere(), spare.address, TO_SPARE, backendRefs=[{"name": "app", "filters": edits}]))
    with RawClient(proxy.address()) as client:
        for body in (b"", b"x" * 300_000):
            account = client.request(method, "/", body=body).json()
            assert (account["server"], account["length"]) == ("spare", len(body))
        client.send(b"POST / HTTP/1.1\r\nhost: app.test\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(b"a", b"bc"))
        assert client.read_response().json()["length"] == 3
    assert all(header(request, "x-for") is None for request in spare.requests)
    assert fell_back(proxy, "upstream") == 3
    line = proxy.access(upstream="spare")
    assert line["reason"] is None and line["endpoint"] == spare.address, line
    assert "connect_failed" in line["detail"], line


def test_it_gets_a_failed_response_only_of_what_bears_it(pillion, spare):
    with failing(STATUS_503) as upstream:
        fallback = {"on": [503], **TO_SPARE}
        proxy = pillion(config(upstream.address, spare.address, fallback, retry={"backoff": "0s"}))
        response = fetch(proxy.address(), "PUT", "/", body=b"hello")
        assert response.json()["server"] == "spare" and response.json()["length"] == 5
        # A POST may have been acted on.
        response = fetch(proxy.address(), "POST", "/", body=b"hello")
        assert (response.status, response.body) == (503, b"busy")
    assert len(spare.requests) == 1
    assert (fell_back(proxy, "upstream"), fell_back(proxy, "withheld")) == (1, 1)


@pytest.mark.parametrize("size, status", [(64 * 1024, 200), (64 * 1024 + 1, 502)])
def test_a_body_that_is_gone_goes_nowhere(pillion, spare, size, status):
    def script(connection):
        connection.read_request()
        connection.close()

    with contextlib.closing(RawUpstream(script)) as upstream:
        fallback = {"on": ["upstream_closed", "upstream_reset"], **TO_SPARE}
        proxy = pillion(config(upstream.address, spare.address, fallback, retry={"attempts": 1}))
        response = fetch(proxy.address(), "PUT", "/", body=b"x" * size)
    assert response.status == status, response
    assert len(spare.requests) == (status == 200)


def test_what_is_not_named_is_left_as_it_is(pillion, spare):
    with failing(STATUS_503) as upstream:
        proxy = pillion(config(upstream.address, spare.address, TO_SPARE, retry={"attempts": 1}))
        assert fetch(proxy.address()).status == 503
    assert not spare.requests and fell_back(proxy, "upstream") == 0


def test_two_failures_are_both_told(pillion):
    proxy = pillion(config(nowhere(), nowhere(), TO_SPARE))
    line = proxy.refused(fetch(proxy.address()), "connect_failed", 503)
    assert line["upstream"] == "spare" and "fallback: app connect_failed" in line["detail"], line
    assert fell_back(proxy, "failed") == 1


def test_a_real_response_is_worth_more_than_none(pillion):
    with failing(STATUS_503) as upstream:
        fallback = {"on": [503], **TO_SPARE}
        proxy = pillion(config(upstream.address, nowhere(), fallback, retry={"attempts": 1}))
        response = fetch(proxy.address())
    assert (response.status, response.body) == (503, b"busy")


def test_attempts_are_not_multiplied(pillion, spare):
    """The spare gets one attempt where the first upstream had all of them."""
    with failing() as upstream, failing(STATUS_503) as other:
        fallback = {"on": ["upstream_closed", "upstream_reset"], **TO_SPARE}
        proxy = pillion(config(upstream.address, other.address, fallback, retry={"backoff": "0s"}))
        assert fetch(proxy.address()).status == 503
        assert len(upstream.connections) == 3
        line = proxy.access(status=503)
        assert line["attempts"] == 4, line
        [connection] = other.connections
        assert b"x-pillion-previous-attempts: 3" in bytes(connection.received).lower()


def test_a_grpc_call_is_told_its_own_status(pillion):
    proxy = pillion(config(nowhere(), nowhere(), TO_TEXT))
    response = fetch(proxy.address(), "POST", "/s/M", {"content-type": "application/grpc"}, b"")
    assert (response.status, response.header("grpc-status"), response.reason) == (200, "14", "connect_failed")
    assert fell_back(proxy, "withheld") == 1


def test_an_open_breaker_is_answered_by_the_fallback(pillion, spare):
    settings = config(nowhere(), spare.address, TO_SPARE, retry={"attempts": 1})
    settings["upstreams"][0]["breaker"] = {"consecutiveFailures": 1, "connectFailures": 1, "backoff": "30s"}
    proxy = pillion(settings)
    for _ in range(10):
        assert fetch(proxy.address(), "POST").json()["server"] == "spare"
    assert proxy.access(upstream="spare", attempts=1)
