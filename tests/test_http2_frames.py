"""RFC 9113 section 6: every frame type, whole and malformed, towards clients."""

import os
import struct

import pytest
from support.config import http_config
from support.h2raw import (
    ACK, CONTINUATION, DATA, DEFAULT_WINDOW, ENABLE_PUSH, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW,
    MAX_FRAME, MAX_STREAMS, PADDED, PING, PRIORITIZED, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, TABLE_SIZE,
    WINDOW_UPDATE, Code, u32,
)
from support.h2rules import CLOSED, FIELDS, POST, SERVED, Rules, check, goaway, head, rst, upload

PROTOCOL, FLOW, SIZE = Code.PROTOCOL_ERROR, Code.FLOW_CONTROL_ERROR, Code.FRAME_SIZE_ERROR
CLOSED_STREAM = Code.STREAM_CLOSED
rules = Rules()


@pytest.fixture(scope="module")
def proxy(shared_pillion, shared_echo):
    return shared_pillion(http_config(shared_echo.address))


# 6.1 DATA


@rules("6.1-9", goaway(PROTOCOL))
def data_on_the_connection(c):
    c.send_frame(DATA, END_STREAM, 0, b"x")


@rules("6.1-10", rst(CLOSED_STREAM), goaway(CLOSED_STREAM))
def data_on_a_finished_stream(c):
    stream = c.response(c.request())
    c.send_frame(DATA, END_STREAM, stream.id, b"x")
    return stream


@rules("6.1-11", goaway(PROTOCOL))
def data_with_as_much_padding_as_payload(c):
    stream = upload(c)
    c.send_frame(DATA, PADDED, stream.id, b"\x05x\0\0\0")
    return stream


@rules("6.1-11", goaway(PROTOCOL))
def data_with_more_padding_than_payload(c):
    stream = upload(c)
    c.send_frame(DATA, PADDED, stream.id, b"\xff" + bytes(20))
    return stream


@rules("6.1-5.6", SERVED)
def data_with_padding(c):
    stream = upload(c)
    c.send_frame(DATA, PADDED, stream.id, b"\x05hello" + bytes(5))
    c.send_frame(DATA, PADDED, stream.id, b"\0, ")
    c.send_frame(DATA, PADDED, stream.id, b"\x04" + bytes(4))
    c.send_frame(DATA, PADDED | END_STREAM, stream.id, b"\xffworld" + bytes(255))
    c.response(stream)
    assert b'"body": "hello, world"' in stream.data
    return stream


@rules("6.1-5.6", SERVED, goaway(PROTOCOL))
def data_with_padding_that_is_not_zero(c):
    stream = upload(c)
    c.send_frame(DATA, PADDED | END_STREAM, stream.id, b"\x02xab")
    return stream


@rules("6.9.1-2", SERVED)
def empty_data_ends_a_request(c):
    stream = upload(c)
    c.send_frame(DATA, END_STREAM, stream.id)
    return stream


# 6.2 HEADERS


@rules("6.2-8", goaway(PROTOCOL))
def headers_on_the_connection(c):
    c.send_frame(HEADERS, END_HEADERS | END_STREAM, 0, c.block(FIELDS))


@rules("6.2-10", goaway(PROTOCOL))
def headers_with_as_much_padding_as_payload(c):
    block = c.block(FIELDS)
    return head(c, END_HEADERS | END_STREAM | PADDED, bytes([len(block) + 1]) + block)


@rules("6.2-10", goaway(PROTOCOL))
def headers_with_more_padding_than_payload(c):
    return head(c, END_HEADERS | END_STREAM | PADDED, b"\xff" + c.block(FIELDS))


@rules("6.2-4.12", SERVED)
def headers_with_padding(c):
    return head(c, END_HEADERS | END_STREAM | PADDED, b"\x09" + c.block(FIELDS) + bytes(9))


@rules("6.2-4", SERVED)
def headers_with_priority(c):
    return head(c, END_HEADERS | END_STREAM | PRIORITIZED, u32(1 << 31) + b"\xff" + c.block(FIELDS))


@rules("6.2-4", SERVED)
def headers_with_padding_and_priority(c):
    payload = b"\x03" + u32(0) + b"\0" + c.block(FIELDS) + bytes(3)
    return head(c, END_HEADERS | END_STREAM | PADDED | PRIORITIZED, payload)


