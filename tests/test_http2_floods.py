"""Floods over HTTP/2: the connection ends or is held to its limits, memory stays bounded, and
another connection is served all the while."""

import contextlib
import time

import pytest
from support.config import http_config
from support.h2raw import (
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, MAX_FRAME, PADDED, PING, PRIORITY,
    RST_STREAM, SETTINGS, TABLE_SIZE, WINDOW_UPDATE, Code, dial, frame, settings, u32,
)
from support.reactor import Tick, until

GROWTH = 32 << 20  # no flood may make the process grow by more
FIELDS = [(":method", "GET"), (":scheme", "http"), (":authority", "pillion.test"), (":path", "/flood")]


@pytest.fixture
def proxy(pillion, echo):
    # One worker: whoever is served meanwhile is served by the one under attack.
    return pillion(http_config(echo.address), env={"PILLION_WORKERS": "1"})


def flood(proxy, attacker, batches, refill=None):
    """Sends batch after batch as fast as they are taken, while another client makes requests.

    Returns whether the attacker's connection was ended.
    """
    before = proxy.rss()
    with dial(proxy.address()) as neighbour:
        neighbour.expect_alive()
        for batch in batches:
            if attacker.closed or any(code for _, code, _ in attacker.goaways):
                break
            attacker.send(batch)
            stream = neighbour.request(path="/neighbour")
            until(lambda s=stream: s.over, neighbour, *open_(attacker), what="the neighbour's response")
            assert stream.status == 200
            # What the proxy does not read stays with us; wait until it has taken most of it.
            end = time.monotonic() + 5
            until(
                lambda: attacker.closed or len(attacker.outbox) < 1 << 16 or time.monotonic() > end,
                neighbour, *open_(attacker), Tick(), what="room",
            )
            assert proxy.rss() - before < GROWTH, "memory grew with the flood"
        neighbour.expect_alive()
    with dial(proxy.address()) as fresh:
        fresh.expect_alive()
    return attacker.closed or any(code for _, code, _ in attacker.goaways)


def open_(peer):
    return [] if peer.closed else [peer]


def requests(attacker, count, tail=lambda stream: b"", end=True):
    """That many requests in one go, each followed by `tail`."""
    out = b""
    for _ in range(count):
        stream = attacker.reserve()
        out += frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream.id, attacker.block(FIELDS))
        out += tail(stream)
    return out


def test_rapid_reset(proxy, echo):
    """CVE-2023-44487: requests that are cancelled as they come."""
    with dial(proxy.address()) as attacker:
        cancel = lambda stream: frame(RST_STREAM, 0, stream.id, u32(8))  # noqa: E731
        ended = flood(proxy, attacker, (requests(attacker, 500, cancel) for _ in range(60)))
    assert ended, "30,000 requests were cancelled and nobody minded"


def test_made_you_reset(proxy):
    """CVE-2025-8671: frames that make the server reset the stream, again and again."""
    with dial(proxy.address()) as attacker:
        provoke = lambda stream: frame(WINDOW_UPDATE, 0, stream.id, u32(0))  # noqa: E731
        ended = flood(proxy, attacker, (requests(attacker, 500, provoke, end=False) for _ in range(60)))
    assert ended, "30,000 streams were reset by provocation and nobody minded"


def test_continuation_flood(proxy):
    """CVE-2024-27316: a field block without an end."""
    with dial(proxy.address()) as attacker:
        head = frame(HEADERS, END_STREAM, attacker.reserve().id, attacker.block(FIELDS))
        filler = frame(CONTINUATION, 0, 1, b"\x00\x06x-fill\x04abcd") * 2000
        ended = flood(proxy, attacker, [head] + [filler] * 200)
    assert ended


def test_continuation_flood_of_empty_frames(proxy):
    with dial(proxy.address()) as attacker:
        head = frame(HEADERS, END_STREAM, attacker.reserve().id, attacker.block(FIELDS))
        ended = flood(proxy, attacker, [head] + [frame(CONTINUATION, 0, 1) * 5000] * 100)
    assert ended


def test_settings_flood(proxy):
    """CVE-2019-9515: each SETTINGS asks for an ACK, which the attacker does not read."""
    with dial(proxy.address()) as attacker:
        attacker.reading = False
        flood(proxy, attacker, [settings((INITIAL_WINDOW, 65535)) * 5000] * 100)


