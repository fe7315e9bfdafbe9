"""A raw HTTP/2 peer: sends any frame, also malformed ones, and records what comes back.

It follows the protocol (acknowledges SETTINGS and PING, returns flow-control credit, keeps to the
other side's windows) as long as it is not told otherwise, and judges nothing but its own reading:
a frame that hyperframe or hpack cannot parse fails the test.
"""

from __future__ import annotations

import collections
import enum
import struct
from dataclasses import dataclass, field

import hpack
from hyperframe.frame import Frame

from .reactor import TIMEOUT, Listener, Peer, connect, until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(1, 7)
ENABLE_CONNECT = 8
DEFAULT_WINDOW = 65535


class Code(enum.IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Any frame at all; `stream` may carry the reserved bit."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", *pair) for pair in pairs))


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


@dataclass(eq=False)
class Stream:
    """One exchange as this end sees it."""

    id: int
    send_window: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    informational: list[list[tuple[str, str]]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] | None = None
    ended: bool = False
    reset: Code | None = None
    received: int = 0  # DATA octets, padding included
    chunks: collections.deque = field(default_factory=collections.deque)
    finish: bytes | None = None  # frames that end our side once `chunks` are out
    answered: bool = False  # for the test to note

    @property
    def status(self) -> int:
        return int(self.get(":status") or 0)

    @property
    def path(self) -> str | None:
        return self.get(":path")

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    def get(self, name: str) -> str | None:
        """The value of a field; None if absent; joined if repeated."""
        values = self.all(name)
        return ", ".join(values) if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def trailer(self, name: str) -> str | None:
        return dict(self.trailers or ()).get(name)


