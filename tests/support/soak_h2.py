"""HTTP/2 clients of a soak: one that checks every answer, and one that only churns streams."""

import asyncio
import contextlib
import random
import struct

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from hpack import Encoder

from .h2raw import DATA, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, settings, u32
from .soak import Ledger
from .soak_clients import PATIENCE, Asked, dial

CANCEL = 8


class Stream:
    """What has come of one response."""

    def __init__(self, asked: Asked | None):
        self.asked = asked
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.body = b""
        self.reset: int | None = None
        self.changed = asyncio.Event()
        self.ended = False


class Http2:
    """One connection with many streams at a time."""

    def __init__(self, ledger: Ledger, rng: random.Random, reader, writer):
        self.ledger, self.rng, self.reader, self.writer = ledger, rng, reader, writer
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.streams: dict[int, Stream] = {}
        self.window = asyncio.Event()
        self.closing = self.closed = self.left = False
        self.flush()

    async def run(self, prefixes: list[str]):
        reading = asyncio.create_task(self.read())
        try:
            for _ in range(self.rng.choice([1, 3, 10])):
                many = self.rng.randint(1, 30)
                await asyncio.gather(*(self.one(prefixes) for _ in range(many) if not self.closing))
        finally:
            if self.rng.random() < 0.5:
                self.left = True
                with contextlib.suppress(h2.exceptions.H2Error):
                    self.h2.close_connection()
                    self.flush()
            self.writer.close()
            await reading

    def flush(self):
        self.writer.write(self.h2.data_to_send())

    async def read(self):
        try:
            while data := await self.reader.read(1 << 16):
                for event in self.h2.receive_data(data):
                    self.on(event)
                self.flush()
        except OSError:
            pass
        except h2.exceptions.ProtocolError as error:
            # The library takes nothing more once it has said GOAWAY, not even what was on the way.
            if not self.left:
                self.ledger.blame(f"Pillion broke HTTP/2: {error!r}")
        self.closing = self.closed = True
        for stream in self.streams.values():
            stream.changed.set()
        self.window.set()

    def on(self, event):
        if isinstance(event, h2.events.ConnectionTerminated):
            self.closing = True
            if event.error_code:
                self.ledger.blame(f"GOAWAY {event.error_code} {event.additional_data}")
        stream = self.streams.get(getattr(event, "stream_id", 0))
        if isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            self.window.set()
        elif isinstance(event, h2.events.DataReceived):
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if stream:
                stream.body += event.data
                stream.changed.set()
        elif stream is None:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            stream.headers = dict(event.headers)
            stream.changed.set()
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
            stream.changed.set()
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = event.error_code
            stream.changed.set()
            self.window.set()

    async def one(self, prefixes: list[str]):
        rng = self.rng
        if rng.random() < 0.05:
            return await self.tunnel(rng.choice(prefixes))
        asked = Asked(self.ledger, rng, prefixes)
        fields = [(":method", "POST" if asked.upload else "GET"), (":scheme", "http"), (":authority", "soak.test"),
                  (":path", asked.path), *asked.fields()]
        if rng.random() < 0.3:
            fields.append(("content-type", "application/grpc"))
        leaves = rng.choice(["head", "body", "wait", "response"]) if rng.random() < 0.15 else None
        await asyncio.sleep(rng.choice([0, 0, 0.01, 0.05]))
        try:
            number, stream = self.open(fields, asked, end=not asked.upload)
        except (h2.exceptions.H2Error, OSError):
            return self.ledger.end(asked.number, "left")
        try:
            async with asyncio.timeout(PATIENCE):
                await self.exchange(number, stream, leaves)
        except TimeoutError:
            self.ledger.blame(f"{asked.path} over HTTP/2: no end in {PATIENCE} s")
            return self.ledger.end(asked.number, "left")
        finally:
            del self.streams[number]
        self.ledger.end(asked.number, self.judge(stream, leaves))

    def open(self, fields, asked, end: bool):
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, fields, end_stream=end)
        stream = self.streams[number] = Stream(asked)
        self.flush()
        return number, stream

    async def exchange(self, number: int, stream: Stream, leaves: str | None):
        if leaves == "head":
            return self.leave(number)
        body = stream.asked.upload
        cut = self.rng.randrange(len(body)) if leaves == "body" and body else None
        await self.send(number, stream, body if cut is None else body[:cut], end=cut is None)
        if leaves in ("body", "wait"):
            await asyncio.sleep(self.rng.choice([0, 0.001, 0.05]))
            return self.leave(number)
        while not (stream.ended or stream.reset is not None or self.closed or (leaves and stream.headers)):
            stream.changed.clear()
            await stream.changed.wait()
        if leaves:
            self.leave(number)

    async def send(self, number: int, stream: Stream, data: bytes, end: bool):
        at = 0
        while at < len(data) and stream.reset is None and not stream.ended and not self.closed:
            try:
                room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
                if room > 0:
                    piece = data[at : at + room]
                    at += len(piece)
                    self.h2.send_data(number, piece, end_stream=end and at == len(data))
                    self.flush()
                    await self.writer.drain()
                    continue
            except (h2.exceptions.H2Error, OSError):
                return
            self.window.clear()
            await self.window.wait()

    def leave(self, number: int):
        with contextlib.suppress(h2.exceptions.H2Error):
            self.h2.reset_stream(number, CANCEL)
            self.flush()

    def judge(self, stream: Stream, leaves: str | None) -> str:
        if leaves:
            return "left"
        if not stream.ended:
            # A connection that ends takes the streams along that came too late for it.
            return "broken" if stream.reset is not None else "left"
        headers = stream.headers
        try:
            if "grpc-status" in headers and (reason := headers.get("x-pillion-reason")):
                assert headers[":status"] == "200" and headers["grpc-status"] != "0", headers
                return reason
            if headers.get("grpc-status") and stream.asked.prefix == "/inner":
                return "ok"
            return stream.asked.judge(int(headers[":status"]), headers, stream.body, stream.trailers)
        except AssertionError as wrong:
            self.ledger.blame(f"over HTTP/2: {wrong}")
            return "left"

    async def tunnel(self, prefix: str):
        """A WebSocket by RFC 8441: what goes in comes out."""
        ledger_number = self.ledger.ask()
        fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "soak.test"),
                  (":path", f"{prefix}/{ledger_number}?do=websocket")]
        try:
            number, stream = self.open(fields, None, end=False)
        except (h2.exceptions.H2Error, OSError):
            return self.ledger.end(ledger_number, "left")
        sent = self.rng.randbytes(self.rng.choice([1, 1000, 50_000]))
        try:
            async with asyncio.timeout(PATIENCE):
                while not (stream.headers or stream.reset is not None or self.closed):
                    stream.changed.clear()
                    await stream.changed.wait()
                if stream.headers.get(":status") == "200":
                    await self.send(number, stream, sent, end=False)
                    while len(stream.body) < len(sent) and not (stream.ended or stream.reset is not None or self.closed):
                        stream.changed.clear()
                        await stream.changed.wait()
                    if not sent.startswith(stream.body):
                        self.ledger.blame(f"tunnel {ledger_number} over HTTP/2: not what was sent")
        except TimeoutError:
            self.ledger.blame(f"tunnel {ledger_number} over HTTP/2: no end in {PATIENCE} s")
        self.leave(number)
        del self.streams[number]
        self.ledger.end(ledger_number, "left")


