"""RFC 9113 section 5: the states of a stream, its identifiers, concurrency, flow control."""

import pytest
from support.config import http_config
from support.h2raw import (
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, MAX_STREAMS, PRIORITY, PUSH_PROMISE,
    RST_STREAM, Code, Upstream, dial, u32,
)
from support.h2rules import FIELDS, SERVED, Rules, check, gated, goaway, rst

PROTOCOL, CLOSED_STREAM = Code.PROTOCOL_ERROR, Code.STREAM_CLOSED
rules = Rules()


@pytest.fixture(scope="module")
def proxy(shared_pillion, shared_echo):
    return shared_pillion(http_config(shared_echo.address))


@pytest.fixture(autouse=True)
def current(shared_echo):
    """What the rules below use to hold a response back."""
    global echo
    echo = shared_echo


def half_closed(c):
    """A stream whose request is complete and whose response has not begun."""
    return gated(echo, c, f"gate{id(c)}")


def finished(c):
    return c.response(c.request())


def cancelled(c):
    stream = c.request("POST", end=False)
    c.rst(stream)
    return stream


def refused(c):
    """A stream that Pillion has reset (or answered with 400) as malformed."""
    stream = c.open([*FIELDS, ("connection", "close")], end=False)
    c.until(lambda: stream.over or c.goaways, what="the malformed request's end")
    return stream


# 5.1 idle


@rules("5.1-7.2", goaway(PROTOCOL))
def data_on_an_idle_stream(c):
    c.send_frame(DATA, END_STREAM, 1, b"x")


@rules("5.1-7.2", goaway(PROTOCOL))
def rst_stream_on_an_idle_stream(c):
    c.send_frame(RST_STREAM, 0, 5, u32(8))


@rules("5.1-7.2", goaway(PROTOCOL))
def window_update_on_an_idle_stream(c):
    c.window_update(7, 1)


@rules("5.1-7.2", goaway(PROTOCOL))
def continuation_on_an_idle_stream(c):
    c.send_frame(CONTINUATION, END_HEADERS, 1, c.block(FIELDS))


@rules("5.1-7.2", goaway(PROTOCOL))
def headers_on_a_stream_of_the_server(c):
    c.send_frame(HEADERS, END_HEADERS | END_STREAM, 2, c.block(FIELDS))


@rules("5.1-7.2", goaway(PROTOCOL))
def data_on_an_idle_stream_of_the_server(c):
    c.send_frame(DATA, END_STREAM, 2, b"x")


@rules("5.1-7.2", goaway(PROTOCOL))
def rst_stream_on_a_stream_of_the_server(c):
    c.send_frame(RST_STREAM, 0, 2, u32(8))


@rules("5.1-7.2", goaway(PROTOCOL))
def window_update_on_a_stream_of_the_server(c):
    c.window_update(2, 1)


# 5.1 half-closed (remote)


@rules("5.1-7.12", rst(CLOSED_STREAM), goaway(CLOSED_STREAM))
def data_after_the_end_of_the_request(c):
    stream = half_closed(c)
    c.send_frame(DATA, 0, stream.id, b"x")
    return stream


@rules("5.1-7.12", rst(CLOSED_STREAM), goaway(CLOSED_STREAM))
def headers_after_the_end_of_the_request(c):
    stream = half_closed(c)
    c.send_frame(HEADERS, END_HEADERS | END_STREAM, stream.id, c.block([("x-late", "1")]))
    return stream


@rules("5.1-7.12", goaway(CLOSED_STREAM, PROTOCOL))
def continuation_after_the_end_of_the_request(c):
    stream = half_closed(c)
    c.send_frame(CONTINUATION, END_HEADERS, stream.id, c.block([("x-late", "1")]))
    return stream


@rules("5.1-7.12", SERVED)
def window_update_and_priority_after_the_end_of_the_request(c):
    stream = half_closed(c)
    c.window_update(stream.id, 10)
    c.send_frame(PRIORITY, 0, stream.id, u32(0) + b"\x10")
    open_gates()
    return stream


@rules("5.1-7.12", SERVED)
def rst_stream_after_the_end_of_the_request(c):
    c.rst(half_closed(c))


@rules("5.1-7.12", SERVED)
def unknown_frame_after_the_end_of_the_request(c):
    stream = half_closed(c)
    c.send_frame(0x55, 0, stream.id, b"grease")
    open_gates()
    return stream


# 5.1 closed


@rules("5.1-7.14", rst(CLOSED_STREAM), goaway(CLOSED_STREAM))
def data_on_a_closed_stream(c):
    stream = finished(c)
    c.send_frame(DATA, 0, stream.id, b"x")
    return stream


@rules("5.1-7.14", rst(CLOSED_STREAM), goaway(CLOSED_STREAM, PROTOCOL))
def headers_on_a_closed_stream(c):
    stream = finished(c)
    c.send_frame(HEADERS, END_HEADERS | END_STREAM, stream.id, c.block(FIELDS))
    return stream


