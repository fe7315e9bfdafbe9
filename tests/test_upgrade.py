"""HTTP/1.1 connections that become something else: Upgrade and CONNECT."""

import pytest
from support.config import http_config
from support.ports import free_port
from support.upstream import OK, headers
from support.wire import Closed

UPGRADE = {"Connection": "Upgrade", "Upgrade": "echo/1", "X-Key": "k"}
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nX-Accept: a\r\n\r\n"


def echo_protocol(first: bytes = b""):
    """A script: switches, sends `first` in the same segment, then sends back what comes."""

    def script(connection):
        request = connection.read_head()
        assert "upgrade" in request.tokens("connection")
        assert request.header("upgrade") == "echo/1"
        connection.send(SWITCH + first)
        while data := connection.recv_some():
            connection.send(data)
        connection.send(b"bye")
        connection.close()

    return script


@pytest.fixture
def talk(pillion, raw_upstream, connect):
    def start(script, **options):
        upstream = raw_upstream(script)
        proxy = pillion(http_config(upstream.address, **options))
        return connect(proxy.address()), upstream, proxy

    return start


def test_a_switched_connection_carries_bytes_both_ways(talk):
    client, _, proxy = talk(echo_protocol())
    response = client.request("GET", "/tunnel", UPGRADE)
    assert response.status == 101
    assert "upgrade" in response.tokens("connection")
    assert (response.header("upgrade"), response.header("x-accept")) == ("echo/1", "a")
    assert response.all("content-length") == [] and response.all("transfer-encoding") == []
    for piece in (b"hello", b"\x00\xff\r\n", b"x" * 300_000):
        client.send(piece)
        assert client.recv_exact(len(piece)) == piece
    # Half-close passes: the upstream still says good-bye.
    client.half_close()
    assert client.recv_all() == b"bye"
    line = proxy.access(path="/tunnel")
    assert line["status"] == 101
    assert line["bytes_received"] >= 300_009 and line["bytes_sent"] >= 300_009


def test_bytes_right_behind_the_heads_are_not_lost(talk):
    client, _, _ = talk(echo_protocol(first=b"server first"))
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\nclient first")
    assert client.read_response().status == 101
    assert client.recv_exact(len("server firstclient first")) == b"server firstclient first"


def test_the_upstream_ends_the_tunnel(talk):
    def script(connection):
        connection.read_head()
        connection.send(SWITCH + b"last words")
        connection.close()

    client, _, _ = talk(script)
    assert client.request("GET", "/", UPGRADE).status == 101
    assert client.recv_all() == b"last words"


def test_a_refused_upgrade_is_an_ordinary_exchange(talk):
    def script(connection):
        for _ in range(2):
            connection.read_request()
            connection.send(OK)

    client, upstream, _ = talk(script)
    assert client.request("GET", "/", UPGRADE).status == 200
    assert client.get("/").status == 200
    assert len(upstream.connections) == 1


def test_an_upgrade_with_a_body_that_is_refused(talk, echo, pillion, connect):
    client = connect(pillion(http_config(echo.address)).address())
    account = client.request("POST", "/", UPGRADE, b"hello").json()
    assert account["body"] == "hello"


def test_h2c_is_ignored(pillion, echo, connect):
    client = connect(pillion(http_config(echo.address)).address())
    response = client.request("GET", "/", {
        "Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA"})
    assert response.status == 200
    account = response.json()
    for name in ("upgrade", "http2-settings"):
        assert headers(account, name) == []
    assert "upgrade" not in ",".join(headers(account, "connection")).lower()
    assert client.get("/").status == 200


def test_upgrade_without_the_connection_option_is_not_one(pillion, echo, connect):
    client = connect(pillion(http_config(echo.address)).address())
    assert headers(client.get("/", {"Upgrade": "echo/1"}).json(), "upgrade") == []


def test_upgrade_in_http_1_0_is_ignored(pillion, echo, connect):
    client = connect(pillion(http_config(echo.address)).address())
    response = client.request("GET", "/", UPGRADE, version="HTTP/1.0")
    assert headers(response.json(), "upgrade") == []


def test_a_switch_that_nobody_asked_for_is_an_error(talk):
    def script(connection):
        connection.read_request()
        connection.send(SWITCH + b"surprise")

    client, _, proxy = talk(script)
    response = client.get("/")
    proxy.refused(response, "upstream_protocol", 502)


def test_a_switch_to_another_protocol_is_an_error(talk):
    def script(connection):
        connection.read_head()
        connection.send(SWITCH.replace(b"echo/1", b"other"))

    client, _, _ = talk(script)
    try:
        assert client.request("GET", "/", UPGRADE).status == 502
    except Closed:
        pass


# CONNECT.


def test_connect_is_refused_by_default(pillion, raw_upstream, connect):
    upstream = raw_upstream()
    proxy = pillion(http_config(upstream.address))
    client = connect(proxy.address())
    client.send("CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n")
    proxy.refused(client.read_response(), "connect_not_allowed", 405)
    assert upstream.received == b""


def test_connect_where_allowed_opens_a_tunnel(pillion, raw_upstream, connect):
    def script(connection):
        while data := connection.recv_some():
            connection.send(data.upper())
        connection.send(b"BYE")
        connection.close()

    upstream = raw_upstream(script)
    proxy = pillion(http_config(upstream.address, http={"allowConnect": True}))
    client = connect(proxy.address())
    client.send("CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n")
    response = client.read_response("CONNECT")
    assert response.status == 200
    assert response.all("content-length") == [] and response.all("transfer-encoding") == []
    client.send("hello")
    assert client.recv_exact(5) == b"HELLO"
    client.half_close()
    assert client.recv_all() == b"BYE"
    assert proxy.access(method="CONNECT")["status"] == 200


def test_connect_to_an_upstream_that_is_down(pillion, connect):
    proxy = pillion(http_config(f"127.0.0.1:{free_port()}", http={"allowConnect": True}))
    client = connect(proxy.address())
    client.send("CONNECT app.test:443 HTTP/1.1\r\nHost: app.test:443\r\n\r\n")
    proxy.refused(client.read_response(), "connect_failed", 503)


@pytest.mark.parametrize("target", ["app.test", "/path", "http://app.test:80", "app.test:", "app.test:x", "*"])
def test_connect_needs_host_and_port(pillion, raw_upstream, connect, target):
    upstream = raw_upstream()
    proxy = pillion(http_config(upstream.address, http={"allowConnect": True}))
    client = connect(proxy.address())
    client.send(f"CONNECT {target} HTTP/1.1\r\nHost: app.test\r\n\r\n")
    assert client.read_response().status == 400
    assert upstream.received == b""