class H2(Peer):
    """One end of an HTTP/2 connection."""

    def __init__(self, sock, client: bool, own_settings=(), credit: bool = True, opening: bytes | None = None):
        """`opening` replaces the preface."""
        super().__init__(sock, "client" if client else "upstream")
        self.client = client
        self.credit = credit  # give back flow-control credit for what is read
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder(max_header_list_size=1 << 22)
        self.streams: dict[int, Stream] = {}
        self.requests: collections.deque[Stream] = collections.deque()  # opened by the other side
        self.next_id = 1
        self.settings: dict[int, int] = {}
        self.settings_seen = self.settings_acked = 0
        self.acknowledge = True
        self.pongs: list[bytes] = []
        self.goaways: list[tuple[int, Code, bytes]] = []
        self.frames: collections.deque[str] = collections.deque(maxlen=40)
        self.send_window = DEFAULT_WINDOW
        self.inbox = bytearray()
        self.fragments = bytearray()
        self.fragment_flags: set[str] = set()
        self.preface_left = b"" if client else PREFACE
        self.unacknowledged: collections.deque = collections.deque()  # our SETTINGS
        if opening is not None:
            self.send(opening)
            return
        if client:
            self.send(PREFACE)
        self.send_settings(*own_settings)

    # -- sending

    def send_frame(self, kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> None:
        self.send(frame(kind, flags, stream, payload))

    def send_settings(self, *pairs: tuple[int, int]) -> None:
        self.unacknowledged.append(dict(pairs))
        self.send(settings(*pairs))

    def block(self, fields) -> bytes:
        """A field block; names and values go out as they are."""
        return self.encoder.encode([tuple(f) for f in fields])

    def head_frames(self, stream: int, fields, end: bool) -> bytes:
        """HEADERS and as many CONTINUATION frames as it takes."""
        block, size = self.block(fields), self.settings.get(MAX_FRAME, 16384)
        parts = [block[at : at + size] for at in range(0, len(block), size)] or [b""]
        out = b""
        for index, part in enumerate(parts):
            flags = END_HEADERS if index == len(parts) - 1 else 0
            if index == 0:
                out += frame(HEADERS, flags | (END_STREAM if end else 0), stream, part)
            else:
                out += frame(CONTINUATION, flags, stream, part)
        return out

    def open(self, fields, end: bool = True) -> Stream:
        """Opens the next stream with exactly these fields."""
        stream = self.reserve()
        self.send(self.head_frames(stream.id, fields, end))
        return stream

    def reserve(self) -> Stream:
        """The next stream of ours, with nothing sent on it."""
        stream = Stream(self.next_id, self.settings.get(INITIAL_WINDOW, DEFAULT_WINDOW))
        self.streams[stream.id] = stream
        self.next_id += 2
        return stream

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        headers=(),
        body: bytes | None = None,
        trailers=None,
        end: bool = True,
        authority: str = "pillion.test",
    ) -> Stream:
        """An ordinary request. With `end=False` its body stays open for `write`."""
        fields = [(":method", method), (":scheme", "http"), (":authority", authority)]
        fields += [(":path", path), *headers]
        bare = body is None and trailers is None
        stream = self.open(fields, end=end and bare)
        if body:
            self.write(stream, body)
        if end and not bare:
            self.end(stream, trailers)
        return stream

    def respond(self, stream: Stream, status: int = 200, headers=(), body=None, trailers=None, end=True) -> None:
        bare = body is None and trailers is None
        fields = [(":status", str(status)), *headers]
        self.send(self.head_frames(stream.id, fields, end and bare))
        if body:
            self.write(stream, body)
        if end and not bare:
            self.end(stream, trailers)

    def write(self, stream: Stream, data: bytes) -> None:
        """Queues body octets; they leave as the windows allow."""
        stream.chunks.append(memoryview(data))
        self._push(stream)

    def end(self, stream: Stream, trailers=None) -> None:
        """Ends our side of a stream, after what is queued."""
        if trailers is None:
            stream.finish = frame(DATA, END_STREAM, stream.id)
        else:
            stream.finish = self.head_frames(stream.id, trailers, end=True)
        self._push(stream)

    def rst(self, stream: Stream, code: Code = Code.CANCEL) -> None:
        stream.chunks.clear()
        stream.finish = None
        self.send_frame(RST_STREAM, stream=stream.id, payload=u32(code))

    def goaway(self, last: int, code: Code = Code.NO_ERROR) -> None:
        self.send_frame(GOAWAY, payload=u32(last) + u32(code))

    def window_update(self, stream: int, increment: int) -> None:
        self.send_frame(WINDOW_UPDATE, stream=stream, payload=u32(increment))

    def _push(self, stream: Stream) -> None:
        size = self.settings.get(MAX_FRAME, 16384)
        while stream.chunks:
            room = min(self.send_window, stream.send_window, size)
            if room <= 0:
                return
            part = stream.chunks[0][:room]
            rest = stream.chunks[0][room:]
            if len(rest):
                stream.chunks[0] = rest
            else:
                stream.chunks.popleft()
            self.send_window -= len(part)
            stream.send_window -= len(part)
            self.send(frame(DATA, 0, stream.id, bytes(part)))
        if stream.finish is not None:
            self.send(stream.finish)
            stream.finish = None

    # -- receiving

    def feed(self, data: bytes) -> None:
        self.inbox += data
        if self.preface_left:
            size = min(len(self.inbox), len(self.preface_left))
            assert self.inbox[:size] == self.preface_left[:size], f"preface: {bytes(self.inbox[:40])!r}"
            self.preface_left = self.preface_left[size:]
            del self.inbox[:size]
        while len(self.inbox) >= 9:
            parsed, length = Frame.parse_frame_header(memoryview(bytes(self.inbox[:9])))
            if len(self.inbox) < 9 + length:
                return
            parsed.parse_body(memoryview(bytes(self.inbox[9 : 9 + length])))
            del self.inbox[: 9 + length]
            self.frames.append(str(parsed)[:100])
            getattr(self, f"on_{type(parsed).__name__.removesuffix('Frame').lower()}", lambda _: None)(parsed)

    def on_settings(self, f) -> None:
        if "ACK" in f.flags:
            self.settings_acked += 1
            ours = self.unacknowledged.popleft() if self.unacknowledged else {}
            if TABLE_SIZE in ours:
                self.decoder.max_allowed_table_size = ours[TABLE_SIZE]
            return
        self.settings_seen += 1
        before = self.settings.get(INITIAL_WINDOW, DEFAULT_WINDOW)
        self.settings.update(f.settings)
        change = self.settings.get(INITIAL_WINDOW, DEFAULT_WINDOW) - before
        if TABLE_SIZE in f.settings:
            self.encoder.header_table_size = min(4096, f.settings[TABLE_SIZE])
        if self.acknowledge:
            self.send_frame(SETTINGS, ACK)
        for stream in list(self.streams.values()):
            stream.send_window += change
            self._push(stream)

    def on_ping(self, f) -> None:
        if "ACK" in f.flags:
            self.pongs.append(f.opaque_data)
        elif self.acknowledge:
            self.send_frame(PING, ACK, payload=f.opaque_data)

    def on_goaway(self, f) -> None:
        self.goaways.append((f.last_stream_id, Code(f.error_code), f.additional_data))

    def on_rststream(self, f) -> None:
        stream = self.streams.get(f.stream_id)
        assert stream, f"RST_STREAM on stream {f.stream_id}, which never was"
        stream.reset = Code(f.error_code)
        stream.chunks.clear()
        stream.finish = None

    def on_windowupdate(self, f) -> None:
        if f.stream_id == 0:
            self.send_window += f.window_increment
            for stream in list(self.streams.values()):
                self._push(stream)
        elif stream := self.streams.get(f.stream_id):
            stream.send_window += f.window_increment
            self._push(stream)

    def on_headers(self, f) -> None:
        self.fragment_flags = set(f.flags)
        self.fragments = bytearray(f.data)
        self._end_block(f)

    def on_continuation(self, f) -> None:
        self.fragments += f.data
        self._end_block(f)

    def _end_block(self, f) -> None:
        if "END_HEADERS" not in f.flags:
            return
        fields = [
            (text(k), text(v)) for k, v in self.decoder.decode(bytes(self.fragments), raw=True)
        ]
        stream = self.streams.get(f.stream_id)
        if stream is None:
            assert not self.client, f"HEADERS on stream {f.stream_id}, which never was"
            stream = Stream(f.stream_id, self.settings.get(INITIAL_WINDOW, DEFAULT_WINDOW))
            self.streams[f.stream_id] = stream
            self.requests.append(stream)
        assert not stream.over, f"HEADERS on stream {f.stream_id}, which is over"
        if stream.headers:
            stream.trailers = fields
        elif dict(fields).get(":status", "").startswith("1"):
            stream.informational.append(fields)
        else:
            stream.headers = fields
        stream.ended = "END_STREAM" in self.fragment_flags

    def on_data(self, f) -> None:
        stream = self.streams[f.stream_id]
        assert stream.headers and not stream.over, f"DATA out of place on {f.stream_id}"
        stream.data += f.data
        stream.received += f.flow_controlled_length
        stream.ended = "END_STREAM" in f.flags
        if self.credit and f.flow_controlled_length:
            self.window_update(0, f.flow_controlled_length)
            if not stream.ended:
                self.window_update(stream.id, f.flow_controlled_length)

    def describe(self) -> str:
        return f"{self.name} (closed: {self.closed}) received:\n  " + "\n  ".join(self.frames)

    # -- waiting

    def until(self, done, *others: Peer, timeout: float = TIMEOUT, what: str = "a condition"):
        return until(done, self, *others, timeout=timeout, what=what)

    def settled(self):
        """Both sides' first SETTINGS are in force."""
        self.until(lambda: self.settings_seen and self.settings_acked, what="SETTINGS and its ACK")
        return self

    def response(self, stream: Stream, *others: Peer, timeout: float = TIMEOUT) -> Stream:
        """Waits for the whole response."""
        self.until(lambda: stream.over, *others, timeout=timeout, what=f"response {stream.id}")
        assert stream.reset is None or stream.ended, f"stream {stream.id} was reset: {stream.reset!r}"
        return stream

    def head(self, stream: Stream, *others: Peer) -> Stream:
        """Waits for the head of the response."""
        self.until(lambda: stream.headers or stream.over, *others, what=f"head {stream.id}")
        assert stream.headers, f"stream {stream.id} was reset: {stream.reset!r}"
        return stream

    def next_request(self, *others: Peer, timeout: float = TIMEOUT) -> Stream:
        """Waits for the head of the next request of the other side."""
        self.until(lambda: self.requests, *others, timeout=timeout, what="a request")
        return self.requests.popleft()

    def sync(self, *others: Peer) -> None:
        """Waits until the other side has read all that was sent so far: a PING and its answer."""
        mark = struct.pack(">Q", len(self.pongs) + 1)
        self.send_frame(PING, payload=mark)
        self.until(lambda: mark in self.pongs, *others, what="a PING's answer")

    def expect_goaway(self, *codes: Code, timeout: float = TIMEOUT) -> Code:
        """A GOAWAY with one of these codes, and the connection's end."""
        self.until(
            lambda: any(g[1] in codes for g in self.goaways), timeout=timeout, what=f"GOAWAY {codes}"
        )
        self.expect_closed(timeout)
        return self.goaways[-1][1]

    def expect_rst(self, stream: Stream, *codes: Code, others=(), timeout: float = TIMEOUT) -> Code:
        self.until(lambda: stream.reset is not None, *others, timeout=timeout, what="RST_STREAM")
        assert stream.reset in codes, f"reset with {stream.reset!r}, not {codes}"
        return stream.reset

    def expect_alive(self, path: str = "/alive", **request) -> None:
        """The connection still answers a PING and a fresh request."""
        assert not self.goaways, self.describe()
        self.sync()
        answer = self.response(self.request(path=path, **request))
        assert answer.status == 200, self.describe()


def text(raw: bytes | str) -> str:
    return raw.decode("latin-1") if isinstance(raw, bytes) else raw


def dial(address, *own_settings, settled: bool = True, credit: bool = True) -> H2:
    """A client's connection with prior knowledge."""
    client = H2(connect(address), client=True, own_settings=own_settings, credit=credit)
    return client.settled() if settled else client


class Upstream(Listener):
    """An HTTP/2 upstream whose connections the test plays by hand."""

    def accept(self, *while_waiting: Peer, own_settings=(), credit: bool = True) -> H2:
        sock = self.accept_socket(*while_waiting)
        return H2(sock, client=False, own_settings=own_settings, credit=credit)
