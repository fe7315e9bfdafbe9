"""TLS towards endpoints: Pillion as the client of OpenSSL, nginx, HAProxy, Envoy and Caddy, and as
their server; what is refused, and how that is told."""

import asyncio
import contextlib
import http
import random
import socket
import ssl
from datetime import timedelta

import pytest
from support import tls_peers
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.tls import DOMAIN, TlsEcho, TlsSocket, TlsUpstream, context, spiffe
from support.upstream import header
from support.wait import eventually
from support.wire import Closed
from test_peers import exercise
from websockets.asyncio.client import connect as open_socket
from websockets.asyncio.server import serve

SERVERS = {"nginx": tls_peers.nginx, "haproxy": tls_peers.haproxy, "envoy": tls_peers.envoy, "caddy": tls_peers.caddy}
IN_FRONT = {
    "nginx": (tls_peers.nginx_in_front, {}, "HTTP/1.1"),
    "haproxy-h2": (tls_peers.haproxy_in_front, {"version": "h2"}, "HTTP/2"),
    "haproxy-h1": (tls_peers.haproxy_in_front, {"version": "http/1.1"}, "HTTP/1.1"),
    "envoy": (tls_peers.envoy_in_front, {}, "HTTP/2"),
    "caddy-h2": (tls_peers.caddy_in_front, {"version": "2"}, "HTTP/2"),
    "caddy-h1": (tls_peers.caddy_in_front, {"version": "1.1"}, "HTTP/1.1"),
}


@pytest.fixture
def peer_directory(tmp_path):
    directory = tmp_path / "peer"
    directory.mkdir()
    return directory


@pytest.fixture
def tls_echo():
    """`tls_echo(context)`: an upstream behind TLS that tells what it was sent."""
    with contextlib.ExitStack() as stack:
        yield lambda made, **options: stack.enter_context(TlsEcho(made=made, **options))


def tls_config(address: str, pki, *, tls=None, make=http_config, identity=True, upstream=None, **options) -> dict:
    """A plain listener before an upstream with TLS."""
    if identity:
        options["identity"] = pki.workload("client").config
    return make(address, upstream={"tls": tls or {}, **(upstream or {})}, trust=[pki.trust], **options)


def by_name(address: str) -> str:
    return f"localhost:{address.rpartition(':')[2]}"


def asked(proxy):
    """A response, once the upstream's name is resolved."""
    return eventually(lambda: (answer := fetch(proxy.address())).reason != "dns_unresolved" and answer)


# Real peers.


@pytest.mark.parametrize("protocol", ["http1", "http2", "auto"])
@pytest.mark.parametrize("name", SERVERS)
def test_servers_by_their_dns_name(pillion, echo, pki, peer_directory, name, protocol):
    """Certificates on both sides; `localhost` is resolved, and is the name that is checked."""
    files = pki.server("server", "localhost")
    with SERVERS[name](peer_directory, files, echo.address, client_ca=pki.ca) as peer:
        proxy = pillion(tls_config(by_name(peer.address), pki, upstream={"protocol": protocol}))
        response = asked(proxy)
        assert response.status == 200, response
        told = header(response.json(), "x-tls").lower()
        assert "1.3" in told or "tls1.3" in told, told
        assert ("http/2" in told) == (protocol != "http1"), told
        if name in ("envoy", "caddy"):
            assert spiffe("client") in told, told
        exercise(proxy.address())
        assert proxy.metrics().value("pillion_upstream_tls_handshakes_failed_total") == 0


@pytest.mark.parametrize("name", SERVERS)
def test_servers_without_http2(pillion, echo, pki, peer_directory, name):
    """What is offered is HTTP/2 too, and the server has its choice."""
    files = pki.workload("server", dns=())
    with SERVERS[name](peer_directory, files, echo.address, http2=False) as peer:
        proxy = pillion(tls_config(peer.address, pki, tls={"peers": [spiffe("server")]}))
        told = header(fetch(proxy.address()).json(), "x-tls").lower()
        assert "http/1.1" in told, told
        exercise(proxy.address())