@rules("5.1-7.14", goaway(CLOSED_STREAM, PROTOCOL))
def continuation_on_a_closed_stream(c):
    stream = finished(c)
    c.send_frame(CONTINUATION, END_HEADERS, stream.id, c.block(FIELDS))
    return stream


@rules("5.1-7.14", SERVED)
def window_update_on_a_closed_stream(c):
    stream = finished(c)
    c.window_update(stream.id, 1)
    return stream


@rules("5.1-7.14", SERVED)
def rst_stream_on_a_closed_stream(c):
    stream = finished(c)
    c.send_frame(RST_STREAM, 0, stream.id, u32(8))
    return stream


@rules("5.1-7.14", rst(CLOSED_STREAM), goaway(CLOSED_STREAM))
def data_after_the_clients_own_reset(c):
    stream = cancelled(c)
    c.send_frame(DATA, 0, stream.id, b"x")
    stream.ended = True  # nothing but an error can come now
    return stream


@rules("5.1-7.14", rst(CLOSED_STREAM), goaway(CLOSED_STREAM, PROTOCOL))
def headers_after_the_clients_own_reset(c):
    stream = cancelled(c)
    c.send_frame(HEADERS, END_HEADERS | END_STREAM, stream.id, c.block(FIELDS))
    stream.ended = True
    return stream


@rules("5.1-7.14", SERVED)
def frames_that_cross_a_reset_of_the_server(c):
    # An endpoint that has reset a stream must put up with what was under way.
    stream = refused(c)
    c.send_frame(DATA, 0, stream.id, b"x")
    c.window_update(stream.id, 1)
    c.send_frame(HEADERS, END_HEADERS | END_STREAM, stream.id, c.block([("x-trailer", "1")]))
    c.rst(stream)
    return None


@rules("5.1-7.14", SERVED)
def trailers_that_cross_a_reset_count_for_the_table(c):
    stream = refused(c)
    c.send_frame(HEADERS, END_HEADERS | END_STREAM, stream.id, c.block([("x-in-the-table", "1")]))
    return c.open([*FIELDS, ("x-in-the-table", "1")])


# 5.1.1 Identifiers


@rules("5.1.1-2", goaway(PROTOCOL, CLOSED_STREAM))
def identifier_below_an_earlier_one(c):
    c.next_id = 7
    c.response(c.request())
    c.send_frame(HEADERS, END_HEADERS | END_STREAM, 5, c.block(FIELDS))


@rules("5.1.1-2", SERVED)
def identifiers_may_be_skipped(c):
    c.next_id = 1001
    return c.request()


@rules("5.1.1-1", SERVED, again=False)
def the_largest_identifier(c):
    c.next_id = (1 << 31) - 1
    return c.request()


# 5.1.2 Concurrency


@rules("5.1.2-3", rst(PROTOCOL, Code.REFUSED_STREAM))
def one_stream_more_than_offered(c):
    for number in range(c.settings[MAX_STREAMS]):
        c.request(path="/?gate=concurrency")
    stream = c.request(path="/?gate=concurrency")
    c.until(lambda: stream.over or c.goaways, what="the refusal")
    open_gates()
    return stream


# 5.5 Extensions, 5.4 errors


@rules("5.4.1-2", goaway(PROTOCOL))
def goaway_tells_the_last_stream(c):
    stream = finished(c)
    c.window_update(0, 0)
    c.until(lambda: c.goaways, what="GOAWAY")
    assert c.goaways[-1][0] == stream.id


@rules("8.4-10", goaway(PROTOCOL))
def push_promise_on_a_half_closed_stream(c):
    c.send_frame(PUSH_PROMISE, END_HEADERS, half_closed(c).id, u32(2) + c.block(FIELDS))


def open_gates():
    for gate in list(echo.gates):
        echo.open_gate(gate)


@pytest.mark.parametrize("rule", rules, ids=lambda rule: rule.id)
def test_rule(rule, proxy, shared_echo):
    check(rule, proxy.address(), shared_echo)


# 5.1.2, 5.2 and 6.9.1: what takes two ends to show.


@pytest.fixture
def upstream():
    with Upstream() as listener:
        yield listener


@pytest.fixture
def through(pillion, upstream):
    """A proxy in front of an HTTP/2 upstream that the test plays."""
    return pillion(http_config(upstream.address, upstream={"protocol": "http2"}))


def test_concurrency_is_freed_by_a_reset(pillion, echo):
    """5.1.2: closed streams don't count; a client may cancel and open others."""
    proxy = pillion(http_config(echo.address))
    with dial(proxy.address()) as client:
        streams = [client.request(path="/?gate=full") for _ in range(100)]
        client.sync()
        echo.wait_heads(100)
        for stream in streams[:10]:
            client.rst(stream)
        for _ in range(10):
            assert client.response(client.request()).status == 200
        echo.open_gate("full")
        for stream in streams[10:]:
            assert client.response(stream).status == 200


