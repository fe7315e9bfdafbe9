"""gRPC with grpcio on both sides: calls of every shape, statuses, deadlines, errors of Pillion's."""

import base64
import queue
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from support.config import http_config
from support.grpc_app import SERVICE, GrpcApp, GrpcClient
from support.h2raw import Code, Upstream, dial
from support.ports import free_port
from support.reactor import Tick
from support.upstream import RawUpstream, reply
from support.wait import TIMEOUT, eventually

Status = grpc.StatusCode


@pytest.fixture
def app():
    with GrpcApp() as app:
        yield app


@pytest.fixture
def proxy(pillion, app):
    return pillion(http_config(app.address, upstream={"protocol": "http2"}))


@pytest.fixture
def client(proxy):
    with GrpcClient(proxy.address()) as client:
        yield client


def failure(call, *arguments, **options) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        result = call(*arguments, timeout=options.pop("timeout", TIMEOUT), **options)
        list(result) if not isinstance(result, bytes) else None
    return caught.value


def test_unary(client, proxy):
    assert client.unary(b"hello", timeout=TIMEOUT) == b"hello"
    assert client.unary(b"", timeout=TIMEOUT) == b""
    line = proxy.access_log.find(path=f"/{SERVICE}/Unary")
    assert line["status"] == 200 and line["method"] == "POST"


def test_server_streaming(client):
    got = list(client.download(b"1000,100", timeout=TIMEOUT))
    assert len(got) == 1000 and all(len(message) == 100 for message in got)
    assert got[3] == b"\x03" * 100


def test_client_streaming(client):
    assert client.upload(iter([b"x" * 1000] * 500), timeout=TIMEOUT) == b"500,500000"
    assert client.upload(iter([]), timeout=TIMEOUT) == b"0,0"


def test_bidirectional_streaming_interleaves(client):
    """Each answer comes before the next message is sent."""
    outgoing = queue.Queue()
    answers = client.chat(iter(outgoing.get, None), timeout=TIMEOUT)
    for number in range(50):
        outgoing.put(b"message %d" % number)
        assert next(answers) == b"MESSAGE %d" % number
    outgoing.put(None)
    assert list(answers) == []
    assert answers.code() == Status.OK


@pytest.mark.parametrize("size", [1 << 14, 1 << 20, 20 << 20])
def test_large_messages(client, size):
    message = bytes(range(256)) * (size // 256)
    assert client.unary(message, timeout=50) == message


def test_streams_of_large_messages(client):
    got = list(client.download(b"40,1000000", timeout=50))
    assert [len(message) for message in got] == [1000000] * 40


def test_many_small_messages_are_no_flood(client):
    """Tiny DATA frames are how gRPC streams look; no limit on floods may cut them."""
    messages = [b"%d" % number for number in range(20000)]
    got = list(client.chat(iter(messages), timeout=50))
    assert got == messages


def test_parallel_calls(client):
    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(lambda n: client.unary(b"%d" % n, timeout=50), range(1000)))
    assert results == [b"%d" % n for n in range(1000)]


def test_metadata_both_ways(client, app):
    """Text and binary metadata, repeated keys, initial and trailing."""
    sent = [("x-text", "some text"), ("x-raw-bin", b"\x00\x01\xff"), ("x-twice", "1"), ("x-twice", "2")]
    answer, call = client.metadata.with_call(b"m", timeout=TIMEOUT, metadata=sent)
    assert answer == b"m"
    seen = app.metadata[-1]
    for pair in sent:
        assert pair in seen
    assert ("x-initial", "i") in list(call.initial_metadata())
    assert ("x-initial-bin", b"\x01\x02\xfe") in list(call.initial_metadata())
    assert ("x-trailing", "t") in list(call.trailing_metadata())
    assert ("x-trailing-bin", b"\x00\xff") in list(call.trailing_metadata())


def test_status_without_a_message(client):
    """Trailers-Only: head and status are one frame."""
    error = failure(client.fail, b"")
    assert error.code() == Status.FAILED_PRECONDITION and error.details() == "no: 100 % übel\n"
    assert ("x-why", "because") in list(error.trailing_metadata())
    assert ("x-raw-bin", b"\x00\xff\x01") in list(error.trailing_metadata())


