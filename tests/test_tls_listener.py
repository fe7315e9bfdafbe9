"""TLS towards clients: curl, OpenSSL and Python's ssl against Pillion."""

import asyncio
import contextlib
import hashlib
import json
import random
import signal
import socket
import ssl
import subprocess
import threading
import time
from datetime import timedelta

import grpc
import pytest
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.grpc_app import GrpcApp
from support.peers import find
from support.tls import TlsClient, TlsSocket, context
from support.upstream import header, pattern
from support.wait import TIMEOUT, eventually
from support.wire import Closed, connect
from websockets.asyncio.client import connect as open_socket
from websockets.asyncio.server import serve

MIB = 1 << 20
TLS12 = ssl.TLSVersion.TLSv1_2


def tls_config(*upstreams, pki, make=http_config, tls=None, **options) -> dict:
    """A listener with a workload's identity. `tls`: its settings."""
    files = pki.workload("server")
    listener = {**options.pop("listener", {}), "tls": tls or {}}
    return make(*upstreams, listener=listener, identity=files.config, trust=[pki.trust], **options)


def failed(proxy, reason: str, count: int = 1):
    """Waits until so many handshakes have failed for that reason, and for no other."""
    name = "pillion_listener_tls_handshakes_failed_total"

    def counted():
        metrics = proxy.metrics()
        assert metrics.value(name, reason=reason) == count, [s for s in metrics.samples if s[0] == name and s[2]]
        return True

    eventually(counted, f"{count} handshakes failed with {reason}")
    assert proxy.metrics().value(name) == count


def curl(*arguments, check: bool = True, stdin: bytes = b"") -> subprocess.CompletedProcess:
    done = subprocess.run([find("curl"), "-sS", "--max-time", "30", *map(str, arguments)], input=stdin, capture_output=True)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


def s_client(address: str, *arguments, stdin: bytes = b"") -> str:
    """What OpenSSL says of a connection."""
    command = ["openssl", "s_client", "-connect", address, "-ign_eof", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=TIMEOUT)
    return (done.stdout + done.stderr).decode(errors="replace")


def one_request(address: str, made, name="localhost", path="/", **headers):
    with TlsClient(address, made, name) as client:
        return client.request("GET", path, {"Connection": "close", **headers})


# Versions, certificates of clients.


