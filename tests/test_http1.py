"""HTTP/1 on both sides: keep-alive, bodies, trailers, pipelining."""

import contextlib
import hashlib
import socket

import pytest
from support.client import chunked, fetch
from support.config import http_config
from support.upstream import header, headers, reply
from support.wire import Closed, Wire


@pytest.fixture
def proxy(pillion, echo):
    return pillion(http_config(echo.address))


@pytest.fixture
def client(proxy, connect):
    return connect(proxy.address())


def test_a_request_goes_there_and_back(client, echo):
    response = client.request("POST", "/a/b?c=d", {"X-One": "1"}, b"hello")
    assert response.status == 200
    assert response.version == "HTTP/1.1"
    account = response.json()
    assert (account["method"], account["target"], account["body"]) == ("POST", "/a/b?c=d", "hello")
    assert header(account, "host") == "app.test"
    assert header(account, "content-length") == "5"
    assert response.header("x-server") == "app"
    assert response.reason is None
    assert response.header("proxy-status") is None


def test_the_status_phrase_is_kept_between_http1_peers(client):
    assert client.get("/?status=299").start.startswith("HTTP/1.1 299")


def test_every_status_class_passes(pillion, echo, connect):
    # With one endpoint, which would be left alone for its failures.
    client = connect(pillion(http_config(echo.address, upstream={"breaker": "off"})).address())
    for status in (200, 201, 206, 301, 304, 400, 404, 418, 429, 499, 500, 502, 503, 504, 599):
        response = client.get(f"/?status={status}")
        assert response.status == status
        assert response.reason is None, "an answer of the upstream is no answer of Pillion"


def test_header_case_and_order_are_kept_both_ways(client):
    sent = [("hOsT", "app.test"), ("X-CamelCase", "a"), ("x-lower", "b"), ("X-UPPER", "c"), ("X-CamelCase", "d")]
    response = client.request("GET", "/?header=X-MixedCase:yes&header=x-lower:no", sent)
    names = [name for name, _ in response.json()["headers"]]
    for name, _ in sent[1:]:
        assert name in names, names
    assert headers(response.json(), "x-camelcase") == ["a", "d"]
    got = [name for name, _ in response.headers]
    assert "X-MixedCase" in got and "x-lower" in got and "X-Server" in got, got


def test_repeated_set_cookie_stays_apart(client):
    response = client.get("/?header=Set-Cookie:a=1&header=Set-Cookie:b=2")
    assert response.all("set-cookie") == ["a=1", "b=2"]


def test_opaque_header_bytes_pass(client):
    """obs-text (0x80 and above) is opaque data, RFC 9110 section 5.5."""
    response = client.get("/", {"X-Latin": "caf\xe9"})
    assert header(response.json(), "x-latin") == "caf\xe9"


# Keep-alive.


def test_a_connection_is_kept_and_the_upstream_connection_reused(client, echo):
    numbers = {client.get("/").json()["connection"] for _ in range(10)}
    assert len(numbers) == 1
    assert len(echo.connections) == 1


def test_connection_close_is_honoured(client, echo):
    response = client.get("/", {"Connection": "close"})
    assert response.status == 200
    assert "close" in response.tokens("connection")
    client.expect_closed()
    # It is between the client and Pillion only.
    assert "close" not in [value.lower() for value in headers(echo.requests[0], "connection")]


def test_connection_close_among_other_options_in_any_case(client):
    client.get("/", {"Connection": "x-foo, CLOSE"})
    client.expect_closed()


def test_the_upstreams_close_is_not_the_clients(client, echo):
    for _ in range(3):
        response = client.get("/?close")
        assert response.status == 200
        assert "close" not in response.tokens("connection")
    assert len(echo.connections) == 3


def test_http_1_0_closes_by_default(proxy, connect):
    client = connect(proxy.address())
    response = client.request("GET", "/", version="HTTP/1.0")
    assert response.status == 200
    client.expect_closed()
    assert response.json()["version"] == "HTTP/1.1"


def test_http_1_0_without_host_is_served(proxy, connect):
    client = connect(proxy.address())
    client.send("GET / HTTP/1.0\r\n\r\n")
    response = client.read_response()
    assert response.status == 200
    assert len(headers(response.json(), "host")) == 1


def test_http_1_0_keep_alive(proxy, connect):
    client = connect(proxy.address())
    for _ in range(3):
        response = client.request("GET", "/", {"Connection": "keep-alive"}, version="HTTP/1.0")
        assert response.status == 200
        assert "keep-alive" in response.tokens("connection")
        assert response.framing == "length"


def test_http_1_0_client_gets_no_chunks(proxy, connect):
    client = connect(proxy.address())
    response = client.request("GET", "/?size=100000&chunked", {"Connection": "keep-alive"}, version="HTTP/1.0")
    assert response.framing == "close"
    assert len(response.body) == 100_000
    client.expect_closed()


