"""RFC 9113 towards upstreams: Pillion as the client, and what becomes of what goes wrong there."""

import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest
from support import h1raw
from support.config import http_config
from support.h2raw import (
    ACK, CONTINUATION, DATA, ENABLE_PUSH, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST,
    MAX_STREAMS, PADDED, PING, PUSH_PROMISE, RST_STREAM, SETTINGS, TABLE_SIZE, Code, Upstream, dial, u32,
)
from support.reactor import Tick, until

PROTOCOL, SIZE, FLOW = Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.FLOW_CONTROL_ERROR
OK = (":status", "200")


@pytest.fixture
def upstream():
    with Upstream() as listener:
        yield listener


@pytest.fixture
def proxy(pillion, upstream):
    return pillion(http_config(upstream.address, upstream={"protocol": "http2"}))


def exchange(proxy, upstream, **request):
    """A client with one request under way, and the upstream that has it."""
    client = dial(proxy.address())
    stream = client.request(**request)
    server = upstream.accept(client)
    return client, stream, server, server.next_request(client)


def test_preface_and_settings_of_the_client(proxy, upstream):
    """3.4, 6.5.2: Pillion starts as a client must, without push, and acknowledges SETTINGS."""
    client, stream, server, request = exchange(proxy, upstream)
    with client, server:
        server.until(lambda: server.settings_acked, client, what="the ACK of SETTINGS")
        assert server.frames[0].startswith("SettingsFrame")
        assert server.settings[ENABLE_PUSH] == 0
        assert request.id % 2 == 1
        server.respond(request, body=b"fine")
        assert client.response(stream, server).data == b"fine"


# What an upstream may not send. Each takes (server, request); Pillion answers 502, or breaks off a
# response that it has begun, and tells the upstream: by a connection error (any of the codes, or
# the plain end of the connection) or a stream error.

class Bad(NamedTuple):
    send: Callable
    connection: set
    stream: set
    reasons: set
    over: bool  # the upstream has ended the stream, so there is nothing left to reset


BAD: dict[str, Bad] = {}


def bad(reference, *, connection=(), stream=(), reasons=("upstream_protocol",), over=False):
    def add(send):
        entry = Bad(send, set(connection), set(stream), set(reasons), over)
        BAD[f"upstream-{reference}-{send.__name__}"] = entry
        return send

    return add


def bad_head(reference, name, *fields, reasons=("upstream_protocol",), end=False):
    def send(server, request):
        server.send(server.head_frames(request.id, fields, end))

    send.__name__ = name
    bad(reference, stream=[PROTOCOL], reasons=reasons, over=end)(send)


bad_head("8.3.2-1", "no_status", ("x-a", "1"))
bad_head("8.3.2-1", "empty_status", (":status", ""))
bad_head("8.3.2-1", "status_of_letters", (":status", "abc"))
bad_head("8.3.2-1", "status_of_four_digits", (":status", "2000"))
bad_head("8.3.2-1", "status_below_100", (":status", "099"))
bad_head("8.3-5", "status_twice", OK, OK)
bad_head("8.3-3", "pseudo_header_of_a_request", OK, (":path", "/"))
bad_head("8.3-3", "unknown_pseudo_header", OK, (":unknown", "1"))
bad_head("8.3-4", "status_after_a_field", ("x-a", "1"), OK)
bad_head("8.2.1-3.1", "upper_case_name", OK, ("X-Upper", "1"))
bad_head("8.2.1-3.1", "space_in_a_name", OK, ("x a", "1"))
bad_head("8.2.1-3.2", "colon_in_a_name", OK, ("x:a", "1"))
bad_head("8.2.1-3.3", "line_end_in_a_value", OK, ("x-a", "1\r\nset-cookie: a=b"))
bad_head("8.2.1-3.3", "nul_in_a_value", OK, ("x-a", "1\0"))
bad_head("8.2.2-1", "connection_field", OK, ("connection", "close"))
bad_head("8.2.2-1", "transfer_encoding_field", OK, ("transfer-encoding", "chunked"))
bad_head("8.2.2-1", "upgrade_field", OK, ("upgrade", "h2c"))
bad_head("8.1-4", "interim_response_with_end_stream", (":status", "103"), end=True)
bad_head("8.6-1", "switching_protocols", (":status", "101"))
bad_head("8.1.1-2", "content_length_without_a_body", OK, ("content-length", "5"),
         reasons=("upstream_protocol", "response_incomplete"), end=True)