def test_status_after_messages(client):
    call = client.fail_late(b"", timeout=TIMEOUT)
    assert next(call) == b"one" and next(call) == b"two"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() == Status.DATA_LOSS and caught.value.details() == "lost the third"
    assert ("x-why", "late") in list(caught.value.trailing_metadata())


def test_a_method_that_the_app_does_not_have(client):
    assert failure(client.absent, b"").code() == Status.UNIMPLEMENTED


@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
def test_cancellation_reaches_the_server(client, app, streaming):
    if streaming:
        call = client.hang_stream(b"")
        assert next(call) == b"first"
    else:
        call = client.hang.future(b"")
    assert app.entered.wait(TIMEOUT)
    assert not app.cancelled.is_set()
    call.cancel()
    assert app.cancelled.wait(TIMEOUT)
    assert call.code() == Status.CANCELLED


def test_a_vanished_client_cancels_its_calls(client, app):
    call = client.hang.future(b"")
    assert app.entered.wait(TIMEOUT)
    client.channel.close()
    assert app.cancelled.wait(TIMEOUT)
    assert call.cancelled() or call.code() is not None


def test_deadline_is_passed_on(client, app):
    """The application learns what is left of the time."""
    client.unary(b"x", timeout=TIMEOUT)
    assert 0 < app.deadlines[-1] <= TIMEOUT
    assert failure(client.hang, b"", timeout=0.5).code() == Status.DEADLINE_EXCEEDED
    assert app.cancelled.wait(TIMEOUT)


def grpc_head(method="Unary", timeout=None, **more):
    head = [("content-type", "application/grpc"), ("te", "trailers")]
    return head + ([("grpc-timeout", timeout)] if timeout else []) + list(more.items())


def ask(client, timeout=None, path=f"/{SERVICE}/Unary", headers=None):
    return client.request("POST", path, headers or grpc_head(timeout=timeout), body=b"\0\0\0\0\1x")


def grpc_status(stream):
    """The status of a gRPC-shaped response, from its head or its trailers."""
    assert stream.status == 200, stream.headers
    assert stream.get("content-type").startswith("application/grpc"), stream.headers
    fields = dict(stream.headers) | dict(stream.trailers or ())
    return int(fields["grpc-status"]), fields.get("grpc-message")


@pytest.fixture
def upstream():
    with Upstream() as listener:
        yield listener


@pytest.fixture
def by_hand(pillion, upstream):
    """A proxy whose HTTP/2 upstream the test plays."""
    return pillion(http_config(upstream.address, upstream={"protocol": "http2"}))


@pytest.mark.parametrize("timeout", ["200m", "200000u", "99999999n", "1S"])
def test_deadline_is_enforced_and_the_upstream_cancelled(by_hand, upstream, timeout):
    """Also against a client that would wait and an upstream that takes no notice."""
    with dial(by_hand.address()) as client:
        stream = ask(client, timeout)
        with upstream.accept(client) as server:
            request = server.next_request(client)
            passed = request.get("grpc-timeout")
            number, unit = int(passed[:-1]), passed[-1]
            seconds = number * {"H": 3600, "M": 60, "S": 1, "m": 1e-3, "u": 1e-6, "n": 1e-9}[unit]
            assert 0 < seconds <= (1 if timeout == "1S" else 0.2), passed
            client.response(stream, server)
            assert grpc_status(stream)[0] == 4
            assert stream.get("x-pillion-reason") in ("request_timeout", "total_timeout")
            assert "(asked for by the client, grpc-timeout)" in stream.get("grpc-message")
            server.until(lambda: request.reset is not None, client, what="the cancellation")
            assert request.reset == Code.CANCEL


def test_deadline_holds_after_the_head(by_hand, upstream):
    """`grpc-timeout` is a total: a stream that has begun ends with it."""
    with dial(by_hand.address()) as client:
        stream = ask(client, "300m")
        with upstream.accept(client) as server:
            request = server.next_request(client)
            server.respond(request, 200, [("content-type", "application/grpc")], end=False)
            server.write(request, b"\0\0\0\0\1a")
            client.until(lambda: stream.over, server, what="the deadline")
            # Either gRPC-shaped trailers or a reset: what it may not be is a good end.
            if stream.reset is None:
                assert dict(stream.trailers or ()).get("grpc-status") == "4"
            server.until(lambda: request.over, client, what="the cancellation")


