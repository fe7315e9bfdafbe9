"""Opaque listeners: bytes in, the same bytes out, and every kind of end."""

import hashlib
import os
import threading

import pytest
from support.config import tcp_config
from support.ports import free_port
from support.upstream import PATTERN
from support.wait import TIMEOUT, eventually


@pytest.fixture
def talk(pillion, raw_upstream, connect):
    """`talk(script)`: a client, the upstream's connection and the proxy between."""

    def start(script=None, **options):
        upstream = raw_upstream(script)
        proxy = pillion(tcp_config(upstream.address, **options))
        return connect(proxy.address("tcp")), upstream, proxy

    return start


def echoes(connection):
    while data := connection.recv_some():
        connection.send(data)
    connection.send(b"END")
    connection.close()


def test_bytes_go_both_ways(talk):
    client, _, _ = talk(echoes)
    for piece in (b"a", b"\x00\xff\r\n\r\n", os.urandom(100_000)):
        client.send(piece)
        assert client.recv_exact(len(piece)) == piece


def test_a_client_that_half_closes_hears_the_rest(talk):
    client, _, _ = talk(echoes)
    client.send("hello").half_close()
    assert client.recv_all() == b"helloEND"


def test_a_server_that_half_closes_hears_the_rest(talk):
    def script(connection):
        connection.send(b"greeting")
        connection.half_close()
        while connection.fill():
            pass

    client, upstream, _ = talk(script)
    assert client.recv_exact(8) == b"greeting"
    assert client.recv_some() == b"", "the end comes through"
    client.send("still talking")
    upstream.connection().wait_received(lambda data: data == b"still talking")
    client.half_close()
    upstream.connection().wait_finished()


def test_a_server_that_speaks_first(talk):
    client, _, _ = talk(lambda connection: connection.send(b"220 ready\r\n"))
    assert client.recv_until(b"\r\n") == b"220 ready\r\n"


def test_a_server_that_closes_at_once(talk):
    client, _, _ = talk(lambda connection: (connection.send(b"no"), connection.close()))
    assert client.recv_all() == b"no"


def test_a_reset_of_either_side_ends_the_other(talk):
    client, upstream, proxy = talk(None)
    client.send("x")
    upstream.connection().wait_received()
    client.reset()
    upstream.connection().wait_finished()
    client, upstream, proxy = talk(lambda connection: (connection.recv_exact(1), connection.reset()))
    client.send("x")
    assert client.recv_all() == b""


