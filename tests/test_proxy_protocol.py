"""The PROXY protocol, versions 1 and 2, in and out, on HTTP and TCP listeners."""

import socket
import struct

import pytest
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.upstream import OK, EchoUpstream, header
from support.wait import eventually

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
GET = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"


def v2(command: int, family: int, addresses: bytes, tlvs: bytes = b"", version: int = 2) -> bytes:
    body = addresses + tlvs
    return SIGNATURE + bytes([version << 4 | command, family]) + struct.pack("!H", len(body)) + body


def v2_tcp4(source: str, destination: str, source_port: int = 1111, destination_port: int = 2222, tlvs=b"") -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", source_port, destination_port)
    return v2(1, 0x11, ends, tlvs)


V2_TCP6 = v2(1, 0x21, socket.inet_pton(socket.AF_INET6, "2001:db8::7") + socket.inet_pton(socket.AF_INET6, "::1")
             + struct.pack("!HH", 1, 2))

GOOD = {
    "v1-tcp4": (b"PROXY TCP4 203.0.113.7 192.0.2.1 1111 80\r\n", "203.0.113.7"),
    "v1-tcp6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 1111 80\r\n", "2001:db8::7"),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v1-unknown-with-words": (b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n", "127.0.0.1"),
    "v2-tcp4": (v2_tcp4("203.0.113.7", "192.0.2.1"), "203.0.113.7"),
    "v2-tcp6": (V2_TCP6, "2001:db8::7"),
    "v2-with-tlvs": (v2_tcp4("203.0.113.7", "192.0.2.1", tlvs=b"\x04\x00\x03abc" * 10), "203.0.113.7"),
    "v2-local": (v2(0, 0, b""), "127.0.0.1"),
    "v2-local-with-addresses": (v2(0, 0x11, b"\xcb\x00\x71\x07" * 2 + b"\x00\x01\x00\x02"), "127.0.0.1"),
    "v2-unspec": (v2(1, 0, b""), "127.0.0.1"),
}

BAD = {
    "none": b"",
    "v1-lower-case": b"proxy TCP4 203.0.113.7 192.0.2.1 1111 80\r\n",
    "v1-bad-address": b"PROXY TCP4 203.0.113.777 192.0.2.1 1111 80\r\n",
    "v1-bad-port": b"PROXY TCP4 203.0.113.7 192.0.2.1 1111 80000\r\n",
    "v1-family-differs": b"PROXY TCP4 2001:db8::7 2001:db8::1 1111 80\r\n",
    "v1-short": b"PROXY TCP4 203.0.113.7\r\n",
    "v1-lf": b"PROXY TCP4 203.0.113.7 192.0.2.1 1111 80\n",
    "v1-endless": b"PROXY TCP4 " + b"1" * 300 + b"\r\n",
    "v1-udp": b"PROXY UDP4 203.0.113.7 192.0.2.1 1111 80\r\n",
    "v2-bad-version": v2(1, 0x11, bytes(12), version=3),
    "v2-bad-command": v2(7, 0x11, bytes(12)),
    "v2-short-addresses": v2(1, 0x11, bytes(4)),
    "v2-huge": v2(1, 0x11, bytes(12), bytes(60_000)),
    "v2-bad-signature": b"\r\n\r\n\x00\r\nQUIX\n" + bytes([0x21, 0x11]) + b"\x00\x0c" + bytes(12),
}


@pytest.fixture(scope="module")
def receiving(shared_pillion, request):
    upstream = EchoUpstream()
    request.addfinalizer(upstream.close)
    config = http_config(upstream.address, listener={"proxyProtocol": True})
    return shared_pillion(config), upstream


@pytest.mark.parametrize("name", GOOD)
def test_the_address_of_the_header_is_the_clients(receiving, name, connect):
    proxy, _ = receiving
    prefix, address = GOOD[name]
    client = connect(proxy.address()).send(prefix + GET)
    account = client.read_response().json()
    assert header(account, "x-forwarded-for") == address
    assert client.get(f"/{name}").status == 200
    assert address in proxy.access(path=f"/{name}")["peer"]


def test_the_header_may_come_in_pieces(receiving, connect):
    proxy, _ = receiving
    for prefix in (GOOD["v1-tcp4"][0], GOOD["v2-tcp4"][0]):
        client = connect(proxy.address())
        for byte in prefix + GET:
            client.send(bytes([byte]))
        assert header(client.read_response().json(), "x-forwarded-for") == "203.0.113.7"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_ends_the_connection(receiving, name, connect):
    proxy, upstream = receiving
    before = upstream.heads
    client = connect(proxy.address())
    try:
        client.send(BAD[name] + GET)
    except ConnectionError:
        pass
    assert client.recv_all() == b""
    good = connect(proxy.address()).send(GOOD["v1-tcp4"][0] + GET)
    assert good.read_response().status == 200
    assert upstream.heads == before + 1


