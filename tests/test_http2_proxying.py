"""What passes through, in every combination of HTTP/1.1 and HTTP/2 on the two sides."""

import hashlib
import random

import pytest
from support.config import http_config
from support.exchange import IDS, PROTOCOL, VERSIONS, Exchange
from support.h2raw import Code
from support.reactor import Listener

both = pytest.mark.parametrize("versions", VERSIONS, ids=IDS)


@pytest.fixture
def exchange(pillion, versions):
    """An exchange through a fresh proxy."""
    client, upstream = versions
    with Listener() as listener:
        proxy = pillion(http_config(listener.address, upstream={"protocol": PROTOCOL[upstream]}))
        with Exchange(proxy.address(), listener, client, upstream) as x:
            x.proxy = proxy
            yield x


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def log_line(x, **fields):
    return x.proxy.access_log.find(**fields)


@both
def test_a_request_and_its_response(exchange):
    x = exchange
    x.ask("GET", "/some/path?query=1", [("x-client", "a"), ("accept", "*/*")])
    x.arrive().arrived_whole()
    assert (x.server.method, x.server.path, x.server.authority) == ("GET", "/some/path?query=1", "pillion.test")
    assert x.request_header("x-client") == "a" and not x.request_body
    x.answer(203, [("x-upstream", "b")], body=True)
    x.reply(b"hello")
    x.end()
    x.done()
    assert (x.status, x.body, x.header("x-upstream")) == (203, b"hello", "b")
    line = log_line(x, status=203)
    assert (line["method"], line["path"], line["bytes_sent"]) == ("GET", "/some/path?query=1", 5)


@both
def test_large_bodies_both_ways(exchange):
    x = exchange
    up, down = noise(3 << 20), noise(5 << 20, 2)
    x.ask("POST", "/", body=True)
    x.arrive()
    x.send(up)
    x.finish()
    x.arrived_whole()
    assert hashlib.sha256(x.request_body).digest() == hashlib.sha256(up).digest()
    x.answer(200, body=True)
    x.reply(down)
    x.end()
    x.done()
    assert hashlib.sha256(x.body).digest() == hashlib.sha256(down).digest()


@both
def test_streams_both_ways_at_once(exchange):
    """Each piece arrives before the next one is sent, in both directions of one exchange."""
    x = exchange
    x.ask("POST", "/", body=True)
    x.arrive()
    x.answer(200, body=True)
    x.got_head()
    sent = b""
    for number in range(20):
        piece = b"piece %d;" % number
        sent += piece
        x.send(piece)
        x.arrived(len(sent))
        x.reply(piece.upper())
        x.got(len(sent))
    x.finish()
    x.arrived_whole()
    x.end()
    x.done()
    assert x.request_body == sent and x.body == sent.upper()


@both
def test_content_length_is_kept(exchange):
    x = exchange
    x.ask("PUT", "/", [("content-length", "6")], body=True)
    x.arrive()
    x.send(b"abcdef")
    x.finish()
    x.arrived_whole()
    assert x.request_header("content-length") == "6" and not x.request_header("transfer-encoding")
    x.answer(200, [("content-length", "3")], body=True)
    x.reply(b"xyz")
    x.end()
    x.done()
    assert x.header("content-length") == "3" and not x.header("transfer-encoding") and x.body == b"xyz"


@both
@pytest.mark.parametrize("with_body", [True, False], ids=["body", "no-body"])
def test_trailers_of_the_request(exchange, with_body):
    x = exchange
    x.ask("POST", "/", [("trailer", "x-sum"), ("te", "trailers")], body=True)
    x.arrive()
    if with_body:
        x.send(b"body")
    x.finish([("x-sum", "42")])
    x.arrived_whole()
    assert x.request_header("trailer") == "x-sum"
    assert x.request_trailers == {"x-sum": "42"} and x.request_body == (b"body" if with_body else b"")
    x.answer(200)
    assert x.done().status == 200


