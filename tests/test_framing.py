"""Strict framing (RFC 9112): what could be read in two ways reaches no upstream.

Each head that is refused is followed by a whole second request on the same connection. It must be
answered by nobody: had it reached the upstream, it would have been smuggled.
"""

import pytest
from support.client import RawClient
from support.config import http_config
from support.upstream import OK, RawUpstream
from support.wait import eventually
from support.wire import Closed

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


class Recorder(RawUpstream):
    """Answers every request with 200 and keeps the requests."""

    def __init__(self):
        self.seen = []
        super().__init__(self._record)

    def _record(self, connection):
        while True:
            start = len(connection.received) - len(connection.buffer)
            message = connection.read_request()
            end = len(connection.received) - len(connection.buffer)
            self.seen.append((message, bytes(connection.received[start:end])))
            connection.send(OK)


@pytest.fixture(scope="module")
def recorder():
    with Recorder() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(shared_pillion, recorder):
    return shared_pillion(http_config(recorder.address))


def exchange(proxy, data: bytes):
    """Sends the bytes; the response (None where the connection just ended) and all that follows."""
    with RawClient(proxy.address()) as client:
        try:
            client.send(data)
        except ConnectionError:
            pass
        try:
            response = client.read_response()
        except Closed:
            return None, b""
        return response, client.recv_all()


def assert_nothing_reached(proxy, recorder, seen: int, received: int):
    """A request sent afterwards is the only thing that the upstream has got since."""
    with RawClient(proxy.address()) as client:
        assert client.get("/fence").status == 200
    messages = recorder.seen[seen:]
    assert [message.target for message, _ in messages] == ["/fence"]
    assert len(recorder.received) - received == len(messages[0][1])


def get(*lines: str | bytes, start: bytes = b"GET /case HTTP/1.1", host: bool = True) -> bytes:
    fields = [b"Host: app.test"] if host else []
    fields += [line.encode("latin-1") if isinstance(line, str) else line for line in lines]
    return start + b"\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def post(*lines: str | bytes, body: bytes = b"hello", start: bytes = b"POST /case HTTP/1.1") -> bytes:
    return get(*lines, start=start) + body


# The answers that say what is wrong. Where a case needs another, it is written beside it.
BAD = (400,)
UNSUPPORTED_CODING = (400, 501)