def test_a_header_that_does_not_come(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, listener={"proxyProtocol": True}, http={"headTimeout": "300ms"}))
    silent, half = connect(proxy.address()), connect(proxy.address()).send("PROXY TCP4 ")
    assert silent.recv_all() == b"" and half.recv_all() == b""


def test_without_the_setting_a_header_is_a_bad_request(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address()).send(GOOD["v1-tcp4"][0] + GET)
    assert client.read_response().status == 400
    client.expect_closed()
    assert echo.heads == 0


def test_in_on_a_tcp_listener(pillion, echo, connect):
    proxy = pillion(tcp_config(echo.address, listener={"proxyProtocol": True}))
    for name in ("v1-tcp4", "v2-tcp4"):
        client = connect(proxy.address("tcp")).send(GOOD[name][0] + GET)
        assert client.read_response().status == 200
        client.close()
    eventually(lambda: len(proxy.access_log()) == 2)
    assert all("203.0.113.7" in line["peer"] for line in proxy.access_log())


def parse_v2(data: bytes):
    assert data[:12] == SIGNATURE
    command, family, length = struct.unpack("!BBH", data[12:16])
    return command, family, data[16:16 + length], data[16 + length:]


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_v1_out(pillion, raw_upstream, connect, kind):
    upstream = raw_upstream()
    build = http_config if kind == "http" else tcp_config
    name = "web" if kind == "http" else "tcp"
    proxy = pillion(build(upstream.address, upstream={"proxyProtocol": "v1"}))
    client = connect(proxy.address(name)).send(GET)
    data = upstream.connection().wait_received(lambda data: b"Host" in data)
    line, rest = data.split(b"\r\n", 1)
    port = client.sock.getsockname()[1]
    assert line.decode() == f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {proxy.port(name)}"
    assert rest.startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_v2_out(pillion, raw_upstream, connect, kind):
    upstream = raw_upstream()
    build = http_config if kind == "http" else tcp_config
    name = "web" if kind == "http" else "tcp"
    proxy = pillion(build(upstream.address, upstream={"proxyProtocol": "v2"}))
    client = connect(proxy.address(name)).send(GET)
    data = upstream.connection().wait_received(lambda data: b"Host" in data)
    command, family, ends, rest = parse_v2(data)
    assert (command, family) == (0x21, 0x11)
    loopback = socket.inet_aton("127.0.0.1")
    assert ends[:12] == loopback * 2 + struct.pack("!HH", client.sock.getsockname()[1], proxy.port(name))
    assert rest.startswith(b"GET / HTTP/1.1\r\n")


def test_what_came_in_goes_out(pillion, raw_upstream, connect):
    upstream = raw_upstream()
    proxy = pillion(tcp_config(upstream.address, listener={"proxyProtocol": True}, upstream={"proxyProtocol": "v1"}))
    connect(proxy.address("tcp")).send(GOOD["v2-tcp4"][0] + b"payload")
    data = upstream.connection().wait_received(lambda data: data.endswith(b"payload"))
    assert data == b"PROXY TCP4 203.0.113.7 192.0.2.1 1111 2222\r\npayload"


def test_what_came_in_goes_out_of_an_http_listener(pillion, raw_upstream, connect):
    upstream = raw_upstream()
    proxy = pillion(http_config(upstream.address, listener={"proxyProtocol": True}, upstream={"proxyProtocol": "v1"}))
    connect(proxy.address()).send(GOOD["v2-tcp4"][0] + GET)
    data = upstream.connection().wait_received(lambda data: b"Host" in data)
    assert data.startswith(b"PROXY TCP4 203.0.113.7 192.0.2.1 1111 2222\r\nGET /")


def test_a_connection_that_names_one_client_serves_no_other(pillion, raw_upstream):
    """With a header of its client in front, a pooled connection may not carry somebody else's request."""

    def script(connection):
        connection.recv_until(b"\r\n")
        while True:
            connection.read_request()
            connection.send(OK)

    upstream = raw_upstream(script)
    proxy = pillion(http_config(upstream.address, upstream={"proxyProtocol": "v1"}), env={"PILLION_WORKERS": "1"})
    ports = set()
    for _ in range(3):
        with RawClient(proxy.address()) as client:
            ports.add(client.sock.getsockname()[1])
            assert client.get("/").status == 200
            assert client.get("/").status == 200
    announced = {int(bytes(one.received).split(b"\r\n")[0].split()[4]) for one in upstream.connections}
    assert announced == ports


def test_two_pillions_pass_the_address_on(pillion, echo):
    inner = pillion(http_config(echo.address, listener={"proxyProtocol": True}))
    for version in ("v1", "v2"):
        outer = pillion(http_config(inner.address(), upstream={"proxyProtocol": version}))
        assert fetch(outer.address()).status == 200