@both
@pytest.mark.parametrize("with_body", [True, False], ids=["body", "no-body"])
def test_trailers_of_the_response(exchange, with_body):
    x = exchange
    if x.versions[0] == "h1":
        x.ask("GET", "/", [("te", "trailers"), ("connection", "te")])
    else:
        x.ask("GET", "/", [("te", "trailers")])
    x.arrive()
    assert x.request_header("te") == "trailers"
    x.answer(200, [("trailer", "x-sum")], body=True)
    if with_body:
        x.reply(b"body")
    x.end([("x-sum", "42")])
    x.done()
    assert x.header("trailer") == "x-sum"
    assert x.trailers == {"x-sum": "42"} and x.body == (b"body" if with_body else b"")


@pytest.mark.parametrize("versions", [("h2", "h2"), ("h2", "h1"), ("h1", "h2")],
                         ids=["h2-to-h2", "h2-to-h1", "h1-to-h2"])
def test_trailers_follow_a_body_of_known_length(exchange):
    """HTTP/1.1 has none behind a length: announced ones turn the body into a chunked one."""
    x = exchange
    if x.versions[0] == "h2":
        x.ask("POST", "/", [("content-length", "4"), ("trailer", "x-sum")], body=True)
        x.arrive()
        x.send(b"body")
        x.finish([("x-sum", "1")])
    else:
        x.ask("GET", "/")
        x.arrive()
    x.arrived_whole()
    if x.versions[0] == "h2":
        assert x.request_trailers == {"x-sum": "1"} and x.request_body == b"body"
    if x.versions[1] == "h2":
        x.answer(200, [("content-length", "4"), ("trailer", "x-sum")], body=True)
        x.reply(b"ydob")
        x.end([("x-sum", "2")])
        x.done()
        assert x.trailers == {"x-sum": "2"} and x.body == b"ydob"
    else:
        x.answer(200)
        assert x.done().status == 200


@pytest.mark.parametrize("versions", [("h2", "h2")], ids=["h2-to-h2"])
def test_trailers_need_no_announcement_between_two_of_http2(exchange):
    x = exchange
    x.ask("POST", "/", [("content-length", "4")], body=True)
    x.arrive()
    x.send(b"body")
    x.finish([("x-sum", "1")])
    x.arrived_whole()
    assert x.request_trailers == {"x-sum": "1"} and x.request_body == b"body"
    x.answer(200, [("content-length", "4")], body=True)
    x.reply(b"ydob")
    x.end([("x-sum", "2")])
    x.done()
    assert x.trailers == {"x-sum": "2"} and x.body == b"ydob"


@pytest.mark.parametrize("versions", [("h2", "h2"), ("h1", "h2")], ids=["h2-to-h2", "h1-to-h2"])
def test_trailers_of_the_request_need_no_announcement_towards_http2(exchange):
    x = exchange
    x.ask("POST", "/", body=True)
    x.arrive()
    x.send(b"body")
    x.finish([("x-sum", "42")])
    x.arrived_whole()
    assert x.request_trailers == {"x-sum": "42"}


@both
def test_fields_that_may_not_be_trailers_are_not(exchange):
    """RFC 9110 section 6.5.1: framing and routing fields in trailers are dropped or refused."""
    x = exchange
    x.ask("POST", "/", [("trailer", "content-length, host, x-ok")], body=True)
    x.arrive()
    x.send(b"body")
    x.finish([("content-length", "100"), ("host", "other.test"), ("x-ok", "1")])
    x.until(lambda: x.server.complete or x.server.cancelled or x.client.broken or x.client.status, "an end")
    if x.server.complete:
        assert not {"content-length", "host"} & set(x.request_trailers)


