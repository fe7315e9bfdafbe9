"""RFC 9113 sections 3.4 and 4: the preface, the format of frames, field blocks, towards clients."""

import struct

import pytest
from support.config import http_config
from support.h2raw import (
    ACK, CONTINUATION, DATA, ENABLE_PUSH, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, MAX_FRAME, MAX_STREAMS,
    PADDED, PING, PREFACE, PRIORITIZED, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, TABLE_SIZE, WINDOW_UPDATE, H2,
    Code, dial, frame, u32,
)
from support.h2rules import FIELDS, SERVED, Rules, check, goaway, head, rst, upload
from support.reactor import connect as dial_tcp

PROTOCOL, SIZE, COMPRESSION = Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.COMPRESSION_ERROR
rules = Rules()


@pytest.fixture(scope="module")
def proxy(shared_pillion, shared_echo):
    return shared_pillion(http_config(shared_echo.address))


# 3.4 Connection preface


@pytest.mark.parametrize(
    "after",
    [frame(PING, payload=bytes(8)), frame(HEADERS, 5, 1, b"\x82\x86\x84"), frame(SETTINGS, ACK), frame(DATA, 0, 1, b"x")],
    ids=["ping", "headers", "settings-ack", "data"],
)
def test_preface_must_be_followed_by_settings(proxy, after):
    """3.4-4, 3.4-9: a connection error PROTOCOL_ERROR; the GOAWAY may be omitted."""
    with H2(dial_tcp(proxy.address()), client=True, opening=PREFACE + after) as client:
        client.expect_closed()
        assert all(code == PROTOCOL for _, code, _ in client.goaways), client.describe()
        assert not client.streams
    proxy.wait_reason("bad_request")


def test_server_preface_is_settings_and_the_clients_are_acknowledged(proxy):
    """3.4-6, 3.4-7, 6.5.3-2: the first frame is SETTINGS; each SETTINGS gets its own ACK."""
    with dial(proxy.address()) as client:
        assert client.frames[0].startswith("SettingsFrame") and "ACK" not in client.frames[0]
        for pairs in ([(INITIAL_WINDOW, 1000)], [], [(INITIAL_WINDOW, 70000)]):
            client.send_settings(*pairs)
        client.until(lambda: client.settings_acked == 4, what="three more ACKs")
        # 6.5.2-2.4: a server must not announce push.
        assert client.settings.get(ENABLE_PUSH, 0) == 0


def test_offered_settings(proxy):
    """The concurrency of the configuration and extended CONNECT (RFC 8441 section 3) are offered."""
    with dial(proxy.address()) as client:
        assert client.settings[MAX_STREAMS] == 100
        assert client.settings[8] == 1


# 4.1 Frame format


@rules("4.1-4.4", SERVED)
def unknown_frame_on_the_connection(c):
    c.send_frame(0x16, 0xFF, 0, b"grease")


@rules("4.1-4.4", SERVED)
def unknown_frame_on_an_open_stream(c):
    stream = upload(c)
    c.send_frame(0x17, 0xFF, stream.id, b"grease")
    c.end(stream)
    return stream


@rules("5.1-9", SERVED)
def unknown_frame_on_an_idle_stream(c):
    c.send_frame(0x18, 0, 99, b"grease")


@rules("4.2-2", SERVED)
def unknown_frame_of_the_largest_size(c):
    c.send_frame(0x19, 0, 0, bytes(16384))


@rules("4.1-4.6", SERVED)
def unused_flags_of_settings(c):
    c.send_frame(SETTINGS, 0xFE)


@rules("4.1-4.6", SERVED)
def unused_flags_of_ping(c):
    c.send_frame(PING, 0xFE, payload=b"anything")
    c.until(lambda: b"anything" in c.pongs, what="the PING's answer")


@rules("4.1-4.6", SERVED)
def unused_flags_of_headers(c):
    return head(c, 0xD2 | END_HEADERS | END_STREAM, c.block(FIELDS))


