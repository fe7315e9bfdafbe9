"""One port for HTTP/1.1 and HTTP/2 with prior knowledge, and the clients that people have."""

import json
import re
import shutil
import subprocess

import pytest
from support import h1raw, h2raw
from support.config import http_config
from support.h2raw import END_HEADERS, END_STREAM, H2, HEADERS, PREFACE, dial, frame, settings
from support.reactor import connect as dial_tcp
from support.upstream import header
from support.wait import eventually


@pytest.fixture(scope="module")
def proxy(shared_pillion, shared_echo):
    return shared_pillion(http_config(shared_echo.address))


def piecemeal(peer, data: bytes, size: int):
    """Sends `data` in packets of `size`, each of them on its way before the next."""
    for at in range(0, len(data), size):
        peer.send(data[at : at + size])
        peer.flush()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 14, 23, 24, 25])
def test_the_preface_may_come_in_pieces(proxy, size):
    with H2(dial_tcp(proxy.address()), client=True, opening=b"") as client:
        block = client.block([(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/split")])
        stream = client.reserve()
        piecemeal(client, PREFACE + settings() + frame(HEADERS, END_HEADERS | END_STREAM, 1, block), size)
        assert json.loads(client.response(stream).data)["target"] == "/split"


@pytest.mark.parametrize("method", ["GET", "P", "PR", "PRI", "PRIX", "POST", "PROPFIND", "PURGE"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_http1_methods_that_begin_like_the_preface(proxy, method, size):
    with h1raw.dial(proxy.address()) as client:
        client.asked.append(method)
        piecemeal(client, f"{method} /one HTTP/1.1\r\nHost: a.test\r\n\r\n".encode(), size)
        told = json.loads(client.whole(client.next_message()).body)
        assert (told["method"], told["target"]) == (method, "/one")


@pytest.mark.parametrize(
    "opening",
    [
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings(),
        b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\n\nSM\n\n",
    ],
    ids=["wrong-end", "with-headers", "version-1.1", "bare-line-feeds"],
)
def test_what_only_looks_like_the_preface_is_refused(proxy, shared_echo, opening):
    """3.4-9: an invalid preface ends the connection; no GOAWAY is due, a 400 is what HTTP/1.1 has for it."""
    heads = shared_echo.heads
    with h1raw.dial(proxy.address()) as client:
        client.send(opening)
        client.expect_closed()
        assert bytes(client.log[:12]) in (b"", b"HTTP/1.1 400", b"HTTP/1.1 505") or client.log[3:4] in (b"\4", b"\7")
    assert shared_echo.heads == heads


def test_upgrade_to_h2c_is_ignored(proxy):
    """RFC 9113 section 3.1: the upgrade is gone; the request is answered in HTTP/1.1."""
    with h1raw.dial(proxy.address()) as client:
        client.request(headers=[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"),
                                ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")])
        answer = client.whole(client.next_message())
        assert answer.status == 200
        told = json.loads(answer.body)
        assert not header(told, "upgrade") and not header(told, "http2-settings") and not header(told, "connection")
        # The connection is still HTTP/1.1.
        client.request(target="/next")
        assert json.loads(client.whole(client.next_message()).body)["target"] == "/next"


def test_both_versions_at_once(proxy):
    with dial(proxy.address()) as two, h1raw.dial(proxy.address()) as one:
        for number in range(10):
            stream = two.request(path=f"/two/{number}")
            one.request(target=f"/one/{number}")
            assert json.loads(two.response(stream, one).data)["target"] == f"/two/{number}"
            assert json.loads(one.whole(one.next_message(two), two).body)["target"] == f"/one/{number}"
    for protocol, path in (("HTTP/2", "/two/9"), ("HTTP/1.1", "/one/9")):
        assert proxy.access_log.find(path=path)["protocol"].startswith(protocol)


def curl(*arguments):
    done = subprocess.run(["curl", "-sS", "--max-time", "30", *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_curl_with_prior_knowledge(proxy):
    url = f"http://{proxy.address()}"
    told = json.loads(curl("--http2-prior-knowledge", "-H", "Cookie: a=b", f"{url}/curl?x=1"))
    assert told["target"] == "/curl?x=1" and header(told, "cookie") == "a=b"
    version = curl("--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", f"{url}/")
    assert version == b"2 200"


def test_curl_uploads_and_downloads(proxy, tmp_path):
    url = f"http://{proxy.address()}"
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 20000)
    told = json.loads(curl("--http2-prior-knowledge", "--data-binary", f"@{body}", f"{url}/up"))
    assert told["length"] == 256 * 20000
    assert len(curl("--http2-prior-knowledge", f"{url}/?size=5000000")) == 5000000


def test_curl_that_offers_an_upgrade_stays_with_http1(proxy):
    """`curl --http2` over cleartext offers `Upgrade: h2c`."""
    out = curl("--http2", "-w", "\n%{http_version}", f"http://{proxy.address()}/offered")
    assert out.endswith(b"\n1.1")


@pytest.mark.parametrize("flavour", [(), ("--h1",)], ids=["h2", "h1"])
def test_h2load(proxy, flavour):
    """Ten thousand requests, none of them lost (Debian's nghttp2-client)."""
    assert shutil.which("h2load"), "h2load is missing: make setup installs it"
    done = subprocess.run(
        ["h2load", *flavour, "-n", "10000", "-c", "8", "-m", "32" if not flavour else "1", f"http://{proxy.address()}/load"],
        capture_output=True, text=True, timeout=55,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"status codes: 10000 2xx, 0 3xx, 0 4xx, 0 5xx", done.stdout), done.stdout
    assert re.search(r"10000 succeeded, 0 failed, 0 errored, 0 timeout", done.stdout), done.stdout


def test_h2load_over_http2_to_the_upstream(pillion, shared_pillion, shared_echo):
    """Pillion behind Pillion: HTTP/2 between the two."""
    inner = pillion(http_config(shared_echo.address))
    outer = pillion(http_config(inner.address(), upstream={"protocol": "http2"}))
    done = subprocess.run(
        ["h2load", "-n", "5000", "-c", "4", "-m", "64", f"http://{outer.address()}/load"],
        capture_output=True, text=True, timeout=55,
    )
    assert re.search(r"status codes: 5000 2xx, 0 3xx, 0 4xx, 0 5xx", done.stdout), done.stdout


def test_a_connection_that_says_nothing_is_closed_in_time(pillion, echo):
    """The head timeout also covers what comes before the protocol is known, and an open field block."""
    proxy = pillion(http_config(echo.address, http={"headTimeout": "300ms"}))
    with h1raw.dial(proxy.address()) as silent, h1raw.dial(proxy.address()) as half:
        half.send(PREFACE[:10])
        silent.expect_closed()
        half.expect_closed()
    assert not echo.heads


def test_a_field_block_that_never_ends_does_not_outlive_idleness(pillion, echo):
    """h2 does not tell of a head that is begun; see docs/http2-conformance.md."""
    proxy = pillion(http_config(echo.address, http={"http2IdleTimeout": "300ms"}))
    with dial(proxy.address()) as client:
        client.send_frame(HEADERS, END_STREAM, client.reserve().id, client.block([(":method", "GET")]))
        client.expect_closed()
    assert not echo.heads


def test_an_idle_client_that_answers_nothing_is_closed_too(pillion, echo):
    """A half-open connection: nobody answers the PING that the second GOAWAY waits for."""
    proxy = pillion(http_config(echo.address, http={"http2IdleTimeout": "300ms"}))
    with dial(proxy.address()) as client:
        client.acknowledge = False
        client.expect_closed()


def test_idle_connections_end_with_goaway(pillion, echo):
    """http2IdleTimeout: no stream for that long ends the connection, politely (6.8)."""
    proxy = pillion(http_config(echo.address, http={"http2IdleTimeout": "300ms"}))
    with dial(proxy.address()) as client:
        stream = client.response(client.request())
        client.expect_closed()
        assert client.goaways and client.goaways[-1][:2] == (stream.id, h2raw.Code.NO_ERROR)


def test_a_busy_connection_is_not_idle(pillion, echo):
    proxy = pillion(http_config(echo.address, http={"http2IdleTimeout": "300ms"}))
    with dial(proxy.address()) as client, dial(proxy.address()) as idle:
        stream = client.request(path="/?gate=long")
        eventually(lambda: echo.heads, "the request at the upstream")
        idle.expect_closed()  # so the time is over
        echo.open_gate("long")
        assert client.response(stream).status == 200
