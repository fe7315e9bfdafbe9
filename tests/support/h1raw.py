"""A raw HTTP/1.1 peer: sends any bytes, and parses what comes back message by message."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

from .reactor import TIMEOUT, Listener, Peer, connect, until


@dataclass(eq=False)
class Message:
    """A request or a response; `complete` once its framing says that it has ended."""

    start: str
    headers: list[tuple[str, str]]
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    complete: bool = False
    framing: str = "none"

    @property
    def status(self) -> int:
        return int(self.start.split()[1])

    @property
    def target(self) -> str:
        return self.start.split()[1]

    @property
    def method(self) -> str:
        return self.start.split()[0]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        return ", ".join(values) if values else None

    def trailer(self, name: str) -> str | None:
        return {key.lower(): value for key, value in self.trailers}.get(name)


class H1(Peer):
    """One end of an HTTP/1.1 connection."""

    def __init__(self, sock, client: bool):
        super().__init__(sock, "client" if client else "upstream")
        self.client = client
        self.messages: list[Message] = []  # everything that was received
        self.unread: collections.deque[Message] = collections.deque()
        self.asked: collections.deque[str] = collections.deque()  # methods awaiting their response
        self.inbox = bytearray()
        self.log = bytearray()
        self.current: Message | None = None
        self.left = 0  # octets of the body, or of the chunk, still to come
        self.tunnel: bytearray | None = None  # after an upgrade: every byte

    def request(self, method: str = "GET", target: str = "/", headers=(), body: bytes | None = None,
                host: str = "pillion.test") -> None:
        lines = [f"{method} {target} HTTP/1.1", f"host: {host}", *(f"{k}: {v}" for k, v in headers)]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        self.asked.append(method)
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    def respond(self, status: int = 200, headers=(), body: bytes | None = b"", reason: str = "Whatever") -> None:
        """With `body=None` the head goes out as it is and `send` does the rest."""
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{k}: {v}" for k, v in headers)]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def last_chunk(self, trailers=()) -> None:
        self.send(b"0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in trailers).encode() + b"\r\n")

    def feed(self, data: bytes) -> None:
        self.log += data[: max(0, 4096 - len(self.log))]
        if self.tunnel is not None:
            self.tunnel += data
            return
        self.inbox += data
        while self.tunnel is None and (self._body() if self.current else self._head()):
            pass

    def ended(self) -> None:
        if self.current and self.current.framing == "close":
            self.current.complete = True
            self.current = None

    def become_tunnel(self) -> None:
        """What follows is no longer HTTP."""
        self.tunnel, self.inbox, self.current = bytearray(self.inbox), bytearray(), None

    def _head(self) -> bool:
        end = self.inbox.find(b"\r\n\r\n")
        if end < 0:
            return False
        start, *lines = bytes(self.inbox[:end]).decode("latin-1").split("\r\n")
        del self.inbox[: end + 4]
        message = Message(start, [_field(line) for line in lines])
        self.messages.append(message)
        self.unread.append(message)
        message.framing = self._framing(message)
        self.current = message
        if message.framing == "length":
            self.left = int(message.get("content-length"))
        elif message.framing == "tunnel":
            message.complete = True
            self.become_tunnel()
        elif message.framing == "none":
            self._complete()
        return True

    def _framing(self, message: Message) -> str:
        bodiless = False
        if self.client:
            status = message.status
            asked = self.asked.popleft() if self.asked and status not in range(102, 200) and status != 100 else "GET"
            if status == 101 or (asked == "CONNECT" and 200 <= status < 300):
                return "tunnel"
            bodiless = asked == "HEAD" or status in (204, 304) or status < 200
        if bodiless:
            return "none"
        if "chunked" in (message.get("transfer-encoding") or "").lower():
            return "chunked"
        if message.get("content-length"):
            return "length"
        return "close" if self.client else "none"

    def _complete(self) -> bool:
        self.current.complete = True
        self.current = None
        return True

    def _body(self) -> bool:
        message = self.current
        if message.framing == "close":
            message.body += self.inbox
            self.inbox.clear()
            return False
        if message.framing == "length" or self.left:
            part = self.inbox[: self.left]
            message.body += part
            del self.inbox[: len(part)]
            self.left -= len(part)
            if message.framing == "length":
                return not self.left and self._complete()
            return not self.left
        return self._chunk(message)

    def _chunk(self, message: Message) -> bool:
        if self.inbox.startswith(b"\r\n") and message.body:
            del self.inbox[:2]  # the end of the chunk before
        end = self.inbox.find(b"\r\n")
        if end < 0:
            return False
        size = int(bytes(self.inbox[:end]).split(b";")[0], 16)
        if size:
            del self.inbox[: end + 2]
            self.left = size
            return True
        if self.inbox[end : end + 4] == b"\r\n\r\n":
            lines, stop = [], end + 4
        else:
            stop = self.inbox.find(b"\r\n\r\n", end) + 4
            if stop < 4:
                return False
            lines = bytes(self.inbox[end + 2 : stop - 4]).decode("latin-1").split("\r\n")
        message.trailers = [_field(line) for line in lines]
        del self.inbox[:stop]
        return self._complete()

    def describe(self) -> str:
        return f"{self.name} (closed: {self.closed}) received:\n  {bytes(self.log)!r}"

    def next_message(self, *others: Peer, timeout: float = TIMEOUT) -> Message:
        """Waits for the head of the next message."""
        until(lambda: self.unread, self, *others, timeout=timeout, what="an HTTP/1.1 head")
        return self.unread.popleft()

    def whole(self, message: Message, *others: Peer, timeout: float = TIMEOUT) -> Message:
        """Waits for the rest of a message."""
        until(lambda: message.complete, self, *others, timeout=timeout, what="the message's end")
        return message


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()


def dial(address) -> H1:
    return H1(connect(address), client=True)


class Upstream(Listener):
    """An HTTP/1.1 upstream whose connections the test plays by hand."""

    def accept(self, *while_waiting: Peer) -> H1:
        return H1(self.accept_socket(*while_waiting), client=False)