@both
def test_responses_without_content(exchange):
    x = exchange
    for method, status, headers in [
        ("HEAD", 200, [("content-length", "1234")]),
        ("GET", 204, []),
        ("GET", 304, [("etag", '"a"')]),
        ("HEAD", 404, []),
    ]:
        x.ask(method)
        x.arrive()
        assert x.server.method == method
        x.answer(status, headers)
        x.done()
        assert (x.status, x.body) == (status, b"")
        if headers:
            assert x.header(headers[0][0]) == headers[0][1]
        if status == 204:
            assert not x.header("content-length") and not x.header("transfer-encoding")


@both
def test_an_early_response_ends_the_upload(exchange):
    """The client has the whole response while its body is far from complete."""
    x = exchange
    x.ask("POST", "/", body=True)
    x.send(b"the beginning")
    x.arrive()
    x.arrived(len(b"the beginning"))
    x.answer(413, body=True)
    x.reply(b"too much")
    x.end()
    x.done()
    assert (x.status, x.body) == (413, b"too much")
    # The upload has an end: HTTP/2 is told to stop, an HTTP/1.1 connection is closed.
    if x.versions[0] == "h2":
        x.until(lambda: x.client.stream.reset is not None, "RST_STREAM")
        assert x.client.stream.reset in (Code.NO_ERROR, Code.CANCEL)
    else:
        x.until(lambda: x.client.peer.closed, "the connection's end")
    x.until(lambda: x.server.cancelled, "the end of the upload at the upstream")
    log_line(x, status=413)


@both
def test_continue_is_asked_for_and_passed_on(exchange):
    x = exchange
    x.ask("POST", "/", [("expect", "100-continue"), ("content-length", "4")], body=True)
    x.arrive()
    assert x.request_header("expect") == "100-continue"
    x.server.interim(100)
    x.until(lambda: 100 in x.client.interim, "100 (Continue)")
    x.send(b"body")
    x.finish()
    x.arrived_whole()
    assert x.request_body == b"body"
    x.answer(201)
    assert x.done().status == 201


@both
def test_a_final_status_instead_of_continue(exchange):
    x = exchange
    x.ask("POST", "/", [("expect", "100-continue"), ("content-length", "4")], body=True)
    x.arrive()
    x.answer(417)
    assert x.done().status == 417
    assert not x.client.interim and not x.request_body


@both
def test_a_body_does_not_wait_for_continue_for_ever(exchange):
    """RFC 9110 section 10.1.1: after a second the body goes on."""
    x = exchange
    x.ask("POST", "/", [("expect", "100-continue"), ("content-length", "4")], body=True)
    x.arrive()
    x.send(b"body")
    x.finish()
    x.arrived_whole()
    x.answer(200)
    assert x.done().status == 200


@both
def test_other_interim_responses_are_not_forwarded(exchange):
    """103 and 102 from the upstream are dropped; the final response is what counts."""
    x = exchange
    x.ask()
    x.arrive()
    x.server.interim(103)
    x.server.interim(102)
    x.answer(200)
    assert x.done().status == 200
    assert not x.client.interim


@both
def test_a_cancelled_request_is_cancelled_at_the_upstream(exchange):
    x = exchange
    x.ask("GET", "/slow")
    x.arrive()
    x.client.cancel()
    x.until(lambda: x.server.cancelled, "the cancellation at the upstream")
    if x.versions[1] == "h2":
        assert x.server.stream.reset == Code.CANCEL
    log_line(x, path="/slow", reason="client_closed")


@both
def test_a_cancelled_upload_is_never_completed(exchange):
    x = exchange
    x.ask("POST", "/", body=True)
    x.arrive()
    x.send(b"half of it")
    x.arrived(10)
    x.client.cancel()
    x.until(lambda: x.server.cancelled, "the cancellation at the upstream")
    assert not x.server.complete


@both
def test_a_cancelled_download_is_cancelled_at_the_upstream(exchange):
    x = exchange
    x.ask()
    x.arrive()
    x.answer(200, body=True)
    x.reply(b"half of it")
    x.got(10)
    x.client.cancel()
    x.until(lambda: x.server.cancelled, "the cancellation at the upstream")


