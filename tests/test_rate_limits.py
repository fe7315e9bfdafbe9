"""How often a rule may be asked."""

import pytest
from support.client import RawClient, fetch
from support.config import http_config


def limited(limit: dict, *, answer: bool = False) -> list[dict]:
    """Routes with one limited rule, `/free` beside it. Nothing comes back within the test."""
    rule = {"name": "limited", "filters": [{"type": "RateLimit", "rateLimit": {"requests": 3, "per": "1h", **limit}}]}
    if answer:
        rule["filters"].append({"type": "DirectResponse", "directResponse": {"body": "here"}})
    else:
        rule["backendRefs"] = [{"name": "app"}]
    free = {"name": "free", "matches": [{"path": {"value": "/free"}}], "backendRefs": [{"name": "app"}]}
    return [{"name": "r", "rules": [free, rule]}]


def statuses(proxy, count: int, target: str = "/", headers=()) -> list[int]:
    return [fetch(proxy.address(), "GET", target, headers).status for _ in range(count)]


@pytest.mark.parametrize("answer", [False, True], ids=["forwarded", "answered here"])
def test_what_comes_too_often_is_refused(pillion, echo, answer):
    proxy = pillion(http_config(echo.address, routes=limited({}, answer=answer)))
    assert statuses(proxy, 3) == [200] * 3
    with RawClient(proxy.address()) as client:
        response = client.get("/")
        line = proxy.refused(response, "rate_limited", 429)
        assert line["flags"] == "RL" and line["route"] == "limited"
        # One third of an hour, less what the test took.
        assert 1 <= int(response.header("retry-after")) <= 1200
        # The connection stays, and other rules do.
        assert client.get("/free").status == 200
    assert len(echo.requests) == (1 if answer else 4)


def test_a_burst_is_what_may_come_at_once(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=limited({"burst": 5})))
    assert statuses(proxy, 7) == [200] * 5 + [429] * 2


def test_each_value_of_a_header_has_its_own(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=limited({"key": {"header": "X-User"}})))
    for user in ("ann", "bob"):
        assert statuses(proxy, 4, headers={"x-user": user}) == [200] * 3 + [429]
    # So has the lack of one.
    assert statuses(proxy, 4) == [200] * 3 + [429]


def test_each_address_has_its_own(pillion, echo):
    config = http_config(echo.address, routes=limited({"key": "source"}), http={"trustedHops": 1})
    proxy = pillion(config)
    for source in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
        assert statuses(proxy, 4, headers={"x-forwarded-for": source}) == [200] * 3 + [429]
    # The same network.
    assert statuses(proxy, 1, headers={"x-forwarded-for": "2001:db8::2"}) == [429]
    # Itself.
    assert statuses(proxy, 4) == [200] * 3 + [429]


def test_made_up_keys_get_nothing(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=limited({"key": {"header": "x-user"}, "maxKeys": 1})))
    assert statuses(proxy, 1, headers={"x-user": "first"}) == [200]
    told = [statuses(proxy, 1, headers={"x-user": f"made-up-{n}"})[0] for n in range(10)]
    assert told == [200] * 3 + [429] * 7
    assert statuses(proxy, 3, headers={"x-user": "first"}) == [200, 200, 429]


def test_a_reload_forgets_nothing_unless_the_limit_changes(pillion, echo):
    config = http_config(echo.address, routes=limited({}))
    proxy = pillion(config)
    assert statuses(proxy, 4) == [200] * 3 + [429]
    config["routes"][0]["rules"][1]["timeouts"] = {"request": "3s"}
    proxy.must_reload(config)
    assert statuses(proxy, 1) == [429]
    config["routes"] = limited({"requests": 4})
    proxy.must_reload(config)
    assert statuses(proxy, 5) == [200] * 4 + [429]


def test_workers_share_one_limit(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=limited({"requests": 50})), env={"PILLION_WORKERS": "4"})
    assert sorted(statuses(proxy, 60)) == [200] * 50 + [429] * 10


def test_a_grpc_client_is_told_in_its_own_form(pillion, echo):
    proxy = pillion(http_config(echo.address, routes=limited({"requests": 1})))
    assert statuses(proxy, 1) == [200]
    response = fetch(proxy.address(), "POST", "/s/M", {"content-type": "application/grpc"}, b"")
    assert (response.status, response.header("grpc-status"), response.reason) == (200, "8", "rate_limited")
    assert int(response.header("grpc-retry-pushback-ms")) >= 1000


def test_it_is_asked_after_access(pillion, echo):
    config = http_config(echo.address, routes=limited({}), access=[{"name": "few", "to": {"methods": ["POST"]}}])
    proxy = pillion(config)
    assert statuses(proxy, 10) == [403] * 10
    assert [fetch(proxy.address(), "POST").status for _ in range(4)] == [200] * 3 + [429]
