"""How upstreams are found, chosen and reached."""

import collections

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.ports import free_port
from support.process import Pillion
from support.upstream import EchoUpstream, header
from support.wait import eventually


def test_ready_with_upstreams_down_and_names_unresolved(pillion):
    proxy = pillion(http_config(
        f"127.0.0.1:{free_port()}", routes=[
            {"rules": [{"matches": [{"path": {"value": "/name"}}], "backendRefs": [{"name": "name"}]},
                       {"matches": [{"path": {"value": "/unix"}}], "backendRefs": [{"name": "unix"}]},
                       {"backendRefs": [{"name": "app"}]}]}],
        more_upstreams=[{"name": "name", "endpoints": ["no-such-host.invalid:80"]},
                        {"name": "unix", "endpoints": ["unix:nobody.sock"]}]))
    assert proxy.admin_get("/readyz").status == 200
    proxy.refused(fetch(proxy.address(), "GET", "/down"), "connect_failed", 503, path="/down")
    proxy.refused(fetch(proxy.address(), "GET", "/unix"), "connect_failed", 503, path="/unix")
    response = fetch(proxy.address(), "GET", "/name")
    assert response.reason in ("dns_unresolved", "no_endpoints"), response
    proxy.refused(response, response.reason, 503, path="/name")


def test_an_upstream_that_comes_up_later_is_used(pillion):
    port = free_port()
    proxy = pillion(http_config(f"127.0.0.1:{port}"))
    assert fetch(proxy.address()).status == 503
    with EchoUpstream(port=port):
        eventually(lambda: fetch(proxy.address()).status == 200, "the upstream to be used")


def test_an_upstream_that_restarts_is_used_again(pillion):
    first = EchoUpstream("first")
    proxy = pillion(http_config(first.address))
    with RawClient(proxy.address()) as client:
        assert client.get("/").json()["server"] == "first"
        first.close()
        with EchoUpstream("second", port=first.port):

            def recovered():
                response = client.get("/")
                return response.status == 200 and response.json()["server"] == "second"

            eventually(recovered)


def test_unix_socket_on_both_sides(pillion, echo_upstream, short_dir):
    upstream = echo_upstream(path=short_dir / "app.sock")
    proxy = pillion(http_config(upstream.address, listener={"address": f"unix:{short_dir}/web.sock"}))
    assert proxy.address() == f"unix:{short_dir}/web.sock"
    with RawClient(proxy.address()) as client:
        for body in (b"", b"hello", b"x" * 1_000_000):
            account = client.request("POST", "/", body=body).json()
            assert account["length"] == len(body)
    assert header(upstream.requests[0], "host") == "app.test"
    proxy.signal(15)
    assert proxy.wait_exit() == 0
    assert not (short_dir / "web.sock").exists()


def test_a_unix_path_is_relative_to_the_file(binary, short_dir, echo_upstream):
    echo_upstream(path=short_dir / "app.sock")
    config = http_config("unix:app.sock", listener={"address": "unix:web.sock"})
    with Pillion(binary, short_dir, config):
        assert fetch(f"unix:{short_dir}/web.sock").status == 200


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_not(pillion, echo, short_dir):
    address = f"unix:{short_dir}/web.sock"
    first = pillion(http_config(echo.address, listener={"address": address}))
    with pytest.raises(AssertionError):
        pillion(http_config(echo.address, listener={"address": address}))
    assert fetch(address).status == 200
    first.signal(9)
    first.wait_exit()
    assert (short_dir / "web.sock").exists()
    pillion(http_config(echo.address, listener={"address": address}))
    assert fetch(address).status == 200


def test_ipv6_on_both_sides(pillion, echo_upstream):
    upstream = echo_upstream(address="::1")
    proxy = pillion(http_config(upstream.address, listener={"address": "[::1]:0"}))
    assert proxy.address().startswith("[::1]:")
    account = fetch(proxy.address(), headers={"Host": "[::1]:80"}).json()
    assert header(account, "host") == "[::1]:80"
    assert header(account, "x-forwarded-for") == "::1"