@both
def test_an_upstream_that_breaks_off_before_the_head(exchange):
    """Under a request that must not be sent again."""
    x = exchange
    x.ask("POST")
    x.arrive()
    x.server.abort()
    x.done()
    assert x.status in (502, 503)
    reason = x.header("x-pillion-reason")
    assert reason in ("upstream_reset", "upstream_closed")
    assert x.header("proxy-status").startswith("pillion; error=connection_terminated")
    assert x.header("server") == "pillion" and x.body.endswith(b"\n")
    log_line(x, reason=reason)


@both
def test_an_upstream_that_breaks_off_inside_the_body(exchange):
    """The client must see that the response is not whole."""
    x = exchange
    x.ask()
    x.arrive()
    x.answer(200, body=True)
    x.reply(b"half of it")
    x.got(10)
    x.server.abort()
    x.until(lambda: x.client.broken or x.client.complete, "the end")
    assert x.client.broken
    if x.versions[0] == "h2":
        assert x.client.stream.reset not in (None, Code.NO_ERROR)
    log_line(x, status=200, reason="response_incomplete")


@both
def test_hop_by_hop_fields_do_not_pass(exchange):
    """RFC 9110 section 7.6.1, in both directions; HTTP/2 ends forbid them altogether."""
    x = exchange
    h1_client = x.versions[0] == "h1"
    hop = [("connection", "x-hop"), ("connection", "keep-alive, x-two"), ("x-hop", "1"), ("x-two", "1"),
           ("keep-alive", "timeout=5"), ("proxy-connection", "keep-alive")]
    x.ask("GET", "/", [*(hop if h1_client else []), ("x-end", "1")])
    x.arrive()
    names = {name for name, _ in x.request_headers}
    assert not names & {"x-hop", "x-two", "keep-alive", "proxy-connection", "upgrade"} and "x-end" in names
    h1_server = x.versions[1] == "h1"
    x.answer(200, [*(hop if h1_server else []), ("x-end", "2")])
    x.done()
    names = {name for name, _ in x.headers}
    assert not names & {"x-hop", "x-two", "keep-alive", "proxy-connection"} and "x-end" in names


@both
def test_many_requests_on_one_connection(exchange):
    x = exchange
    for number in range(30):
        x.ask("POST", f"/{number}", body=True)
        x.send(b"%d" % number)
        x.finish()
        x.arrive().arrived_whole()
        assert x.server.path == f"/{number}"
        x.answer(200, body=True)
        x.reply(x.request_body)
        x.end()
        assert x.done().body == b"%d" % number
    assert not x.listener.pending(), "one connection was enough"


@pytest.mark.parametrize("versions", [("h1", "h2")], ids=["h1-to-h2"])
def test_http1_request_becomes_http2(exchange):
    """Host becomes :authority; the case of names is lost, cookies and the rest are kept."""
    x = exchange
    x.ask("DELETE", "/a?b", [("X-Upper", "1"), ("Cookie", "a=b; c=d")])
    x.arrive()
    pseudo = [f for f in x.server.stream.headers if f[0].startswith(":")]
    assert dict(pseudo) == {":method": "DELETE", ":scheme": "http", ":authority": "pillion.test", ":path": "/a?b"}
    assert x.server.stream.headers[: len(pseudo)] == pseudo
    assert x.request_header("x-upper") == "1"
    assert "; ".join(v for k, v in x.request_headers if k == "cookie") == "a=b; c=d"
    assert x.request_header("host") in (None, "pillion.test")
    x.answer(200)
    x.done()


@pytest.mark.parametrize("versions", [("h1", "h2")], ids=["h1-to-h2"])
def test_options_of_the_server_becomes_http2(exchange):
    x = exchange
    x.ask("OPTIONS", "*")
    x.arrive()
    assert (x.server.method, x.server.path) == ("OPTIONS", "*")
    x.answer(200)
    x.done()
