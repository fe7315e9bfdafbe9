"""An upstream with every bad habit, on demand and at random, for soaks.

The path of a request ends with its number and its query says what is to happen: `do=HABIT` and
`size=N`. The right answer is `body_of(number, size)`; to an upload it is the upload's own hash.
"""

import asyncio
import contextlib
import hashlib
import random
import socket
import struct
import urllib.parse

from .soak import Ledger, body_of

#: An answer comes, and is right.
GOOD = ["plain", "plain", "plain", "chunked", "eof", "interim", "upload", "slow", "empty"]
#: What can come is a refusal by Pillion, or a response that is visibly cut.
BAD = ["garbage", "cuthead", "cutbody", "cutchunk", "resethead", "resetbody", "mute", "stall", "early", "bothlengths"]


class ChaosUpstream:
    """Listens on one port for all its life, killed and revived as often as one likes.

    A calm one does what it is asked, and never ends a connection by itself.
    """

    def __init__(self, ledger: Ledger, rng: random.Random, calm: bool = False):
        self.ledger, self.rng, self.calm = ledger, rng, calm
        self.server = None
        self.port = 0
        self.writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self):
        # Of this protocol, or asyncio leaves Nagle on.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        self.server = await asyncio.start_server(self._serve, sock=sock, backlog=512)
        return self

    async def kill(self):
        """As a process dies: its port refuses, its connections are reset."""
        server, self.server = self.server, None
        if server:
            server.close()
        for writer in list(self.writers):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        self.writers.add(writer)
        try:
            await self._converse(reader, writer)
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _converse(self, reader, writer):
        rng = self.rng
        for _ in range(1 << 30 if self.calm else rng.choice([1, 3, 10, 1000])):
            # Closing an idle connection at any age is what races with the next request.
            patience = None if self.calm else rng.choice([0.01, 0.1, 1, 30])
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), patience)
            if not await Exchange(self, reader, writer, head).run():
                return


class Exchange:
    """One request and what the upstream makes of it."""

    def __init__(self, upstream: ChaosUpstream, reader, writer, head: bytes):
        self.upstream, self.reader, self.writer = upstream, reader, writer
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        self.headers = {}
        for line in filter(None, lines[1:]):
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        url = urllib.parse.urlsplit(self.target)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.habit, self.size = query.get("do", "plain"), int(query.get("size", 10))
        self.number = int(url.path.rpartition("/")[2])
        self.answer = body_of(self.number, self.size)

    async def run(self) -> bool:
        """Whether the connection is kept."""
        if self.habit == "early":
            self.head("413 Too Much", "content-length: 4", "connection: close")
            self.writer.write(b"stop")
            await self.writer.drain()
            return False
        if "100-continue" in self.headers.get("expect", ""):
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        upload = await self.read_body()
        keep = await getattr(self, "do_" + self.habit)(upload)
        await self.writer.drain()
        return keep

    def head(self, status: str, *fields: str):
        lines = [f"HTTP/1.1 {status}", f"x-number: {self.number}", *fields, "", ""]
        self.writer.write("\r\n".join(lines).encode())

    async def read_body(self) -> bytes:
        """The whole body. One that is whole must be what the client meant to send."""
        body = b""
        if "content-length" in self.headers:
            body = await self.reader.readexactly(int(self.headers["content-length"]))
        elif "transfer-encoding" in self.headers:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            while await self.reader.readuntil(b"\r\n") != b"\r\n":
                pass
        meant = self.headers.get("x-sum", hashlib.sha256().hexdigest())
        if hashlib.sha256(body).hexdigest() != meant:
            self.upstream.ledger.blame(f"request {self.number} came whole with another body, of {len(body)} bytes")
        return body

    def reset(self):
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def chunks(self, data: bytes, pause: float = 0):
        step = max(1, len(data) // self.upstream.rng.randint(1, 6))
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            self.writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await self.writer.drain()
            if pause:
                await asyncio.sleep(pause)

    # Good habits.

    async def do_plain(self, _) -> bool:
        self.head("200 OK", f"content-length: {self.size}")
        self.writer.write(self.answer)
        return True

    async def do_empty(self, _) -> bool:
        self.head("204 No Content")
        return True

    async def do_upload(self, upload: bytes) -> bool:
        told = hashlib.sha256(upload).hexdigest().encode()
        self.head("200 OK", f"content-length: {len(told)}")
        self.writer.write(told)
        return True

    async def do_chunked(self, _, pause: float = 0) -> bool:
        fields = ["transfer-encoding: chunked", "trailer: grpc-status, x-end"]
        if "grpc" in self.headers.get("content-type", ""):
            fields.append("content-type: application/grpc")
        self.head("200 OK", *fields)
        await self.chunks(self.answer, pause)
        self.writer.write(f"0\r\ngrpc-status: 0\r\nx-end: {self.number}\r\n\r\n".encode())
        return True

    async def do_slow(self, _) -> bool:
        return await self.do_chunked(_, pause=0.02)

    async def do_eof(self, _) -> bool:
        self.head("200 OK")
        self.writer.write(self.answer)
        return False

    async def do_interim(self, _) -> bool:
        self.writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2)
        return await self.do_plain(_)

    async def do_websocket(self, _) -> bool:
        """Echoes whatever comes, until either side has had enough."""
        self.head("101 Switching Protocols", "connection: Upgrade", "upgrade: websocket")
        while data := await self.reader.read(1 << 16):
            self.writer.write(data)
            await self.writer.drain()
        return False

    # Bad ones.

    async def do_garbage(self, _) -> bool:
        self.writer.write(self.upstream.rng.randbytes(200))
        return False

    async def do_cuthead(self, _) -> bool:
        self.writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")
        return False

    async def do_cutbody(self, _) -> bool:
        self.head("200 OK", f"content-length: {self.size + 1}")
        self.writer.write(self.answer)
        return False

    async def do_cutchunk(self, _) -> bool:
        self.head("200 OK", "transfer-encoding: chunked")
        await self.chunks(self.answer)
        self.writer.write(b"5\r\nabc")
        return False

    async def do_bothlengths(self, _) -> bool:
        self.head("200 OK", f"content-length: {self.size}", f"content-length: {self.size + 1}")
        self.writer.write(self.answer)
        return True

    async def do_resethead(self, _) -> bool:
        self.reset()
        return False

    async def do_resetbody(self, _) -> bool:
        self.head("200 OK", f"content-length: {self.size + 1}")
        self.writer.write(self.answer)
        await self.writer.drain()
        self.reset()
        return False

    async def do_mute(self, _) -> bool:
        """Says nothing until it is left alone."""
        await self.reader.read()
        return False

    async def do_stall(self, _) -> bool:
        self.head("200 OK", f"content-length: {self.size + 1}")
        self.writer.write(self.answer)
        return await self.do_mute(_)


class EchoServer:
    """What comes in goes out, and the end of the one direction is the end of the other."""

    def __init__(self):
        self.server = None

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.address = "127.0.0.1:%d" % self.server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()