def test_a_name_is_resolved(pillion):
    with EchoUpstream() as upstream:
        proxy = pillion(http_config(f"localhost:{upstream.port}"))
        eventually(lambda: fetch(proxy.address()).status == 200, "localhost resolved")


def test_a_name_with_a_dead_address_falls_to_the_other_family(pillion, echo_upstream):
    """`localhost` is ::1 and 127.0.0.1 where /etc/hosts says so; only one of them listens."""
    upstream = echo_upstream()
    proxy = pillion(http_config(f"localhost:{upstream.port}"))
    eventually(lambda: fetch(proxy.address()).status == 200)
    for _ in range(10):
        assert fetch(proxy.address()).status == 200


@pytest.mark.parametrize("balancer", ["peakEwma", "leastRequest", "roundRobin"])
def test_requests_are_spread(pillion, echo_upstream, balancer):
    upstreams = [echo_upstream(f"app-{number}") for number in range(3)]
    proxy = pillion(http_config(*(one.address for one in upstreams), upstream={"balancer": balancer}))
    clients = [RawClient(proxy.address()) for _ in range(6)]
    counts = collections.Counter()
    for _ in range(20):
        for client in clients:
            client.send_request("GET", "/")
        for client in clients:
            counts[client.read_response().json()["server"]] += 1
    for client in clients:
        client.close()
    assert set(counts) == {"app-0", "app-1", "app-2"}, counts
    if balancer == "roundRobin":
        assert max(counts.values()) - min(counts.values()) <= 6, counts


@pytest.mark.parametrize("balancer", ["peakEwma", "leastRequest"])
def test_a_busy_endpoint_gets_less(pillion, echo_upstream, balancer, connect):
    busy, free = echo_upstream("busy"), echo_upstream("free")
    proxy = pillion(http_config(busy.address, free.address, upstream={"balancer": balancer}),
                    env={"PILLION_WORKERS": "1"})
    # Requests that hang are held by whichever endpoint got them; count what the rest do.
    held = [connect(proxy.address()).send_request("GET", "/?gate=g") for _ in range(10)]
    eventually(lambda: busy.heads + free.heads == 10)
    assert abs(busy.heads - free.heads) <= 2, (busy.heads, free.heads)
    busy.open_gate("g")
    free.open_gate("g")
    for client in held:
        assert client.read_response().status == 200


def test_weights_of_endpoints(pillion, echo_upstream):
    heavy, light = echo_upstream("heavy"), echo_upstream("light")
    proxy = pillion(http_config(
        {"address": heavy.address, "weight": 3}, {"address": light.address, "weight": 1},
        upstream={"balancer": "roundRobin"}), env={"PILLION_WORKERS": "1"})
    with RawClient(proxy.address()) as client:
        counts = collections.Counter(client.get("/").json()["server"] for _ in range(80))
    assert counts == {"heavy": 60, "light": 20}, counts


def test_connections_are_reused_across_clients(pillion, echo):
    proxy = pillion(http_config(echo.address), env={"PILLION_WORKERS": "1"})
    for _ in range(20):
        assert fetch(proxy.address()).status == 200
    assert len(echo.connections) == 1


def test_the_upstreams_state_is_shown(pillion, echo):
    dead = free_port()
    proxy = pillion(http_config(echo.address, f"127.0.0.1:{dead}"))
    for _ in range(10):
        fetch(proxy.address())
    shown = proxy.admin_get("/upstreams")
    assert shown.status == 200
    text = shown.body.decode()
    assert echo.address in text and str(dead) in text and '"app"' in text
    shown.json()


def test_proxy_settings_of_the_environment_are_ignored(pillion, echo):
    """HTTP_PROXY and the like are for clients; a proxy that followed them would be a surprise."""
    env = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY")}
    assert fetch(pillion(http_config(echo.address), env=env).address()).status == 200