def test_a_longer_deadline_does_not_outlive_the_timeout_of_the_route(pillion, upstream):
    config = http_config(upstream.address, upstream={"protocol": "http2"}, timeouts={"request": "300ms"})
    proxy = pillion(config)
    with dial(proxy.address()) as client:
        stream = ask(client, "1H")
        with upstream.accept(client) as server:
            server.next_request(client)
            client.response(stream, server)
            assert grpc_status(stream)[0] == 4


@pytest.mark.parametrize("value", ["", "m", "-1S", "1", "123456789S", "1x", "1.5S", "S1", "99999999H"])
def test_a_timeout_that_is_none_or_huge_breaks_nothing(by_hand, upstream, value):
    """Refused, ignored, or taken as it is; never a crash, an early end or a zero."""
    with dial(by_hand.address()) as client:
        stream = ask(client, headers=[*grpc_head(), ("grpc-timeout", value)])
        client.until(lambda: stream.over or upstream.pending(), Tick(), what="an answer or a request")
        if stream.over:
            assert stream.status in (200, 400)
            return
        with upstream.accept(client) as server:
            request = server.next_request(client)
            server.respond(request, 200, [("content-type", "application/grpc")], trailers=[("grpc-status", "0")])
            client.response(stream, server)
            assert grpc_status(stream)[0] == 0


# Errors that Pillion makes are gRPC-shaped: HTTP 200, a status a gRPC client understands.


def test_upstream_down_is_unavailable(pillion):
    proxy = pillion(http_config(f"127.0.0.1:{free_port()}", upstream={"protocol": "http2", "breaker": "off"}))
    with GrpcClient(proxy.address()) as client:
        assert failure(client.unary, b"x").code() == Status.UNAVAILABLE
    with dial(proxy.address()) as raw:
        stream = raw.response(ask(raw))
        code, message = grpc_status(stream)
        assert code == 14 and "connect_failed" in message
        assert stream.get("x-pillion-reason") == "connect_failed"
        assert not stream.data, "a gRPC error has no message frames and no text"
        # The same failure for a request that is not gRPC is plain HTTP.
        plain = raw.response(raw.request())
        assert plain.status == 503 and plain.get("x-pillion-reason") == "connect_failed"


@pytest.mark.parametrize("content_type, is_grpc", [
    ("application/grpc", True), ("application/grpc+proto", True), ("application/grpc;charset=utf-8", True),
    ("application/grpc-web", False), ("application/grpcish", False), ("application/json", False),
])
def test_which_requests_are_grpc(pillion, content_type, is_grpc):
    proxy = pillion(http_config(f"127.0.0.1:{free_port()}", upstream={"protocol": "http2"}))
    with dial(proxy.address()) as client:
        stream = client.response(ask(client, headers=[("content-type", content_type), ("te", "trailers")]))
        assert (stream.status == 200) == is_grpc


def test_no_route_is_unimplemented(pillion, app):
    route = {
        "name": "only", "hostnames": ["only.test"],
        "rules": [{"backendRefs": [{"name": "app"}]}],
    }
    proxy = pillion(http_config(app.address, upstream={"protocol": "http2"}, routes=[route]))
    with GrpcClient(proxy.address()) as client:
        error = failure(client.unary, b"x")
        assert error.code() == Status.UNIMPLEMENTED and "no_route" in error.details()


def test_the_message_is_percent_encoded(pillion):
    """grpc-message holds printable ASCII only."""
    proxy = pillion(http_config(f"127.0.0.1:{free_port()}", upstream={"protocol": "http2"}))
    with dial(proxy.address()) as client:
        _, message = grpc_status(client.response(ask(client)))
        assert re.fullmatch(r"[\x20-\x7e]+", message)