@pytest.mark.parametrize("name", IN_FRONT)
def test_real_proxies_as_clients(pillion, echo, pki, peer_directory, name):
    start, options, version = IN_FRONT[name]
    server, client = pki.workload("server"), pki.workload("client")
    config = http_config(echo.address, listener={"tls": {}}, identity=server.config, trust=[pki.trust])
    proxy = pillion(config)
    with start(peer_directory, proxy.address(), pki.ca, client, **options) as peer:
        # Go's HTTP/2 client takes the length in a 304 for that of a body (against RFC 9110 section 8.6).
        exercise(peer.address, (201, 204, 404, 503) if name == "caddy-h2" else (201, 204, 304, 404, 503))
        versions = {line["protocol"] for line in proxy.access_log()}
        assert all(told.startswith(version) for told in versions), versions
        assert proxy.metrics().value("pillion_listener_tls_handshakes_failed_total") == 0


def test_openssl_s_server(pillion, pki, peer_directory):
    files = pki.server("server", "127.0.0.1", "www.shop.example")
    (peer_directory / "file.txt").write_text("HTTP/1.0 200 OK\r\n\r\nfrom a file\n")
    arguments = ["-CAfile", pki.ca, "-Verify", "1", "-verify_return_error"]
    with tls_peers.openssl(peer_directory, files, *arguments, "-www") as peer:
        # By its address, and by a name that is written.
        for tls in ({}, {"serverName": "www.shop.example"}):
            proxy = pillion(tls_config(peer.address, pki, tls=tls))
            told = fetch(proxy.address()).body.decode()
            assert "TLSv1.3" in told and "Client certificate" in told
    for version, spoken in (("-tls1_2", "1.2"), ("-tls1_3", "1.3")):
        with tls_peers.openssl(peer_directory, files, *arguments, version, "-HTTP") as peer:
            proxy = pillion(tls_config(peer.address, pki, tls={"minVersion": spoken}))
            assert fetch(proxy.address(), "GET", "/file.txt").body == b"from a file\n"
            if spoken == "1.2":
                strict = pillion(tls_config(peer.address, pki))
                refused(strict, "upstream_tls_alert", "alert_protocol_version")


def test_the_key_exchange_is_post_quantum(pillion, echo, pki, peer_directory):
    """Caddy knows no other one here, and without it there is no handshake."""
    files = pki.server("server", "localhost")
    # What is a step back is still a handshake.
    for curves in ("x25519mlkem768", "x25519 secp256r1"):
        with tls_peers.caddy(peer_directory, files, echo.address, curves=curves) as peer:
            proxy = pillion(tls_config(by_name(peer.address), pki))
            assert asked(proxy).status == 200


# What is agreed on.


def test_only_what_is_configured_is_offered(pillion, pki, tls_echo):
    server = pki.server("server", "127.0.0.1")
    for protocol, offered, agreed in (
        ("http1", ("h2", "http/1.1"), "http/1.1"),
        ("auto", ("http/1.1",), "http/1.1"),
        ("auto", (), None),
        ("http1", (), None),
    ):
        upstream = tls_echo(context(pki.ca, server, server=True, alpn=offered))
        proxy = pillion(tls_config(upstream.address, pki, upstream={"protocol": protocol}))
        assert fetch(proxy.address()).status == 200
        assert upstream.connection().sock.tls.selected_alpn_protocol() == agreed
    # HTTP/2 is not spoken to somebody who has not agreed to it.
    upstream = tls_echo(context(pki.ca, server, server=True, alpn=("http/1.1",)))
    proxy = pillion(tls_config(upstream.address, pki, upstream={"protocol": "http2"}))
    response = fetch(proxy.address())
    assert (response.status, response.reason) in ((502, "upstream_tls"), (502, "upstream_tls_alert")), response


def test_the_server_name_is_sent(pillion, pki, tls_echo):
    server = pki.server("server", "127.0.0.1", "localhost", "a.example")
    names = []

    def chosen(_, name, __):
        names.append(name)

    made = context(pki.ca, server, server=True)
    made.sni_callback = chosen
    upstream = tls_echo(made)
    for address, tls in ((upstream.address, {}), (by_name(upstream.address), {}), (upstream.address, {"serverName": "a.example"})):
        assert asked(pillion(tls_config(address, pki, tls=tls))).status == 200
    # An address is no name (RFC 6066 section 3).
    assert names == [None, "localhost", "a.example"]


