"""Two Pillions with mutual TLS between them: HTTP/2 on the link, and at the far end the protocol
that the client spoke."""

import asyncio
import hashlib
import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest
from support.client import RawClient, chunked, fetch
from support.config import http_config, tcp_config
from support.exchange import Exchange
from support.grpc_app import GrpcApp, GrpcClient
from support.peers import Postgres, find
from support.ports import free_port
from support.process import Pillion
from support.reactor import Listener
from support.tls import TlsClient, context, spiffe
from support.upstream import header, headers
from support.wait import TIMEOUT, eventually
from test_peers import exercise
from websockets.asyncio.client import connect as open_socket
from websockets.asyncio.server import serve

MIB = 1 << 20


@dataclass
class Pair:
    """`near` takes plaintext from clients, `far` gives plaintext to the application."""

    near: Pillion
    far: Pillion
    name: str

    @property
    def address(self) -> str:
        return self.near.address(self.name)

    def connections(self) -> float:
        return self.near.metrics().value("pillion_upstream_connections_total", upstream="app")


@pytest.fixture
def pair(pillion, pki):
    def start(app: str, make=http_config, *, protocol="auto", far=None, near=None, **options) -> Pair:
        name = "web" if make is http_config else "tcp"
        upstream = {"protocol": protocol} if make is http_config else {}
        behind = pillion(make(app, listener={"tls": {}}, upstream=upstream, identity=pki.workload("far").config,
                              trust=[pki.trust], **(far or {})), **options)
        tls = {"peers": [spiffe("far")]}
        before = pillion(make(behind.address(name), upstream={"tls": tls}, identity=pki.workload("near").config,
                              trust=[pki.trust], **(near or {})), **options)
        return Pair(before, behind, name)

    return start


def test_http_1(pair, echo):
    both = pair(echo.address)
    account = fetch(both.address, "GET", "/a?b=c", {"X-Mine": "1"}).json()
    assert (account["version"], account["target"]) == ("HTTP/1.1", "/a?b=c")
    assert header(account, "x-mine") == "1" and not headers(account, "x-pillion-protocol")
    exercise(both.address)
    # In between it was HTTP/2.
    assert {line["protocol"] for line in both.far.access_log()} == {"HTTP/2"}, both.far.access_log()[0]


def test_http_1_over_one_connection_a_worker(pair, echo):
    both = pair(echo.address, env={"PILLION_WORKERS": "1"})
    count, barrier = 32, threading.Barrier(32)

    def ask(number: int):
        with RawClient(both.address) as client:
            barrier.wait(TIMEOUT)
            return [client.get(f"/{number}/{again}").json()["target"] for again in range(10)]

    with ThreadPoolExecutor(count) as pool:
        for number, told in enumerate(pool.map(ask, range(count))):
            assert told == [f"/{number}/{again}" for again in range(10)]
    assert both.connections() == 1
    assert both.far.metrics().value("pillion_listener_tls_handshakes_total") == 1


def test_connections_of_two_workers(pair, echo):
    both = pair(echo.address)
    with ThreadPoolExecutor(32) as pool:
        assert all(reply.status == 200 for reply in pool.map(lambda _: fetch(both.address), range(200)))
    assert both.connections() <= 2


@pytest.mark.parametrize("version", ["h1", "h2"])
def test_trailers_and_bodies(pair, version):
    """The far end speaks to the application as the client speaks to the near end."""
    with Listener() as listener:
        both = pair(listener.address)
        with Exchange(both.address, listener, version, version) as x:
            x.ask("POST", "/", [("te", "trailers")] if version == "h2" else [("te", "trailers"), ("connection", "te")], body=True)
            x.send(b"some")
            x.arrive()
            x.send(b"thing")
            x.finish(trailers=[("x-sum", "1")])
            x.arrived_whole()
            assert (x.request_body, x.request_trailers.get("x-sum")) == (b"something", "1")
            assert x.request_header("x-pillion-protocol") is None
            x.answer(200, [("x-b", "2")], body=True)
            x.reply(b"answer")
            x.end(trailers=[("x-late", "3")])
            x.done()
            assert (x.status, x.body, x.header("x-b"), x.trailers.get("x-late")) == (200, b"answer", "2", "3")


