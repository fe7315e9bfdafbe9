"""Routes as a client meets them. The matcher itself is tested beside its code; this is the wiring."""

import collections

import pytest
from support.client import RawClient, chunked, fetch
from support.config import http_config
from support.upstream import header, headers
from support.wait import eventually


def backend(name: str = "app", **fields) -> dict:
    return {"name": name, **fields}


def rule(path: str | None = None, *, kind="PathPrefix", backends=("app",), filters=None, **match) -> dict:
    """One rule; keywords go into its one match."""
    entry = {}
    if path is not None:
        match["path"] = {"type": kind, "value": path}
    if match:
        entry["matches"] = [match]
    if filters:
        entry["filters"] = filters
    if backends:
        entry["backendRefs"] = [backend(name) if isinstance(name, str) else name for name in backends]
    return entry


def respond(text: str, status: int = 200) -> dict:
    return {"type": "DirectResponse", "directResponse": {"statusCode": status, "body": text}}


def says(text: str, path: str | None = None, **options) -> dict:
    """A rule that answers by itself with this text."""
    return rule(path, backends=(), filters=[respond(text)], **options)


@pytest.fixture
def routed(pillion, echo):
    def start(*routes, **options):
        return pillion(http_config(echo.address, routes=list(routes), **options))

    return start


def body(proxy, target="/", method="GET", headers=(), name="web"):
    return fetch(proxy.address(name), method, target, headers).body.decode()


def test_hostnames(routed):
    proxy = routed(
        {"hostnames": ["shop.example"], "rules": [says("exact")]},
        {"hostnames": ["*.shop.example"], "rules": [says("wildcard")]},
        {"hostnames": ["*.eu.shop.example"], "rules": [says("longer wildcard")]},
        {"rules": [says("any")]},
    )
    for host, expected in {
        "shop.example": "exact", "SHOP.Example": "exact", "shop.example:8080": "exact",
        "a.shop.example": "wildcard", "a.b.shop.example": "wildcard", "a.eu.shop.example": "longer wildcard",
        "eu.shop.example": "wildcard", "ashop.example": "any", "example": "any", "127.0.0.1": "any", "[::1]:80": "any",
    }.items():
        assert body(proxy, headers={"Host": host}) == expected, host


def test_the_host_of_an_absolute_target_counts(routed):
    proxy = routed({"hostnames": ["a.test"], "rules": [says("a")]}, {"hostnames": ["b.test"], "rules": [says("b")]})
    response = fetch(proxy.address(), "GET", "http://a.test/", {"Host": "b.test"})
    assert response.status == 400 or response.body == b"a"
    assert fetch(proxy.address(), "GET", "http://a.test/", {"Host": "a.test"}).body == b"a"


def test_paths_by_precedence(routed):
    proxy = routed({"rules": [
        says("root", "/"), says("a", "/a"), says("a/b", "/a/b"), says("exact", "/a/b", kind="Exact"),
        says("regex", "/num/[0-9]+", kind="RegularExpression"), says("slash", "/s/"),
    ]})
    for target, expected in {
        "/": "root", "/ab": "root", "/a": "a", "/a/": "a", "/a/c": "a", "/a/b": "exact", "/a/b/": "a/b", "/a/b/c": "a/b",
        "/num/17": "regex", "/num/x": "root", "/num/17/x": "root", "/s": "slash", "/s/x": "slash", "/sx": "root",
        "/a?x=/a/b": "a",
    }.items():
        assert body(proxy, target) == expected, target


def test_headers_methods_and_queries(routed):
    proxy = routed({"rules": [
        says("two headers", headers=[{"name": "X-A", "value": "1"}, {"name": "x-b", "value": "2"}]),
        says("header", headers=[{"name": "x-a", "value": "1"}]),
        says("header regex", headers=[{"name": "x-a", "type": "RegularExpression", "value": "v[0-9]+"}]),
        says("query", queryParams=[{"name": "debug", "value": "1"}]),
        says("post", method="POST"),
        says("rest"),
    ]})
    assert body(proxy, headers={"x-A": "1"}) == "header"
    assert body(proxy, headers={"x-a": "1", "X-B": "2"}) == "two headers"
    assert body(proxy, headers={"x-a": "v17"}) == "header regex"
    assert body(proxy, headers={"x-a": "v17x"}) == "rest"
    assert body(proxy, "/?a=b&debug=1") == "query"
    assert body(proxy, "/?debug=2") == "rest"
    assert body(proxy, method="POST") == "post"
    assert body(proxy, method="PUT") == "rest"


def test_no_route_is_a_404_with_its_reason(routed, echo):
    proxy = routed({"hostnames": ["shop.example"], "rules": [rule("/items")]})
    for host, target in (("shop.example", "/other"), ("other.example", "/items")):
        response = fetch(proxy.address(), "GET", target, {"Host": host})
        line = proxy.refused(response, "no_route", 404, path=target)
        assert line["flags"] == "NR"
    assert echo.heads == 0


