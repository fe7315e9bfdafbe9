"""Clients of a soak: HTTP/1.1 in all its moods, WebSocket tunnels, opaque TCP.

Each plays one connection at a time, at random, and enters in the ledger what it saw. A client may
leave at any point; whatever is answered must be right to the byte, or say why it is not.
"""

import asyncio
import contextlib
import hashlib
import random
import socket
import struct

from .soak import Ledger, body_of
from .soak_upstream import BAD, GOOD

#: Longer than any timeout of the soak's configuration: who waits so long has been forgotten.
PATIENCE = 30.0


class Asked:
    """One request, and how its answer has to look."""

    def __init__(self, ledger: Ledger, rng: random.Random, prefixes: list[str], good: float = 0.85):
        self.number = ledger.ask()
        self.prefix = rng.choice(prefixes)
        self.habit = rng.choice(GOOD if rng.random() < good else BAD)
        self.size = rng.choice([0, 1, 50, 5_000, 70_000, 300_000]) if self.habit != "slow" else 200
        self.upload = b""
        if self.habit == "upload" or (self.habit == "early" and rng.random() < 0.5):
            self.upload = body_of(self.number, rng.choice([1, 1000, 70_000, 400_000]))
        self.path = f"{self.prefix}/{self.number}?do={self.habit}&size={self.size}"

    def fields(self) -> list[tuple[str, str]]:
        fields = [("user-agent", "soak")]
        if self.upload:
            fields.append(("x-sum", hashlib.sha256(self.upload).hexdigest()))
        return fields

    def judge(self, status: int, headers: dict[str, str], body: bytes, trailers: dict[str, str]) -> str:
        """The outcome of a whole response; raises if it is wrong."""
        if reason := headers.get("x-pillion-reason"):
            assert status >= 400, (self.path, status, reason)
            return reason
        if self.prefix == "/inner" and status >= 400 and "proxy-status" in headers:
            return "ok"  # refused at the second passage, and told here as it came
        told = {name: headers[name] for name in ("x-number", "proxy-status") if name in headers}
        assert told == {"x-number": str(self.number)}, f"{self.path}: the answer to another: {status} {told}"
        if self.habit == "early":
            right, expected = 413, b"stop"
        elif self.habit == "upload":
            right, expected = 200, hashlib.sha256(self.upload).hexdigest().encode()
        elif self.habit == "empty":
            right, expected = 204, b""
        else:
            right, expected = 200, body_of(self.number, self.size)
        assert status == right, f"{self.path}: {status} {headers}"
        assert body == expected, f"{self.path}: a body of {len(body)}, not of {len(expected)} bytes: {body[:60]!r}"
        assert self.habit in GOOD or self.habit == "early", f"{self.path}: a whole response of what was cut"
        if self.habit in ("chunked", "slow") and trailers is not None:
            assert trailers.get("x-end") == str(self.number), f"{self.path}: trailers {trailers}"
        return "ok"


class Broken(Exception):
    """The connection ended inside a response."""


def reset(writer: asyncio.StreamWriter):
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def dial(address: str):
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"), limit=1 << 20)
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port), limit=1 << 20)