def test_http_1_0_upstream(pillion, raw_upstream, connect):
    upstream = raw_upstream(reply(b"HTTP/1.0 200 OK\r\nX-Old: yes\r\n\r\nold body", requests=1))
    proxy = pillion(http_config(upstream.address))
    client = connect(proxy.address())
    response = client.get("/")
    assert (response.status, response.version, response.body) == (200, "HTTP/1.1", b"old body")
    assert client.get("/").body == b"old body"
    assert len(upstream.connections) == 2, "a 1.0 connection without keep-alive is not used again"


def test_pipelined_requests_are_answered_in_order(client, echo):
    for number in range(20):
        client.send_request("POST", f"/{number}", body=str(number).encode())
    for number in range(20):
        account = client.read_response("POST").json()
        assert (account["target"], account["body"]) == (f"/{number}", str(number))


def test_pipelined_requests_wait_for_their_turn(client, echo):
    """A slow first answer is not overtaken."""
    client.send_request("GET", "/first?gate=g").send_request("GET", "/second")
    echo.wait_heads(1)
    echo.open_gate("g")
    assert client.read_response().json()["target"] == "/first?gate=g"
    assert client.read_response().json()["target"] == "/second"


def test_pipelined_after_close_is_not_answered(client, echo):
    client.send_request("GET", "/first", {"Connection": "close"}).send_request("GET", "/second")
    assert client.read_response().json()["target"] == "/first"
    client.expect_closed()
    assert [request["target"] for request in echo.requests] == ["/first"]