@rules("4.1-4.6", SERVED)
def unused_flags_of_data(c):
    stream = upload(c)
    c.send_frame(DATA, 0xF6 | END_STREAM, stream.id, b"x")
    return stream


@rules("4.1-4.6", SERVED)
def unused_flags_of_window_update(c):
    c.send_frame(WINDOW_UPDATE, 0xFF, 0, u32(1))


@rules("4.1-4.6", SERVED)
def unused_flags_of_priority(c):
    c.send_frame(PRIORITY, 0xFF, 3, u32(0) + b"\x10")


@rules("4.1-4.6", SERVED)
def unused_flags_of_continuation(c):
    block = c.block(FIELDS)
    stream = head(c, END_STREAM, block[:3])
    c.send_frame(CONTINUATION, 0xFB | END_HEADERS, stream.id, block[3:])
    return stream


@rules("4.1-4.8", SERVED)
def reserved_bit_of_the_stream_identifier(c):
    stream = c.reserve()
    c.send_frame(HEADERS, END_HEADERS | END_STREAM, stream.id | 1 << 31, c.block(FIELDS))
    return stream


@rules("4.1-4.8", SERVED)
def reserved_bit_on_the_connection(c):
    c.send_frame(PING, 0, 1 << 31, b"reserved")
    c.until(lambda: b"reserved" in c.pongs, what="the PING's answer")


# 4.2 Frame size


@rules("4.2-2", SERVED)
def data_of_the_largest_size(c):
    stream = upload(c)
    c.send_frame(DATA, END_STREAM, stream.id, bytes(16384))
    return stream


@rules("4.2-4", goaway(SIZE), rst(SIZE))
def data_beyond_the_largest_size(c):
    stream = upload(c)
    c.send_frame(DATA, END_STREAM, stream.id, bytes(c.settings.get(MAX_FRAME, 16384) + 1))
    return stream


@rules("4.2-4", goaway(SIZE))
def headers_beyond_the_largest_size(c):
    return head(c, END_HEADERS | END_STREAM, bytes(c.settings.get(MAX_FRAME, 16384) + 1))


@rules("4.2-4", goaway(SIZE))
def continuation_beyond_the_largest_size(c):
    stream = head(c, END_STREAM, c.block(FIELDS))
    c.send_frame(CONTINUATION, END_HEADERS, stream.id, bytes(c.settings.get(MAX_FRAME, 16384) + 1))
    return stream


