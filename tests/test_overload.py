"""More requests than an upstream, or Pillion, can bear."""

import contextlib
import threading

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.upstream import RawUpstream
from support.wait import eventually


@pytest.fixture
def gate():
    """Opens what a gated upstream holds back."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def gated(gate):
    """An upstream that answers once the gate is open."""

    def script(connection):
        while True:
            connection.read_request()
            gate.wait(20)
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    with contextlib.closing(RawUpstream(script)) as upstream:
        yield upstream


def concurrency(proxy) -> int | None:
    [app] = proxy.admin_get("/upstreams").json()
    return app["limits"]["concurrency"]


def test_it_is_off_by_default(pillion, echo):
    proxy = pillion(http_config(echo.address))
    assert fetch(proxy.address()).status == 200
    assert concurrency(proxy) is None


def test_what_an_upstream_does_not_bear_is_refused_at_once(pillion, gated, gate):
    proxy = pillion(http_config(gated.address, upstream={"limits": {"adaptive": True}}))
    assert concurrency(proxy) == 3
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.address())) for _ in range(3)]
        for client in clients:
            client.send_request()
        eventually(lambda: len([c for c in gated.connections if c.received]) == 3)
        line = proxy.refused(fetch(proxy.address()), "concurrency_limit", 503)
        assert line["flags"] == "UO" and line["attempts"] == 0
        gate.set()
        assert [client.read_response().status for client in clients] == [200] * 3
    assert fetch(proxy.address()).status == 200


def test_the_limit_grows_with_what_is_borne(pillion, echo):
    proxy = pillion(http_config(echo.address, upstream={"limits": {"adaptive": True}}))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.address())) for _ in range(2)]

        def grown() -> bool:
            for client in clients:
                client.send_request()
            assert all(client.read_response().status == 200 for client in clients)
            return concurrency(proxy) > 3

        eventually(grown)


def test_a_reload_switches_it(pillion, echo):
    config = http_config(echo.address, upstream={"limits": {"adaptive": True}})
    proxy = pillion(config)
    assert concurrency(proxy) == 3
    config["upstreams"][0]["limits"] = {}
    proxy.must_reload(config)
    assert concurrency(proxy) is None


@pytest.mark.parametrize("priority", ["low", "normal", "high"])
def test_without_pressure_nobody_is_refused(pillion, echo, priority):
    """How pressure is seen and what it does are unit tests: a cgroup to fill is not at hand here."""
    routes = [{"rules": [{"backendRefs": [{"name": "app"}], "priority": priority}]}]
    proxy = pillion(http_config(echo.address, routes=routes))
    assert eventually(lambda: fetch(proxy.address()).status == 200)
    assert proxy.admin_get("/config").json()["routes"][0]["rules"][0]["importance"] == priority
