"""`100-continue`, interim responses, and answers that come before the request has ended."""

import pytest
from support.client import chunked
from support.config import http_config
from support.wait import eventually
from support.wire import Closed

HEAD = {"Expect": "100-continue", "Content-Length": "5"}
DONE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"


@pytest.fixture
def talk(pillion, raw_upstream, connect):
    """`talk(script)`: a client connected through Pillion to an upstream that follows the script."""

    def start(script, **options):
        upstream = raw_upstream(script)
        proxy = pillion(http_config(upstream.address, **options))
        return connect(proxy.address()), upstream, proxy

    return start


def test_the_body_waits_for_the_upstreams_100(talk):
    def script(connection):
        request = connection.frame(connection.read_head())
        assert request.tokens("expect") == ["100-continue"]
        assert not connection.buffer, "the body came before it was asked for"
        connection.send("HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.read_body(request).body == b"hello"
        connection.send(DONE)

    client, _, _ = talk(script)
    client.send_request("POST", "/", HEAD)
    assert client.read_response("POST").status == 100
    client.send("hello")
    response = client.read_response("POST")
    assert (response.status, response.body) == (200, b"done")


def test_a_final_status_instead_of_100(talk):
    """The client is told to keep its body, and the upstream never sees it."""

    def script(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")

    client, upstream, _ = talk(script)
    client.send_request("POST", "/", HEAD)
    assert client.read_response("POST").status == 417
    # The connection can go on only if the body is sent after all; closing it is the other way.
    try:
        client.send("hello")
    except ConnectionError:
        pass
    client.half_close()
    client.recv_all()
    assert b"hello" not in upstream.connection().received


def test_without_an_answer_the_body_goes_anyway(talk):
    """An upstream that knows no 100: after a second the client is asked for its body."""

    def script(connection):
        request = connection.read_body(connection.frame(connection.read_head()))
        assert request.body == b"hello"
        connection.send(DONE)

    client, _, _ = talk(script)
    client.send_request("POST", "/", HEAD)
    assert client.read_response("POST").status == 100
    client.send("hello")
    assert client.read_response("POST").status == 200


def test_a_late_100_is_not_seen_twice(talk):
    def script(connection):
        request = connection.read_body(connection.frame(connection.read_head()))
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + DONE)
        assert request.body == b"hello"

    client, _, _ = talk(script)
    client.send_request("POST", "/", HEAD)
    assert client.read_response("POST").status == 100
    client.send("hello")
    assert client.read_response("POST").status == 200


def test_two_100s_are_one(talk):
    def script(connection):
        request = connection.frame(connection.read_head())
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        connection.read_body(request)
        connection.send(DONE)

    client, _, _ = talk(script)
    client.send_request("POST", "/", HEAD)
    assert client.read_response("POST").status == 100
    client.send("hello")
    assert client.read_response("POST").status == 200


def test_a_client_that_does_not_wait(talk):
    def script(connection):
        request = connection.frame(connection.read_head())
        assert not connection.buffer, "the body came before it was asked for"
        connection.send("HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.read_body(request).body == b"hello"
        connection.send(DONE)

    client, _, _ = talk(script)
    client.send_request("POST", "/", HEAD).send("hello")
    response = client.read_response("POST")
    if response.status == 100:
        response = client.read_response("POST")
    assert response.status == 200


def test_chunked_body_behind_a_100(talk):
    def script(connection):
        request = connection.frame(connection.read_head())
        connection.send("HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.read_body(request).body == b"hello"
        connection.send(DONE)

    client, _, _ = talk(script)
    client.send_request("POST", "/", {"Expect": "100-Continue", "Transfer-Encoding": "chunked"})
    assert client.read_response("POST").status == 100
    client.send(chunked(b"hello"))
    assert client.read_response("POST").status == 200


def test_no_100_to_an_http_1_0_client(talk):
    def script(connection):
        connection.read_request()
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" + DONE)

    client, _, _ = talk(script)
    client.send_request("POST", "/", HEAD, version="HTTP/1.0").send("hello")
    assert client.read_response("POST").status == 200


def test_expect_without_a_body(talk):
    def script(connection):
        connection.read_request()
        connection.send(DONE)

    client, _, _ = talk(script)
    client.send_request("GET", "/", {"Expect": "100-continue"})
    response = client.read_response()
    assert response.status in (200, 417), response


@pytest.mark.parametrize("interim", [
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
])
def test_other_interim_responses_are_not_forwarded(talk, interim):
    def script(connection):
        for _ in range(2):
            connection.read_request()
            connection.send(interim + DONE)

    client, _, _ = talk(script)
    for _ in range(2):
        response = client.get("/")
        assert (response.status, response.body) == (200, b"done")


def test_endless_interim_responses_end_with_the_request_timeout(talk):
    def script(connection):
        connection.read_request()
        while True:
            connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")

    client, _, proxy = talk(script, timeouts={"request": "500ms"})
    response = client.get("/")
    assert response.status in (502, 504), response
    assert response.reason in ("request_timeout", "upstream_protocol", "upstream_head_too_large")


# Early answers.


def test_an_early_response_ends_the_upload(talk):
    def script(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")

    client, upstream, proxy = talk(script)
    client.send_request("POST", "/up", {"Transfer-Encoding": "chunked"}).send(b"5\r\nhello\r\n")
    response = client.read_response("POST")
    assert (response.status, response.body) == (413, b"big")
    data = upstream.connection().wait_finished()
    assert not data.endswith(b"0\r\n\r\n"), "the upload was completed though nobody sent its end"
    assert proxy.access(path="/up")["status"] == 413
    # The rest of the upload has nowhere to go: it is read and thrown away, or the connection ends.
    try:
        client.send(b"0\r\n\r\n").send_request("GET", "/next")
        response = client.read_response()
        assert response.status == 413
    except (Closed, ConnectionError):
        pass


def test_an_early_response_during_a_large_upload(talk):
    """The client goes on sending for a while; it must still get the answer, not a reset."""

    def script(connection):
        connection.read_head()
        connection.recv_exact(100_000)
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    client, _, _ = talk(script)
    client.send_request("POST", "/", {"Content-Length": str(10 * 1024 * 1024)})
    try:
        for _ in range(20):
            client.send(b"a" * 65536)
    except ConnectionError:
        pass
    assert client.read_response("POST").status == 413


def test_a_response_may_start_while_the_request_goes_on(talk):
    """Both directions stream: an echo service answers each piece as it comes."""

    def script(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            piece = connection.recv_exact(len(b"3\r\nabc\r\n"))
            connection.send(piece)
        assert connection.recv_exact(5) == b"0\r\n\r\n"
        connection.send(b"0\r\n\r\n")

    client, _, _ = talk(script)
    client.send_request("POST", "/", {"Transfer-Encoding": "chunked"})
    client.send(b"3\r\nabc\r\n")
    response = client.frame(client.read_head(), response_to="POST")
    pieces = client.body(response)
    assert next(pieces) == b"abc"
    for _ in range(2):
        client.send(b"3\r\nabc\r\n")
        assert next(pieces) == b"abc"
    client.send(b"0\r\n\r\n")
    assert list(pieces) == []


def test_a_client_that_leaves_ends_the_upstream_request(talk):
    client, upstream, proxy = talk(None)
    client.send_request("GET", "/gone")
    upstream.connection().wait_received(lambda data: b"/gone" in data)
    client.reset()
    upstream.connection().wait_finished()
    assert proxy.access(path="/gone")["reason"] == "client_closed"
    eventually(lambda: proxy.metrics().reasons().get("client_closed", 0) >= 1)
