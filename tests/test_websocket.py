"""Upgrades: WebSocket with the `websockets` library on both sides, and over HTTP/2 (RFC 8441)."""

import asyncio
import base64
import contextlib
import hashlib
import os

import pytest
import websockets
from support import h1raw
from support.config import http_config
from support.exchange import PROTOCOL
from support.h2raw import ENABLE_CONNECT, END_STREAM, DATA, Code, Upstream, dial
from support.reactor import Listener, until
from support.wait import eventually
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


# With the library on both sides.


@contextlib.asynccontextmanager
async def server(handler, **options):
    async with serve(handler, "127.0.0.1", 0, max_size=None, **options) as running:
        yield running, f"127.0.0.1:{running.sockets[0].getsockname()[1]}"


async def echo_handler(socket):
    async for message in socket:
        await socket.send(message)


def run(pillion, scenario, handler=echo_handler, server_options=None, **config):
    """Runs `scenario(url, proxy)` against a proxy in front of a WebSocket server."""

    async def main():
        async with server(handler, **(server_options or {})) as (_, address):
            # In this thread: the process is tied to the thread that started it.
            proxy = pillion(http_config(address, **config))
            async with asyncio.timeout(50):
                await scenario(f"ws://{proxy.address()}/chat?room=1", proxy)

    asyncio.run(main())


def open_socket(url, **options):
    return connect(url, proxy=None, max_size=None, **options)


def test_text_and_binary_and_ping(pillion):
    async def scenario(url, proxy):
        async with open_socket(url) as socket:
            await socket.send("text äöü")
            assert await socket.recv() == "text äöü"
            await socket.send(b"\x00\x01\xff")
            assert await socket.recv() == b"\x00\x01\xff"
            await (await socket.ping(b"are you there"))
        line = await asyncio.to_thread(proxy.access_log.find, path="/chat?room=1")
        assert line["status"] == 101 and line["bytes_received"] > 0 and line["bytes_sent"] > 0

    run(pillion, scenario)


def test_close_codes_both_ways(pillion):
    seen = []

    async def handler(socket):
        with contextlib.suppress(websockets.ConnectionClosed):
            if await socket.recv() == "close me":
                await socket.close(4001, "as you wish")
                return
            await socket.recv()
        seen.append((socket.close_code, socket.close_reason))

    async def scenario(url, _):
        async with open_socket(url) as socket:
            await socket.send("close me")
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            assert (socket.close_code, socket.close_reason) == (4001, "as you wish")
        async with open_socket(url) as socket:
            await socket.send("I leave")
            await socket.close(4002, "bye")
        await asyncio.to_thread(eventually, lambda: seen, "the server's view of the close")
        assert seen == [(4002, "bye")]

    run(pillion, scenario, handler)


def test_large_messages(pillion):
    async def scenario(url, _):
        async with open_socket(url, compression=None) as socket:
            for size in (125, 126, 65535, 65536, 8 << 20):
                message = os.urandom(size)
                await socket.send(message)
                assert await socket.recv() == message

    run(pillion, scenario)


def test_compression_and_subprotocols_are_negotiated_end_to_end(pillion):
    async def scenario(url, _):
        async with open_socket(url, subprotocols=["one", "two"]) as socket:
            assert socket.subprotocol == "two"
            assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]
            await socket.send("a" * 100000)
            assert await socket.recv() == "a" * 100000

    run(pillion, scenario, server_options={"subprotocols": ["two"]})


def test_fifty_in_parallel(pillion):
    async def scenario(url, _):
        async def one(number):
            async with open_socket(url) as socket:
                for turn in range(20):
                    await socket.send(f"{number}:{turn}")
                    assert await socket.recv() == f"{number}:{turn}"

        await asyncio.gather(*(one(number) for number in range(50)))

    run(pillion, scenario)