@rules("5.3.2", SERVED, rst(PROTOCOL), goaway(PROTOCOL), again=False)
def headers_that_depend_on_themselves(c):
    # An error in RFC 7540; RFC 9113 deprecates the fields and has no word on it.
    stream = c.reserve()
    return head(c, END_HEADERS | END_STREAM | PRIORITIZED, u32(stream.id) + b"\0" + c.block(FIELDS), stream)


# 6.3 PRIORITY


@rules("6.3-6", goaway(PROTOCOL))
def priority_on_the_connection(c):
    c.send_frame(PRIORITY, 0, 0, u32(1) + b"\0")


@rules("6.3-8", rst(SIZE), goaway(SIZE))
def priority_too_short(c):
    stream = upload(c)
    c.send_frame(PRIORITY, 0, stream.id, bytes(4))
    return stream


@rules("6.3-8", rst(SIZE), goaway(SIZE))
def priority_too_long(c):
    stream = upload(c)
    c.send_frame(PRIORITY, 0, stream.id, bytes(6))
    return stream


@rules("5.1-8", SERVED)
def priority_on_an_open_stream(c):
    stream = upload(c)
    c.send_frame(PRIORITY, 0, stream.id, u32(0) + b"\x10")
    c.end(stream)
    return stream


@rules("5.1-7.2", SERVED)
def priority_on_an_idle_stream(c):
    c.send_frame(PRIORITY, 0, 101, u32(0) + b"\x10")


@rules("5.1-7.14", SERVED)
def priority_on_a_closed_stream(c):
    stream = c.response(c.request())
    c.send_frame(PRIORITY, 0, stream.id, u32(0) + b"\x10")
    return stream


# 6.4 RST_STREAM


@rules("6.4-6", goaway(PROTOCOL))
def rst_stream_on_the_connection(c):
    c.send_frame(RST_STREAM, 0, 0, u32(8))


@rules("6.4-7", goaway(PROTOCOL))
def rst_stream_on_an_idle_stream(c):
    c.send_frame(RST_STREAM, 0, 1, u32(8))


@rules("6.4-8", goaway(SIZE))
def rst_stream_too_short(c):
    stream = upload(c)
    c.send_frame(RST_STREAM, 0, stream.id, bytes(3))
    return stream


@rules("6.4-8", goaway(SIZE))
def rst_stream_too_long(c):
    stream = upload(c)
    c.send_frame(RST_STREAM, 0, stream.id, bytes(5))
    return stream


@rules("6.4-3", SERVED)
def rst_stream_with_an_unknown_code(c):
    c.send_frame(RST_STREAM, 0, upload(c).id, u32(0xFEEDBEEF))


@rules("5.4.2-5", SERVED)
def rst_stream_is_not_answered_by_one(c):
    stream = upload(c)
    c.rst(stream)
    for mark in (b"........", b",,,,,,,,"):
        c.send_frame(PING, payload=mark)
        c.until(lambda m=mark: m in c.pongs, what="the PING's answer")
    assert stream.reset is None and not stream.headers


# 6.5 SETTINGS


@rules("6.5-6.2", goaway(SIZE))
def settings_ack_with_a_payload(c):
    c.send_frame(SETTINGS, ACK, 0, struct.pack(">HI", MAX_STREAMS, 1))


@rules("6.5-7", goaway(PROTOCOL))
def settings_on_a_stream(c):
    c.send_frame(SETTINGS, 0, 1)


@rules("6.5-7", goaway(PROTOCOL))
def settings_ack_on_a_stream(c):
    c.send_frame(SETTINGS, ACK, upload(c).id)


@rules("6.5-9", goaway(SIZE))
def settings_of_three_octets(c):
    c.send_frame(SETTINGS, 0, 0, bytes(3))


@rules("6.5-9", goaway(SIZE))
def settings_of_seven_octets(c):
    c.send_frame(SETTINGS, 0, 0, bytes(7))


def setting(reference, name, identifier, value, *allowed):
    def rule(c):
        c.send_settings((identifier, value))

    rule.__name__ = f"setting_{name}"
    rules(reference, *allowed)(rule)