def test_a_listener_serves_its_own_routes(pillion, echo):
    config = http_config(echo.address, routes=[
        {"listeners": ["web"], "rules": [says("web")]},
        {"listeners": ["other"], "rules": [says("other")]},
        {"rules": [says("both", "/both")]},
    ])
    config["listeners"].append({"name": "other", "address": "127.0.0.1:0"})
    proxy = pillion(config)
    assert body(proxy) == "web"
    assert body(proxy, name="other") == "other"
    assert body(proxy, "/both") == body(proxy, "/both", name="other") == "both"


def test_the_listeners_upstream_takes_what_no_route_takes(pillion, echo):
    config = http_config(echo.address, routes=[{"rules": [says("routed", "/x")]}])
    config["listeners"][0]["upstream"] = "app"
    proxy = pillion(config)
    assert body(proxy, "/x") == "routed"
    assert fetch(proxy.address(), "GET", "/y").json()["server"] == "app"


def test_weights_split(pillion, echo_upstream):
    one, two, none = (echo_upstream(name) for name in ("one", "two", "none"))
    routes = [{"rules": [{"backendRefs": [backend("app", weight=75), backend("two", weight=25),
                                          backend("none", weight=0)]}]}]
    proxy = pillion(http_config(one.address, routes=routes, more_upstreams=[
        {"name": "two", "endpoints": [two.address]}, {"name": "none", "endpoints": [none.address]}]))
    with RawClient(proxy.address()) as client:
        counts = collections.Counter(client.get("/").json()["server"] for _ in range(400))
    # 300 expected; nine standard deviations.
    assert 222 <= counts["one"] <= 378, counts
    assert counts["one"] + counts["two"] == 400


def test_request_and_response_headers_are_modified(routed):
    filters = [
        {"type": "RequestHeaderModifier", "requestHeaderModifier": {
            "set": [{"name": "X-Set", "value": "new"}], "add": [{"name": "X-Add", "value": "more"}],
            "remove": ["X-Remove"]}},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {
            "set": [{"name": "X-Set", "value": "new"}], "add": [{"name": "X-Add", "value": "more"}],
            "remove": ["X-Server"]}},
    ]
    proxy = routed({"rules": [rule(filters=filters)]})
    response = fetch(proxy.address(), "GET", "/?header=X-Set:old&header=X-Add:one",
                     [("X-Set", "old"), ("x-set", "older"), ("X-Add", "one"), ("x-remove", "gone")])
    account = response.json()
    assert headers(account, "x-set") == ["new"]
    assert [part.strip() for value in headers(account, "x-add") for part in value.split(",")] == ["one", "more"]
    assert headers(account, "x-remove") == []
    assert response.all("x-set") == ["new"]
    assert response.tokens("x-add") == ["one", "more"]
    assert response.all("x-server") == []