def test_a_server_that_vanishes_ends_the_client(pillion):
    async def handler(socket):
        await socket.recv()
        socket.transport.abort()

    async def scenario(url, _):
        async with open_socket(url) as socket:
            await socket.send("go")
            with pytest.raises(websockets.ConnectionClosedError):
                await socket.recv()

    run(pillion, scenario, handler)


def test_a_client_that_vanishes_ends_the_server(pillion):
    gone = asyncio.Event()

    async def handler(socket):
        await socket.send("ready")
        await socket.wait_closed()
        gone.set()

    async def scenario(url, _):
        async with open_socket(url) as socket:
            await socket.recv()
            socket.transport.abort()
        await gone.wait()

    run(pillion, scenario, handler)


def test_a_refused_handshake_is_passed_on(pillion):
    def refuse(connection, request):
        return connection.respond(403, "not you\n")

    async def scenario(url, _):
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with open_socket(url):
                pass
        assert caught.value.response.status_code == 403
        assert caught.value.response.body == b"not you\n"

    run(pillion, scenario, server_options={"process_request": refuse})


def test_an_open_socket_outlives_a_reload(pillion):
    async def scenario(url, proxy):
        async with open_socket(url) as socket:
            await socket.send("before")
            assert await socket.recv() == "before"
            answer = await asyncio.to_thread(proxy.reload)
            assert answer.status == 200
            await socket.send("after")
            assert await socket.recv() == "after"

    run(pillion, scenario)


def test_an_idle_socket_is_closed_by_the_idle_timeout(pillion):
    async def scenario(url, proxy):
        async with open_socket(url, ping_interval=None) as socket:
            await socket.send("x")
            assert await socket.recv() == "x"
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
        line = await asyncio.to_thread(proxy.access_log.find, path="/chat?room=1")
        assert (line["reason"], line["detail"]) == ("idle_timeout", "no byte moved within 300ms (timeouts.idle)")
        assert not proxy.metrics().value("pillion_endpoint_failures_total"), "it may be either side that said nothing"

    run(pillion, scenario, server_options={"ping_interval": None}, timeouts={"idle": "300ms"})


# By hand, to see what each side sees.


@pytest.fixture
def listener():
    with Listener() as listener:
        yield listener


def handshake(client, extra=(), version="13"):
    key = base64.b64encode(os.urandom(16)).decode()
    client.request(headers=[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", key),
                            ("Sec-WebSocket-Version", version), *extra])
    return key


def switch(server, request, extra=()):
    key = request.get("sec-websocket-key")
    server.respond(101, [("Connection", "Upgrade"), ("Upgrade", "websocket"),
                         ("Sec-WebSocket-Accept", accept_key(key)), *extra], body=None)
    server.become_tunnel()


def test_upgrade_from_http1_to_http1(pillion, listener):
    """Both heads pass, the bytes that follow are opaque, each direction ends by itself."""
    proxy = pillion(http_config(listener.address))
    with h1raw.dial(proxy.address()) as client:
        key = handshake(client, [("Sec-WebSocket-Protocol", "chat")])
        client.send(b"eager bytes that follow the head at once")
        with h1raw.Upstream.accept(listener, client) as server:
            request = server.next_message(client)
            assert request.get("upgrade") == "websocket" and request.get("connection").lower() == "upgrade"
            assert request.get("sec-websocket-key") == key and request.get("sec-websocket-protocol") == "chat"
            switch(server, request, [("Sec-WebSocket-Protocol", "chat")])
            server.send(b"and eager bytes back")
            answer = client.next_message(server)
            assert answer.status == 101 and answer.get("sec-websocket-accept") == accept_key(key)
            assert answer.get("upgrade") == "websocket" and answer.get("connection").lower() == "upgrade"
            until(lambda: server.tunnel == b"eager bytes that follow the head at once", client, server, what="bytes")
            until(lambda: client.tunnel == b"and eager bytes back", client, server, what="bytes")
            client.finish()
            until(lambda: server.closed, client, server, what="the end of the client's direction")
            server.closed = False
            server.send(b"; the last word")
            until(lambda: client.tunnel.endswith(b"the last word"), client, what="bytes after the half-close")
            server.finish()
            client.expect_closed()
        proxy.access_log.find(status=101)