def test_an_upstream_that_resets_is_unavailable(by_hand, upstream):
    with dial(by_hand.address()) as client:
        stream = ask(client)
        with upstream.accept(client) as server:
            server.rst(server.next_request(client), Code.INTERNAL_ERROR)
            client.response(stream, server)
            assert grpc_status(stream)[0] == 14


def test_an_upstream_that_answers_in_plain_http_is_passed_on(by_hand, upstream):
    """A 503 with HTML from an upstream is the upstream's own; the client maps it."""
    with dial(by_hand.address()) as client:
        stream = ask(client)
        with upstream.accept(client) as server:
            server.respond(server.next_request(client), 503, [("content-type", "text/html")], body=b"<p>no")
            client.response(stream, server)
            assert stream.status == 503 and stream.data == b"<p>no"


def test_an_upstream_that_speaks_http1_is_an_error(pillion):
    with RawUpstream(reply(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as upstream:
        proxy = pillion(http_config(upstream.address, upstream={"protocol": "http2"}))
        with GrpcClient(proxy.address()) as client:
            assert failure(client.unary, b"x").code() in (Status.UNAVAILABLE, Status.INTERNAL)


def test_requests_over_a_limit(pillion, app):
    """The request limit of the upstream: unavailable, and room again afterwards."""
    config = http_config(app.address, upstream={"protocol": "http2", "limits": {"requests": 1}})
    proxy = pillion(config)
    with GrpcClient(proxy.address()) as client:
        held = client.hang.future(b"")
        assert app.entered.wait(TIMEOUT)
        error = failure(client.unary, b"x")
        assert error.code() == Status.UNAVAILABLE and "request_limit" in error.details()
        held.cancel()
        assert app.cancelled.wait(TIMEOUT)
        proxy.access_log.find(path=f"/{SERVICE}/Hang")
        assert client.unary(b"y", timeout=TIMEOUT) == b"y"


def test_reload_does_not_disturb_a_stream(proxy, client, app):
    outgoing = queue.Queue()
    answers = client.chat(iter(outgoing.get, None), timeout=50)
    outgoing.put(b"before")
    assert next(answers) == b"BEFORE"
    assert proxy.reload().status == 200
    outgoing.put(b"after")
    assert next(answers) == b"AFTER"
    outgoing.put(None)
    assert list(answers) == [] and answers.code() == Status.OK


def test_drain_lets_a_stream_finish(proxy, client, app):
    outgoing = queue.Queue()
    answers = client.chat(iter(outgoing.get, None), timeout=50)
    outgoing.put(b"before")
    assert next(answers) == b"BEFORE"
    proxy.signal(signal.SIGTERM)
    eventually(lambda: proxy.admin_get("/readyz").status != 200, "not ready")
    outgoing.put(b"during")
    assert next(answers) == b"DURING"
    outgoing.put(None)
    assert list(answers) == [] and answers.code() == Status.OK
    assert proxy.wait_exit() == 0


def test_binary_metadata_is_not_touched(by_hand, upstream):
    """Base64 without padding, as clients write it, arrives as it was."""
    value = base64.b64encode(bytes(range(200))).rstrip(b"=").decode()
    with dial(by_hand.address()) as client:
        stream = ask(client, headers=[*grpc_head(), ("x-raw-bin", value)])
        with upstream.accept(client) as server:
            request = server.next_request(client)
            assert request.get("x-raw-bin") == value and request.get("te") == "trailers"
            server.respond(request, 200, [("content-type", "application/grpc")],
                           trailers=[("grpc-status", "0"), ("x-back-bin", value)])
            client.response(stream, server)
            assert stream.trailer("x-back-bin") == value


def test_threads_of_a_channel_share_connections(proxy, client, app):
    """32 blocking calls at once over one channel: none waits for another."""
    barrier = threading.Barrier(32)

    def call(number):
        outgoing = queue.Queue()
        answers = client.chat(iter(outgoing.get, None), timeout=50)
        outgoing.put(b"%d" % number)
        assert next(answers) == b"%d" % number
        barrier.wait(TIMEOUT)  # all are open at the same time
        outgoing.put(None)
        return list(answers)

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(call, range(32))) == [[]] * 32
