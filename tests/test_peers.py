"""nginx, HAProxy, Envoy and curl, before and behind Pillion."""

import hashlib
import json
import subprocess
import threading

import pytest
from support.client import RawClient, chunked, fetch
from support.config import http_config
from support.peers import envoy, find, haproxy, nginx
from support.upstream import header, pattern

MIB = 1024 * 1024


def exercise(address: str, statuses=(201, 204, 304, 404, 503)):
    """The exchanges that every pair of peers must get right."""
    with RawClient(address) as client:
        client.record = False
        for number in range(20):
            assert client.get(f"/{number}").json()["target"] == f"/{number}"
        for status in statuses:
            assert client.get(f"/?status={status}").status == status
        head = client.request("HEAD", "/?size=1000")
        assert (head.status, head.header("content-length"), head.body) == (200, "1000", b"")
        body = b"".join(pattern(MIB))
        account = client.request("POST", "/upload", body=body).json()
        assert (account["length"], account["sha256"]) == (MIB, hashlib.sha256(body).hexdigest())
        client.send_request("POST", "/chunked", {"Transfer-Encoding": "chunked"})
        client.send(chunked(*pattern(MIB)))
        assert client.read_response("POST").json()["length"] == MIB
        for switch in ("", "&chunked"):
            assert hashlib.sha256(client.get(f"/?size={5 * MIB}{switch}").body).digest() == digest(5 * MIB)
        account = client.request("GET", "/a%20b/%C3%A9?q=%2F&r=a+b", {"X-Empty": "", "Cookie": "a=b; c=d"}).json()
        assert account["target"] == "/a%20b/%C3%A9?q=%2F&r=a+b"
        assert header(account, "cookie") == "a=b; c=d"

    failures = []

    def run():
        try:
            with RawClient(address) as client:
                for _ in range(25):
                    assert client.request("POST", "/", body=b"x" * 1000).json()["length"] == 1000
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures
    # A body that is cut behind the proxies arrives cut.
    with pytest.raises(Exception):  # noqa: B017, PT011
        assert fetch(address, "GET", "/?size=100000&cut=50000").status >= 500
        raise ConnectionError


def digest(size: int) -> bytes:
    total = hashlib.sha256()
    for piece in pattern(size):
        total.update(piece)
    return total.digest()


@pytest.fixture
def peer_directory(tmp_path):
    directory = tmp_path / "peer"
    directory.mkdir()
    return directory


BEHIND = {
    "nginx": (nginx, {}, {}),
    "haproxy": (haproxy, {}, {}),
    "haproxy-h2": (haproxy, {}, {"protocol": "http2"}),
    "envoy": (envoy, {}, {}),
    "envoy-h2": (envoy, {}, {"protocol": "http2"}),
}


@pytest.mark.parametrize("name", BEHIND)
def test_as_upstream(pillion, echo, peer_directory, name):
    start, options, upstream = BEHIND[name]
    with start(peer_directory, echo.address, **options) as peer:
        proxy = pillion(http_config(peer.address, upstream=upstream))
        exercise(proxy.address())
        # HAProxy ends a stream with END_STREAM now and then where its own upstream broke off: less content than
        # was told, which RFC 9113 section 8.1.1 calls malformed.
        cut = ("response_incomplete", "upstream_reset", "upstream_protocol")
        unexpected = [line for line in proxy.access_log()
                      if line["reason"] and not ("cut=" in line["path"] and line["reason"] in cut)]
        assert not unexpected, json.dumps(unexpected, indent=1)


BEFORE = {
    "nginx": (nginx, {}),
    "haproxy": (haproxy, {}),
    "haproxy-h2": (haproxy, {"protocol": "proto h2"}),
    "envoy": (envoy, {}),
    "envoy-h2": (envoy, {"http2": True}),
}


@pytest.mark.parametrize("name", BEFORE)
def test_as_client(pillion, echo, peer_directory, name):
    start, options = BEFORE[name]
    proxy = pillion(http_config(echo.address))
    with start(peer_directory, proxy.address(), **options) as peer:
        exercise(peer.address)
        versions = {line["protocol"] for line in proxy.access_log()}
        assert versions == {"HTTP/2.0" if "h2" in name else "HTTP/1.1"} or versions == {"HTTP/2"}, versions


def test_haproxy_sends_the_proxy_protocol(pillion, echo, peer_directory):
    proxy = pillion(http_config(echo.address, listener={"proxyProtocol": True}))
    for option in ("send-proxy", "send-proxy-v2"):
        directory = peer_directory / option
        directory.mkdir()
        with haproxy(directory, proxy.address(), option) as peer, RawClient(peer.address) as client:
            port = client.sock.getsockname()[1]
            account = client.get(f"/{option}").json()
            assert header(account, "x-forwarded-for") == "127.0.0.1"
            assert proxy.access(path=f"/{option}")["peer"] == f"127.0.0.1:{port}"


def test_two_pillions_in_a_row(pillion, echo):
    inner = pillion(http_config(echo.address))
    outer = pillion(http_config(inner.address()))
    exercise(outer.address())
    between = pillion(http_config(inner.address(), upstream={"protocol": "http2"}))
    exercise(between.address())


# curl.


def curl(*arguments: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run([find("curl"), "-sS", "--max-time", "30", *arguments], input=stdin, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2-prior-knowledge"])
def test_curl(pillion, echo, version, tmp_path):
    url = "http://" + pillion(http_config(echo.address)).address()
    account = json.loads(curl(version, f"{url}/a?b=c"))
    assert account["target"] == "/a?b=c"
    body = b"".join(pattern(3 * MIB))
    account = json.loads(curl(version, "--data-binary", "@-", f"{url}/", stdin=body))
    assert account["sha256"] == hashlib.sha256(body).hexdigest()
    assert len(curl(version, f"{url}/?size={3 * MIB}&chunked")) == 3 * MIB
    assert curl(version, "-I", f"{url}/?size=5").lower().count(b"content-length: 5") == 1
    (tmp_path / "file").write_bytes(body)
    account = json.loads(curl(version, "-T", str(tmp_path / "file"), f"{url}/put"))
    assert (account["method"], account["length"]) == ("PUT", len(body))


def test_curl_waits_for_100_continue(pillion, echo):
    url = "http://" + pillion(http_config(echo.address)).address()
    out = curl("--http1.1", "-i", "-H", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", "@-",
               f"{url}/", stdin=b"x" * 100_000)
    assert out.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    assert out.count(b"100 Continue") == 1


def test_curl_through_unix_sockets(pillion, echo_upstream, short_dir):
    upstream = echo_upstream(path=short_dir / "app.sock")
    pillion(http_config(upstream.address, listener={"address": f"unix:{short_dir}/web.sock"}))
    out = curl("--unix-socket", str(short_dir / "web.sock"), "http://app.test/over-unix")
    assert json.loads(out)["target"] == "/over-unix"


def test_curl_asks_to_upgrade_and_is_answered_in_http_1(pillion, echo):
    """`--http2` without TLS offers `Upgrade: h2c`, which is ignored."""
    url = "http://" + pillion(http_config(echo.address)).address()
    assert curl("--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", url) == b"1.1 200"


def test_curl_proxytunnel(pillion, echo):
    proxy = pillion(http_config(echo.address, http={"allowConnect": True}))
    out = curl("--proxytunnel", "--proxy", f"http://{proxy.address()}", "http://app.test:80/tunnelled")
    assert json.loads(out)["target"] == "/tunnelled"