def test_http_1_0(pair, echo):
    both = pair(echo.address)
    with RawClient(both.address) as client:
        client.send("GET /old HTTP/1.0\r\n\r\n")
        message = client.read_response()
        assert message.json()["version"] == "HTTP/1.1"
        client.expect_closed()


def test_100_continue(pair, echo):
    both = pair(echo.address)
    body = b"x" * 100_000
    done = subprocess.run(
        [find("curl"), "-sS", "--http1.1", "-i", "-H", "Expect: 100-continue", "--expect100-timeout", "20",
         "--max-time", "30", "--data-binary", "@-", f"http://{both.address}/"], input=body, capture_output=True)
    assert done.stdout.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"), done
    with RawClient(both.address) as client:
        # One that is refused at once.
        client.send("POST /?early&status=413 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert client.read_response("POST").status in (100, 413)


def test_large_bodies(pair, echo):
    both = pair(echo.address)
    body = bytes(range(256)) * 4096 * 20
    digest = hashlib.sha256(body).hexdigest()
    with RawClient(both.address) as client:
        client.record = False
        assert client.request("POST", "/", body=body).json()["sha256"] == digest
        client.send_request("POST", "/chunked", {"Transfer-Encoding": "chunked"})
        client.send(chunked(*[body[at : at + MIB] for at in range(0, len(body), MIB)]))
        assert client.read_response("POST").json()["sha256"] == digest
        for switch in ("", "&chunked"):
            assert hashlib.sha256(client.get(f"/?size={len(body)}{switch}").body).hexdigest() == digest


def test_a_body_that_is_cut_arrives_cut(pair, echo):
    both = pair(echo.address)
    with RawClient(both.address) as client:
        client.send("GET /cut?size=100000&cut=50000&chunked HTTP/1.1\r\nHost: a\r\n\r\n")
        got = client.recv_all()
    assert not got.endswith(b"0\r\n\r\n")
    assert both.near.access(path="/cut?size=100000&cut=50000&chunked")["reason"] in ("response_incomplete", "upstream_reset")


def test_grpc(pair):
    """And h2c: the application is spoken to by HTTP/2 although it could also be HTTP/1.1."""
    with GrpcApp() as app:
        both = pair(app.address)
        with GrpcClient(both.address) as client:
            assert client.unary(b"x" * MIB, timeout=TIMEOUT) == b"x" * MIB
            assert len(list(client.download(b"1000,1000", timeout=TIMEOUT))) == 1000
            assert client.upload(iter([b"ab"] * 500), timeout=TIMEOUT) == b"500,1000"
            assert list(client.chat(iter([b"a", b"b"]), timeout=TIMEOUT)) == [b"A", b"B"]
            with pytest.raises(grpc.RpcError) as caught:
                client.fail(b"", timeout=TIMEOUT)
            assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            assert dict(caught.value.trailing_metadata())["x-raw-bin"] == b"\x00\xff\x01"
        assert not any(key == "x-pillion-protocol" for seen in app.metadata for key, _ in seen)


def test_an_error_of_the_far_end_is_told_by_both(pair):
    both = pair(f"127.0.0.1:{free_port()}")
    assert fetch(both.address, "GET", "/absent").status == 503
    assert both.far.access(path="/absent")["reason"] == "connect_failed"
    assert both.near.access(path="/absent")["status"] == 503
    with GrpcClient(both.address) as client:
        with pytest.raises(grpc.RpcError) as caught:
            client.unary(b"", timeout=TIMEOUT)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def websocket(both: Pair):
    async def scenario():
        async with asyncio.timeout(50), open_socket(f"ws://{both.address}/chat", proxy=None, max_size=None) as client:
            for message in ("text äöü", b"\x00\xff", "x" * MIB):
                await client.send(message)
                assert await client.recv() == message
            await client.close(4001, "as you wish")
            assert client.close_code == 4001

    return scenario()


def test_websocket(pair):
    """Over the link by extended CONNECT (RFC 8441), and beside other requests on one connection."""

    async def handler(server):
        async for message in server:
            await server.send(message)

    async def main():
        async with serve(handler, "127.0.0.1", 0, max_size=None) as running:
            both = pair(f"127.0.0.1:{running.sockets[0].getsockname()[1]}", env={"PILLION_WORKERS": "1"})
            for _ in range(3):
                await websocket(both)
            await asyncio.gather(*(websocket(both) for _ in range(10)))
            assert both.connections() == 1
            line = await asyncio.to_thread(both.far.access_log.find, path="/chat")
            assert line["protocol"] == "HTTP/2", line

    asyncio.run(main())


def test_tcp(pair, raw_upstream):
    def echo_bytes(connection):
        while data := connection.recv_some():
            connection.send(data)
        connection.half_close()

    both = pair(raw_upstream(echo_bytes).address, tcp_config)
    body = bytes(range(256)) * 4096
    with RawClient(both.address) as client:
        for _ in range(8):
            client.send(body)
            assert client.recv_exact(MIB) == body
        client.send(b"last words").half_close()
        assert client.recv_exact(10) == b"last words"
        client.expect_closed()
    assert not both.near.access()["reason"] and not both.far.access()["reason"]


def test_a_cut_is_passed_on_as_a_cut(pair, raw_upstream):
    upstream = raw_upstream(lambda connection: (connection.recv_exact(4), connection.send("half"), connection.reset()))
    both = pair(upstream.address, tcp_config)
    with RawClient(both.address) as client:
        client.send("ping")
        with pytest.raises(Exception, match="reset after"):
            while client.fill():
                pass
    waiting = raw_upstream()
    both = pair(waiting.address, tcp_config)
    client = RawClient(both.address).send("half")
    waiting.connection().wait_received(lambda data: data == b"half")
    client.reset()
    waiting.connection().wait_finished()
    assert both.far.access()["reason"] == "client_closed"


def test_psql(pair):
    with Postgres() as database:
        both = pair(database.address, tcp_config)
        command = [find("psql"), "-h", "127.0.0.1", "-p", both.address.rpartition(":")[2], "-U", "tester", "-Atc"]

        def ask(query: str) -> str:
            return subprocess.run([*command, query, "postgres"], check=True, capture_output=True, text=True,
                                  timeout=TIMEOUT).stdout

        assert ask("select 6 * 7").strip() == "42"
        assert ask("select length(repeat('x', 1000000))").strip() == "1000000"
        assert len(ask("select i, md5(i::text) from generate_series(1, 20000) i").splitlines()) == 20_000


# What is believed.


def test_what_is_said_of_the_client_is_believed_from_pillions_only(pillion, echo, pki):
    """`x-pillion-protocol` from whoever is no Pillion on a link is dropped and changes nothing."""
    proxy = pillion(http_config(echo.address, listener={"tls": {"mode": "permissive", "clientCertificates": "optional"}},
                                identity=pki.workload("far").config, trust=[pki.trust]))
    lie = {"X-Pillion-Protocol": "HTTP/1.0", "Connection": "close"}
    accounts = [fetch(proxy.address(), "GET", "/", lie).json()]
    for files in (None, pki.workload("client")):
        with TlsClient(proxy.address(), context(pki.ca, files)) as client:
            accounts.append(client.request("GET", "/", lie).json())
        own = ["--cert", files.certificate, "--key", files.key] if files else []
        command = [find("curl"), "-sS", "--http2", "--cacert", pki.ca, *own, "-H", "x-pillion-protocol: HTTP/1.0",
                   f"https://localhost:{proxy.port()}/"]
        accounts.append(json.loads(subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout))
    for account in accounts:
        assert not headers(account, "x-pillion-protocol"), account


def test_a_lie_of_the_client_does_not_cross_the_link(pair, echo):
    """The near end says what it knows, whatever its own client has said."""
    both = pair(echo.address)
    account = fetch(both.address, "GET", "/", {"X-Pillion-Protocol": "HTTP/2"}).json()
    assert account["version"] == "HTTP/1.1" and not headers(account, "x-pillion-protocol")


def test_a_stranger_is_not_served(pair, pillion, echo, pki, other_pki):
    both = pair(echo.address)
    stranger = pillion(http_config(both.far.address(), upstream={"tls": {"peers": [spiffe("far")]}},
                                   identity=other_pki.workload("near").config, trust=[pki.trust]))
    response = fetch(stranger.address())
    assert (response.status, response.reason) == (502, "upstream_tls_alert"), response
    assert "alert_unknown_authority" in stranger.access(reason="upstream_tls_alert")["detail"]
    eventually(lambda: both.far.metrics().value(
        "pillion_listener_tls_handshakes_failed_total", reason="unknown_authority") >= 1)
    assert not echo.requests