def test_ping_flood(proxy):
    """CVE-2019-9512: each PING asks for an answer, which the attacker does not read."""
    with dial(proxy.address()) as attacker:
        attacker.reading = False
        flood(proxy, attacker, [frame(PING, payload=bytes(8)) * 5000] * 100)


def test_ping_and_settings_floods_that_are_read(proxy):
    """The same from a client that reads: the answers are all there, or the connection is ended."""
    with dial(proxy.address()) as attacker:
        ended = flood(proxy, attacker, [(frame(PING, payload=bytes(8)) + settings()) * 1000] * 20)
        if not ended:
            attacker.until(lambda: attacker.settings_acked > 20000 and len(attacker.pongs) >= 20000, what="answers")


def test_empty_data_flood(proxy):
    """CVE-2019-9518: DATA frames without data, which flow control does not see."""
    with dial(proxy.address()) as attacker:
        stream = attacker.request("POST", end=False)
        ended = flood(proxy, attacker, [frame(DATA, 0, stream.id) * 5000] * 100)
    assert ended, "500,000 empty frames and nobody minded"


def test_padding_flood(proxy):
    """DATA frames that are all padding."""
    with dial(proxy.address()) as attacker:
        stream = attacker.request("POST", end=False)
        attacker.sync()
        one = frame(DATA, PADDED, stream.id, b"\xff" + bytes(255))
        # Within the window: it comes back as it is spent.
        for _ in range(200):
            batch = min(attacker.send_window, stream.send_window) // 256
            if not batch or attacker.closed:
                break
            attacker.send_window -= 256 * batch
            stream.send_window -= 256 * batch
            flood(proxy, attacker, [one * batch])
            attacker.until(
                lambda: attacker.closed or attacker.goaways or stream.reset is not None
                or min(attacker.send_window, stream.send_window) > 1 << 14,
                what="the window or the end",
            )
            if attacker.closed or attacker.goaways or stream.reset is not None:
                break


def test_one_octet_data_flood_is_carried_or_cut(proxy, echo):
    """A body in frames of one octet is legal, if costly."""
    with dial(proxy.address()) as attacker:
        stream = attacker.request("POST", end=False)
        attacker.sync()
        sent, ended = 0, False
        while sent < 200_000 and not ended:
            count = min(5000, attacker.send_window, stream.send_window)
            attacker.send_window -= count
            stream.send_window -= count
            sent += count
            ended = flood(proxy, attacker, [frame(DATA, 0, stream.id, b"x") * count]) or stream.reset is not None
            if not ended:
                attacker.until(
                    lambda: attacker.closed or attacker.goaways or stream.reset is not None
                    or min(attacker.send_window, stream.send_window) > 0, what="the window or the end",
                )
        if not ended:
            attacker.end(stream)
            attacker.until(lambda: stream.over or attacker.closed, what="the response")
            assert b'"length": %d' % sent in stream.data


def test_window_update_flood(proxy):
    with dial(proxy.address()) as attacker:
        attacker.request("POST", end=False)
        flood(proxy, attacker, [frame(WINDOW_UPDATE, 0, 1, u32(1)) * 5000 + frame(WINDOW_UPDATE, 0, 0, u32(1)) * 5000] * 50)


def test_priority_flood(proxy):
    """CVE-2019-9513: PRIORITY on ever new streams keeps no state."""
    with dial(proxy.address()) as attacker:
        batches = (
            b"".join(frame(PRIORITY, 0, 2 * n + 1, u32(0) + b"\x10") for n in range(at, at + 5000))
            for at in range(10, 500_000, 5000)
        )
        flood(proxy, attacker, batches)


def test_unknown_frame_flood(proxy):
    with dial(proxy.address()) as attacker:
        flood(proxy, attacker, [frame(0x77, 0, 0, bytes(100)) * 2000] * 100)


def test_rst_stream_flood(proxy):
    """RST_STREAM on a stream that is long closed."""
    with dial(proxy.address()) as attacker:
        stream = attacker.response(attacker.request())
        flood(proxy, attacker, [frame(RST_STREAM, 0, stream.id, u32(8)) * 5000] * 50)


def test_settings_ack_flood(proxy):
    with dial(proxy.address()) as attacker:
        flood(proxy, attacker, [frame(SETTINGS, ACK) * 5000] * 50)


def test_oversized_header_list(proxy, echo):
    """More than maxHeadSize: 431, a reset or the connection's end; never the upstream."""
    with dial(proxy.address()) as attacker:
        heads = echo.heads
        fields = [*FIELDS, *((f"x-{number}", "v" * 1000) for number in range(200))]
        stream = attacker.open(fields)
        attacker.until(lambda: stream.over or attacker.closed or attacker.goaways, what="the refusal")
        if stream.status:
            assert stream.status == 431
        assert echo.heads == heads
    with dial(proxy.address()) as other:
        other.expect_alive()