def extended(client, path="/chat?room=1", headers=(), protocol="websocket"):
    """Extended CONNECT."""
    assert client.settings.get(ENABLE_CONNECT) == 1, "RFC 8441 section 3: offered by SETTINGS"
    fields = [(":method", "CONNECT"), (":protocol", protocol), (":scheme", "http"), (":path", path),
              (":authority", "pillion.test"), ("sec-websocket-version", "13"), ("origin", "http://o.test"), *headers]
    return client.open(fields, end=False)


def test_websocket_over_http2_to_http1(pillion, listener):
    """RFC 8441 section 5: CONNECT becomes GET with Upgrade and a key of Pillion's, 101 becomes 200."""
    proxy = pillion(http_config(listener.address))
    with dial(proxy.address()) as client:
        stream = extended(client, headers=[("sec-websocket-protocol", "chat")])
        with h1raw.Upstream.accept(listener, client) as server:
            request = server.next_message(client)
            assert request.start == "GET /chat?room=1 HTTP/1.1"
            assert request.get("host") == "pillion.test" and request.get("upgrade") == "websocket"
            assert "upgrade" in request.get("connection").lower()
            assert request.get("sec-websocket-version") == "13" and request.get("sec-websocket-protocol") == "chat"
            assert len(base64.b64decode(request.get("sec-websocket-key"))) == 16
            assert not request.get("content-length") and not request.get("transfer-encoding")
            switch(server, request, [("Sec-WebSocket-Protocol", "chat")])
            client.head(stream, server)
            assert stream.status == 200 and stream.get("sec-websocket-protocol") == "chat"
            names = {name for name, _ in stream.headers}
            assert not names & {"connection", "upgrade", "sec-websocket-accept", "transfer-encoding"}
            client.write(stream, b"from the client")
            until(lambda: server.tunnel == b"from the client", client, server, what="bytes")
            server.send(b"from the server")
            client.until(lambda: stream.data == b"from the server", server, what="bytes")
            client.send_frame(DATA, END_STREAM, stream.id)
            until(lambda: server.closed, client, server, what="the end of the client's direction")
            server.closed = False
            server.send(b"; the last word")
            server.finish()
            client.until(lambda: stream.ended, what="the end")
            assert stream.data == b"from the server; the last word"
        proxy.access_log.find(path="/chat?room=1")
        assert client.streams and not client.goaways


def test_websocket_over_http2_that_is_refused(pillion, listener):
    """A final status other than 101 is the response to the CONNECT."""
    proxy = pillion(http_config(listener.address))
    with dial(proxy.address()) as client:
        stream = extended(client)
        with h1raw.Upstream.accept(listener, client) as server:
            server.next_message(client)
            server.respond(403, body=b"not you")
            client.response(stream, server)
            assert stream.status == 403 and stream.data == b"not you"


def test_websocket_over_http2_with_a_wrong_accept_key(pillion, listener):
    """RFC 6455 section 4.1: the answer must match the key; nobody but Pillion can check it here."""
    proxy = pillion(http_config(listener.address))
    with dial(proxy.address()) as client:
        stream = extended(client)
        with h1raw.Upstream.accept(listener, client) as server:
            server.next_message(client)
            server.respond(101, [("Connection", "Upgrade"), ("Upgrade", "websocket"),
                                 ("Sec-WebSocket-Accept", accept_key("wrong"))], body=None)
            client.until(lambda: stream.headers or stream.over, server, what="an answer")
            assert stream.status == 502
            assert stream.get("x-pillion-reason") in ("upstream_protocol", "upgrade_refused")