bad_head("8.1.1-2", "content_length_not_a_number", OK, ("content-length", "x"))


@bad("8.1-1", connection=[PROTOCOL], stream=[PROTOCOL])
def data_before_the_head(server, request):
    server.send_frame(DATA, END_STREAM, request.id, b"x")


@bad("8.1-9", stream=[PROTOCOL], connection=[PROTOCOL], reasons=("upstream_protocol", "response_incomplete"))
def second_head_without_end_stream(server, request):
    server.respond(request, 200, end=False)
    server.send(server.head_frames(request.id, [("x-second", "1")], end=False))


@bad("8.1-8", stream=[PROTOCOL], connection=[PROTOCOL], reasons=("upstream_protocol", "response_incomplete"))
def status_in_trailers(server, request):
    server.respond(request, 200, end=False)
    server.send(server.head_frames(request.id, [OK], end=True))


@bad("8.1.1-2", stream=[PROTOCOL], connection=[PROTOCOL], reasons=("upstream_protocol", "response_incomplete"))
def body_shorter_than_content_length(server, request):
    server.respond(request, 200, [("content-length", "10")], body=b"12345")


@bad("8.1.1-2", stream=[PROTOCOL], connection=[PROTOCOL], reasons=("upstream_protocol", "response_incomplete"))
def body_longer_than_content_length(server, request):
    server.respond(request, 200, [("content-length", "3")], body=b"12345")


