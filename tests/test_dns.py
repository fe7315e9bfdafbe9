"""Upstreams by name: what the name server says is followed, what it said last is kept."""

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.dns import A, DnsServer
from support.wait import eventually


@pytest.fixture
def dns():
    with DnsServer() as server:
        yield server


@pytest.fixture
def named(pillion, dns):
    def start(endpoint: str, **options):
        return pillion(http_config(endpoint, upstream={"dns": {"minTtl": "100ms"}}, **options),
                       env={"PILLION_DNS": dns.address})

    return start


def servers(proxy, count: int = 20) -> set[str]:
    """Who answers; a failed request counts as its reason."""
    with RawClient(proxy.address()) as client:
        replies = [client.get("/") for _ in range(count)]
    return {reply.json()["server"] if reply.status == 200 else reply.reason for reply in replies}


def test_a_name_with_several_addresses(named, dns, echo_upstream):
    one = echo_upstream("one", address="127.0.0.1")
    two = echo_upstream("two", address="127.0.0.2", port=one.port)
    dns.set("app.test", "127.0.0.1", "127.0.0.2")
    proxy = named(f"app.test:{one.port}")
    eventually(lambda: servers(proxy) == {"one", "two"})
    assert two.heads


def test_a_changed_answer_is_followed_when_its_ttl_ends(named, dns, echo_upstream):
    one = echo_upstream("one", address="127.0.0.1")
    echo_upstream("two", address="127.0.0.2", port=one.port)
    dns.set("app.test", "127.0.0.1")
    proxy = named(f"app.test:{one.port}")
    eventually(lambda: servers(proxy) == {"one"})
    dns.set("app.test", "127.0.0.2")
    eventually(lambda: servers(proxy) == {"two"})
    eventually(lambda: one.open_connections() == 0, "connections to an endpoint that is gone to be closed")


@pytest.mark.parametrize("how", ["failing", "silent", "no such name"])
def test_the_last_good_answer_is_kept(named, dns, echo, how):
    dns.set("app.test", "127.0.0.1")
    proxy = named(f"app.test:{echo.port}")
    eventually(lambda: servers(proxy) == {"app"})
    if how == "no such name":
        dns.records.clear()
    else:
        setattr(dns, how, True)
    asked = len(dns.questions)
    # Two rounds of questions without an answer later it is still there.
    eventually(lambda: len(dns.questions) >= asked + 4, "the name to be asked about again")
    assert servers(proxy) == {"app"}


def test_ready_before_the_name_resolves(named, dns, echo):
    proxy = named(f"late.test:{echo.port}")
    assert proxy.admin_get("/readyz").status == 200
    response = fetch(proxy.address())
    assert (response.status, response.reason) == (503, "dns_unresolved")
    dns.set("late.test", "127.0.0.1")
    eventually(lambda: servers(proxy) == {"app"})


def test_srv(named, dns, echo_upstream):
    one, two = echo_upstream("one"), echo_upstream("two")
    dns.set("a.app.test", "127.0.0.1")
    dns.set_srv("_http._tcp.app.test", (0, 1, one.port, "a.app.test"), (0, 1, two.port, "a.app.test"))
    proxy = named("srv:_http._tcp.app.test")
    eventually(lambda: servers(proxy) == {"one", "two"})
    dns.set_srv("_http._tcp.app.test", (0, 1, two.port, "a.app.test"))
    eventually(lambda: servers(proxy) == {"two"})


def test_both_families_and_one_of_them_dead(named, dns, echo):
    """IPv4 and IPv6 are tried in parallel."""
    dns.set("app.test", "::1", "127.0.0.1")
    proxy = named(f"app.test:{echo.port}")
    eventually(lambda: servers(proxy) == {"app"})
    assert (("app.test", A)) in dns.questions


def test_names_are_case_insensitive_and_the_host_header_is_the_clients(named, dns, echo):
    dns.set("app.test", "127.0.0.1")
    proxy = named(f"APP.test:{echo.port}")
    eventually(lambda: servers(proxy) == {"app"})
    assert ["Host", "app.test"] in [list(field) for field in echo.requests[-1]["headers"]]