def test_a_large_transfer_in_both_directions_at_once(talk):
    size = 30 * 1024 * 1024

    def script(connection):
        connection.record = False
        while data := connection.recv_some():
            connection.send(data)
        connection.close()

    client, _, proxy = talk(script)
    client.record = False
    before = proxy.rss()

    def send():
        for _ in range(size // len(PATTERN)):
            client.send(PATTERN)
        client.half_close()

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    digest, total = hashlib.sha256(), 0
    while data := client.recv_some():
        digest.update(data)
        total += len(data)
    sender.join(TIMEOUT)
    assert total == size
    assert digest.digest() == hashlib.sha256(PATTERN * (size // len(PATTERN))).digest()
    assert proxy.rss() - before < 16 * 1024 * 1024


def test_an_idle_connection_is_closed_on_both_sides(talk):
    client, upstream, proxy = talk(None, tcp={"idleTimeout": "300ms"})
    client.send("x")
    upstream.connection().wait_received()
    assert client.recv_all() == b""
    upstream.connection().wait_finished()
    assert "no byte moved within 300ms (tcp.idleTimeout)" in proxy.access(listener="tcp")["detail"]


def test_traffic_in_one_direction_keeps_it_open(talk):
    client, upstream, _ = talk(None, tcp={"idleTimeout": "1s"})
    for _ in range(8):
        client.send("x")
        # Together longer than the timeout.
        assert not client.readable(0.2), "closed though bytes were moving"
    assert upstream.connection().wait_received(lambda data: data == b"x" * 8)


def test_a_half_closed_connection_has_a_timeout_of_its_own(talk):
    over = threading.Event()
    client, _, proxy = talk(lambda _: over.wait(TIMEOUT), tcp={"idleTimeout": "1h", "halfCloseTimeout": "300ms"})
    client.send("x").half_close()
    assert client.recv_all() == b""
    assert "no byte moved within 300ms (tcp.halfCloseTimeout)" in proxy.access(listener="tcp")["detail"]
    over.set()


def test_an_upstream_that_is_down(pillion, connect):
    proxy = pillion(tcp_config(f"127.0.0.1:{free_port()}"))
    assert connect(proxy.address("tcp")).recv_all() == b""
    line = proxy.access(listener="tcp")
    assert (line["reason"], line["flags"]) == ("connect_failed", "UF")
    proxy.wait_reason("connect_failed")
    assert proxy.metrics().value("pillion_listener_connections_failed_total", reason="connect_failed") == 1


def test_a_line_a_connection(talk):
    client, upstream, proxy = talk(echoes)
    client.send("hello").half_close()
    assert client.recv_all() == b"helloEND"
    line = proxy.access(listener="tcp")
    assert (line["upstream"], line["endpoint"]) == ("app", upstream.address)
    assert (line["bytes_received"], line["bytes_sent"]) == (5, 8)
    assert not line["reason"], line
    assert line["peer"].startswith("127.0.0.1")


def test_many_connections(talk, connect):
    client, _, proxy = talk(echoes)
    clients = [connect(proxy.address("tcp")) for _ in range(200)]
    for number, one in enumerate(clients):
        one.send(f"{number:04}")
    for number, one in enumerate(clients):
        assert one.recv_exact(4) == f"{number:04}".encode()
    for one in clients:
        one.half_close()
        assert one.recv_all() == b"END"
    client.close()
    eventually(lambda: proxy.metrics().value("pillion_listener_connections_active") == 0)


def test_connections_above_the_limit_are_closed(pillion, raw_upstream, connect):
    proxy = pillion(tcp_config(raw_upstream(echoes).address, listener={"maxConnections": 1}))
    first = connect(proxy.address("tcp")).send("a")
    assert first.recv_exact(1) == b"a"
    assert connect(proxy.address("tcp")).recv_all() == b""
    first.send("b")
    assert first.recv_exact(1) == b"b"


def test_the_upstreams_connection_limit_holds(pillion, raw_upstream, connect):
    upstream = raw_upstream(echoes)
    proxy = pillion(tcp_config(upstream.address, upstream={"limits": {"connections": 1}}))
    first = connect(proxy.address("tcp")).send("a")
    assert first.recv_exact(1) == b"a"
    # The second waits for a place as long as a connect may take.
    assert connect(proxy.address("tcp")).recv_all() == b""
    assert proxy.access(listener="tcp")["reason"] == "connection_limit"
    proxy.wait_reason("connection_limit")
    assert len(upstream.connections) == 1


def test_another_endpoint_is_tried_when_one_is_down(pillion, raw_upstream, connect):
    upstream = raw_upstream(echoes)
    proxy = pillion(tcp_config(f"127.0.0.1:{free_port()}", upstream.address))
    served = 0
    for _ in range(30):
        client = connect(proxy.address("tcp")).send("a").half_close()
        served += client.recv_all() == b"aEND"
    assert served >= 10


def test_unix_sockets(pillion, raw_upstream, connect, short_dir):
    upstream = raw_upstream(echoes, path=short_dir / "app.sock")
    proxy = pillion(tcp_config(upstream.address, listener={"address": f"unix:{short_dir}/tcp.sock"}))
    client = connect(proxy.address("tcp")).send("hello").half_close()
    assert client.recv_all() == b"helloEND"