def test_websocket_over_http2_cancelled_by_the_client(pillion, listener):
    proxy = pillion(http_config(listener.address))
    with dial(proxy.address()) as client:
        stream = extended(client)
        with h1raw.Upstream.accept(listener, client) as server:
            switch(server, server.next_message(client))
            client.head(stream, server)
            client.rst(stream)
            until(lambda: server.closed, server, client, what="the end at the upstream")
            client.sync()


def test_websocket_over_http2_cut_by_the_upstream(pillion, listener):
    """RFC 8441 section 5: a TCP reset becomes RST_STREAM with CANCEL (8.5-8: CONNECT_ERROR)."""
    proxy = pillion(http_config(listener.address))
    with dial(proxy.address()) as client:
        stream = extended(client)
        with h1raw.Upstream.accept(listener, client) as server:
            switch(server, server.next_message(client))
            client.head(stream, server)
            server.abort()
            client.until(lambda: stream.over, what="the end")
            assert stream.reset in (Code.CANCEL, Code.CONNECT_ERROR, Code.INTERNAL_ERROR) or stream.ended


def test_websocket_from_http1_to_http2(pillion):
    """GET with Upgrade becomes extended CONNECT where the upstream offers it; 200 becomes 101."""
    with Upstream() as upstream:
        proxy = pillion(http_config(upstream.address, upstream={"protocol": "http2"}))
        with h1raw.dial(proxy.address()) as client:
            key = handshake(client, [("Sec-WebSocket-Protocol", "chat"), ("Origin", "http://o.test")])
            with upstream.accept(client, own_settings=[(ENABLE_CONNECT, 1)]) as server:
                request = server.next_request(client)
                assert request.get(":method") == "CONNECT" and request.get(":protocol") == "websocket"
                assert request.get(":path") == "/" and request.get(":scheme") == "http"
                assert request.get(":authority") == "pillion.test" and request.get("origin") == "http://o.test"
                names = {name for name, _ in request.headers}
                assert not names & {"connection", "upgrade", "sec-websocket-key", "host"} - {"host"}
                assert request.get("sec-websocket-protocol") == "chat" and not request.ended
                server.respond(request, 200, [("sec-websocket-protocol", "chat")], end=False)
                answer = client.next_message(server)
                assert answer.status == 101 and answer.get("sec-websocket-accept") == accept_key(key)
                assert answer.get("upgrade") == "websocket" and answer.get("sec-websocket-protocol") == "chat"
                client.send(b"from the client")
                server.until(lambda: request.data == b"from the client", client, what="bytes")
                server.write(request, b"from the server")
                until(lambda: client.tunnel == b"from the server", client, server, what="bytes")
                client.finish()
                server.until(lambda: request.ended, client, what="the end of the client's direction")
                server.end(request)
                client.expect_closed()


def test_websocket_from_http2_to_http2(pillion):
    with Upstream() as upstream:
        proxy = pillion(http_config(upstream.address, upstream={"protocol": "http2"}))
        with dial(proxy.address()) as client:
            stream = extended(client)
            with upstream.accept(client, own_settings=[(ENABLE_CONNECT, 1)]) as server:
                request = server.next_request(client)
                assert request.get(":method") == "CONNECT" and request.get(":protocol") == "websocket"
                assert request.path == "/chat?room=1"
                server.respond(request, 200, end=False)
                client.head(stream, server)
                assert stream.status == 200
                client.write(stream, b"up")
                server.until(lambda: request.data == b"up", client, what="bytes")
                server.write(request, b"down")
                client.until(lambda: stream.data == b"down", server, what="bytes")
                client.end(stream)
                server.until(lambda: request.ended, client, what="the end")
                server.end(request)
                client.until(lambda: stream.ended, server, what="the end")