setting("6.5.2-2.4", "enable_push_2", ENABLE_PUSH, 2, goaway(PROTOCOL))
setting("6.5.2-2.4", "enable_push_0", ENABLE_PUSH, 0, SERVED)
setting("6.5.2-2.4", "enable_push_1", ENABLE_PUSH, 1, SERVED)
setting("6.5.2-2.6", "max_concurrent_streams_0", MAX_STREAMS, 0, SERVED)
setting("6.5.2-2.8", "initial_window_beyond_the_maximum", INITIAL_WINDOW, 1 << 31, goaway(FLOW))
setting("6.5.2-2.8", "initial_window_of_all_ones", INITIAL_WINDOW, (1 << 32) - 1, goaway(FLOW))
setting("6.5.2-2.8", "initial_window_of_the_maximum", INITIAL_WINDOW, (1 << 31) - 1, SERVED)
setting("6.5.2-2.10", "max_frame_size_too_small", MAX_FRAME, 16383, goaway(PROTOCOL))
setting("6.5.2-2.10", "max_frame_size_of_zero", MAX_FRAME, 0, goaway(PROTOCOL))
setting("6.5.2-2.10", "max_frame_size_too_large", MAX_FRAME, 1 << 24, goaway(PROTOCOL))
setting("6.5.2-2.10", "max_frame_size_of_the_maximum", MAX_FRAME, (1 << 24) - 1, SERVED)
setting("6.5.2-3", "unknown", 0x7A7A, 0xFFFFFFFF, SERVED)
setting("6.5.2-3", "of_identifier_zero", 0, 1, SERVED)
setting("6.5.2-2.2", "header_table_size_0", TABLE_SIZE, 0, SERVED)
setting("6.5.2-2.2", "header_table_size_of_all_ones", TABLE_SIZE, (1 << 32) - 1, SERVED)


@rules("6.5.3-2", SERVED)
def settings_values_count_in_their_order(c):
    c.credit = False
    c.send_settings((INITIAL_WINDOW, 5), (INITIAL_WINDOW, 7))
    stream = c.request(path="/?size=100")
    c.until(lambda: stream.received >= 7, what="seven octets")
    c.sync()
    assert stream.received == 7
    c.credit = True
    c.send_settings((INITIAL_WINDOW, DEFAULT_WINDOW))
    return stream


@rules("6.5.3-3", SERVED, goaway(PROTOCOL))
def settings_ack_that_nobody_asked_for(c):
    # The RFC has no rule for it.
    c.send_frame(SETTINGS, ACK)


# 6.6 PUSH_PROMISE (also 8.4-10, 8.4.1-7): a client cannot push.


@rules("8.4-10", goaway(PROTOCOL))
def push_promise_on_an_open_stream(c):
    c.send_frame(PUSH_PROMISE, END_HEADERS, upload(c).id, u32(2) + c.block(FIELDS))


@rules("6.6-8", goaway(PROTOCOL))
def push_promise_on_the_connection(c):
    c.send_frame(PUSH_PROMISE, END_HEADERS, 0, u32(2) + c.block(FIELDS))


@rules("6.6-14", goaway(PROTOCOL, SIZE))
def push_promise_with_more_padding_than_payload(c):
    c.send_frame(PUSH_PROMISE, END_HEADERS | PADDED, upload(c).id, b"\xff" + u32(2))


# 6.7 PING


@rules("6.7-5", SERVED)
def ping_is_answered_with_its_payload(c):
    payload = os.urandom(8)
    c.send_frame(PING, payload=payload)
    c.until(lambda: payload in c.pongs, what="the PING's answer")


@rules("6.7-7.2", SERVED)
def ping_ack_is_not_answered(c):
    c.send_frame(PING, ACK, payload=b"not mine")
    c.sync()
    assert b"not mine" not in c.pongs


@rules("6.7-8", goaway(PROTOCOL))
def ping_on_a_stream(c):
    c.send_frame(PING, 0, 1, bytes(8))


@rules("6.7-8", goaway(PROTOCOL))
def ping_on_an_open_stream(c):
    c.send_frame(PING, 0, upload(c).id, bytes(8))


@rules("6.7-9", goaway(SIZE))
def ping_empty(c):
    c.send_frame(PING)


@rules("6.7-9", goaway(SIZE))
def ping_too_short(c):
    c.send_frame(PING, payload=bytes(7))


@rules("6.7-9", goaway(SIZE))
def ping_too_long(c):
    c.send_frame(PING, payload=bytes(9))


@rules("6.7-9", goaway(SIZE))
def ping_ack_too_long(c):
    c.send_frame(PING, ACK, payload=bytes(12))


# 6.8 GOAWAY


@rules("6.8-11", goaway(PROTOCOL))
def goaway_on_a_stream(c):
    c.send_frame(GOAWAY, 0, 1, u32(0) + u32(0))