def test_headers_of_one_backend_are_modified(pillion, echo_upstream):
    one, two = echo_upstream("one"), echo_upstream("two")
    filters = [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-canary", "value": "1"}]}}]
    routes = [{"rules": [{"backendRefs": [backend("app"), backend("two", filters=filters)]}]}]
    proxy = pillion(http_config(one.address, routes=routes,
                                more_upstreams=[{"name": "two", "endpoints": [two.address]}]))
    with RawClient(proxy.address()) as client:
        accounts = [client.get("/").json() for _ in range(40)]
    for account in accounts:
        assert header(account, "x-canary") == ("1" if account["server"] == "two" else None)
    assert {account["server"] for account in accounts} == {"one", "two"}


@pytest.mark.parametrize("redirect, location, status", [
    ({"scheme": "https"}, "https://app.test/a/b?c=d", 302),
    ({"scheme": "https", "port": 8443, "statusCode": 301}, "https://app.test:8443/a/b?c=d", 301),
    ({"hostname": "other.test"}, "http://other.test:PORT/a/b?c=d", 302),
    ({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/new"}, "statusCode": 308}, "/new?c=d", 308),
    ({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/z"}, "statusCode": 307}, "/z/b?c=d", 307),
])
def test_redirects(routed, echo, redirect, location, status):
    filters = [{"type": "RequestRedirect", "requestRedirect": redirect}]
    proxy = routed({"rules": [rule("/a", backends=(), filters=filters)]})
    response = fetch(proxy.address(), "GET", "/a/b?c=d")
    assert response.status == status
    # Without a scheme the port is the listener's own, as in the Gateway API.
    location = location.replace("PORT", str(proxy.port()))
    assert response.header("location").endswith(location), response.header("location")
    assert response.reason == "redirect" and "error=" not in response.header("proxy-status"), "it is no failure"
    assert proxy.access(path="/a/b?c=d")["status"] == status
    assert echo.heads == 0


@pytest.mark.parametrize("rewrite, target, expected", [
    ({"path": {"type": "ReplaceFullPath", "replaceFullPath": "/new"}}, "/a/b?c=d", "/new?c=d"),
    ({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}}, "/a/b?c=d", "/v2/b?c=d"),
    ({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}, "/a/b", "/b"),
    ({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}, "/a", "/"),
    ({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2/"}}, "/a/b", "/v2/b"),
    ({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}}, "/a", "/v2"),
    ({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}}, "/a/", "/v2/"),
])
def test_paths_are_rewritten(routed, rewrite, target, expected):
    proxy = routed({"rules": [rule("/a", filters=[{"type": "URLRewrite", "urlRewrite": rewrite}])]})
    account = fetch(proxy.address(), "GET", target).json()
    assert account["target"] == expected
    assert header(account, "host") == "app.test"


def test_the_host_is_rewritten(routed):
    proxy = routed({"rules": [rule(filters=[{"type": "URLRewrite", "urlRewrite": {"hostname": "inner.test"}}])]})
    account = fetch(proxy.address()).json()
    assert header(account, "host") == "inner.test"
    assert header(account, "x-forwarded-host") == "app.test"


def test_direct_response(routed, echo):
    proxy = routed({"rules": [rule(backends=(), filters=[{"type": "DirectResponse", "directResponse": {
        "statusCode": 418, "body": "short\nand stout", "contentType": "text/tea"}}])]})
    with RawClient(proxy.address()) as client:
        response = client.get("/")
        assert (response.status, response.body, response.header("content-type")) == (418, b"short\nand stout", "text/tea")
        assert response.reason == "direct_response" and "error=" not in response.header("proxy-status")
        head = client.request("HEAD", "/")
        assert (head.status, head.header("content-length")) == (418, "15")
        # A body that nobody wants is read or the connection ends; it is never the next request.
        assert client.request("POST", "/", body=b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n").status == 418
    assert echo.heads == 0


# Mirror.


def mirrored(echo, shadow, **options):
    filters = [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "shadow"}, **options}}]
    return http_config(echo.address, routes=[{"rules": [rule(filters=filters)]}],
                       more_upstreams=[{"name": "shadow", "endpoints": [shadow]}])


def test_a_mirror_gets_a_copy(pillion, echo, echo_upstream):
    shadow = echo_upstream("shadow")
    proxy = pillion(mirrored(echo, shadow.address))
    with RawClient(proxy.address()) as client:
        assert client.request("POST", "/a?b=c", {"X-One": "1"}, b"hello").json()["server"] == "app"
        client.send_request("POST", "/chunked", {"Transfer-Encoding": "chunked"}).send(chunked(b"one", b"two"))
        assert client.read_response("POST").json()["body"] == "onetwo"
    eventually(lambda: len(shadow.requests) == 2, "both copies")
    first, second = sorted(shadow.requests, key=lambda request: request["target"])
    assert (first["method"], first["target"], first["body"]) == ("POST", "/a?b=c", "hello")
    assert header(first, "x-one") == "1"
    assert second["body"] == "onetwo"


def test_a_mirror_that_is_down_or_slow_changes_nothing(pillion, echo, raw_upstream):
    proxy = pillion(mirrored(echo, raw_upstream().address))
    with RawClient(proxy.address()) as client:
        for _ in range(30):
            assert client.request("POST", "/", body=b"x" * 10_000).json()["length"] == 10_000
    down = raw_upstream()
    down.close()
    proxy = pillion(mirrored(echo, down.address))
    with RawClient(proxy.address()) as client:
        for _ in range(30):
            assert client.get("/").json()["server"] == "app"


def test_a_mirror_never_gets_a_whole_body_above_its_limit(pillion, echo, raw_upstream):
    """Too large to buffer for a mirror that doesn't read: the copy ends, the request does not."""
    stuck = raw_upstream(reads_no_further)
    proxy = pillion(mirrored(echo, stuck.address, maxBufferedBytes="4KiB"))
    size = 20 * 1024 * 1024
    with RawClient(proxy.address()) as client:
        before = proxy.rss()
        assert client.request("POST", "/", body=b"x" * size).json()["length"] == size
        assert proxy.rss() - before < 16 * 1024 * 1024
    assert len(stuck.received) < size


def reads_no_further(connection):
    """Takes the head, then nothing until the test is over."""
    connection.read_head()
    connection.finished.wait(30)


def test_a_share_is_mirrored(pillion, echo, echo_upstream):
    shadow = echo_upstream("shadow")
    proxy = pillion(mirrored(echo, shadow.address, percent=25))
    with RawClient(proxy.address()) as client:
        for _ in range(200):
            client.get("/")
    # 50 expected; more than six standard deviations.
    eventually(lambda: shadow.heads >= 10)
    assert shadow.heads <= 90


def test_a_share_may_be_a_fraction(pillion, echo, echo_upstream):
    shadow = echo_upstream("shadow")
    proxy = pillion(mirrored(echo, shadow.address, fraction={"numerator": 0, "denominator": 1000}))
    with RawClient(proxy.address()) as client:
        for _ in range(30):
            client.get("/")
    assert shadow.heads == 0


# Timeouts belong to rules.


def test_each_rule_has_its_own_timeout(routed, echo):
    slow = {**rule("/slow"), "timeouts": {"request": "300ms"}}
    proxy = routed({"rules": [slow, rule("/patient")]})
    with RawClient(proxy.address()) as patient:
        patient.send_request("GET", "/patient?gate=g")
        echo.wait_heads(1)
        assert fetch(proxy.address(), "GET", "/slow?gate=g").status == 504
        echo.open_gate("g")
        assert patient.read_response().status == 200
