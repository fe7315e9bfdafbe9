"""Endpoints that are broken are left alone, and found again when they are well."""

import pytest
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.ports import free_port
from support.upstream import EchoUpstream
from support.wait import eventually
from support.wire import Closed

#: The endpoint fails by itself, without an attempt elsewhere that would hide it.
ALONE = {"ejection": "off"}


def transitions(proxy, to: str, **labels) -> float:
    return proxy.metrics().value("pillion_upstream_breaker_transitions_total", to=to, **labels)


def test_all_endpoints_dead_is_answered_at_once(pillion):
    ports = [free_port(), free_port()]
    proxy = pillion(http_config(*(f"127.0.0.1:{port}" for port in ports), upstream={
        "breaker": {"backoff": "30s"}}))
    with RawClient(proxy.address()) as client:
        eventually(lambda: client.get("/").reason == "breaker_open", "all breakers to open")
        before = proxy.metrics().value("pillion_upstream_connections_failed_total")
        assert before <= 2 * 3
        for _ in range(500):
            assert client.get("/").reason == "breaker_open"
        line = proxy.refused(client.get("/last"), "breaker_open", 503, path="/last")
    assert line["flags"] == "UH" and line["duration_ms"] < 1000, line
    assert "none of 2 endpoints" in line["detail"] and "unreachable" in line["detail"], line
    assert "next probe in" in line["detail"], line
    # Nothing is tried of those 501: no probe is due within the test.
    assert proxy.metrics().value("pillion_upstream_connections_failed_total") == before
    assert {one["health"] for one in proxy.endpoints().values()} == {"open"}
    assert all(one["cause"] == "unreachable" and one["probeInSeconds"] > 0 for one in proxy.endpoints().values())
    assert proxy.metrics().value("pillion_upstream_endpoints", state="open") == 2
    proxy.logs.find(level="WARN", message="an endpoint takes no requests", cause="unreachable")


def test_no_endpoints_is_another_reason(pillion):
    proxy = pillion(http_config("no-such-host.invalid:80"))
    assert fetch(proxy.address()).reason in ("dns_unresolved", "no_endpoints")


def test_one_probe_finds_an_endpoint_that_is_back(pillion):
    port = free_port()
    proxy = pillion(http_config(f"127.0.0.1:{port}"))
    with RawClient(proxy.address()) as client:
        eventually(lambda: client.get("/").reason == "breaker_open", "the breaker to open")
        with EchoUpstream(port=port) as echo:
            # Asked all the time, and sent nothing until the backoff is over.
            eventually(lambda: client.get("/").status == 200, "the endpoint to be found")
            assert len(echo.requests) == 1
            for _ in range(20):
                assert client.get("/").status == 200
            assert len(echo.requests) == 21
    assert transitions(proxy, "open") == 1
    assert transitions(proxy, "closed", cause="unreachable") == 1
    assert transitions(proxy, "half_open") == transitions(proxy, "reopened") + 1
    assert proxy.endpoints()[f"127.0.0.1:{port}"]["health"] == "healthy"
    proxy.logs.find(level="INFO", message="an endpoint takes requests again")


@pytest.mark.parametrize("mood", [500, 503, None], ids=str)
def test_failures_in_a_row_open_it(pillion, moody, mood):
    upstream = moody(mood)
    proxy = pillion(http_config(upstream.address, upstream={"breaker": {"backoff": "30s"}, **ALONE}))
    with RawClient(proxy.address()) as client:
        responses = [client.request("POST", "/", body=b"x") for _ in range(30)]
    assert upstream.requests == 5
    assert [response.reason for response in responses[5:]] == ["breaker_open"] * 25
    shown = proxy.endpoints()[upstream.address]
    assert (shown["health"], shown["cause"]) == ("open", "failures")


@pytest.mark.parametrize("moods", [[404], [501], [429], [500, 500, 500, 500, 200]], ids=str)
def test_what_is_no_failure_in_a_row_does_not(pillion, moody, moods):
    upstream = moody(moods)
    proxy = pillion(http_config(upstream.address, upstream=ALONE))
    with RawClient(proxy.address()) as client:
        for _ in range(30):
            assert client.request("POST", "/", body=b"x").status in moods
    assert proxy.endpoints()[upstream.address]["health"] == "healthy"