REFUSED_HEADS = {
    # Lengths.
    "lengths-differ": (post("Content-Length: 5", "Content-Length: 6"), BAD),
    "lengths-differ-in-a-list": (post("Content-Length: 5, 6"), BAD),
    "length-plus": (post("Content-Length: +5"), BAD),
    "length-minus": (post("Content-Length: -5"), BAD),
    "length-hex": (post("Content-Length: 0x5"), BAD),
    "length-fraction": (post("Content-Length: 5.0"), BAD),
    "length-empty": (post("Content-Length:"), BAD),
    "length-words": (post("Content-Length: five"), BAD),
    "length-spaced": (post("Content-Length: 5 5"), BAD),
    "length-overflow": (post("Content-Length: 99999999999999999999999"), (400, 413)),
    "length-2^64+5": (post("Content-Length: 18446744073709551621"), (400, 413)),
    "length-arabic-digits": (post(b"Content-Length: \xd9\xa5"), BAD),
    # Transfer codings: one `chunked` or nothing.
    "te-gzip-chunked": (post("Transfer-Encoding: gzip, chunked", body=CHUNKS), UNSUPPORTED_CODING),
    "te-chunked-gzip": (post("Transfer-Encoding: chunked, gzip", body=CHUNKS), UNSUPPORTED_CODING),
    "te-chunked-chunked": (post("Transfer-Encoding: chunked, chunked", body=CHUNKS), BAD),
    "te-chunked-twice": (post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKS), BAD),
    "te-identity": (post("Transfer-Encoding: identity", body=CHUNKS), UNSUPPORTED_CODING),
    "te-identity-chunked": (
        post("Transfer-Encoding: identity", "Transfer-Encoding: chunked", body=CHUNKS), UNSUPPORTED_CODING),
    "te-chunked-identity": (
        post("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=CHUNKS), UNSUPPORTED_CODING),
    "te-gzip": (post("Transfer-Encoding: gzip", "Content-Length: 5"), UNSUPPORTED_CODING),
    "te-xchunked": (post("Transfer-Encoding: xchunked", body=CHUNKS), UNSUPPORTED_CODING),
    "te-chunkedx": (post("Transfer-Encoding: chunkedx", body=CHUNKS), UNSUPPORTED_CODING),
    "te-quoted": (post('Transfer-Encoding: "chunked"', body=CHUNKS), UNSUPPORTED_CODING),
    "te-parameter": (post("Transfer-Encoding: chunked;q=1", body=CHUNKS), UNSUPPORTED_CODING),
    "te-empty": (post("Transfer-Encoding:", "Content-Length: 5"), UNSUPPORTED_CODING),
    "te-vertical-tab": (post(b"Transfer-Encoding: \x0bchunked", body=CHUNKS), UNSUPPORTED_CODING),
    "te-form-feed": (post(b"Transfer-Encoding: chunked\x0c", body=CHUNKS), UNSUPPORTED_CODING),
    "te-nbsp": (post(b"Transfer-Encoding: chunked\xa0", body=CHUNKS), UNSUPPORTED_CODING),
    "te-nul": (post(b"Transfer-Encoding: chunked\x00", body=CHUNKS), BAD),
    "te-folded": (post(b"Transfer-Encoding:\r\n chunked", body=CHUNKS), BAD),
    "te-lf-hidden": (post(b"X: a\nTransfer-Encoding: chunked", "Content-Length: 15", body=CHUNKS), BAD),
    "te-cr-hidden": (post(b"X: a\rTransfer-Encoding: chunked", "Content-Length: 15", body=CHUNKS), BAD),
    "te-in-http-1.0": (
        post("Transfer-Encoding: chunked", body=CHUNKS, start=b"POST /case HTTP/1.0"), UNSUPPORTED_CODING),
    "te-and-length-in-http-1.0": (
        post("Transfer-Encoding: chunked", "Content-Length: 15", body=CHUNKS, start=b"POST /case HTTP/1.0"),
        UNSUPPORTED_CODING),
    # Lines.
    "space-before-colon": (post("Content-Length : 5"), BAD),
    "tab-before-colon": (post("Transfer-Encoding\t: chunked", body=CHUNKS), BAD),
    "leading-space-on-the-first-field": (get(" Host: app.test", host=False), BAD),
    "leading-space-on-a-field": (post(" Content-Length: 5"), BAD),
    "obs-fold": (get(b"X-Folded: a\r\n b"), BAD),
    "obs-fold-tab": (get(b"X-Folded: a\r\n\tb"), BAD),
    "bare-cr-in-value": (get(b"X-Bare: a\rb"), BAD),
    "bare-cr-at-the-end": (get(b"X-Bare: a\r"), BAD),
    "bare-lf-ends-a-field": (b"GET /case HTTP/1.1\r\nHost: app.test\nX: y\r\n\r\n", BAD),
    "bare-lf-ends-the-start-line": (b"GET /case HTTP/1.1\nHost: app.test\r\n\r\n", BAD),
    "bare-lf-everywhere": (b"GET /case HTTP/1.1\nHost: app.test\n\n", BAD),
    "bare-lf-ends-the-head": (b"GET /case HTTP/1.1\r\nHost: app.test\r\n\n", BAD),
    "nul-in-value": (get(b"X-Nul: a\x00b"), BAD),
    "nul-in-name": (get(b"X-N\x00ul: a"), BAD),
    "no-colon": (get("Nonsense"), BAD),
    "empty-name": (get(": value"), BAD),
    "bad-name": (get("Bad(Name): value"), BAD),
    "name-not-ascii": (get(b"X-\xff: value"), BAD),
    "space-in-name": (get("Bad Name: value"), BAD),
    # Host.
    "host-missing": (get(host=False), BAD),
    "host-twice": (get("Host: other.test"), BAD),
    "host-twice-the-same": (get("Host: app.test"), BAD),
    "host-with-a-space": (get("Host: app test", host=False), BAD),
    "host-list": (get("Host: app.test, other.test", host=False), BAD),
    "host-with-a-path": (get("Host: app.test/x", host=False), BAD),
    "host-with-userinfo": (get("Host: user@app.test", host=False), BAD),
    "host-with-a-bad-port": (get("Host: app.test:http", host=False), BAD),
    "host-with-a-huge-port": (get("Host: app.test:99999", host=False), BAD),
    "host-open-bracket": (get("Host: [::1", host=False), BAD),
    "host-with-a-scheme": (get("Host: http://app.test", host=False), BAD),
    "host-with-a-query": (get("Host: app.test?x", host=False), BAD),
    "host-with-a-hash": (get("Host: app.test#x", host=False), BAD),
    # The request line.
    "line-space-in-target": (get(start=b"GET /a b HTTP/1.1"), BAD),
    "line-two-spaces": (get(start=b"GET  /case HTTP/1.1"), BAD),
    "line-tabs": (get(start=b"GET\t/case\tHTTP/1.1"), BAD),
    "line-trailing-space": (get(start=b"GET /case HTTP/1.1 "), BAD),
    "line-leading-space": (get(start=b" GET /case HTTP/1.1"), BAD),
    "line-without-version": (get(start=b"GET /case"), BAD),
    "line-lower-case-version": (get(start=b"GET /case http/1.1"), (400, 505)),
    "line-version-2.0": (get(start=b"GET /case HTTP/2.0"), (400, 505)),
    "line-version-0.9": (get(start=b"GET /case HTTP/0.9"), (400, 505)),
    "line-version-1": (get(start=b"GET /case HTTP/1"), (400, 505)),
    "line-version-1.10": (get(start=b"GET /case HTTP/1.10"), (400, 505)),
    "line-version-HTTPS": (get(start=b"GET /case HTTPS/1.1"), (400, 505)),
    "line-nul": (get(start=b"GET /ca\x00se HTTP/1.1"), BAD),
    "line-control-character": (get(start=b"GET /ca\x01se HTTP/1.1"), BAD),
    "line-bare-cr": (get(start=b"GET /case\r HTTP/1.1"), BAD),
    "line-method-junk": (get(start=b"G<E>T /case HTTP/1.1"), BAD),
    "line-method-colon": (get(start=b"GET: /case HTTP/1.1"), BAD),
    "line-method-empty": (get(start=b" /case HTTP/1.1"), BAD),
    "line-target-without-slash": (get(start=b"GET case HTTP/1.1"), BAD),
    "line-target-authority": (get(start=b"GET app.test:80 HTTP/1.1"), BAD),
    "line-target-star": (get(start=b"GET * HTTP/1.1"), BAD),
    "line-target-userinfo": (get(start=b"GET http://user@app.test/case HTTP/1.1"), BAD),
    "line-target-no-host": (get(start=b"GET http:///case HTTP/1.1"), BAD),
    "line-random-bytes": (b"\x13\x37\x00\xff\xfe\r\n\r\n", BAD),
    "line-tls-hello": (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n", BAD),
}


@pytest.mark.parametrize("name", REFUSED_HEADS)
def test_an_ambiguous_head_is_refused(proxy, recorder, name):
    data, statuses = REFUSED_HEADS[name]
    seen, received = len(recorder.seen), len(recorder.received)
    response, rest = exchange(proxy, data + SMUGGLED)
    assert response is not None, "closed without an answer"
    assert response.status in statuses, response
    assert rest == b"", f"something came after the refusal: {rest!r}"
    assert "close" in response.tokens("connection"), response
    assert_nothing_reached(proxy, recorder, seen, received)


# RFC 9112 section 6.3 lets a proxy repair these; refusing them is right as well.
REPAIRABLE = {
    "length-and-te": post("Content-Length: 5", "Transfer-Encoding: chunked", body=CHUNKS),
    "te-and-length": post("Transfer-Encoding: chunked", "Content-Length: 5", body=CHUNKS),
    "length-too-long-and-te": post("Content-Length: 150", "Transfer-Encoding: chunked", body=CHUNKS),
    "same-length-twice": post("Content-Length: 5", "Content-Length: 5"),
    "same-length-in-a-list": post("Content-Length: 5, 5"),
    "te-empty-member": post("Transfer-Encoding: , chunked", body=CHUNKS),
    "absolute-form-other-host": post("Content-Length: 5", start=b"POST http://app2.test/case HTTP/1.1"),
    "fragment": post("Content-Length: 5", start=b"POST /case#fragment HTTP/1.1"),
    "version-1.2": post("Content-Length: 5", start=b"POST /case HTTP/1.2"),
}


@pytest.mark.parametrize("name", REPAIRABLE)
def test_a_repairable_head_is_refused_or_goes_on_in_one_canonical_framing(proxy, recorder, name):
    seen, received = len(recorder.seen), len(recorder.received)
    response, rest = exchange(proxy, REPAIRABLE[name] + SMUGGLED)
    assert response is not None, "closed without an answer"
    if response.status >= 400:
        assert response.status in (400, 505), response
        assert rest == b""
        assert "close" in response.tokens("connection"), response
        assert_nothing_reached(proxy, recorder, seen, received)
        return
    # The strict parser of the recorder has already refused two lengths or an odd coding.
    message, _ = recorder.seen[seen]
    assert (message.method, message.target, message.body) == ("POST", "/case", b"hello")
    assert len(message.all("host")) == 1
    assert message.version == "HTTP/1.1"
    if name.startswith("absolute"):
        assert message.header("host") == "app2.test"
    if "-and-" in name:
        # Section 6.1: after both lengths the connection must end.
        assert rest == b""
        assert len(recorder.seen) == seen + 1


VALID = {
    "te-upper-case": post("Transfer-Encoding: CHUNKED", body=CHUNKS),
    "te-surrounded-by-blanks": post("Transfer-Encoding:\t chunked \t", body=CHUNKS),
    "length-surrounded-by-blanks": post("Content-Length: \t5 "),
    "length-leading-zeros": post("Content-Length: 0005"),
    "no-blank-after-colon": post("Content-Length:5"),
    "chunk-extension": post("Transfer-Encoding: chunked", body=b"5;a=b;c=\"d\"\r\nhello\r\n0;z\r\n\r\n"),
    "chunk-size-leading-zeros": post("Transfer-Encoding: chunked", body=b"00005\r\nhello\r\n000\r\n\r\n"),
    "chunk-size-both-cases": post("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "absolute-form": post("Content-Length: 5", start=b"POST http://app.test/case HTTP/1.1"),
    "absolute-form-upper-case": post("Content-Length: 5", start=b"POST HTTP://APP.test/case HTTP/1.1"),
}


@pytest.mark.parametrize("name", VALID)
def test_a_valid_head_goes_on_in_canonical_form(proxy, recorder, name):
    seen = len(recorder.seen)
    response, rest = exchange(proxy, VALID[name] + SMUGGLED)
    assert response.status == 200, response
    # What follows is an honest second request here.
    assert rest.startswith(b"HTTP/1.1 200")
    eventually(lambda: len(recorder.seen) == seen + 2)
    (first, raw), (second, _) = recorder.seen[seen:]
    assert (first.target, first.body, second.target) == ("/case", b"hello", "/smuggled")
    assert first.header("host").lower() == "app.test"
    if first.framing == "chunked":
        assert first.header("transfer-encoding") == "chunked"
        assert raw.endswith(b"\r\n5\r\nhello\r\n0\r\n\r\n"), raw
    else:
        assert first.header("content-length") == "5"


def test_an_odd_but_valid_method_is_forwarded_as_it_is(proxy, recorder):
    with RawClient(proxy.address()) as client:
        for method in ("get", "PROPFIND", "M-SEARCH", "X!#$%&'*+.^_`|~9"):
            assert client.request(method, "/case").status == 200
            assert recorder.seen[-1][0].method == method


def test_an_empty_line_before_the_request_is_ignored_or_refused(proxy, recorder):
    """RFC 9112 section 2.2: at least one should be ignored."""
    response, _ = exchange(proxy, b"\r\n" + get("Connection: close"))
    assert response.status == 200


def test_head_as_large_as_the_limit_passes_and_one_larger_is_refused(proxy, recorder):
    seen = len(recorder.seen)
    response, _ = exchange(proxy, get("Connection: close", "X-Large: " + "a" * (60 * 1024)))
    assert response.status == 200
    assert recorder.seen[seen][0].header("x-large") == "a" * (60 * 1024)
    seen, received = len(recorder.seen), len(recorder.received)
    # One huge field, many fields, a huge target: told so, or, for a client that has not read, cut.
    for data in (
        get("X-Large: " + "a" * (66 * 1024)),
        get(*(f"X-{number}: {'a' * 100}" for number in range(800))),
        get(start=b"GET /" + b"a" * (66 * 1024) + b" HTTP/1.1"),
    ):
        response, rest = exchange(proxy, data + SMUGGLED)
        assert response is None or response.status in (431, 414), response
        assert rest == b""
    assert_nothing_reached(proxy, recorder, seen, received)
    proxy.wait_reason("head_too_large")


def test_an_endless_head_is_refused_and_not_buffered(proxy, recorder):
    with RawClient(proxy.address()) as client:
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n")
        with pytest.raises(ConnectionError):
            for number in range(1000):
                client.send(f"X-{number}: {'a' * 64000}\r\n")
    proxy.wait_reason("head_too_large")


def test_many_small_fields_pass_and_too_many_are_refused(proxy, recorder):
    response, _ = exchange(proxy, get("Connection: close", *(f"X-{number}: a" for number in range(90))))
    assert response.status == 200
    assert recorder.seen[-1][0].header("x-89") == "a"
    seen, received = len(recorder.seen), len(recorder.received)
    response, rest = exchange(proxy, get(*(f"X-{number}: a" for number in range(1000))) + SMUGGLED)
    assert (response.status, response.reason, rest) == (431, "head_too_large", b"")
    assert_nothing_reached(proxy, recorder, seen, received)


def test_small_max_head_size_is_honoured(pillion, recorder):
    proxy = pillion(http_config(recorder.address, http={"maxHeadSize": "8KiB"}))
    response, _ = exchange(proxy, get("Connection: close", "X-Large: " + "a" * 7000))
    assert response.status == 200
    response, _ = exchange(proxy, get("X-Large: " + "a" * 9000))
    assert response is None or response.status == 431


BAD_BODIES = {
    "size-minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "size-plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size-0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size-word": b"five\r\nhello\r\n0\r\n\r\n",
    "size-empty": b"\r\nhello\r\n0\r\n\r\n",
    "size-underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size-leading-space": b" 5\r\nhello\r\n0\r\n\r\n",
    "size-overflow": b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "size-2^64+5": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "size-line-endless": b"5;" + b"a" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
    "size-zeros-endless": b"0" * 70_000 + b"5\r\nhello\r\n0\r\n\r\n",
    "size-line-lf": b"5\nhello\r\n0\r\n\r\n",
    "size-line-cr": b"5\rhello\r\n0\r\n\r\n",
    "extension-with-lf": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "extension-with-cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension-with-nul": b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
    "data-ended-by-lf": b"5\r\nhello\n0\r\n\r\n",
    "data-too-long": b"5\r\nhello!\r\n0\r\n\r\n",
    "data-without-end": b"5\r\nhello0\r\n\r\n",
    "last-chunk-lf": b"5\r\nhello\r\n0\n\n",
    "end-lf": b"5\r\nhello\r\n0\r\n\n",
    "trailer-no-colon": b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n",
    "trailer-empty-name": b"5\r\nhello\r\n0\r\n: x\r\n\r\n",
    "trailer-space-before-colon": b"5\r\nhello\r\n0\r\nx : y\r\n\r\n",
    "trailer-folded": b"5\r\nhello\r\n0\r\nx: y\r\n z\r\n\r\n",
    "trailer-nul": b"5\r\nhello\r\n0\r\nx: y\x00z\r\n\r\n",
    "trailer-bare-lf": b"5\r\nhello\r\n0\r\nx: y\nz: w\r\n\r\n",
    "trailer-huge": b"5\r\nhello\r\n0\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
    "trailers-many": b"5\r\nhello\r\n0\r\n" + b"x: yyyyyyyy\r\n" * 8_000 + b"\r\n",
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_turns_bad_is_never_completed(pillion, raw_upstream, proxy, recorder, name):
    """The head was good, so the upstream may have part of the request, but no end of it."""
    seen, connections = len(recorder.seen), len(recorder.connections)
    response, rest = exchange(proxy, get("Transfer-Encoding: chunked", start=b"POST /bad HTTP/1.1")
                              + BAD_BODIES[name] + SMUGGLED)
    assert response is None or response.status == 400, response
    assert rest == b""
    if response is not None:
        assert response.reason == "request_body_invalid"
    with RawClient(proxy.address()) as client:
        assert client.get("/fence").status == 200
    assert [message.target for message, _ in recorder.seen[seen:]] == ["/fence"]
    for connection in recorder.connections[connections:]:
        if b"/bad" in connection.received:
            data = connection.wait_finished()
            assert not data.endswith(b"0\r\n\r\n"), data
            assert b"/smuggled" not in data
    assert b"/smuggled" not in b"".join(bytes(one.received) for one in recorder.connections[connections:])


@pytest.mark.parametrize("framing, body", [
    ("Content-Length: 100", b"hello"),
    ("Transfer-Encoding: chunked", b""),
    ("Transfer-Encoding: chunked", b"5\r\nhel"),
    ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
    ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n"),
    ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\nx: y\r\n"),
])
@pytest.mark.parametrize("how", ["half_close", "reset"])
def test_a_body_cut_short_is_never_completed(pillion, raw_upstream, framing, body, how):
    upstream = raw_upstream()
    proxy = pillion(http_config(upstream.address))
    with RawClient(proxy.address()) as client:
        client.send(get(framing, start=b"POST /cut HTTP/1.1") + body)
        connection = upstream.connection()
        connection.wait_received(lambda data: b"\r\n\r\n" in data)
        getattr(client, how)()
        data = connection.wait_finished()
        assert not data.endswith(b"0\r\n\r\n")
        line = proxy.access(path="/cut")
        assert line["reason"] in ("request_body_incomplete", "client_closed"), line


FORBIDDEN_TRAILERS = ("Content-Length", "Transfer-Encoding", "Host", "Connection", "Authorization", "Trailer")


def test_trailers_that_would_change_the_message_are_dropped_or_refused(proxy, recorder):
    """RFC 9110 section 6.5.1: framing, routing and the like have no place in trailers."""
    for name in FORBIDDEN_TRAILERS:
        seen = len(recorder.seen)
        response, _ = exchange(proxy, get("Connection: close", "Transfer-Encoding: chunked",
                                          start=b"POST /trailers HTTP/1.1")
                               + f"5\r\nhello\r\n0\r\n{name}: 1\r\nX-Fine: 1\r\n\r\n".encode())
        if response.status == 400:
            continue
        assert response.status == 200
        message, _ = recorder.seen[seen]
        assert name.lower() not in [key.lower() for key, _ in message.trailers], message.trailers


def test_every_refusal_has_its_line_and_reason(pillion, raw_upstream):
    proxy = pillion(http_config(raw_upstream().address))
    for data in (REFUSED_HEADS["host-missing"][0], REFUSED_HEADS["lengths-differ"][0],
                 REFUSED_HEADS["obs-fold"][0], REFUSED_HEADS["line-nul"][0]):
        before = len(proxy.access_log())
        response, _ = exchange(proxy, data)
        assert response.status == 400
        assert response.reason == "bad_request", response
        assert response.header("proxy-status").startswith("pillion; error=http_request_error")
        eventually(lambda before=before: len(proxy.access_log()) > before, "access-log line of a refused head")
        line = proxy.access_log()[-1]
        assert (line["status"], line["reason"], line["flags"]) == (400, "bad_request", "DPE"), line
    proxy.wait_reason("bad_request", 4)