def test_the_identity_is_shown_to_those_who_ask(pillion, pki, tls_echo):
    server = pki.server("server", "127.0.0.1")
    made = context(pki.ca, server, server=True)
    made.verify_mode = ssl.CERT_OPTIONAL
    upstream = tls_echo(made)

    def shown(number: int) -> dict | None:
        return upstream.connection(number).sock.tls.getpeercert()

    assert fetch(pillion(tls_config(upstream.address, pki)).address()).status == 200
    assert ("URI", spiffe("client")) in shown(0)["subjectAltName"]
    for config in (tls_config(upstream.address, pki, tls={"presentIdentity": False}),
                   tls_config(upstream.address, pki, identity=False)):
        assert fetch(pillion(config).address()).status == 200
    assert not shown(1) and not shown(2)


@pytest.mark.parametrize(("name", "connections"), [("haproxy", 1), ("nginx", 3)])
def test_a_websocket_goes_as_the_server_can(pillion, pki, peer_directory, name, connections):
    """Over HTTP/2 where that has extended CONNECT (RFC 8441), as HAProxy's; else over HTTP/1.1, on
    connections of their own, although HTTP/2 was agreed on."""

    async def handler(server):
        async for message in server:
            await server.send(message)

    def other(server, request):
        return server.respond(http.HTTPStatus.OK, "no WebSocket\n") if request.path == "/" else None

    async def main():
        async with asyncio.timeout(50), serve(handler, "127.0.0.1", 0, process_request=other) as running:
            app = f"127.0.0.1:{running.sockets[0].getsockname()[1]}"
            with SERVERS[name](peer_directory, pki.server("server", "localhost"), app) as peer:
                proxy = pillion(tls_config(by_name(peer.address), pki), env={"PILLION_WORKERS": "1"})
                # Over HTTP/2.
                assert (await asyncio.to_thread(asked, proxy)).status == 200
                for _ in range(2):
                    async with open_socket(f"ws://{proxy.address()}/chat", proxy=None) as client:
                        await client.send("hello")
                        assert await client.recv() == "hello"
                made = proxy.metrics().value("pillion_upstream_tls_handshakes_total")
                assert made == connections

    asyncio.run(main())


# What is refused.


def refused(proxy, reason: str, detail: str, status: int = 502) -> str:
    """The failure of a request, as the response, the access log and the metrics tell it."""
    response = fetch(proxy.address(), "GET", "/refused")
    line = proxy.refused(response, reason, status, path="/refused")
    assert detail in line["detail"], line["detail"]
    counted = proxy.metrics().value("pillion_upstream_tls_handshakes_failed_total", reason=detail)
    assert counted >= 1, [sample for sample in proxy.metrics().samples if "tls" in sample[0] and sample[2]]
    return line["detail"]


