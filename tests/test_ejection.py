"""Endpoints that are worse than the others lose their requests to them, never too many at once."""

import pytest
from support.client import RawClient
from support.config import http_config
from support.wait import eventually

#: Nothing but the ejection moves load away.
ONLY = {"breaker": "off", "balancer": "roundRobin"}


def ejections(proxy, mode: str) -> float:
    return proxy.metrics().value("pillion_upstream_ejections_total", mode=mode)


def flood(client, until, message: str):
    """Requests, none of which is sent twice, until something holds."""

    def some():
        for _ in range(20):
            client.request("POST", "/", body=b"x")
        return until()

    eventually(some, message)


def test_one_of_three_that_fails_half_of_the_time(pillion, moody):
    bad, *good = moody([500, 200]), moody(), moody()
    addresses = [upstream.address for upstream in (bad, *good)]
    proxy = pillion(http_config(*addresses, upstream={**ONLY, "ejection": {"backoff": "30s"}}))
    with RawClient(proxy.address()) as client:
        flood(client, lambda: proxy.endpoints()[bad.address]["health"] == "ejected", "the bad one to be ejected")
        before = bad.requests
        assert all(client.request("POST", "/", body=b"x").status == 200 for _ in range(50))
        assert bad.requests == before
    shown = proxy.endpoints()
    assert shown[bad.address]["cause"] == "success_rate"
    assert 0.3 < shown[bad.address]["successRate"] < 0.7
    assert all(shown[one.address]["health"] == "healthy" for one in good)
    assert ejections(proxy, "enforced") == 1
    assert proxy.metrics().value("pillion_upstream_endpoints", state="ejected") == 1
    proxy.logs.find(level="WARN", message="an endpoint takes no requests", cause="success_rate")


def test_it_comes_back(pillion, moody):
    bad, good = moody(500), moody()
    proxy = pillion(http_config(bad.address, good.address, upstream={**ONLY, "ejection": {"backoff": "50ms"}}))
    with RawClient(proxy.address()) as client:
        flood(client, lambda: ejections(proxy, "enforced") == 1, "the bad one to be ejected")
        bad.become(200)
        flood(client, lambda: proxy.endpoints()[bad.address]["health"] == "healthy", "it to be taken back")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_never_beyond_the_share(pillion, moody, count):
    """All but one are bad, or both: half of them, rounded down, may go."""
    upstreams = [moody([500, 200]) for _ in range(count)]
    if count > 2:
        upstreams.append(moody())
    proxy = pillion(http_config(*(one.address for one in upstreams), upstream={
        **ONLY, "ejection": {"backoff": "30s"}}))
    most = len(upstreams) // 2
    worst = 0
    with RawClient(proxy.address()) as client:
        for _ in range(150):
            for _ in range(10):
                assert client.request("POST", "/", body=b"x").reason is None
            ejected = sum(one["health"] == "ejected" for one in proxy.endpoints().values())
            worst = max(worst, ejected)
    assert worst <= most


def test_two_where_one_goes_after_the_other(pillion, moody):
    """The second one gets worse while the first one is out: both out is not to be."""
    first, second = moody([500, 200]), moody()
    proxy = pillion(http_config(first.address, second.address, upstream={**ONLY, "ejection": {"backoff": "30s"}}))
    with RawClient(proxy.address()) as client:
        flood(client, lambda: proxy.endpoints()[first.address]["health"] == "ejected", "the first one to be ejected")
        second.become(500)
        before = second.requests
        flood(client, lambda: second.requests >= before + 500, "many requests to the second one")
    assert proxy.endpoints()[second.address]["health"] == "healthy"


def test_an_ejected_one_is_better_than_none(pillion, moody):
    """The breaker takes the other one: the ejected one, which works half of the time, is back."""
    half, other = moody([500, 200]), moody()
    proxy = pillion(http_config(half.address, other.address, upstream={
        "balancer": "roundRobin", "breaker": {"backoff": "30s"}, "ejection": {"backoff": "30s"}}))
    with RawClient(proxy.address()) as client:
        flood(client, lambda: proxy.endpoints()[half.address]["health"] == "ejected", "the half one to be ejected")
        other.become(500)
        flood(client, lambda: proxy.endpoints()[other.address]["health"] == "open", "the other one to be opened")
        assert proxy.endpoints()[half.address]["health"] == "healthy"
        assert {client.request("POST", "/", body=b"x").status for _ in range(4)} == {200, 500}


def test_a_dry_run_only_counts(pillion, moody):
    bad, good = moody(500), moody()
    proxy = pillion(http_config(bad.address, good.address, upstream={**ONLY, "ejection": {"dryRun": True}}))
    with RawClient(proxy.address()) as client:
        flood(client, lambda: ejections(proxy, "dry_run") == 1, "an ejection to be counted")
    assert ejections(proxy, "enforced") == 0
    assert proxy.endpoints()[bad.address]["health"] == "healthy"
    proxy.logs.find(message="an endpoint would be ejected if this weren't a dry run", cause="success_rate")


def test_panic_sends_requests_to_all(pillion, moody):
    bad, good = moody(500), moody()
    proxy = pillion(http_config(bad.address, good.address, upstream={
        **ONLY, "breaker": {"backoff": "30s"}, "ejection": {"panicThreshold": "51%"}}))
    with RawClient(proxy.address()) as client:
        flood(client, lambda: proxy.endpoints()[bad.address]["health"] == "open", "the bad one to be opened")
        before = bad.requests
        for _ in range(50):
            client.request("POST", "/", body=b"x")
        assert bad.requests >= before + 20