async def http2(ledger: Ledger, rng: random.Random, address: str, prefixes: list[str]):
    """One connection's life."""
    reader, writer = await dial(address)
    await Http2(ledger, rng, reader, writer).run(prefixes)


class Churn:
    """A connection that opens streams as fast as they end and resets some at every phase.

    Written by hand for its speed: heads are encoded once, and of what comes only frames are seen.
    """

    FIELDS = [(":method", "GET"), (":scheme", "http"), (":authority", "soak.test")]

    def __init__(self, rng: random.Random, at_once: int = 50):
        self.rng, self.at_once = rng, at_once
        encoder = Encoder()
        encoder.header_table_size = 0
        self.get = encoder.encode([*self.FIELDS, (":path", "/app/1?do=plain&size=30000")])
        self.post = encoder.encode([(":method", "POST"), *self.FIELDS[1:], (":path", "/app/2?do=plain&size=100")])
        self.opened = self.resets = self.refused = self.whole = 0

    async def run(self, address: str, total: int):
        """Opens so many streams, over as many connections as it takes."""
        while self.opened < total:
            await self.connection(address, total)

    async def connection(self, address: str, total: int):
        reader, writer = await dial(address)
        writer.write(PREFACE + settings((4, (1 << 31) - 1)) + frame(WINDOW_UPDATE, 0, 0, u32((1 << 30))))
        #: Stream to the frame upon which it is reset: HEADERS, DATA, or none.
        live: dict[int, int | None] = {}
        next_id, away = 1, False
        try:
            while True:
                out = []
                while len(live) < self.at_once and self.opened < total and not away and next_id < 1 << 30:
                    out.append(self.begin(next_id, live))
                    next_id += 2
                if out:
                    writer.write(b"".join(out))
                if not live:
                    return
                kind, flags, stream, payload = await self.read(reader)
                if kind == SETTINGS and not flags & 1:
                    writer.write(frame(SETTINGS, 1))
                elif kind == PING and not flags & 1:
                    writer.write(frame(PING, 1, 0, payload))
                elif kind == GOAWAY:
                    away = True
                    last = struct.unpack(">I", payload[:4])[0]
                    live = {key: phase for key, phase in live.items() if key <= last}
                elif kind == DATA:
                    writer.write(frame(WINDOW_UPDATE, 0, 0, u32(len(payload)))) if payload else None
                if stream not in live:
                    continue
                if kind == RST_STREAM:
                    self.refused += 1
                    del live[stream]
                elif flags & END_STREAM and kind in (HEADERS, DATA):
                    self.whole += 1
                    del live[stream]
                elif kind == live[stream]:
                    self.reset(writer, stream, live)
        except (OSError, EOFError):
            return
        finally:
            writer.close()

    def begin(self, stream: int, live: dict) -> bytes:
        self.opened += 1
        phase = self.rng.random()
        if phase < 0.02:  # at once; more of it would be a flood, and be treated as one
            self.resets += 1
            return self.head(stream, self.get, END_STREAM) + self.rst(stream)
        if phase < 0.1:
            self.resets += 1
            return self.head(stream, self.post, 0) + frame(DATA, 0, stream, b"x" * 100) + self.rst(stream)
        live[stream] = HEADERS if phase < 0.2 else DATA if phase < 0.3 else None
        if phase > 0.9:
            return self.head(stream, self.post, 0) + frame(DATA, END_STREAM, stream, b"")
        return self.head(stream, self.get, END_STREAM)

    @staticmethod
    def head(stream: int, block: bytes, flags: int) -> bytes:
        return frame(HEADERS, flags | 4, stream, block)

    @staticmethod
    def rst(stream: int) -> bytes:
        return frame(RST_STREAM, 0, stream, u32(CANCEL))

    def reset(self, writer, stream: int, live: dict):
        self.resets += 1
        del live[stream]
        writer.write(self.rst(stream))

    @staticmethod
    async def read(reader):
        head = await reader.readexactly(9)
        length = int.from_bytes(head[:3])
        payload = await reader.readexactly(length) if length else b""
        return head[3], head[4], int.from_bytes(head[5:9]) & 0x7FFFFFFF, payload