REFUSED = {
    # How the certificate is made, what is expected of it, which reason is told.
    "wrong_name": (lambda pki, other: pki.server("s", "elsewhere.example", "10.0.0.1"), {}, "elsewhere.example"),
    "wrong_identity": (lambda pki, other: pki.workload("impostor"), {"peers": [spiffe("server")]}, spiffe("impostor")),
    "unknown_authority": (lambda pki, other: other.server("s", "127.0.0.1"), {}, "another authority"),
    "certificate_expired": (
        lambda pki, other: pki.server("s", "127.0.0.1", age=timedelta(hours=5), lifetime=-timedelta(hours=3)), {}, "20"),
    "certificate_not_yet_valid": (
        lambda pki, other: pki.server("s", "127.0.0.1", age=-timedelta(minutes=30)), {}, "20"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_bad_certificate_is_named(pillion, pki, other_pki, tls_echo, reason):
    make, tls, named = REFUSED[reason]
    upstream = tls_echo(context(pki.ca, make(pki, other_pki), server=True))
    proxy = pillion(tls_config(upstream.address, pki, tls=tls))
    detail = refused(proxy, "upstream_certificate", reason)
    assert upstream.address in detail and named in detail, detail
    assert not upstream.requests
    # The other side hears why.
    eventually(lambda: upstream.refused)
    assert "alert" in upstream.refused[0].lower(), upstream.refused


def test_somebody_of_another_trust_domain(pillion, pki, tls_echo):
    upstream = tls_echo(context(pki.ca, pki.workload("server"), server=True))
    config = tls_config(upstream.address, pki, tls={"peers": ["spiffe://elsewhere.test"]})
    assert DOMAIN in refused(pillion(config), "upstream_certificate", "wrong_identity")
    config = tls_config(upstream.address, pki, tls={"peers": [f"spiffe://{DOMAIN}"]})
    config["trust"] = [{**pki.trust, "trustDomain": "elsewhere.test"}]
    refused(pillion(config), "upstream_certificate", "wrong_trust_domain")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("shown", ["nothing", "foreign"])
@pytest.mark.parametrize("protocol", ["http1", "auto"])
def test_a_server_that_refuses_our_certificate(pillion, pki, other_pki, tls_echo, shown, version, protocol):
    """In TLS 1.3 the handshake is done by then: the alert comes with the first read, and the
    request may have been read too."""
    made = context(pki.ca, pki.server("server", "127.0.0.1"), server=True, require=True,
                   version=ssl.TLSVersion[version], alpn=("h2", "http/1.1"))
    upstream = tls_echo(made)
    config = tls_config(upstream.address, pki, tls={"minVersion": "1.2"}, identity=shown != "nothing",
                        upstream={"protocol": protocol, "breaker": "off"})
    if shown == "foreign":
        config["identity"] = other_pki.workload("client").config
    proxy = pillion(config)
    response = fetch(proxy.address(), "GET", "/refused")
    line = proxy.refused(response, "upstream_tls_alert", 502, path="/refused")
    alert = {"foreign": "alert_unknown_authority", "nothing": "alert_"}[shown]
    assert alert in line["detail"] and line["endpoint"] == upstream.address, line
    eventually(lambda: upstream.refused)
    if version == "TLSv1_3":
        # Not tried again: nobody knows whether it was read.
        assert len(upstream.connections) == 1
    for _ in range(3):
        assert fetch(proxy.address(), "POST", "/", body=b"x").reason == "upstream_tls_alert"


def test_no_tls_at_the_other_end(pillion, raw_upstream, pki):
    talking = raw_upstream(lambda connection: connection.send("220 mail.example ESMTP\r\n"))
    refused(pillion(tls_config(talking.address, pki)), "upstream_tls", "not_tls")
    # One that says nothing at all, and one that leaves.
    silent = raw_upstream()
    proxy = pillion(tls_config(silent.address, pki, upstream={"timeouts": {"connect": "300ms"}}))
    response = fetch(proxy.address())
    assert (response.status, response.reason) == (504, "connect_timeout"), response
    leaving = raw_upstream(lambda connection: connection.close())
    refused(pillion(tls_config(leaving.address, pki)), "upstream_tls", "closed_in_handshake")


def test_garbage_from_a_server(pillion, raw_upstream, pki):
    """Flights of a real handshake, damaged, cut or followed by something else."""
    made = context(pki.ca, pki.server("server", "127.0.0.1"), server=True)
    rng = random.Random(6)

    def damage(connection):
        tls = TlsSocket(connection.sock, made, server=True)
        tls.incoming.write(connection.sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.tls.do_handshake()
        flight = bytearray(tls.outgoing.read())
        for _ in range(rng.randint(1, 3)):
            flight[rng.randrange(len(flight))] = rng.randrange(256)
        connection.send(bytes(flight[: rng.choice([len(flight), 90, 7])]) + rng.randbytes(rng.choice([0, 3, 500])))
        with contextlib.suppress(OSError):
            connection.half_close()

    proxy = pillion(tls_config(raw_upstream(damage).address, pki, upstream={"breaker": "off"}))
    reasons = {fetch(proxy.address()).reason for _ in range(60)}
    assert reasons <= {"upstream_tls", "upstream_tls_alert", "upstream_certificate"}, reasons
    assert proxy.metrics().value("pillion_upstream_tls_handshakes_failed_total", reason="internal") == 0


def test_the_authorities_of_the_system(pillion, pki, other_pki, tls_echo):
    """Our own are not believed there, and our identity stays unknown."""
    made = context(other_pki.ca, other_pki.server("server", "127.0.0.1"), server=True)
    made.verify_mode = ssl.CERT_OPTIONAL
    upstream = tls_echo(made)
    config = tls_config(upstream.address, pki, tls={"trust": "system"})
    assert fetch(pillion(config, env={"SSL_CERT_FILE": str(other_pki.ca)}).address()).status == 200
    assert not upstream.connection().sock.tls.getpeercert()
    refused(pillion(config, env={"SSL_CERT_FILE": str(pki.ca)}), "upstream_certificate", "unknown_authority")


# What is carried.


def test_a_response_that_is_cut_is_not_taken_for_whole(pillion, pki):
    """Without a length only `close_notify` tells its end (RFC 9112 section 9.8)."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"

    def whole(connection):
        connection.read_request()
        connection.send(head + b"all of it")
        connection.half_close()

    def cut(connection):
        connection.read_request()
        connection.send(head + b"half of it")
        connection.sock.raw.shutdown(socket.SHUT_RDWR)

    made = context(pki.ca, pki.server("server", "127.0.0.1"), server=True)
    with TlsUpstream(whole, made=made) as upstream:
        assert fetch(pillion(tls_config(upstream.address, pki)).address()).body == b"all of it"
    with TlsUpstream(cut, made=made) as upstream:
        proxy = pillion(tls_config(upstream.address, pki))
        with RawClient(proxy.address()) as client, pytest.raises(Closed):
            client.get("/cut")
        assert proxy.access(path="/cut")["reason"] == "response_incomplete"
        # The same where a client's protocol has no chunks.
        with RawClient(proxy.address()) as client:
            client.send("GET /old HTTP/1.0\r\n\r\n")
            with pytest.raises(Closed) as caught:
                while client.fill():
                    pass
            assert caught.value.reset


def test_connections_are_used_again_and_ended_in_order(pillion, pki, tls_echo):
    upstream = tls_echo(context(pki.ca, pki.server("server", "127.0.0.1"), server=True))
    proxy = pillion(tls_config(upstream.address, pki, upstream={"timeouts": {"idle": "300ms"}}),
                    env={"PILLION_WORKERS": "1"})
    with RawClient(proxy.address()) as client:
        for number in range(20):
            assert client.get(f"/{number}").json()["connection"] == 0
    # `close_notify` when it has been idle for long enough: a cut would be a failure of the script.
    connection = upstream.connection()
    eventually(connection.finished.is_set)
    assert not connection.sock.cut
    assert proxy.metrics().value("pillion_upstream_tls_handshakes_total", upstream="app") == 1


def test_tcp(pillion, pki):
    def echo_bytes(connection):
        while data := connection.recv_some():
            connection.send(data)
        connection.half_close()

    made = context(pki.ca, pki.workload("server"), server=True)
    with TlsUpstream(echo_bytes, made=made) as upstream:
        proxy = pillion(tls_config(upstream.address, pki, make=tcp_config, tls={"peers": [spiffe("server")]}))
        with RawClient(proxy.address("tcp")) as client:
            for _ in range(4):
                client.send(b"x" * (1 << 20))
                assert client.recv_exact(1 << 20) == b"x" * (1 << 20)
            client.send(b"last words").half_close()
            assert client.recv_exact(10) == b"last words"
            client.expect_closed()
        assert upstream.connection().sock.tls.selected_alpn_protocol() is None
        proxy.access(bytes_sent=4 * (1 << 20) + 10)
        # A peer that is not who it should be: the client sees a reset.
        wrong = pillion(tls_config(upstream.address, pki, make=tcp_config, tls={"peers": [spiffe("other")]}))
        with RawClient(wrong.address("tcp")) as client:
            assert client.recv_all() == b""
        line = wrong.access(reason="upstream_certificate")
        assert "wrong_identity" in line["detail"], line