@pytest.mark.parametrize("kind", ["h1", "h2"])
def test_an_upstream_that_does_not_offer_extended_connect(pillion, kind):
    """RFC 8441 section 3: without its SETTINGS the CONNECT may not be sent."""
    with Upstream() as upstream:
        proxy = pillion(http_config(upstream.address, upstream={"protocol": "http2"}))
        client = h1raw.dial(proxy.address()) if kind == "h1" else dial(proxy.address())
        with client:
            if kind == "h1":
                handshake(client)
            else:
                stream = extended(client)
            with upstream.accept(client) as server:
                if kind == "h1":
                    answer = client.next_message(server)
                else:
                    answer = client.head(stream, server)
                assert answer.status in (501, 502) and answer.get("x-pillion-reason") == "upgrade_refused"
                server.sync(client)
                assert not server.requests


@pytest.mark.parametrize("name", ["h2c", "TLS/1.0, HTTP/1.1", "foo/2"])
def test_other_upgrades(pillion, listener, name):
    """`h2c` is dropped; what is not known is a matter between the two ends or dropped, never half."""
    proxy = pillion(http_config(listener.address))
    with h1raw.dial(proxy.address()) as client:
        client.request(headers=[("Connection", "Upgrade"), ("Upgrade", name)])
        with h1raw.Upstream.accept(listener, client) as server:
            request = server.next_message(client)
            assert (request.get("upgrade") is None) == ("upgrade" not in (request.get("connection") or "").lower())
            if name == "h2c":
                assert request.get("upgrade") is None
            server.respond(200, body=b"plain")
            assert client.whole(client.next_message(server), server).body == b"plain"


def test_an_upstream_that_switches_unasked(pillion, listener):
    """A 101 that nobody asked for is a broken upstream."""
    proxy = pillion(http_config(listener.address))
    with h1raw.dial(proxy.address()) as client:
        client.request()
        with h1raw.Upstream.accept(listener, client) as server:
            server.next_message(client)
            server.respond(101, [("Connection", "Upgrade"), ("Upgrade", "websocket")], body=None)
            answer = client.next_message(server)
            assert answer.status == 502 and answer.get("x-pillion-reason") == "upstream_protocol"


def test_an_upgrade_with_a_body_keeps_its_framing(pillion, listener):
    """The body of the request is the request's; the tunnel begins after it, or there is none."""
    proxy = pillion(http_config(listener.address))
    with h1raw.dial(proxy.address()) as client:
        client.request("POST", headers=[("Connection", "Upgrade"), ("Upgrade", "websocket"),
                                        ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")],
                       body=b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        with h1raw.Upstream.accept(listener, client) as server:
            request = server.whole(server.next_message(client), client)
            assert b"/smuggled" in request.body
            server.respond(200, body=b"no")
            assert client.whole(client.next_message(server), server).status == 200
            assert len(server.messages) == 1


@pytest.mark.parametrize("versions", [("h2", "h1"), ("h1", "h2")], ids=["h2-to-h1", "h1-to-h2"])
def test_large_amounts_through_a_tunnel(pillion, versions):
    """Five megabytes each way at once, through both translations."""
    client_version, upstream_version = versions
    size = 5 << 20
    up, down = os.urandom(size), os.urandom(size)
    with Upstream() as upstream:
        proxy = pillion(http_config(upstream.address, upstream={"protocol": PROTOCOL[upstream_version]}))
        if client_version == "h2":
            with dial(proxy.address()) as client:
                stream = extended(client)
                with h1raw.Upstream.accept(upstream, client) as server:
                    switch(server, server.next_message(client))
                    client.head(stream, server)
                    client.write(stream, up)
                    server.send(down)
                    client.until(lambda: len(stream.data) == size and len(server.tunnel) == size, server, what="all")
                    assert stream.data == down and server.tunnel == up
        else:
            with h1raw.dial(proxy.address()) as client:
                handshake(client)
                with upstream.accept(client, own_settings=[(ENABLE_CONNECT, 1)]) as server:
                    request = server.next_request(client)
                    server.respond(request, 200, end=False)
                    client.next_message(server)
                    client.send(up)
                    server.write(request, down)
                    until(lambda: len(client.tunnel) == size and len(request.data) == size, client, server, what="all")
                    assert client.tunnel == down and request.data == up