def test_429_is_no_sign_of_recovery(pillion, moody):
    upstream = moody(500)
    proxy = pillion(http_config(upstream.address, upstream={"breaker": {"backoff": "10ms"}, **ALONE}))
    with RawClient(proxy.address()) as client:
        eventually(lambda: client.request("POST", "/", body=b"x").reason == "breaker_open", "the breaker to open")
        upstream.become(429)
        # Each is a probe that says nothing, and the next one probes again.
        seen = 0
        while seen < 10:
            response = client.get("/")
            seen += response.status == 429
            assert response.status == 429 or response.reason == "breaker_open"
        assert proxy.endpoints()[upstream.address]["health"] == "open"
        upstream.become(200)
        assert client.get("/").status == 200
        assert proxy.endpoints()[upstream.address]["health"] == "healthy"


def test_a_client_that_leaves_gives_its_probe_back(pillion, echo_upstream):
    port = free_port()
    proxy = pillion(http_config(f"127.0.0.1:{port}", upstream={"breaker": {"backoff": "10ms"}}))
    with RawClient(proxy.address()) as client:
        eventually(lambda: client.get("/").reason == "breaker_open", "the breaker to open")
        echo = echo_upstream(port=port)
        leaver = RawClient(proxy.address())
        while not echo.heads:
            leaver.close()
            leaver = RawClient(proxy.address())
            leaver.send_request("GET", "/?gate=never")
            eventually(lambda: echo.heads or leaver.readable(0.01), "a probe or a refusal")
        assert proxy.endpoints()[f"127.0.0.1:{port}"]["health"] == "halfOpen"
        assert client.get("/").reason == "breaker_open"
        leaver.close()
        eventually(lambda: client.get("/").status == 200, "another probe")


def test_one_of_two_that_always_fails_loses_its_traffic(pillion, moody):
    bad, good = moody(500), moody(200)
    proxy = pillion(http_config(bad.address, good.address, upstream={
        "balancer": "roundRobin", "breaker": {"backoff": "30s"}}))
    with RawClient(proxy.address()) as client:
        statuses = [client.request("POST", "/", body=b"x").status for _ in range(200)]
    assert bad.requests == 5
    assert statuses[10:] == [200] * 190
    assert proxy.endpoints()[bad.address]["health"] == "open"
    assert proxy.endpoints()[good.address]["health"] == "healthy"


def test_off_is_off(pillion, moody):
    upstream = moody(500)
    proxy = pillion(http_config(upstream.address, upstream={"breaker": "off"}))
    with RawClient(proxy.address()) as client:
        for _ in range(30):
            assert client.request("POST", "/", body=b"x").status == 500
    assert upstream.requests == 30


def test_a_reload_keeps_the_state_and_can_switch_it_off(pillion, moody):
    upstream = moody(500)
    config = http_config(upstream.address, upstream={"breaker": {"backoff": "30s"}, **ALONE})
    proxy = pillion(config)
    with RawClient(proxy.address()) as client:
        for _ in range(5):
            client.request("POST", "/", body=b"x")
    config["upstreams"][0]["limits"] = {"requests": 7}
    proxy.must_reload(config)
    assert fetch(proxy.address()).reason == "breaker_open"
    config["upstreams"][0]["breaker"] = "off"
    proxy.must_reload(config)
    assert fetch(proxy.address()).status == 500


def test_tcp_is_refused_at_once(pillion):
    port = free_port()
    proxy = pillion(tcp_config(f"127.0.0.1:{port}", upstream={"breaker": {"backoff": "10ms"}}))

    def refused():
        with RawClient(proxy.address("tcp")) as client:
            client.expect_closed()
        return any(line.get("reason") == "breaker_open" for line in proxy.access_log())

    eventually(refused, "a connection to be refused")
    with EchoUpstream(port=port):
        eventually(lambda: fetch_or_none(proxy.address("tcp")), "the endpoint to be found")


def fetch_or_none(address: str) -> bool:
    try:
        return fetch(address).status == 200
    except (OSError, Closed):
        return False