@rules("4.2-4", goaway(SIZE))
def goaway_too_short(c):
    c.send_frame(GOAWAY, 0, 0, u32(0) + b"\0\0\0")


@rules("6.8-1", SERVED, CLOSED, again=False)
def goaway_of_the_client_lets_its_requests_finish(c):
    stream = upload(c)
    c.sync()
    c.send_frame(GOAWAY, 0, 0, u32(0) + u32(0) + b"debug data")
    c.write(stream, b"the rest")
    c.end(stream)
    c.response(stream)
    assert b"the rest" in stream.data
    return stream


# 6.9 WINDOW_UPDATE


@rules("6.9-9", rst(PROTOCOL), goaway(PROTOCOL))
def window_update_of_zero_on_a_stream(c):
    stream = upload(c)
    c.window_update(stream.id, 0)
    return stream


@rules("6.9-9", goaway(PROTOCOL))
def window_update_of_zero_on_the_connection(c):
    c.window_update(0, 0)


@rules("6.9-9", goaway(PROTOCOL))
def window_update_of_the_reserved_bit_alone(c):
    c.window_update(0, 1 << 31)


@rules("6.9-12", goaway(SIZE))
def window_update_too_short(c):
    c.send_frame(WINDOW_UPDATE, 0, 0, bytes(3))


@rules("6.9-12", goaway(SIZE))
def window_update_too_long(c):
    c.send_frame(WINDOW_UPDATE, 0, upload(c).id, u32(1) + b"\0")


@rules("6.9-10", SERVED)
def window_update_on_a_closed_stream(c):
    stream = c.response(c.request())
    c.window_update(stream.id, 1)
    return stream


@rules("6.9.1-7", rst(FLOW), goaway(FLOW))
def window_of_a_stream_beyond_the_maximum(c):
    stream = upload(c)
    c.window_update(stream.id, (1 << 31) - 1)
    return stream


@rules("6.9.1-7", goaway(FLOW))
def window_of_the_connection_beyond_the_maximum(c):
    c.window_update(0, (1 << 31) - 1)


@rules("6.9.1-7", SERVED)
def window_of_the_connection_at_the_maximum(c):
    c.window_update(0, (1 << 31) - 1 - DEFAULT_WINDOW)


@rules("6.9.2-7", goaway(FLOW))
def initial_window_that_takes_a_stream_beyond_the_maximum(c):
    stream = upload(c)
    c.window_update(stream.id, (1 << 31) - 1 - DEFAULT_WINDOW)
    c.send_settings((INITIAL_WINDOW, DEFAULT_WINDOW + 1))
    return stream


# 6.10 CONTINUATION


@rules("6.10-7", goaway(PROTOCOL))
def continuation_on_the_connection(c):
    c.send_frame(CONTINUATION, END_HEADERS, 0, c.block(FIELDS))


@rules("6.10-8", goaway(PROTOCOL), heads=0)
def continuation_out_of_the_blue(c):
    c.send_frame(CONTINUATION, END_HEADERS, c.reserve().id, c.block(FIELDS))


@rules("6.10-8", goaway(PROTOCOL))
def continuation_after_the_end_of_its_block(c):
    stream = head(c, END_HEADERS, c.block(POST))
    c.send_frame(CONTINUATION, END_HEADERS, stream.id, b"")
    return stream


@rules("6.10-8", goaway(PROTOCOL))
def continuation_after_data(c):
    stream = upload(c)
    c.send_frame(DATA, 0, stream.id, b"x")
    c.send_frame(CONTINUATION, END_HEADERS, stream.id, b"")
    return stream


@rules("6.10-5.2", SERVED)
def field_block_in_several_frames(c):
    block = c.block([*FIELDS, ("x-long", "v" * 40)])
    stream = head(c, END_STREAM, block[:5])
    for at in range(5, len(block), 20):
        c.send_frame(CONTINUATION, 0, stream.id, block[at : at + 20])
    c.send_frame(CONTINUATION, END_HEADERS, stream.id, b"")
    return stream


@rules("6.10-5.2", SERVED)
def field_block_that_begins_empty(c):
    stream = head(c, END_STREAM, b"")
    c.send_frame(CONTINUATION, END_HEADERS, stream.id, c.block(FIELDS))
    return stream


@pytest.mark.parametrize("rule", rules, ids=lambda rule: rule.id)
def test_rule(rule, proxy, shared_echo):
    check(rule, proxy.address(), shared_echo)