def test_curl_and_openssl_with_certificates_on_both_sides(pillion, echo, pki):
    proxy = pillion(tls_config(echo.address, pki=pki))
    client = pki.workload("client")
    own = ["--cacert", pki.ca, "--cert", client.certificate, "--key", client.key]
    for version in ("--http1.1", "--http2"):
        account = json.loads(curl(version, *own, f"https://localhost:{proxy.port()}/{version}").stdout)
        assert account["target"] == f"/{version}"
        assert header(account, "x-forwarded-proto") == "https"
    told = s_client(proxy.address(), "-CAfile", pki.ca, "-cert", client.certificate, "-key", client.key,
                    "-verify_return_error", "-verify_hostname", "localhost",
                    stdin=b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert "TLSv1.3" in told and "Verify return code: 0 (ok)" in told and "HTTP/1.1 200" in told
    assert "Acceptable client certificate CA names" not in told or "CN" in told
    assert proxy.metrics().value("pillion_listener_tls_handshakes_total", listener="web") == 3
    assert proxy.metrics().value("pillion_listener_tls_handshakes_failed_total") == 0


def test_tls_1_2_is_spoken_only_where_it_is_allowed(pillion, echo, pki):
    old, new = context(pki.ca, version=TLS12), context(pki.ca)
    strict = pillion(tls_config(echo.address, pki=pki, tls={"clientCertificates": "off"}))
    assert curl("--tls-max", "1.2", "--cacert", pki.ca, f"https://localhost:{strict.port()}/", check=False).returncode == 35
    failed(strict, "no_common_version")
    with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
        TlsClient(strict.address(), old)
    failed(strict, "no_common_version", 2)

    lenient = pillion(tls_config(echo.address, pki=pki, tls={"clientCertificates": "off", "minVersion": "1.2"}))
    for made, version in ((old, "TLSv1.2"), (new, "TLSv1.3")):
        with TlsClient(lenient.address(), made) as client:
            assert client.sock.tls.version() == version
            body = b"".join(pattern(3 * MIB))
            account = client.request("POST", "/", body=body).json()
            assert account["sha256"] == hashlib.sha256(body).hexdigest()
            assert client.get(f"/?size={3 * MIB}").body == body
    assert "TLSv1.2" in s_client(lenient.address(), "-tls1_2", "-CAfile", pki.ca,
                                 stdin=b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    failed_before = lenient.metrics().value("pillion_listener_tls_handshakes_failed_total")
    assert failed_before == 0


CERTIFICATES = [
    # What the listener wants, what the client shows, why it fails.
    ("required", "good", None),
    ("required", "none", "no_client_certificate"),
    ("required", "foreign", "unknown_authority"),
    ("required", "expired", "certificate_expired"),
    ("optional", "good", None),
    ("optional", "none", None),
    ("optional", "foreign", "unknown_authority"),
    ("off", "good", None),
    ("off", "none", None),
    ("off", "foreign", None),
]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize(("wanted", "shown", "reason"), CERTIFICATES)
def test_certificates_of_clients(pillion, echo, pki, other_pki, wanted, shown, reason, version):
    proxy = pillion(tls_config(echo.address, pki=pki, tls={"clientCertificates": wanted, "minVersion": "1.2"}))
    files = {
        "good": lambda: pki.workload("client"),
        "none": lambda: None,
        "foreign": lambda: other_pki.workload("client"),
        "expired": lambda: pki.workload("late", age=timedelta(hours=3), lifetime=-timedelta(hours=1)),
    }[shown]()
    made = context(pki.ca, files, version=ssl.TLSVersion[version])
    if reason is None:
        reply = one_request(proxy.address(), made, path=f"/{shown}")
        assert reply.json()["target"] == f"/{shown}"
        assert proxy.metrics().value("pillion_listener_tls_handshakes_failed_total") == 0
        return
    # In TLS 1.3 the client learns of it with its first read.
    with pytest.raises(ssl.SSLError, match="(?i)alert"):
        one_request(proxy.address(), made)
    failed(proxy, reason)
    line = proxy.logs.find(message="handshake failed", reason=reason)
    assert line["peer"].startswith("127.0.0.1:") and line["detail"], line
    assert not echo.requests


# Names, protocols.


def test_the_certificate_is_chosen_by_the_name_that_is_asked_for(pillion, echo, pki):
    shop = pki.server("shop", "shop.example", "www.shop.example")
    wild = pki.server("wild", "*.wild.example")
    config = tls_config(echo.address, pki=pki, tls={
        "clientCertificates": "off", "certificates": [shop.config, wild.config]})
    proxy = pillion(config)
    identity = "spiffe://prod.test/ns/default/sa/server"

    def names(asked: str | None) -> set[str]:
        made = context()
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(pki.ca)
        with TlsClient(proxy.address(), made, asked) as client:
            return {value for _, value in client.sock.tls.getpeercert()["subjectAltName"]}

    assert names("shop.example") == names("www.shop.example") == names("SHOP.example") == {"shop.example", "www.shop.example"}
    assert names("a.wild.example") == {"*.wild.example"}
    for other in ("wild.example", "a.b.wild.example", "elsewhere.example", None):
        assert identity in names(other), other
    # Without an identity the first one is for everybody else.
    del config["identity"]
    assert names_without_identity(pillion, config, pki) == {"shop.example", "www.shop.example"}


def names_without_identity(pillion, config, pki) -> set[str]:
    made = context(pki.ca)
    made.check_hostname = False
    with TlsClient(pillion(config).address(), made, "elsewhere.example") as client:
        return {value for _, value in client.sock.tls.getpeercert()["subjectAltName"]}


def test_the_protocol_is_agreed_on_in_the_handshake(pillion, echo, pki):
    proxy = pillion(tls_config(echo.address, pki=pki, tls={"clientCertificates": "off"}))

    def agreed(*offered: str) -> str | None:
        with TlsClient(proxy.address(), context(pki.ca, alpn=offered)) as client:
            return client.sock.tls.selected_alpn_protocol()

    assert agreed("h2", "http/1.1") == agreed("http/1.1", "h2") == agreed("h2") == "h2"
    assert agreed("http/1.1") == agreed("http/1.1", "spdy/3") == "http/1.1"
    assert agreed() is None
    # Only for peers that show who they are.
    assert agreed("pillion/1", "h2") == "h2"
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        agreed("pillion/1")
    failed(proxy, "no_application_protocol")
    assert one_request(proxy.address(), context(pki.ca)).status == 200
    assert "ALPN protocol: h2" in s_client(proxy.address(), "-alpn", "h2,http/1.1", "-CAfile", pki.ca, stdin=b"x")
    url = f"https://localhost:{proxy.port()}/"
    out = curl("--http2", "--cacert", pki.ca, "-o", "/dev/null", "-w", "%{http_version}", url).stdout
    assert out == b"2"


# Plaintext, and what is neither.


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_permissive_takes_both_on_one_port(pillion, echo, pki, kind):
    make, name = (http_config, "web") if kind == "http" else (tcp_config, "tcp")
    proxy = pillion(tls_config(echo.address, pki=pki, make=make, tls={"mode": "permissive"}))
    address = proxy.address(name)
    assert fetch(address, "GET", "/plain").json()["target"] == "/plain"
    made = context(pki.ca, pki.workload("client"))
    assert one_request(address, made, path="/secret").json()["target"] == "/secret"
    metrics = proxy.metrics()
    assert metrics.value("pillion_listener_tls_handshakes_total") == 1
    assert metrics.value("pillion_listener_tls_handshakes_failed_total") == 0
    # A certificate is asked of those who do speak TLS.
    with pytest.raises(ssl.SSLError, match="(?i)alert"):
        one_request(address, context(pki.ca))
    failed(proxy, "no_client_certificate")


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_plaintext_on_a_port_for_tls(pillion, echo, pki, kind):
    make, name = (http_config, "web") if kind == "http" else (tcp_config, "tcp")
    proxy = pillion(tls_config(echo.address, pki=pki, make=make))
    with RawClient(proxy.address(name)) as client:
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect_closed()
    failed(proxy, "not_tls")
    assert not echo.connections


def test_garbage_in_handshakes(pillion, echo, pki):
    """Records that announce a handshake and hold something else, and good ones that were damaged."""
    proxy = pillion(tls_config(echo.address, pki=pki, tls={"handshakeTimeout": "2s"}))
    hello = client_hello(pki)
    rng = random.Random(4)
    broken = [b"\x16\x03\x01\x00\x05hello", b"\x16" * 300, b"\x16\x03\x01\xff\xff" + b"\0" * 70_000,
              b"\x16\x03\x01\x00\x00" * 100, hello * 2, hello[:5] + b"\x02" + hello[6:]]
    for _ in range(200):
        damaged = bytearray(hello)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(1, len(hello))] = rng.randrange(256)
        broken.append(bytes(damaged) + rng.randbytes(rng.choice([0, 0, 7, 2000])))
    for flight in broken:
        with RawClient(proxy.address()) as client:
            with contextlib.suppress(OSError):
                client.send(flight).half_close()
            client.recv_all()
    eventually(lambda: proxy.metrics().value("pillion_listener_connections_active", listener="web") == 0)
    metrics = proxy.metrics()
    assert metrics.value("pillion_listener_tls_handshakes_failed_total") == len(broken)
    assert metrics.value("pillion_listener_tls_handshakes_failed_total", reason="internal") == 0


def test_garbage_after_handshakes(pillion, echo, pki):
    proxy = pillion(tls_config(echo.address, pki=pki))
    made = context(pki.ca, pki.workload("client"))
    rng = random.Random(5)
    for number in range(60):
        with TlsClient(proxy.address(), made) as client:
            tls = client.sock
            if number % 3 == 1:
                assert client.get("/").status == 200
            tls.tls.write(b"GET /damaged HTTP/1.1\r\nHost: a\r\n\r\n")
            record = bytearray(tls.outgoing.read())
            record[rng.randrange(len(record))] ^= 1 << rng.randrange(8)
            tls.raw.sendall(bytes(record) + rng.randbytes(rng.choice([0, 100])))
            with contextlib.suppress(OSError):
                tls.raw.shutdown(socket.SHUT_WR)
            if number % 2:
                with contextlib.suppress(ssl.SSLError):
                    client.recv_all()
    assert one_request(proxy.address(), made).status == 200
    assert not [request for request in echo.requests if request["target"] == "/damaged"]


def test_tls_on_a_port_for_plaintext(pillion, echo, pki):
    proxy = pillion(http_config(echo.address))
    with pytest.raises(ssl.SSLError):
        TlsClient(proxy.address(), context(pki.ca))
    proxy.wait_reason("unexpected_tls")
    assert proxy.access(reason="unexpected_tls")["status"] == 400
    assert curl("--cacert", pki.ca, f"https://localhost:{proxy.port()}/", check=False).returncode == 35
    proxy.wait_reason("unexpected_tls", 2)
    assert fetch(proxy.address()).status == 200


# Handshakes that take long, or come in numbers.


def client_hello(pki, name="localhost") -> bytes:
    left, right = socket.socketpair()
    with left, right:
        return TlsSocket(left, context(pki.ca), name).hello()


@pytest.mark.parametrize("stage", ["silent", "hello cut", "hello whole"])
def test_a_stalled_handshake_ends(pillion, echo, pki, stage):
    proxy = pillion(tls_config(echo.address, pki=pki, tls={"handshakeTimeout": "300ms"}))
    hello = client_hello(pki)
    with RawClient(proxy.address()) as client:
        client.send({"silent": b"", "hello cut": hello[:100], "hello whole": hello}[stage])
        client.recv_all()
    failed(proxy, "handshake_timeout")
    eventually(lambda: proxy.metrics().value("pillion_listener_connections_active", listener="web") == 0)


def test_a_trickled_handshake_ends_too(pillion, echo, pki):
    proxy = pillion(tls_config(echo.address, pki=pki, tls={"handshakeTimeout": "500ms"}))
    hello = client_hello(pki)
    with RawClient(proxy.address()) as client, contextlib.suppress(OSError):
        for byte in hello:
            client.send(bytes([byte]))
            time.sleep(0.01)
    failed(proxy, "handshake_timeout")


def test_a_handshake_may_come_in_pieces(pillion, echo, pki):
    proxy = pillion(tls_config(echo.address, pki=pki))
    sock = connect(proxy.address())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tls = TlsSocket(sock, context(pki.ca, pki.workload("client")), "localhost")
    for byte in tls.hello():
        sock.sendall(bytes([byte]))
    tls.handshake()
    tls.sendall(b"GET /pieces HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    got = b""
    while data := tls.recv(65536):
        got += data
    assert b"/pieces" in got
    sock.close()


def test_a_client_that_leaves_in_the_handshake(pillion, echo, pki):
    proxy = pillion(tls_config(echo.address, pki=pki))
    with RawClient(proxy.address()) as client:
        client.send(client_hello(pki)[:50]).half_close().recv_all()
    failed(proxy, "closed_in_handshake")
    RawClient(proxy.address()).close()
    failed(proxy, "closed_in_handshake", 2)


def test_what_comes_with_the_last_flight_is_served(pillion, echo, raw_upstream, pki):
    """`Finished`, what is asked and, where that may end alone, `close_notify` in one segment."""

    def at_once(address: str, asked: bytes, ends: bool) -> bytes:
        with connect(address) as sock:
            tls = TlsSocket(sock, context(pki.ca), "localhost")
            sock.sendall(tls.hello())
            while not tls.outgoing.pending:
                tls.incoming.write(sock.recv(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.tls.do_handshake()
            tls.tls.write(asked)
            if ends:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.tls.unwrap()
            sock.sendall(tls.outgoing.read())
            got = b""
            while data := tls.recv(65536):
                got += data
            return got

    plain = {"clientCertificates": "off"}
    proxy = pillion(tls_config(echo.address, pki=pki, tls=plain))
    request = b"GET /at-once HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert b"/at-once" in at_once(proxy.address(), request, ends=False)
    opaque = pillion(tls_config(raw_upstream(echo_bytes).address, pki=pki, make=tcp_config, tls=plain))
    assert at_once(opaque.address("tcp"), b"all there is", ends=True) == b"all there is"


def test_a_flood_of_handshakes_leaves_established_connections_alone(pillion, echo, pki):
    proxy = pillion(tls_config(echo.address, pki=pki, tls={"handshakeTimeout": "20s"}))
    made = context(pki.ca, pki.workload("client"))
    hello = client_hello(pki)
    established = [TlsClient(proxy.address(), made) for _ in range(4)]
    stalled, failures, done = [], [], threading.Event()

    def ask(client):
        try:
            count = 0
            while not done.is_set() or count < 20:
                assert client.get(f"/{count}").status == 200
                count += 1
        except BaseException as error:
            failures.append(error)

    def shake():
        try:
            for _ in range(19):
                one_request(proxy.address(), made)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(client,)) for client in established]
    for thread in threads:
        thread.start()
    for _ in range(150):
        stalled.append(RawClient(proxy.address()).send(hello))
    shaking = [threading.Thread(target=shake) for _ in range(8)]
    for thread in shaking:
        thread.start()
    for thread in shaking:
        thread.join(TIMEOUT * 2)
    done.set()
    for thread in threads:
        thread.join(TIMEOUT)
    for client in [*stalled, *established]:
        client.close()
    assert not failures, failures
    failed(proxy, "closed_in_handshake", 150)
    assert proxy.metrics().value("pillion_listener_tls_handshakes_total") == 4 + 8 * 19


# What is carried.


def test_large_bodies_both_ways(pillion, echo, pki):
    proxy = pillion(tls_config(echo.address, pki=pki))
    client = pki.workload("client")
    own = ["--cacert", pki.ca, "--cert", client.certificate, "--key", client.key]
    body = b"".join(pattern(20 * MIB))
    url = f"https://localhost:{proxy.port()}/"
    for version in ("--http1.1", "--http2"):
        account = json.loads(curl(version, *own, "-H", "Expect:", "--data-binary", "@-", url, stdin=body).stdout)
        assert account["sha256"] == hashlib.sha256(body).hexdigest()
        for switch in ("", "&chunked"):
            out = curl(version, *own, f"{url}?size={20 * MIB}{switch}").stdout
            assert hashlib.sha256(out).digest() == hashlib.sha256(body).digest()


def test_pipelining(pillion, echo, pki):
    proxy = pillion(tls_config(echo.address, pki=pki))
    with TlsClient(proxy.address(), context(pki.ca, pki.workload("client"))) as client:
        client.send("".join(f"GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n" for number in range(100)))
        assert [client.read_response().json()["target"] for _ in range(100)] == [f"/{number}" for number in range(100)]
        # And one record a byte.
        for byte in b"GET /bytes HTTP/1.1\r\nHost: a\r\n\r\n":
            client.send(bytes([byte]))
        assert client.read_response().json()["target"] == "/bytes"


def test_grpc(pillion, pki):
    proxy = None
    with GrpcApp() as app:
        proxy = pillion(tls_config(app.address, pki=pki, upstream={"protocol": "http2"}))
        client = pki.workload("client")
        credentials = grpc.ssl_channel_credentials(
            pki.ca.read_bytes(), client.key.read_bytes(), client.certificate.read_bytes())
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
        with grpc.secure_channel(f"localhost:{proxy.port()}", credentials, options) as channel:
            unary = channel.unary_unary("/pillion.test.Echo/Unary")
            assert unary(b"x" * MIB, timeout=TIMEOUT) == b"x" * MIB
            download = channel.unary_stream("/pillion.test.Echo/Download")
            assert len(list(download(b"1000,1000", timeout=TIMEOUT))) == 1000
            chat = channel.stream_stream("/pillion.test.Echo/Chat")
            assert list(chat(iter([b"a", b"b"]), timeout=TIMEOUT)) == [b"A", b"B"]


def test_websocket(pillion, pki):
    async def handler(server):
        async for message in server:
            await server.send(message)

    async def main():
        async with asyncio.timeout(50), serve(handler, "127.0.0.1", 0, max_size=None) as running:
            upstream = f"127.0.0.1:{running.sockets[0].getsockname()[1]}"
            proxy = pillion(tls_config(upstream, pki=pki))
            made = context(pki.ca, pki.workload("client"))
            url = f"wss://localhost:{proxy.port()}/chat"
            async with open_socket(url, ssl=made, proxy=None, max_size=None) as client:
                for message in ("text äöü", b"\x00\xff", "x" * MIB):
                    await client.send(message)
                    assert await client.recv() == message
            line = await asyncio.to_thread(proxy.access_log.find, path="/chat")
            assert line["status"] == 101

    asyncio.run(main())


def echo_bytes(connection):
    while data := connection.recv_some():
        connection.send(data)
    connection.half_close()


def test_tcp(pillion, raw_upstream, pki):
    upstream = raw_upstream(echo_bytes)
    proxy = pillion(tls_config(upstream.address, pki=pki, make=tcp_config))
    made = context(pki.ca, pki.workload("client"))
    with TlsClient(proxy.address("tcp"), made) as client:
        body = b"".join(pattern(MIB))
        for _ in range(8):
            client.send(body)
            assert client.recv_exact(MIB) == body
        # Each direction ends by itself.
        client.send(b"last words").half_close()
        assert client.recv_exact(10) == b"last words"
        client.expect_closed()
    assert proxy.access()["bytes_received"] == 8 * MIB + 10


def test_keys_are_updated_in_the_middle(pillion, raw_upstream, pki):
    """OpenSSL's `K`: new keys for both directions (RFC 8446 section 4.6.3)."""
    upstream = raw_upstream(echo_bytes)
    proxy = pillion(tls_config(upstream.address, pki=pki, make=tcp_config, tls={"clientCertificates": "off"}))
    process = subprocess.Popen(["openssl", "s_client", "-connect", proxy.address("tcp"), "-CAfile", str(pki.ca)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)

    def say(word: bytes, answer: bytes):
        process.stdin.write(word + b"\n")
        assert any(line == answer + b"\n" for line in process.stdout), f"no {answer}"

    try:
        for word in (b"one", b"two", b"three"):
            say(word, word)
            say(b"K", b"KEYUPDATE")
    finally:
        process.kill()
        process.wait()


# Ends.


def test_the_end_is_announced(pillion, echo, raw_upstream, pki):
    made = context(pki.ca, pki.workload("client"))
    config = tls_config(echo.address, pki=pki, http={"keepAliveTimeout": "100ms"})
    proxy = pillion(config)
    with TlsClient(proxy.address(), made) as client:
        client.request("GET", "/", {"Connection": "close"})
        assert closing(client) is None
    # For want of requests; a request that is none.
    with TlsClient(proxy.address(), made) as client:
        assert client.get("/").status == 200
        assert closing(client) is None
    with TlsClient(proxy.address(), made) as client:
        client.send("nonsense\r\n\r\n")
        assert client.read_response().status == 400
        assert closing(client) is None
    upstream = raw_upstream(lambda connection: (connection.send("welcome"), connection.close()))
    opaque = pillion(tls_config(upstream.address, pki=pki, make=tcp_config))
    with TlsClient(opaque.address("tcp"), made) as client:
        assert client.recv_exact(7) == b"welcome"
        assert closing(client) is None
    draining = pillion(tls_config(echo.address, pki=pki))
    with TlsClient(draining.address(), made) as client:
        assert client.get("/").status == 200
        draining.signal(signal.SIGTERM)
        assert closing(client) is None
    assert draining.wait_exit() == 0


def closing(client) -> BaseException | None:
    """How the connection ends; `None`: announced, and without another byte."""
    try:
        assert client.sock.recv(1) == b""
    except (OSError, Closed) as error:
        return error
    return None


def test_a_body_that_is_cut_is_not_taken_for_whole(pillion, raw_upstream, echo, pki):
    """The end of the socket without `close_notify`, which anybody on the way can bring about."""
    made = context(pki.ca, pki.workload("client"))
    proxy = pillion(tls_config(echo.address, pki=pki))
    with TlsClient(proxy.address(), made) as client:
        client.send("POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf of it")
        echo.wait_heads(1)
        client.sock.raw.shutdown(socket.SHUT_WR)
        client.recv_all()
    line = proxy.access(path="/cut")
    assert line["reason"] in ("request_body_incomplete", "client_closed"), line
    assert not echo.requests

    # Where only the end tells the length: what is behind must not take the cut for the end.
    upstream = raw_upstream()
    opaque = pillion(tls_config(upstream.address, pki=pki, make=tcp_config))
    with TlsClient(opaque.address("tcp"), made) as client:
        client.send(b"half of it")
        connection = upstream.connection()
        connection.wait_received(lambda data: data == b"half of it")
        client.sock.raw.shutdown(socket.SHUT_WR)
        eventually(connection.finished.is_set)
    line = opaque.access()
    assert line["reason"] == "client_closed", line
