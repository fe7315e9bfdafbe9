"""An application of several endpoints in one process, each as ill as it is told to be.

Endpoints share one ledger of what they have seen: a request carries `x-id`, and is written down when its head is whole.
"""

import asyncio
import collections
import contextlib
import random
import socket
import struct
from dataclasses import dataclass, field

# Closing sends RST instead of FIN.
ABORT = struct.pack("ii", 1, 0)


@dataclass
class Behaviour:
    """What an endpoint does with a request."""

    status: int = 200
    # Of a request: it is read, and its connection reset.
    resets: float = 0.0
    # Seconds until the answer.
    delay: float = 0.0
    # So many requests are served at once, the others wait in line; 0: all.
    slots: int = 0


@dataclass
class Ledger:
    seen: collections.Counter = field(default_factory=collections.Counter)
    by_endpoint: collections.Counter = field(default_factory=collections.Counter)


class Endpoint:
    """One listening socket. It can die, which closes all of it, and come back to life on the same port."""

    def __init__(self, name: str, ledger: Ledger, behaviour: Behaviour, port: int = 0):
        self.name, self.ledger, self.behaviour, self.port = name, ledger, behaviour, port
        self.rng = random.Random(name)
        self.connections: set[asyncio.StreamWriter] = set()
        self.attempts = 0
        self.server: asyncio.Server | None = None
        self.slots = asyncio.Semaphore(behaviour.slots or 1_000_000)

    async def live(self) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, backlog=4096)
        self.port = self.server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        self.server.close()
        for writer in list(self.connections):
            abort(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts += 1
        self.connections.add(writer)
        # What is open when the loop ends is cut: that is no news.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self.one(reader, writer):
                pass
        self.connections.discard(writer)
        with contextlib.suppress(Exception):
            writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        if length := int(fields.get("content-length", 0)):
            await reader.readexactly(length)
        self.ledger.seen[fields.get("x-id", "")] += 1
        self.ledger.by_endpoint[self.name] += 1
        behaviour = self.behaviour
        if behaviour.resets and self.rng.random() < behaviour.resets:
            abort(writer)
            return False
        async with self.slots:
            if behaviour.delay:
                await asyncio.sleep(behaviour.delay)
        writer.write(f"HTTP/1.1 {behaviour.status} x\r\ncontent-length: 2\r\n\r\nok".encode())
        await writer.drain()
        return True


def abort(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, AttributeError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    writer.transport.abort()
