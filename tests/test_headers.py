"""What a proxy must do to headers, and what nobody may make it do."""

import re

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.ports import free_port
from support.upstream import header, headers, reply


@pytest.fixture
def proxy(pillion, echo):
    return pillion(http_config(echo.address))


def sent(proxy, fields, target="/"):
    """What the upstream was sent, as an account."""
    response = fetch(proxy.address(), "GET", target, fields)
    assert response.status == 200, response
    return response.json()


# Hop-by-hop, RFC 9110 section 7.6.1.


def test_hop_by_hop_headers_end_here(proxy):
    account = sent(proxy, [
        ("Connection", "keep-alive, X-Listed"), ("X-Listed", "a"), ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"), ("TE", "gzip"), ("Upgrade", "other/1"), ("X-Kept", "b"),
    ])
    for name in ("x-listed", "keep-alive", "proxy-connection", "te", "upgrade"):
        assert headers(account, name) == [], name
    assert header(account, "x-kept") == "b"
    assert "x-listed" not in ",".join(headers(account, "connection")).lower()


def test_names_on_a_second_connection_line_count(proxy):
    account = sent(proxy, [
        ("Connection", "X-First"), ("X-First", "a"), ("X-Second", "b"), ("X-Third", "c"),
        ("Connection", " x-SECOND ,, X-Third"),
    ])
    assert [headers(account, name) for name in ("x-first", "x-second", "x-third")] == [[], [], []]


def test_every_line_of_a_listed_header_goes(proxy):
    account = sent(proxy, [("X-Listed", "a"), ("Connection", "x-listed"), ("X-Listed", "b")])
    assert headers(account, "x-listed") == []


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding", "host, content-length"])
def test_connection_never_removes_host_or_framing(proxy, name):
    response = fetch(proxy.address(), "POST", "/", [("Connection", f"close, {name}")], b"hello")
    if response.status == 400:
        return
    account = response.json()
    assert header(account, "host") == "app.test"
    assert account["body"] == "hello"


def test_connection_never_removes_what_pillion_adds(proxy):
    account = sent(proxy, [("Connection", "X-Forwarded-For, Via, X-Request-Id, X-Forwarded-Proto")])
    for name in ("x-forwarded-for", "x-forwarded-proto", "via", "x-request-id"):
        assert header(account, name), name


def test_hop_by_hop_headers_of_a_response_end_here(pillion, raw_upstream):
    upstream = raw_upstream(reply(
        b"HTTP/1.1 200 OK\r\nConnection: X-Internal\r\nX-Internal: a\r\nKeep-Alive: timeout=1\r\n"
        b"Proxy-Connection: close\r\nConnection: x-more\r\nX-More: b\r\nUpgrade: h2c\r\n"
        b"X-Kept: c\r\nContent-Length: 0\r\n\r\n"))
    response = fetch(pillion(http_config(upstream.address)).address())
    assert response.status == 200
    for name in ("x-internal", "x-more", "keep-alive", "proxy-connection", "upgrade"):
        assert response.all(name) == [], name
    assert response.header("x-kept") == "c"


def test_end_to_end_headers_pass(proxy):
    fields = {"Authorization": "Bearer x", "Cookie": "a=b", "Accept-Encoding": "br", "Range": "bytes=0-1",
              "If-None-Match": '"x"', "Cache-Control": "no-cache", "Max-Forwards": "3", "Origin": "http://x",
              "User-Agent": "test", "X-Empty": ""}
    account = sent(proxy, fields)
    for name, value in fields.items():
        assert header(account, name) == value, name


# Via and loops.


def test_via_is_appended_towards_the_upstream_and_left_alone_towards_the_client(proxy):
    """A gateway must add it to requests and may leave it out of responses, RFC 9110 section 7.6.3."""
    response = fetch(proxy.address(), "GET", "/?header=Via:1.1+behind", {"Via": "1.0 before"})
    via = ", ".join(headers(response.json(), "via"))
    assert re.fullmatch(r"1\.0 before, 1\.1 \S+", via), via
    assert response.all("via")[0].startswith("1.1 behind")


def test_via_tells_the_version_that_came(proxy):
    with RawClient(proxy.address()) as client:
        account = client.request("GET", "/", version="HTTP/1.0").json()
        assert header(account, "via").startswith("1.0 ")


def test_via_can_be_off(pillion, echo):
    proxy = pillion(http_config(echo.address, http={"via": False}))
    response = fetch(proxy.address())
    assert headers(response.json(), "via") == [] and response.all("via") == []


def test_the_pseudonym_differs_by_process_and_listener(pillion, echo):
    config = http_config(echo.address)
    config["listeners"].append({"name": "other", "address": "127.0.0.1:0", "upstream": "app"})
    one, two = pillion(config), pillion(config)
    names = {header(fetch(proxy.address(name)).json(), "via") for proxy in (one, two) for name in ("web", "other")}
    assert len(names) == 4


def test_a_loop_is_detected_by_via(pillion):
    port = free_port()
    proxy = pillion(http_config(f"127.0.0.1:{port}", listener={"address": f"127.0.0.1:{port}"}))
    response = fetch(proxy.address())
    assert response.status == 508, response
    assert proxy.access(reason="loop_detected")["status"] == 508
    proxy.wait_reason("loop_detected")


