"""Faults that a rule injects on purpose."""

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.h2raw import Code, dial
from support.wait import eventually
from support.wire import Closed


def faulty(fault: dict, *, timeouts: dict | None = None) -> list[dict]:
    """A rule with faults, `/good` beside it, and a rule of another route."""
    fault_filter = {"type": "Fault", "fault": fault}
    rule = {"name": "bad", "filters": [fault_filter], "backendRefs": [{"name": "app"}], "timeouts": timeouts or {}}
    good = {"name": "good", "matches": [{"path": {"value": "/good"}}], "backendRefs": [{"name": "app"}]}
    other = {"name": "other", "matches": [{"path": {"value": "/other"}}], "filters": [fault_filter],
             "backendRefs": [{"name": "app"}]}
    return [{"name": "shop", "rules": [good, rule]}, {"name": "side", "rules": [other]}]


def injected(proxy, kind: str) -> float:
    return proxy.metrics().value("pillion_http_faults_injected_total", route="bad", kind=kind)


def test_an_abort_answers_in_place_of_the_upstream(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=faulty({"abort": {"statusCode": 418}})))
    with RawClient(proxy.address()) as client:
        line = proxy.refused(client.get("/"), "fault_injected", 418, route="bad")
        assert line["flags"] == "FI" and line["attempts"] == 0
        assert client.get("/good").status == 200
    assert injected(proxy, "abort") == 1
    assert len(echo.requests) == 1


def test_an_abort_blames_no_endpoint(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=faulty({"abort": {"statusCode": 503}, "reset": {}})))
    for _ in range(20):
        assert fetch(proxy.address()).status == 503
    assert fetch(proxy.address(), target="/good").status == 200
    assert proxy.metrics().value("pillion_upstream_retries_total") == 0


def test_a_share_is_a_share(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=faulty({"abort": {"percent": 50, "statusCode": 503}})))
    with RawClient(proxy.address()) as client:
        statuses = [client.get("/").status for _ in range(200)]
    # One in ten billion is outside.
    assert 50 < statuses.count(503) < 150
    assert injected(proxy, "abort") == statuses.count(503)


@pytest.mark.parametrize("fault, status, code", [
    ({"grpcStatus": "RESOURCE_EXHAUSTED"}, 200, "8"), ({"statusCode": 502}, 502, None)], ids=["gRPC", "HTTP"])
def test_a_grpc_call_is_aborted_in_either_form(pillion, echo, fault, status, code):
    proxy = pillion(http_config(echo.address, routes=faulty({"abort": fault})))
    response = fetch(proxy.address(), "POST", "/s/M", {"content-type": "application/grpc"}, b"")
    assert (response.status, response.reason) == (status, "fault_injected")
    if code:
        assert response.header("grpc-status") == code
        # It leaves other requests alone.
        assert fetch(proxy.address()).status == 200


def test_a_reset_is_no_answer(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=faulty({"reset": {}})))
    with RawClient(proxy.address()) as client, pytest.raises(Closed) as closed:
        client.get("/")
    assert closed.value.reset and not closed.value.received
    line = proxy.access(reason="fault_injected")
    assert line["status"] is None and line["flags"] == "FI"
    with dial(proxy.address()) as client:
        stream = client.request()
        client.expect_rst(stream, Code.INTERNAL_ERROR)
        client.expect_alive("/good")
    assert injected(proxy, "reset") == 2


def test_a_delay_counts_against_the_deadline(pillion, echo):
    routes = faulty({"delay": {"duration": "1h"}}, timeouts={"request": "50ms"})
    proxy = pillion(http_config(echo.address, routes=routes))
    line = proxy.refused(fetch(proxy.address()), "request_timeout", 504)
    assert line["flags"] == "DI,UT"
    assert not echo.requests


def test_a_delay_ends_with_its_client(pillion, echo):
    routes = faulty({"delay": {"duration": "1h"}}, timeouts={"request": "0s"})
    proxy = pillion(http_config(echo.address, routes=routes))
    with RawClient(proxy.address()) as client:
        client.send_request()
        eventually(lambda: injected(proxy, "delay") == 1)
    assert proxy.access(reason="client_closed")["flags"] == "DI,DC"
    assert not echo.requests


def test_a_delayed_request_goes_on(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=faulty({"delay": {"duration": "30ms"}})))
    response = fetch(proxy.address(), "POST", "/", body=b"hello")
    assert response.json()["length"] == 5
    line = proxy.access(route="bad")
    assert (line["flags"], line["reason"], line["status"]) == ("DI", None, 200)
    assert line["duration_ms"] >= 30


def test_a_slow_body_arrives_whole(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=faulty({"slowBody": {"bytesPerSecond": 2000}})))
    assert fetch(proxy.address()).json()
    with dial(proxy.address()) as client:
        assert client.response(client.request()).status == 200
    assert fetch(proxy.address(), "HEAD").status == 200
    assert proxy.access(protocol="HTTP/2")["flags"] == "DI"
    assert injected(proxy, "slow_body") == 3


def test_faults_are_switched_while_it_runs(pillion, echo):
    config = http_config(echo.address, routes=faulty({"abort": {"statusCode": 503}}))
    proxy = pillion(config)

    def told() -> dict:
        return {entry["rule"]: entry["enabled"] for entry in proxy.admin_get("/faults").json()}

    def found() -> tuple[int, int]:
        return fetch(proxy.address(), target="/").status, fetch(proxy.address(), target="/other").status

    assert (told(), found()) == ({"bad": True, "other": True}, (503, 503))
    # By rule, by route, all.
    assert proxy.admin_post("/faults?enabled=false&route=bad").status == 200
    assert (told(), found()) == ({"bad": False, "other": True}, (200, 503))
    assert proxy.admin_post("/faults?enabled=false&route=side").status == 200
    assert found() == (200, 200)
    # The position stays for as long as the filter does.
    config["routes"][0]["rules"][1]["timeouts"] = {"request": "3s"}
    proxy.must_reload(config)
    assert found() == (200, 200)
    assert proxy.admin_post("/faults?enabled=true").status == 200
    assert (told(), found()) == ({"bad": True, "other": True}, (503, 503))
    config["routes"] = faulty({"abort": {"statusCode": 503}, "enabled": False})
    proxy.must_reload(config)
    assert (told(), found()) == ({"bad": False, "other": False}, (200, 200))


@pytest.mark.parametrize("query, status", [("enabled=perhaps", 400), ("", 400), ("enabled=true&route=good", 404),
                                           ("enabled=true&route=none", 404)])
def test_only_what_is_configured_is_switched(pillion, echo, query, status):
    proxy = pillion(http_config(echo.address, routes=faulty({"enabled": False, "reset": {}})))
    assert proxy.admin_post(f"/faults?{query}").status == status
    assert fetch(proxy.address()).status == 200


def test_faults_are_nothing_for_the_public(pillion, echo):
    proxy = pillion(http_config(echo.address, admin={"address": "127.0.0.1:0", "probes": "127.0.0.1:0"}))
    assert proxy.admin_get("/faults").json() == []
    assert proxy.admin_post("/faults?enabled=true").status == 404
    assert fetch(proxy.probes, "GET", "/faults").status == 404