@bad("8.4-10", connection=[PROTOCOL])
def push_promise(server, request):
    block = server.block([(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/pushed")])
    server.send_frame(PUSH_PROMISE, END_HEADERS, request.id, u32(2) + block)


@bad("5.1-7.2", connection=[PROTOCOL])
def response_on_an_idle_stream(server, request):
    server.send(server.head_frames(request.id + 100, [OK], end=True))


@bad("5.1-7.2", connection=[PROTOCOL])
def response_on_a_stream_of_its_own(server, request):
    server.send(server.head_frames(2, [OK], end=True))


@bad("6.1-9", connection=[PROTOCOL])
def data_on_the_connection(server, request):
    server.send_frame(DATA, 0, 0, b"x")


@bad("6.1-11", connection=[PROTOCOL], reasons=("upstream_protocol", "response_incomplete"))
def data_with_more_padding_than_payload(server, request):
    server.respond(request, 200, end=False)
    server.send_frame(DATA, PADDED, request.id, b"\xff123")


@bad("6.4-8", connection=[SIZE])
def rst_stream_too_short(server, request):
    server.send_frame(RST_STREAM, 0, request.id, b"\0\0\0")


@bad("6.5-6.2", connection=[SIZE])
def settings_ack_with_a_payload(server, request):
    server.send_frame(SETTINGS, ACK, 0, struct.pack(">HI", MAX_STREAMS, 1))


@bad("6.5-9", connection=[SIZE])
def settings_of_three_octets(server, request):
    server.send_frame(SETTINGS, 0, 0, b"\0\0\0")


@bad("6.5.2-2.4", connection=[PROTOCOL])
def setting_enable_push_1(server, request):
    server.send_settings((ENABLE_PUSH, 1))


@bad("6.5.2-2.8", connection=[FLOW])
def setting_initial_window_beyond_the_maximum(server, request):
    server.send_settings((INITIAL_WINDOW, 1 << 31))


@bad("6.5.2-2.10", connection=[PROTOCOL])
def setting_max_frame_size_too_small(server, request):
    server.send_settings((MAX_FRAME, 1))


@bad("6.7-9", connection=[SIZE])
def ping_too_short(server, request):
    server.send_frame(PING, payload=b"1234567")


@bad("6.8-11", connection=[PROTOCOL])
def goaway_on_a_stream(server, request):
    server.send_frame(7, 0, request.id, u32(0) + u32(0))


@bad("6.9-9", connection=[PROTOCOL], stream=[PROTOCOL])
def window_update_of_zero(server, request):
    server.window_update(request.id, 0)


@bad("6.9-9", connection=[PROTOCOL])
def window_update_of_zero_on_the_connection(server, request):
    server.window_update(0, 0)


@bad("6.9.1-7", connection=[FLOW])
def window_of_the_connection_beyond_the_maximum(server, request):
    server.window_update(0, (1 << 31) - 1)


@bad("6.10-8", connection=[PROTOCOL])
def continuation_out_of_the_blue(server, request):
    server.send_frame(CONTINUATION, END_HEADERS, request.id, b"")


@bad("4.3-12", connection=[Code.COMPRESSION_ERROR])
def field_block_that_cannot_be_decoded(server, request):
    server.send_frame(HEADERS, END_HEADERS | END_STREAM, request.id, b"\x80")


@bad("4.3-10", connection=[PROTOCOL])
def ping_inside_a_field_block(server, request):
    server.send_frame(HEADERS, 0, request.id, server.block([OK]))
    server.send_frame(PING, payload=bytes(8))


@bad("4.2-4", connection=[SIZE])
def frame_beyond_the_largest_size(server, request):
    server.send_frame(HEADERS, END_HEADERS, request.id, bytes(server.settings.get(MAX_FRAME, 16384) + 1))


@pytest.mark.parametrize("name", BAD)
def test_bad_upstream(proxy, upstream, name):
    send, connection, stream_codes, reasons, over = BAD[name]
    client, stream, server, request = exchange(proxy, upstream)
    with client, server:
        server.until(lambda: server.settings_acked, client, what="the ACK of SETTINGS")
        send(server, request)
        client.until(lambda: stream.over, server, what="the response")
        if stream.reset is None:
            assert stream.status == 502, client.describe()
            assert stream.get("x-pillion-reason") in reasons, stream.headers
        else:
            assert stream.reset != Code.NO_ERROR, "a response that had begun is broken off"
        line = proxy.access_log.find(path="/")
        assert line["reason"] in reasons, line

        def told():
            codes = {code for _, code, _ in server.goaways}
            return over or server.closed or codes & connection or request.reset in stream_codes

        server.until(told, client, what="the error at the upstream")
        codes = {code for _, code, _ in server.goaways if code}
        assert codes <= connection, f"{codes} is not {connection}"
        if request.reset is not None:
            assert request.reset in stream_codes | {Code.CANCEL}
        # The next request is served: on this connection, or on a new one if that is gone.
        servers = [] if server.goaways or server.closed else [server]
        again = serve(client, upstream, client.request(path="/again"), servers, b"again")
        assert again.data == b"again"


def serve(client, upstream, stream, servers, body=b"ok"):
    """Answers whatever request comes, on whichever connection, until `stream` is over."""
    while not stream.over:
        until(
            lambda: stream.over or upstream.pending() or any(s.requests for s in servers),
            client, Tick(), *[s for s in servers if not s.closed], what="a request at the upstream",
        )
        if upstream.pending():
            servers.append(upstream.accept(client))
        for server in servers:
            while server.requests:
                server.respond(server.requests.popleft(), body=body)
    return stream


@pytest.mark.parametrize("code", [Code.NO_ERROR, Code.CANCEL, Code.INTERNAL_ERROR, Code.REFUSED_STREAM,
                                  Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR])
def test_a_reset_before_the_head_is_a_502(proxy, upstream, code):
    """8.7: whatever its code; one that says that nothing was processed may be sent again."""
    client, stream, server, request = exchange(proxy, upstream, method="POST")
    with client, server:
        server.rst(request, code)
        client.until(lambda: stream.over or server.requests, server, what="the response")
        if not stream.over:
            assert code == Code.REFUSED_STREAM, "only this one is safe to send a POST again"
            server.respond(server.requests.popleft())
            assert client.response(stream, server).status == 200
        else:
            assert client.response(stream).status in (502, 503)
            assert stream.get("x-pillion-reason") == "upstream_reset"
        after = client.request(path="/after")
        server.respond(server.next_request(client))
        assert client.response(after, server).status == 200


def test_a_reset_without_error_after_the_response_is_none(proxy, upstream):
    """8.1-11: the response counts; the upload ends."""
    client, stream, server, request = exchange(proxy, upstream, method="POST", end=False)
    with client, server:
        server.respond(request, 200, body=b"enough")
        server.rst(request, Code.NO_ERROR)
        assert client.response(stream, server).data == b"enough"


def test_goaway_lets_requests_finish_and_the_next_one_goes_elsewhere(proxy, upstream):
    """6.8: streams up to the last one are completed; no new stream is opened."""
    client, stream, server, request = exchange(proxy, upstream)
    with client, server:
        server.goaway((1 << 31) - 1)
        server.goaway(request.id)
        server.sync(client)
        second = client.request(path="/second")
        with upstream.accept(client, server) as other:
            other.respond(other.next_request(client), body=b"second")
            assert client.response(second, other).data == b"second"
        server.respond(request, body=b"first")
        assert client.response(stream, server).data == b"first"
        server.expect_closed()


def test_goaway_below_a_request_fails_it_or_sends_it_elsewhere(proxy, upstream):
    """6.8-1: a stream above the last identifier was not processed."""
    client, stream, server, request = exchange(proxy, upstream)
    with client, server:
        server.goaway(0)
        servers = [server]
        serve(client, upstream, stream, servers)
        assert stream.status in (200, 502, 503)
        if stream.status != 200:
            assert stream.get("x-pillion-reason") in ("upstream_reset", "upstream_closed")
        after = serve(client, upstream, client.request(path="/after"), servers)
        assert after.status == 200
        assert len(servers) > 1


def test_goaway_with_an_error(proxy, upstream):
    client, stream, server, request = exchange(proxy, upstream, method="POST")
    with client, server:
        server.goaway(request.id, Code.INTERNAL_ERROR)
        server.finish()
        client.until(lambda: stream.over, server, what="the response")
        assert stream.status in (502, 503)
        assert serve(client, upstream, client.request(path="/after"), []).status == 200


def test_an_idle_connection_that_the_upstream_closes_is_not_used_again(proxy, upstream):
    client, stream, server, request = exchange(proxy, upstream)
    with client, server:
        server.respond(request)
        client.response(stream, server)
        server.goaway(request.id)
        server.finish()
        server.expect_closed()
        assert serve(client, upstream, client.request(path="/after"), []).status == 200


def test_more_requests_than_streams(proxy, upstream):
    """5.1.2-3: the limit of each connection holds; all requests are served all the same."""
    servers = []
    with dial(proxy.address()) as client:
        # The limit is known before the burst.
        first = client.request()
        servers.append(upstream.accept(client, own_settings=[(MAX_STREAMS, 2)]))
        request = servers[0].next_request(client)
        request.answered = True
        servers[0].respond(request)
        client.response(first, servers[0])
        servers[0].until(lambda: servers[0].settings_acked, client, what="the ACK of SETTINGS")
        streams = [client.request(path=f"/{number}") for number in range(20)]
        waiting, served = [], 0
        while not all(stream.over for stream in streams):
            until(
                lambda: all(s.over for s in streams) or upstream.pending() or any(s.requests for s in servers),
                client, Tick(), *servers, what="requests at the upstream",
            )
            if upstream.pending():
                servers.append(upstream.accept(client, own_settings=[(MAX_STREAMS, 2)]))
            for server in servers:
                while server.requests:
                    waiting.append((server, server.requests.popleft()))
            for server in servers[:1]:
                live = [s for s in server.streams.values() if s.headers and not s.answered]
                assert len(live) <= 2, "more streams than the upstream offered"
            for server, request in waiting:
                request.answered = True
                server.respond(request, body=request.path.encode())
                served += 1
            waiting.clear()
        assert served == 20
        assert [s.data.decode() for s in streams] == [f"/{number}" for number in range(20)]
    for server in servers:
        server.close()


def test_small_windows_and_frames_of_the_upstream_are_kept(proxy, upstream):
    """6.9.1, 6.5.2: uploads trickle as the upstream lets them."""
    with dial(proxy.address()) as client:
        stream = client.request("POST", end=False)
        with upstream.accept(client, own_settings=[(INITIAL_WINDOW, 100)], credit=False) as server:
            request = server.next_request(client)
            server.until(lambda: server.settings_acked, client, what="the ACK of SETTINGS")
            client.write(stream, bytes(5000))
            client.end(stream)
            server.until(lambda: request.received == 100, client, what="a window's worth")
            server.sync(client)
            assert request.received == 100
            server.window_update(request.id, 50)
            server.until(lambda: request.received == 150, client, what="fifty more")
            server.sync(client)
            assert request.received == 150
            server.window_update(request.id, 10000)
            server.until(lambda: request.ended, client, what="the rest")
            server.respond(request)
            client.response(stream, server)


def test_a_header_table_of_zero_is_kept(proxy, upstream):
    """4.3.1: the upstream's limit on the dynamic table holds for Pillion's encoder."""
    with dial(proxy.address()) as client:
        stream = client.request()
        with upstream.accept(client, own_settings=[(TABLE_SIZE, 0)]) as server:
            server.respond(server.next_request(client))
            client.response(stream, server)
            server.until(lambda: server.settings_acked, client, what="the ACK")
            for number in range(3):
                stream = client.request(headers=[("x-number", str(number)), ("x-same", "same")])
                request = server.next_request(client)
                assert request.get("x-number") == str(number)
                server.respond(request, headers=[("x-number", str(number))])
                assert client.response(stream, server).get("x-number") == str(number)


def test_an_upstream_that_speaks_http1(proxy, upstream):
    """What comes back is not HTTP/2 at all."""
    with dial(proxy.address()) as client:
        stream = client.request()
        sock = upstream.accept_socket(client)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        client.until(lambda: stream.over, what="the response")
        sock.close()
        assert stream.status == 502
        assert stream.get("x-pillion-reason") == "upstream_protocol"


def test_an_upstream_that_closes_at_once(proxy, upstream):
    with dial(proxy.address()) as client:
        stream = client.request()
        upstream.accept_socket(client).close()
        while not stream.over:
            until(lambda: stream.over or upstream.pending(), client, Tick(), what="the response")
            if upstream.pending():  # a connection that died before a byte was sent may be tried anew
                upstream.accept_socket().close()
        assert stream.status in (502, 503)
        assert stream.get("x-pillion-reason") in ("upstream_closed", "connect_failed", "upstream_protocol")


def test_an_upstream_that_never_says_a_word(pillion, upstream):
    config = http_config(upstream.address, upstream={"protocol": "http2"}, timeouts={"request": "300ms"})
    proxy = pillion(config)
    with dial(proxy.address()) as client:
        stream = client.request()
        sock = upstream.accept_socket(client)
        client.response(stream)
        sock.close()
        assert stream.status == 504 and stream.get("x-pillion-reason") == "request_timeout"


def test_a_response_head_that_is_too_large(proxy, upstream):
    """Pillion tells its limit (6.5.2) and holds to it; the rest of the connection lives on."""
    client, stream, server, request = exchange(proxy, upstream)
    with client, server:
        assert server.settings.get(MAX_HEADER_LIST, 0) > 0
        server.respond(request, 200, [(f"x-{number}", "v" * 4000) for number in range(100)])
        client.until(lambda: stream.over, server, what="the response")
        assert stream.status == 502
        assert stream.get("x-pillion-reason") in ("upstream_head_too_large", "upstream_protocol")
        assert serve(client, upstream, client.request(path="/after"), [server]).status == 200


def test_http1_clients_see_the_same(proxy, upstream):
    """A malformed HTTP/2 response is a whole HTTP/1.1 502, and the connection lives on."""
    with h1raw.dial(proxy.address()) as client:
        client.request()
        with upstream.accept(client) as server:
            request = server.next_request(client)
            server.send(server.head_frames(request.id, [OK, ("connection", "close")], end=True))
            answer = client.whole(client.next_message(server), server)
            assert answer.status == 502 and answer.get("x-pillion-reason") == "upstream_protocol"