@contextlib.contextmanager
def slow_to_take(proxy):
    """A client whose kernel takes little: a first response is on its way still when a second is refused or cut."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", proxy.port()))
        yield Wire(sock)


def test_a_cut_takes_nothing_along_that_was_before_it(proxy):
    """Also with input unread, which makes a reset of a plain close."""
    with slow_to_take(proxy) as client:
        head = " HTTP/1.1\r\nHost: app.test\r\n"
        client.send(f"GET /first?size=15000{head}\r\nGET /second?size=1000&cut=500{head}\r\n")
        client.send(f"POST /third{head}Content-Length: 100000\r\n\r\n" + "x" * 50000)
        proxy.access(path="/second?size=1000&cut=500", reason="response_incomplete")
        assert len(client.read_response().body) == 15000
        with pytest.raises(Closed) as cut:
            client.read_response()
        assert not cut.value.reset


def test_an_upload_that_nobody_reads_takes_nothing_along_that_was_before_it(proxy):
    """However much of it is on the way: closing with input unread would reset the connection."""
    with slow_to_take(proxy) as client:
        head = " HTTP/1.1\r\nHost: app.test\r\n"
        client.send(f"GET /first?size=15000{head}\r\nPOST /second{head}Content-Length: no number\r\n\r\n" + "x" * 4_000_000)
        assert len(client.read_response().body) == 15000
        assert client.read_response().status == 400


def test_a_request_in_single_bytes(client):
    for byte in b"POST /slow HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n\r\nabc":
        client.send(bytes([byte]))
    assert client.read_response("POST").json()["body"] == "abc"


# Responses without a body.


def test_head_keeps_the_length_and_has_no_body(client):
    response = client.request("HEAD", "/?size=12345")
    assert response.header("content-length") == "12345"
    assert client.get("/after").json()["target"] == "/after"


def test_head_of_a_chunked_resource(client):
    response = client.request("HEAD", "/?size=12345&chunked")
    assert response.status == 200
    assert client.get("/after").json()["target"] == "/after"


@pytest.mark.parametrize("status", [204, 304])
def test_bodiless_statuses(client, status):
    response = client.get(f"/?status={status}")
    assert response.status == status
    assert response.all("transfer-encoding") == []
    if status == 204:
        assert response.all("content-length") == []
    assert client.get("/after").status == 200


def test_304_keeps_its_content_length(pillion, raw_upstream, connect):
    upstream = raw_upstream(reply(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: \"a\"\r\n\r\n"))
    client = connect(pillion(http_config(upstream.address)).address())
    for _ in range(2):
        response = client.get("/")
        assert (response.status, response.header("etag")) == (304, '"a"')


def test_empty_bodies(client):
    assert client.get("/?size=0").body == b""
    assert client.get("/?size=0&chunked").body == b""
    account = client.request("POST", "/", body=b"").json()
    assert (account["length"], header(account, "content-length")) == (0, "0")


def test_get_without_body_gets_no_framing(client):
    account = client.get("/").json()
    assert headers(account, "content-length") == [] and headers(account, "transfer-encoding") == []


def test_get_with_a_body(client):
    assert client.request("GET", "/", body=b"odd but allowed").json()["body"] == "odd but allowed"


# Framing of bodies.


@pytest.mark.parametrize("switch, framing", [("", "length"), ("&chunked", "chunked"), ("&eof", "chunked")])
@pytest.mark.parametrize("size", [1, 1000, 65536, 1_000_001])
def test_response_bodies_pass_whole(client, switch, framing, size):
    response = client.get(f"/?size={size}{switch}")
    assert len(response.body) == size
    assert hashlib.sha256(response.body).digest() == hashlib.sha256((bytes(range(256)) * 4096)[:size]).digest()
    assert response.framing == framing
    assert client.get("/after").status == 200


@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 1_000_001])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_request_bodies_pass_whole_in_the_same_framing(client, framing, size):
    body = (bytes(range(256)) * 4096)[:size]
    if framing == "length":
        response = client.request("POST", "/", body=body)
    else:
        client.send_request("POST", "/", {"Transfer-Encoding": "chunked"})
        pieces = [body[start:start + 10_000] for start in range(0, size, 10_000)]
        client.send(chunked(*pieces))
        response = client.read_response("POST")
    account = response.json()
    assert account["sha256"] == hashlib.sha256(body).hexdigest()
    assert account["framing"] == framing


def test_a_close_delimited_response_to_an_http_1_0_client_is_close_delimited(proxy, connect):
    client = connect(proxy.address())
    response = client.request("GET", "/?size=1000&eof", version="HTTP/1.0")
    assert response.framing == "close" and len(response.body) == 1000


def test_pieces_are_passed_on_as_they_come(client, echo):
    """Streaming: the first part of the body arrives while the upstream holds the second back."""
    client.send_request("GET", "/?size=200000&midgate=g")
    response = client.frame(client.read_head(), response_to="GET")
    first = client.recv_exact(65536)
    assert first == bytes(range(256)) * 256
    echo.open_gate("g")
    client.recv_exact(200_000 - 65536)
    assert response.header("content-length") == "200000"


def test_request_pieces_are_passed_on_as_they_come(pillion, raw_upstream, connect):
    upstream = raw_upstream()
    client = connect(pillion(http_config(upstream.address)).address())
    client.send_request("POST", "/", {"Transfer-Encoding": "chunked"}).send(b"5\r\nfirst\r\n")
    connection = upstream.connection()
    connection.wait_received(lambda data: b"5\r\nfirst\r\n" in data)
    client.send(b"6\r\nsecond\r\n")
    connection.wait_received(lambda data: b"6\r\nsecond\r\n" in data)
    assert not connection.received.endswith(b"0\r\n\r\n")


# Trailers.


def test_response_trailers_pass_with_their_announcement(client):
    response = client.get("/?trailers", {"TE": "trailers"})
    assert response.framing == "chunked"
    assert [name.lower() for name in response.tokens("trailer")] == ["x-checksum", "x-case"]
    assert dict((name.lower(), value) for name, value in response.trailers) == {"x-checksum": "abc", "x-case": "Kept"}


def test_request_trailers_pass_with_their_announcement(client):
    client.send_request("POST", "/", {"Transfer-Encoding": "chunked", "Trailer": "X-Sum, x-other"})
    client.send(chunked(b"body", trailers=(("X-Sum", "1"), ("x-other", "2"))))
    account = client.read_response("POST").json()
    assert header(account, "trailer") == "X-Sum, x-other"
    assert {name.lower(): value for name, value in account["trailers"]} == {"x-sum": "1", "x-other": "2"}


def test_trailers_without_an_announcement(client):
    client.send_request("POST", "/", {"Transfer-Encoding": "chunked"})
    client.send(chunked(b"body", trailers=(("X-Sum", "1"),)))
    account = client.read_response("POST").json()
    assert [(name.lower(), value) for name, value in account["trailers"]] == [("x-sum", "1")]


def test_te_trailers_goes_on_and_other_te_does_not(client):
    assert headers(client.get("/", {"TE": "trailers", "Connection": "TE"}).json(), "te") == ["trailers"]
    account = client.get("/", {"TE": "gzip;q=0.5, trailers", "Connection": "TE"}).json()
    assert headers(account, "te") in ([], ["trailers"])
    assert headers(client.get("/", {"TE": "deflate", "Connection": "TE"}).json(), "te") == []


# The connection to the client stays what it was when the upstream is replaced.


def test_an_upstream_that_closes_an_idle_connection_is_not_an_error(pillion, raw_upstream, connect):
    """The pool tests a connection before it uses it."""
    upstream = raw_upstream(reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", requests=1))
    client = connect(pillion(http_config(upstream.address)).address())
    for number in range(5):
        assert client.get("/").status == 200
        upstream.connection(number).wait_finished()
    assert len(upstream.connections) == 5


def test_options_star(proxy, echo):
    response = fetch(proxy.address(), "OPTIONS", "*")
    assert response.status in (200, 400)
    if response.status == 200:
        assert response.json()["target"] == "*"


def test_a_response_that_is_cut_is_cut_for_the_client_too(proxy):
    for path in ("/?size=1000&cut=500", "/?size=1000&chunked&cut=500"):
        with pytest.raises(Closed):
            fetch(proxy.address(), "GET", path)
    proxy.access(reason="response_incomplete")