def test_the_same_pseudonym_three_times_is_a_loop_and_twice_is_not(proxy, echo):
    own = header(sent(proxy, {}), "via")
    assert fetch(proxy.address(), headers={"Via": f"{own}, 1.1 other, {own}"}).status == 200
    count = len(echo.requests)
    response = fetch(proxy.address(), headers=[("Via", f"{own}, 1.1 other, {own}"), ("Via", own)])
    proxy.refused(response, "loop_detected", 508)
    assert len(echo.requests) == count


# Forwarded and X-Forwarded-*.

FORGED = {
    "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "forged.test",
    "Forwarded": "for=203.0.113.7;proto=https;host=forged.test",
}


def test_forwarding_headers_of_an_untrusted_peer_are_replaced(proxy):
    account = sent(proxy, FORGED)
    assert header(account, "x-forwarded-for") == "127.0.0.1"
    assert header(account, "x-forwarded-proto") == "http"
    assert header(account, "x-forwarded-host") == "app.test"
    assert headers(account, "forwarded") == []


def test_forwarding_headers_on_many_lines_are_replaced(proxy):
    account = sent(proxy, [("X-Forwarded-For", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")])
    assert headers(account, "x-forwarded-for") == ["127.0.0.1"]


def test_a_trusted_peer_is_believed_and_appended_to(pillion, echo):
    proxy = pillion(http_config(echo.address, http={"trustedHops": 1}))
    account = sent(proxy, FORGED)
    assert ", ".join(headers(account, "x-forwarded-for")) == "203.0.113.7, 127.0.0.1"
    assert header(account, "x-forwarded-proto") == "https"
    assert header(account, "x-forwarded-host") == "forged.test"


def test_a_trusted_peer_that_says_nothing(pillion, echo):
    proxy = pillion(http_config(echo.address, http={"trustedHops": 1}))
    account = sent(proxy, {})
    assert header(account, "x-forwarded-for") == "127.0.0.1"
    assert header(account, "x-forwarded-proto") == "http"


def parse_forwarded(value: str) -> dict:
    pairs = (pair.split("=", 1) for pair in value.split(";"))
    return {name.strip().lower(): text.strip().strip('"') for name, text in pairs}


def test_forwarded_instead(pillion, echo):
    proxy = pillion(http_config(echo.address, http={"forwarded": "forwarded"}))
    account = sent(proxy, FORGED)
    parameters = parse_forwarded(header(account, "forwarded"))
    assert parameters["for"].startswith("127.0.0.1")
    assert (parameters["proto"], parameters["host"]) == ("http", "app.test")
    assert not [name for name, _ in account["headers"] if name.lower().startswith("x-forwarded-")]


def test_forwarded_of_a_trusted_peer_is_appended_to(pillion, echo):
    proxy = pillion(http_config(echo.address, http={"forwarded": "forwarded", "trustedHops": 1}))
    value = ",".join(headers(sent(proxy, FORGED), "forwarded"))
    first, second = value.split(",")
    assert parse_forwarded(first)["for"] == "203.0.113.7"
    assert parse_forwarded(second)["for"].startswith("127.0.0.1")


def test_forwarded_quotes_what_needs_quotes(pillion, echo):
    proxy = pillion(http_config(echo.address, http={"forwarded": "forwarded"}))
    value = header(sent(proxy, {"Host": "app.test:8080"}), "forwarded")
    assert 'host="app.test:8080"' in value.lower()


def test_both(pillion, echo):
    account = sent(pillion(http_config(echo.address, http={"forwarded": "both"})), {})
    assert header(account, "forwarded") and header(account, "x-forwarded-for") == "127.0.0.1"


def test_off_adds_nothing_and_still_drops_the_forged(pillion, echo):
    account = sent(pillion(http_config(echo.address, http={"forwarded": "off"})), FORGED)
    for name in FORGED:
        assert headers(account, name) == [], name


# Pillion's own.


def test_own_headers_of_an_untrusted_peer_are_dropped(proxy):
    account = sent(proxy, {"X-Pillion-Reason": "no_route", "x-pillion-anything": "1", "X-Pillionaire": "kept"})
    assert not [name for name, _ in account["headers"] if name.lower().startswith("x-pillion-")]
    assert header(account, "x-pillionaire") == "kept"


def test_own_headers_of_a_trusted_peer_stay(pillion, echo):
    proxy = pillion(http_config(echo.address, http={"trustedHops": 1}))
    assert header(sent(proxy, {"X-Pillion-Anything": "1"}), "x-pillion-anything") == "1"


def test_own_headers_of_an_upstream_are_dropped(pillion, raw_upstream):
    """What says why Pillion answered by itself must not come from anybody else."""
    upstream = raw_upstream(reply(b"HTTP/1.1 503 Busy\r\nX-Pillion-Reason: no_route\r\nContent-Length: 0\r\n\r\n"))
    response = fetch(pillion(http_config(upstream.address)).address())
    assert (response.status, response.reason) == (503, None)


def test_request_id_is_made_and_logged(proxy):
    one, two = (header(sent(proxy, {}, target), "x-request-id") for target in ("/one", "/two"))
    assert one and two and one != two
    assert proxy.access(path="/one")["request_id"] == one


def test_request_id_is_kept(proxy):
    account = sent(proxy, {"X-Request-Id": "from-the-client"}, "/kept")
    assert headers(account, "x-request-id") == ["from-the-client"]
    assert proxy.access(path="/kept")["request_id"] == "from-the-client"