class Http1:
    """One connection of HTTP/1.1: some requests one after the other, or many at once."""

    def __init__(self, ledger: Ledger, rng: random.Random, reader, writer):
        self.ledger, self.rng, self.reader, self.writer = ledger, rng, reader, writer

    async def run(self, prefixes: list[str]):
        for _ in range(self.rng.choice([1, 2, 5, 20])):
            if self.rng.random() < 0.1:
                alive = await self.pipeline(prefixes)
            else:
                alive = await self.exchange(Asked(self.ledger, self.rng, prefixes))
            if not alive:
                return

    async def pipeline(self, prefixes) -> bool:
        many = [Asked(self.ledger, self.rng, prefixes) for _ in range(self.rng.randint(2, 8))]
        self.writer.write(b"".join(self.head(asked) + asked.upload for asked in many))
        while many:
            asked = many.pop(0)
            if not await self.answer(asked):
                # Nobody knows how many of the rest were begun.
                for left in many:
                    self.ledger.end(left.number, "left")
                return False
        return True

    async def exchange(self, asked: Asked) -> bool:
        """One request; whether the connection can carry another one."""
        leaves = self.rng.choice(["head", "body", "wait", "response"]) if self.rng.random() < 0.15 else None
        chunked = bool(asked.upload) and self.rng.random() < 0.5
        head = self.head(asked, chunked)
        if leaves == "head":
            self.writer.write(head[: self.rng.randrange(len(head))])
            return await self.leave(asked)
        self.writer.write(head)
        try:
            await self.send_body(asked, chunked, cut=leaves == "body")
        except OSError:
            pass  # what made it stop may still be read
        if leaves in ("body", "wait"):
            return await self.leave(asked)
        return await self.answer(asked, leaves == "response")

    def head(self, asked: Asked, chunked: bool = False) -> bytes:
        fields = [("Host", "soak.test"), *asked.fields()]
        if chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        elif asked.upload:
            fields.append(("Content-Length", str(len(asked.upload))))
        method = "POST" if asked.upload else "GET"
        lines = [f"{method} {asked.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        return "\r\n".join(lines).encode()

    async def send_body(self, asked: Asked, chunked: bool, cut: bool):
        body, slow = asked.upload, self.rng.random() < 0.1
        step = max(1, len(body) // self.rng.randint(1, 8))
        end = self.rng.randrange(len(body) + 1) if cut else len(body)
        for at in range(0, end, step):
            piece = body[at : min(at + step, end)]
            self.writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if chunked else piece)
            await self.writer.drain()
            if slow:
                await asyncio.sleep(0.01)
        if chunked and not cut:
            self.writer.write(b"0\r\n\r\n")

    async def leave(self, asked: Asked) -> bool:
        self.ledger.end(asked.number, "left")
        if self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.choice([0, 0.001, 0.05]))
        if self.rng.random() < 0.5:
            reset(self.writer)
        return False

    async def answer(self, asked: Asked, leaves: bool = False) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                status, headers, body, trailers = await self.read_response(leaves)
        except Broken:
            # A reset may overtake an answer that came before the end of the upload.
            self.ledger.end(asked.number, "left" if asked.upload else "broken")
            return False
        except TimeoutError:
            self.ledger.end(asked.number, "left")
            self.ledger.blame(f"{asked.path}: no answer in {PATIENCE} s")
            return False
        if leaves:
            return await self.leave(asked)
        try:
            self.ledger.end(asked.number, asked.judge(status, headers, body, trailers))
        except AssertionError as wrong:
            self.ledger.end(asked.number, "left")
            self.ledger.blame(str(wrong))
            return False
        return headers.get("connection", "").lower() != "close"

    async def read_response(self, leaves: bool):
        slow = self.rng.random() < 0.1
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
            headers = {name.lower(): value.strip() for name, _, value in
                       (line.partition(":") for line in filter(None, head[1:]))}
            body, trailers = b"", {}
            if status == 204 or headers.get("content-length") == "0":
                pass
            elif leaves:
                await self.reader.read(self.rng.randint(1, 50_000))
            elif "content-length" in headers:
                left = int(headers["content-length"])
                while left:
                    piece = await self.reader.read(min(left, 20_000 if slow else 1 << 20))
                    if not piece:
                        raise Broken
                    body += piece
                    left -= len(piece)
                    if slow:
                        await asyncio.sleep(0.005)
            else:
                assert headers.get("transfer-encoding") == "chunked", headers
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                    if slow:
                        await asyncio.sleep(0.005)
                while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                    name, _, value = line.decode().partition(":")
                    trailers[name.lower()] = value.strip()
        except (EOFError, OSError) as error:
            raise Broken from error
        return status, headers, body, trailers


async def http1(ledger: Ledger, rng: random.Random, address: str, prefixes: list[str]):
    """One connection's life."""
    reader, writer = await dial(address)
    try:
        await Http1(ledger, rng, reader, writer).run(prefixes)
    finally:
        writer.close()


async def echoes(ledger: Ledger, rng: random.Random, reader, writer, name: str, clean: bool):
    """Sends at random and reads it back: whatever returns is what was sent, in order.

    `clean`: an end that is no reset must come after all of it.
    """
    sent = rng.randbytes(rng.choice([1, 1000, 200_000]))
    leaves = rng.random() < 0.2

    async def send():
        step = rng.randint(max(1, len(sent) // 5), len(sent))
        for at in range(0, len(sent), step):
            writer.write(sent[at : at + step])
            await writer.drain()
            if leaves and rng.random() < 0.3:
                return reset(writer)
            await asyncio.sleep(rng.choice([0, 0.01]))
        if clean:
            writer.write_eof()

    async def read():
        back = b""
        while (clean or len(back) < len(sent)) and (data := await reader.read(1 << 16)):
            back += data
        return back

    try:
        async with asyncio.timeout(PATIENCE):
            _, back = await asyncio.gather(send(), read())
    except (OSError, EOFError):
        return
    except TimeoutError:
        ledger.blame(f"{name}: {len(sent)} bytes were not echoed in {PATIENCE} s")
        return
    if not sent.startswith(back):
        ledger.blame(f"{name}: the echo is not what was sent")
    if clean and not leaves and len(back) < len(sent):
        ledger.blame(f"{name}: a clean end after {len(back)} of {len(sent)} bytes")


async def websocket(ledger: Ledger, rng: random.Random, address: str, prefix: str):
    """A tunnel; its bytes are nobody's business but its ends'."""
    number, outcome = ledger.ask(), "left"
    reader, writer = await dial(address)
    try:
        writer.write(f"GET {prefix}/{number}?do=websocket HTTP/1.1\r\nHost: soak.test\r\nConnection: Upgrade\r\n"
                     "Upgrade: websocket\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
        outcome = "tunnel"
        if head.startswith(b"HTTP/1.1 101"):
            await echoes(ledger, rng, reader, writer, f"tunnel {number}", clean=False)
        elif b"x-pillion-reason" not in head.lower() and prefix != "/inner":
            ledger.blame(f"tunnel {number}: {head!r}")
    except (EOFError, OSError):
        pass  # its line in the log says why
    finally:
        ledger.end(number, outcome)
        writer.close()


async def tcp(ledger: Ledger, rng: random.Random, address: str):
    """An opaque connection through a listener without HTTP."""
    reader, writer = await dial(address)
    try:
        await echoes(ledger, rng, reader, writer, "tcp", clean=True)
    finally:
        writer.close()


async def knocks(rng: random.Random, address: str):
    """Comes and goes without a request."""
    _, writer = await dial(address)
    await asyncio.sleep(rng.choice([0, 0.01]))
    if rng.random() < 0.5:
        reset(writer)
    writer.close()
