"""Large bodies and long streams, which the kernel moves through pipes where both ends are sockets:
the same bytes, counts and ends as for anything else."""

import hashlib

import pytest
from support.client import fetch
from support.config import http_config, tcp_config
from support.upstream import EchoUpstream, pattern
from support.wait import eventually
from support.wire import Closed

MIB = 1024 * 1024


def digest_of(size: int) -> str:
    digest = hashlib.sha256()
    for piece in pattern(size):
        digest.update(piece)
    return digest.hexdigest()


@pytest.fixture(params=["tcp", "unix"])
def served(request, pillion, short_dir):
    """A proxy before an upstream that echoes."""
    options = {"path": short_dir / "app.sock"} if request.param == "unix" else {}
    with EchoUpstream(**options) as upstream:
        yield pillion(http_config(upstream.address)), upstream


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1, 3 * MIB + 17])
def test_bodies_of_a_known_length_pass_whole_and_connections_live_on(served, connect, size):
    proxy, upstream = served
    client = connect(proxy.address())
    for turn in range(3):
        body = client.get(f"/down{turn}?size={size}").body
        assert (len(body), hashlib.sha256(body).hexdigest()) == (size, digest_of(size))
        account = client.request("POST", f"/up{turn}", body=b"".join(pattern(size))).json()
        assert (account["length"], account["sha256"]) == (size, digest_of(size))
        assert client.get("/small?size=5").body == b"\x00\x01\x02\x03\x04"
    assert len(upstream.connections) == 1
    assert proxy.access(path=f"/down2?size={size}")["bytes_sent"] == size
    assert proxy.access(path="/up2")["bytes_received"] == size


def test_pipelined_requests_around_a_large_upload(served, connect):
    proxy, _ = served
    client = connect(proxy.address())
    client.send_request("GET", "/before?size=3")
    client.send_request("POST", "/up", body=b"".join(pattern(2 * MIB)))
    client.send_request("GET", "/after?size=4")
    assert len(client.read_response("GET").body) == 3
    assert client.read_response("POST").json()["sha256"] == digest_of(2 * MIB)
    assert len(client.read_response("GET").body) == 4


def test_a_large_response_beside_a_large_upload(pillion, raw_upstream, connect):
    size = 8 * MIB

    def both_ways(connection):
        request = connection.frame(connection.read_head())
        connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
        for piece in connection.body(request):
            connection.send(piece)

    proxy = pillion(http_config(raw_upstream(both_ways).address))
    client = connect(proxy.address())
    client.record = False
    client.send_request("POST", "/both", {"Content-Length": str(size)})
    pieces, sent = pattern(size), 0
    for piece in pieces:
        client.send(piece)
        sent += len(piece)
        if sent == MIB:
            break
    response = client.frame(client.read_head(), response_to="POST")
    digest = hashlib.sha256()
    for piece in client.body(response):
        digest.update(piece)
        for more in pieces:
            client.send(more)
            break
    assert digest.hexdigest() == digest_of(size)
    line = proxy.access(path="/both")
    assert (line["bytes_received"], line["bytes_sent"], line["reason"]) == (size, size, None)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_large_body_that_breaks_off_is_never_completed(pillion, raw_upstream, how):
    def script(connection):
        connection.read_head()
        connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {3 * MIB}\r\n\r\n")
        for piece in pattern(MIB):
            connection.send(piece)
        getattr(connection, how)()

    proxy = pillion(http_config(raw_upstream(script).address))
    with pytest.raises(Closed):
        fetch(proxy.address(), "GET", "/cut")
    line = proxy.access(path="/cut")
    assert line["reason"] in ("response_incomplete", "upstream_reset")
    assert line["bytes_sent"] <= MIB


def test_a_client_that_leaves_inside_a_large_upload(pillion, raw_upstream, connect):
    upstream = raw_upstream(lambda connection: None)
    proxy = pillion(http_config(upstream.address))
    client = connect(proxy.address())
    client.send_request("POST", "/left", {"Content-Length": str(3 * MIB)})
    for piece in pattern(MIB):
        client.send(piece)
    client.reset()
    upstream.connection().wait_finished()
    line = proxy.access(path="/left")
    assert line["reason"] in ("request_body_incomplete", "client_closed")
    assert line["bytes_received"] <= MIB


def test_readers_that_stand_still_hold_few_pipes_and_lose_nothing(pillion, raw_upstream, connect):
    size, readers = 16 * MIB, 80

    def script(connection):
        connection.record = False
        connection.send("x")
        for piece in pattern(size):
            connection.send(piece)
        connection.half_close()

    proxy = pillion(tcp_config(raw_upstream(script).address), env={"PILLION_WORKERS": "1"})
    before = proxy.descriptors()
    clients = [connect(proxy.address("tcp")) for _ in range(readers)]
    for client in clients:
        client.record = False
        assert client.recv_exact(1) == b"x"

    def carried():
        return proxy.metrics().value("pillion_upstream_connections_active") == readers

    eventually(carried, "every reader has its upstream")
    assert proxy.descriptors() - before <= 2 * readers + 2 * 64 + 8
    assert proxy.rss() < 64 * MIB
    for client in clients[:4]:
        digest = hashlib.sha256()
        while data := client.recv_some():
            digest.update(data)
        assert digest.hexdigest() == digest_of(size)
    for client in clients:
        client.reset()
    eventually(lambda: proxy.descriptors() <= before + 2 * 8, "pipes given back")


def test_a_long_stream_is_counted(pillion, raw_upstream, connect):
    size = 5 * MIB

    def echoes(connection):
        connection.record = False
        while data := connection.recv_some():
            connection.send(data)
        connection.send(b"END")
        connection.close()

    proxy = pillion(tcp_config(raw_upstream(echoes).address))
    client = connect(proxy.address("tcp"))
    client.record = False
    received = 0
    for piece in pattern(size):
        client.send(piece)
        received += len(client.recv_some())
    client.half_close()
    while data := client.recv_some():
        received += len(data)
    assert received == size + 3
    line = proxy.access(listener="tcp")
    assert (line["bytes_received"], line["bytes_sent"], line["reason"]) == (size, size + 3, None)
