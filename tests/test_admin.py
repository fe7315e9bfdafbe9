"""The admin server: what the contract names."""

import json

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.wait import eventually


@pytest.fixture
def proxy(pillion, echo):
    return pillion(http_config(echo.address))


def test_livez_and_readyz(proxy):
    assert proxy.admin_get("/livez").status == 200
    assert proxy.admin_get("/readyz").status == 200
    verbose = proxy.admin_get("/readyz?verbose")
    assert verbose.status == 200
    assert len(verbose.body.splitlines()) > 1, verbose.body


def test_metrics(proxy):
    fetch(proxy.address())
    reply = proxy.admin_get("/metrics")
    assert reply.status == 200
    assert reply.header("content-type").startswith(("text/plain", "application/openmetrics-text"))
    metrics = proxy.metrics()
    assert metrics.value("pillion_build_info") == 1
    assert metrics.value("pillion_config_generation") == 1
    assert ("pillion_config_reloads_total", {"result": "rejected"}, 0.0) in metrics.samples
    assert ("pillion_config_reloads_total", {"result": "accepted"}, metrics.value(
        "pillion_config_reloads_total", result="accepted")) in metrics.samples
    assert all(name.startswith(("pillion_", "process_", "http_")) for name in metrics.names())


def test_openmetrics_where_asked_for(proxy):
    reply = fetch(proxy.admin, "GET", "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.status == 200
    if reply.header("content-type").startswith("application/openmetrics-text"):
        assert reply.body.endswith(b"# EOF\n")


def test_metrics_count_requests(proxy, echo):
    for status in (200, 200, 404, 500):
        fetch(proxy.address(), "GET", f"/?status={status}")
    value = proxy.metrics
    eventually(lambda: value().value("pillion_http_requests_total") >= 4)
    assert value().value("pillion_http_requests_total") == 4
    assert value().value("pillion_http_requests_failed_total") == 0
    assert value().value("http_server_active_requests") == 0
    assert value().value("pillion_upstream_requests_total", upstream="app") == 4
    with RawClient(proxy.address()) as client:
        client.send_request("GET", "/?gate=g")
        echo.wait_heads(5)
        eventually(lambda: value().value("http_server_active_requests") == 1)
        echo.open_gate("g")
        client.read_response()
    eventually(lambda: value().value("http_server_active_requests") == 0)


def test_the_effective_configuration(proxy):
    reply = proxy.admin_get("/config")
    assert reply.status == 200
    config = reply.json()
    text = json.dumps(config)
    # Every default of the contract is told.
    for key in ("maxHeadSize", "headTimeout", "keepAliveTimeout", "http2IdleTimeout", "maxConcurrentStreams",
                "maxConnections", "accessLog", "drain", "deadline", "balancer"):
        assert key in text, key
    assert config["upstreams"][0]["name"] == "app"


def test_upstreams(proxy, echo):
    fetch(proxy.address())
    reply = proxy.admin_get("/upstreams")
    assert reply.status == 200
    text = json.dumps(reply.json())
    assert echo.address in text


def test_log_level(proxy):
    before = proxy.admin_get("/log-level")
    assert before.status == 200
    assert proxy.admin_post("/log-level", b"debug").status in (200, 204)
    assert b"debug" in proxy.admin_get("/log-level").body
    assert proxy.admin_post("/log-level", b"===").status in (400, 422)
    assert b"debug" in proxy.admin_get("/log-level").body
    fetch(proxy.address())
    assert fetch(proxy.address()).status == 200


def test_log_level_of_the_environment(pillion, echo):
    proxy = pillion(http_config(echo.address), env={"RUST_LOG": "debug"})
    assert b"debug" in proxy.admin_get("/log-level").body


def test_unknown_paths_and_methods(proxy):
    assert proxy.admin_get("/nothing").status == 404
    assert proxy.admin_get("/reload").status == 405
    assert proxy.admin_get("/drain").status == 405
    assert proxy.admin_post("/metrics").status == 405
    assert proxy.admin_get("/readyz").status == 200


def test_admin_keeps_connections(proxy):
    with RawClient(proxy.admin) as client:
        for _ in range(10):
            assert client.get("/livez").status == 200


def test_probes_serve_three_things_only(pillion, echo):
    proxy = pillion(http_config(echo.address, admin={"address": "127.0.0.1:0", "probes": "127.0.0.1:0"}))
    for target in ("/livez", "/readyz", "/metrics"):
        assert fetch(proxy.probes, "GET", target).status == 200
    for method, target in (("GET", "/config"), ("GET", "/upstreams"), ("POST", "/reload"), ("POST", "/drain"),
                           ("GET", "/log-level"), ("POST", "/log-level")):
        assert fetch(proxy.probes, method, target).status == 404, target
    assert proxy.generation() == 1


def test_admin_can_be_off(pillion, echo):
    proxy = pillion(http_config(echo.address, admin={"address": "off"}))
    assert fetch(proxy.address()).status == 200


def test_a_browser_page_can_t_reload_or_drain(proxy):
    """A foreign site can make a browser send a POST to loopback; its Origin or Host gives it away."""
    for headers in ({"Host": proxy.admin, "Origin": "http://evil.test"}, {"Host": "evil.test"}):
        assert fetch(proxy.admin, "POST", "/drain", headers).status in (400, 403, 421), headers
    assert proxy.admin_get("/readyz").status == 200


def test_hostile_admin_requests(proxy):
    for data in (b"GET /livez HTTP/1.1\r\n\r\n", b"\x00\xff\r\n\r\n", b"POST /log-level HTTP/1.1\r\nHost: a\r\n"
                 b"Content-Length: 100000000\r\n\r\n" + b"x" * 100_000):
        with RawClient(proxy.admin) as client:
            try:
                client.send(data).half_close()
            except OSError:
                # It may have been closed on us already, which is an answer too.
                pass
            client.recv_all()
    assert proxy.admin_get("/livez").status == 200


def test_a_slow_admin_client_holds_nobody_up(proxy, connect):
    slow = [connect(proxy.admin).send("GET /metr") for _ in range(20)]
    assert proxy.admin_get("/livez").status == 200
    assert len(slow) == 20