@pytest.mark.parametrize("level", ["stream", "connection"])
def test_data_beyond_a_window_is_a_flow_control_error(through, upstream, level):
    """6.9.1-2: DATA beyond the window of a stream or of the connection is an error."""
    with dial(through.address()) as client:
        offered = client.settings.get(INITIAL_WINDOW, 65535)
        first = client.request("POST", end=False)
        # An upstream that gives no credit: nothing that Pillion takes in can leave it.
        with upstream.accept(client, own_settings=[(INITIAL_WINDOW, 0)]) as server:
            server.next_request(client)
            server.until(lambda: server.settings_acked, client, what="the ACK of SETTINGS")
            streams = [first]
            if level == "connection":
                streams += [client.request("POST", end=False) for _ in range(40)]
            client.sync()
            windows = client.send_window, offered
            for stream in streams:
                left = offered if level == "connection" else offered + max(windows) + 1
                while left > 0:
                    client.send_frame(DATA, 0, stream.id, bytes(min(16384, left)))
                    left -= 16384
            client.until(
                lambda: client.closed or client.goaways or any(s.reset is not None for s in streams),
                what="a flow-control error",
            )
            codes = {s.reset for s in streams} | {code for _, code, _ in client.goaways}
            assert Code.FLOW_CONTROL_ERROR in codes, client.describe()


def test_responses_keep_to_the_window_of_the_stream(proxy):
    """6.9.1-2, 6.9.2-3: not an octet beyond it; a larger initial window applies at once."""
    with dial(proxy.address(), (INITIAL_WINDOW, 10), credit=False) as client:
        stream = client.request(path="/?size=1000")
        client.until(lambda: stream.received == 10, what="ten octets")
        client.sync()
        assert stream.received == 10
        client.window_update(stream.id, 5)
        client.until(lambda: stream.received == 15, what="five more")
        client.send_settings((INITIAL_WINDOW, 110))
        client.until(lambda: stream.received == 115, what="a hundred more")
        client.sync()
        assert stream.received == 115
        # 6.9.2-4: a smaller one takes the window below zero, and credit counts from there.
        client.send_settings((INITIAL_WINDOW, 10))
        client.window_update(stream.id, 100)
        client.sync()
        client.sync()
        assert stream.received == 115
        client.window_update(stream.id, 7)
        client.until(lambda: stream.received == 122, what="seven more")
        client.window_update(stream.id, 10000)
        assert client.response(stream).received == 1000


def test_responses_keep_to_the_window_of_the_connection(proxy):
    """5.2.1-2.3: all the streams of a connection share 65,535 octets that only the peer renews."""
    with dial(proxy.address(), credit=False) as client:
        streams = [client.request(path="/?size=40000") for _ in range(3)]
        client.until(lambda: sum(s.received for s in streams) == 65535, what="a window's worth")
        client.sync()
        assert sum(s.received for s in streams) == 65535
        client.window_update(0, 100000)
        for stream in streams:
            assert client.response(stream).received == 40000


def test_an_empty_frame_may_end_a_response_without_a_window(through, upstream):
    """6.9.1-2: END_STREAM needs no credit."""
    with dial(through.address(), (INITIAL_WINDOW, 4), credit=False) as client:
        stream = client.request()
        with upstream.accept(client) as server:
            request = server.next_request(client)
            server.respond(request, body=b"four")
            assert client.response(stream, server).data == b"four"


def test_data_of_a_reset_stream_is_returned_to_the_connection_window(proxy):
    """6.9-11: the octets of streams that are gone count, and their credit comes back."""
    with dial(proxy.address()) as client:
        for _ in range(200):
            stream = client.request("POST", body=bytes(16000), end=False)
            client.sync()  # not a flood: each is seen before it is reset
            client.rst(stream)
        body = bytes(3 << 20)
        answer = client.response(client.request("POST", body=body))
        assert b'"length": %d' % len(body) in answer.data


def test_a_silent_stream_does_not_hold_up_another(proxy):
    """5.2: one stream without credit leaves the others alone."""
    with dial(proxy.address(), (INITIAL_WINDOW, 0), credit=False) as client:
        stuck = client.request(path="/?size=100000")
        client.head(stuck)
        other = client.request(path="/?size=1000")
        client.window_update(other.id, 1000)
        assert client.response(other).received == 1000
        assert not stuck.received
        client.window_update(stuck.id, 100000)
        client.window_update(0, 100000)
        client.credit = True
        client.response(stuck)


def test_window_update_frames_are_sent_for_uploads(proxy):
    """5.2.2: a body many windows long goes through."""
    with dial(proxy.address()) as client:
        body = bytes(range(256)) * (10 << 12)  # 10 MiB
        answer = client.response(client.request("POST", body=body))
        assert b'"length": %d' % len(body) in answer.data