def test_header_list_within_the_limit(proxy, echo):
    """Up to 64 KiB as it is counted (RFC 9113 section 6.5.2: 32 octets a field more) it passes."""
    with dial(proxy.address()) as client:
        fields = [*FIELDS, *((f"x-{number}", "v" * 1000) for number in range(55))]
        assert client.response(client.open(fields)).status == 200


def test_hpack_bomb(proxy, echo):
    """A large value in the table, named ten thousand times in a few octets."""
    with dial(proxy.address()) as attacker:
        heads = echo.heads
        attacker.response(attacker.open([*FIELDS, ("x-bomb", "b" * 3900)]))
        heads = echo.heads
        # The newest entry of the dynamic table has index 62.
        for _ in range(20):
            if attacker.closed or attacker.goaways:
                break
            stream = attacker.reserve()
            block = attacker.block(FIELDS) + b"\xbe" * 10000
            attacker.send_frame(HEADERS, END_HEADERS | END_STREAM, stream.id, block)
            attacker.until(
                lambda s=stream: s.over or attacker.closed or attacker.goaways, what="the refusal"
            )
        assert echo.heads == heads
    with dial(proxy.address()) as other:
        other.expect_alive()
    assert proxy.rss() < 96 << 20


def test_many_streams_with_a_tiny_window(proxy, echo):
    """CVE-2019-9517 and 9511: responses that may not leave are not piled up."""
    before = proxy.rss()
    with dial(proxy.address(), (INITIAL_WINDOW, 0), credit=False) as attacker:
        streams = [attacker.request(path="/?size=20000000") for _ in range(100)]
        attacker.until(lambda: all(s.headers for s in streams), what="100 heads")
        with dial(proxy.address()) as neighbour:
            for _ in range(20):
                neighbour.expect_alive()
                attacker.sync()
        growth = proxy.rss() - before
        assert growth < 96 << 20, f"{growth >> 20} MiB for 100 streams of which nothing may leave"
        for stream in streams:
            attacker.window_update(stream.id, 1)
        attacker.until(lambda: all(s.received == 1 for s in streams), what="an octet on each")
    with dial(proxy.address()) as other:
        other.expect_alive()


def test_responses_that_are_not_read_from_the_socket(proxy):
    """Windows wide open and a socket that is never read: TCP stops it, and memory stays bounded."""
    before = proxy.rss()
    with dial(proxy.address(), (INITIAL_WINDOW, (1 << 31) - 1)) as attacker:
        attacker.window_update(0, (1 << 31) - 1 - 65535)
        attacker.sync()
        attacker.send(b"".join(attacker.head_frames(attacker.reserve().id, [*FIELDS[:3], (":path", "/?size=50000000")], True)
                               for _ in range(50)))
        with dial(proxy.address()) as neighbour:
            for _ in range(50):
                neighbour.expect_alive()
        growth = proxy.rss() - before
        assert growth < 96 << 20, f"{growth >> 20} MiB for responses that nobody reads"


def test_header_table_resize_flood(proxy):
    with dial(proxy.address()) as attacker:
        attacker.reading = False
        flood(proxy, attacker, [(settings((TABLE_SIZE, 0)) + settings((TABLE_SIZE, 1 << 24))) * 2000] * 50)


def test_frame_size_of_the_maximum_does_not_make_buffers(proxy):
    """A client that takes frames of 16 MiB gets no such buffers made for it."""
    before = proxy.rss()
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(dial(proxy.address(), (MAX_FRAME, (1 << 24) - 1)))
            client.expect_alive()
        assert proxy.rss() - before < GROWTH


def test_flow_control_of_refused_streams(proxy, echo):
    """Bodies of malformed requests don't eat the connection's window."""
    with dial(proxy.address()) as client:
        for _ in range(300):
            stream = client.open([*FIELDS, ("connection", "close")], end=False)
            client.until(lambda s=stream: s.over or client.closed or client.goaways, what="the refusal")
            if client.closed or client.goaways:  # so many faults need not be put up with
                assert client.goaways[-1][1] == Code.ENHANCE_YOUR_CALM
                return
            if client.send_window > 16000:
                client.send_window -= 16000
                client.send_frame(DATA, 0, stream.id, bytes(16000))
        client.expect_alive()