@rules("4.2-4", goaway(SIZE))
def settings_beyond_the_largest_size(c):
    c.send_frame(SETTINGS, payload=struct.pack(">HI", 0xFF00, 1) * (c.settings.get(MAX_FRAME, 16384) // 6 + 1))


@rules("4.2-4", goaway(SIZE))
def unknown_frame_beyond_the_largest_size(c):
    c.send_frame(0x20, 0, 0, bytes(c.settings.get(MAX_FRAME, 16384) + 1))


@rules("4.2-4", goaway(SIZE, PROTOCOL))
def headers_too_short_for_its_padding_field(c):
    return head(c, END_HEADERS | END_STREAM | PADDED, b"")


@rules("4.2-4", goaway(SIZE, PROTOCOL))
def headers_too_short_for_its_priority_fields(c):
    return head(c, END_HEADERS | END_STREAM | PRIORITIZED, b"\0\0\0\0")


@rules("4.2-4", goaway(SIZE, PROTOCOL), rst(SIZE, PROTOCOL))
def data_too_short_for_its_padding_field(c):
    stream = upload(c)
    c.send_frame(DATA, END_STREAM | PADDED, stream.id, b"")
    return stream


# 4.3 Field blocks: nothing may come between their frames (also 6.2-6.6, 6.10-5.2, 5.5-4).


def interleaved(name, send):
    def rule(c):
        stream = head(c, END_STREAM, c.block(FIELDS))
        send(c, stream)
        return stream

    rule.__name__ = f"{name}_inside_a_field_block"
    rules("4.3-10", goaway(PROTOCOL), heads=0)(rule)


interleaved("data", lambda c, s: c.send_frame(DATA, 0, s.id, b"x"))
interleaved("headers_of_the_same_stream", lambda c, s: c.send_frame(HEADERS, END_HEADERS, s.id, b""))
interleaved("headers_of_another_stream", lambda c, s: c.send_frame(HEADERS, END_HEADERS, s.id + 2, b"\x82\x86\x84"))
interleaved("continuation_of_another_stream", lambda c, s: c.send_frame(CONTINUATION, END_HEADERS, s.id + 2, b""))
interleaved("priority", lambda c, s: c.send_frame(PRIORITY, 0, s.id, u32(0) + b"\x10"))
interleaved("rst_stream", lambda c, s: c.send_frame(RST_STREAM, 0, s.id, u32(8)))
interleaved("settings", lambda c, s: c.send_settings())
interleaved("settings_ack", lambda c, s: c.send_frame(SETTINGS, ACK))
interleaved("push_promise", lambda c, s: c.send_frame(PUSH_PROMISE, END_HEADERS, s.id, u32(2)))
interleaved("ping", lambda c, s: c.send_frame(PING, payload=bytes(8)))
interleaved("goaway", lambda c, s: c.goaway(0))
interleaved("window_update", lambda c, s: c.window_update(0, 1))
interleaved("window_update_of_the_stream", lambda c, s: c.window_update(s.id, 1))
interleaved("an_unknown_frame", lambda c, s: c.send_frame(0x21, 0, s.id, b"grease"))


@rules("4.3-11", SERVED)
def field_blocks_of_refused_requests_still_count_for_the_table(c):
    # The malformed request puts a field into the table that the good one refers to.
    c.open([*FIELDS[:3], (":path", "/table"), ("x-shared", "a value"), ("connection", "close")])
    return c.open([*FIELDS[:3], (":path", "/table"), ("x-shared", "a value")])


# 4.3-12: a field block that cannot be decoded.


def undecodable(name, tail, *more):
    def rule(c):
        return head(c, END_HEADERS | END_STREAM, c.block(FIELDS) + tail)

    rule.__name__ = f"field_block_with_{name}"
    rules("4.3-12", goaway(COMPRESSION), *more, heads=0)(rule)


undecodable("index_zero", b"\x80")
undecodable("an_index_beyond_the_table", b"\xff\x80\x01")
undecodable("a_name_index_beyond_the_table", b"\x7f\x80\x01\x01a")
undecodable("a_truncated_integer", b"\xff\x80")
undecodable("an_integer_that_overflows", b"\xff" + b"\xff" * 10 + b"\x01")
undecodable("a_truncated_name", b"\x40\x05ab")
undecodable("a_truncated_value", b"\x40\x01a\x05ab")
undecodable("no_value", b"\x40\x01a")
undecodable("the_end_of_string_symbol", b"\x40\x01a\x84\xff\xff\xff\xff")
undecodable("huffman_padding_of_a_whole_octet", b"\x40\x01a\x82\x1f\xff")
undecodable("huffman_padding_of_zeros", b"\x40\x01a\x81\x18")
undecodable("a_table_size_update_at_its_end", b"\x20")


@rules("4.3-12", goaway(COMPRESSION), heads=0)
def table_size_update_beyond_what_was_offered(c):
    return head(c, END_HEADERS | END_STREAM, b"\x3f" + _varint(c.settings.get(TABLE_SIZE, 4096) + 1 - 31) + c.block(FIELDS))


@rules("4.3-12", SERVED)
def table_size_updates_within_the_limit(c):
    c.encoder.header_table_size = 0
    c.encoder.header_table_size = 100
    return c.open(FIELDS)


def _varint(value):
    out = b""
    while value >= 128:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


@pytest.mark.parametrize("rule", rules, ids=lambda rule: rule.id)
def test_rule(rule, proxy, shared_echo):
    check(rule, proxy.address(), shared_echo)
