"""Requests at a rate or in a closed loop, each with an id of its own, and what became of each."""

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass

IDS = itertools.count()
PATIENCE = 20


@dataclass
class Outcome:
    id: str
    method: str
    # 0: no response.
    status: int
    began: float
    took: float


class Client:
    """Connections to one proxy, kept alive."""

    def __init__(self, port: int):
        self.port = port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, method: str = "GET") -> Outcome:
        name, began = f"r{next(IDS)}", time.monotonic()
        status = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                status = await self.exchange(method, name)
        return Outcome(name, method, status, began, time.monotonic() - began)

    async def exchange(self, method: str, name: str) -> int:
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        body = b"{}" if method == "POST" else b""
        try:
            writer.write(
                f"{method} /{name} HTTP/1.1\r\nhost: app\r\nx-id: {name}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
            await reader.readexactly(length)
        except BaseException:
            writer.transport.abort()
            raise
        if "connection: close" in head:
            writer.close()
        else:
            self.idle.append((reader, writer))
        return int(head[9:12])

    async def closed(self, clients: int, seconds: float, method: str = "GET") -> list[Outcome]:
        """So many clients, each asking again when it is answered."""
        end = time.monotonic() + seconds
        outcomes: list[Outcome] = []

        async def one() -> None:
            while time.monotonic() < end:
                outcomes.append(await self.ask(method))

        await asyncio.gather(*(one() for _ in range(clients)))
        return outcomes

    async def counted(self, clients: int, requests: int, method: str = "GET") -> list[Outcome]:
        """The same until there were so many."""
        left = iter(range(requests))
        outcomes: list[Outcome] = []

        async def one() -> None:
            for _ in left:
                outcomes.append(await self.ask(method))

        await asyncio.gather(*(one() for _ in range(clients)))
        return outcomes

    async def at_rate(self, rate: float, seconds: float, method: str = "GET") -> list[Outcome]:
        """So many a second, whether they are answered or not."""
        start = time.monotonic()
        tasks = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(self.ask(method)))
        return await asyncio.gather(*tasks)

    def close(self) -> None:
        for _, writer in self.idle:
            writer.transport.abort()
