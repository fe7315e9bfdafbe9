"""A socket that is read and written byte by byte, and the strict HTTP/1 parser on top of it.

Clients and upstreams share it, so whatever Pillion writes to either side meets the same strictness.
"""

import contextlib
import json
import socket
import struct
from dataclasses import dataclass, field

from .wait import TIMEOUT


class WireError(AssertionError):
    """The peer wrote something that no HTTP/1.1 implementation should write."""


class Closed(Exception):
    """The peer ended the connection (`reset` says how) before what was expected had come."""

    def __init__(self, received: bytes, reset: bool):
        super().__init__(f"{'reset' if reset else 'closed'} after {received!r}")
        self.received = received
        self.reset = reset


@dataclass
class Message:
    """One request or response. Header names keep their case and order."""

    start: str
    headers: list[tuple[str, str]]
    raw_head: bytes
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    #: none | length | chunked | close
    framing: str = "none"

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The value of a header that may stand there once at most."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} stands there {len(values)} times: {values}"
        return values[0] if values else None

    def tokens(self, name: str) -> list[str]:
        """The comma-separated members of a header, in lower case."""
        return [token.strip().lower() for value in self.all(name) for token in value.split(",")]

    def json(self):
        return json.loads(self.body)

    # Of a response.
    @property
    def status(self) -> int:
        return int(self.start.split(" ", 2)[1])

    @property
    def version(self) -> str:
        """`HTTP/1.x`, of a request as of a response."""
        return self.start.split(" ", 1)[0] if self.start.startswith("HTTP/") else self.start.rsplit(" ", 1)[1]

    @property
    def reason(self) -> str | None:
        """Pillion's own name for why it answered by itself."""
        return self.header("x-pillion-reason")

    # Of a request.
    @property
    def method(self) -> str:
        return self.start.split(" ", 1)[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]


def parse_fields(block: bytes) -> list[tuple[str, str]]:
    fields = []
    for line in block.split(b"\r\n"):
        if not line:
            continue
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line or b"\0" in line:
            raise WireError(f"bad header line {line!r}")
        fields.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))
    return fields


class Wire:
    """A connected stream socket, with everything that came in on it kept in `received`."""

    def __init__(self, sock: socket.socket, timeout: float = TIMEOUT):
        self.sock = sock
        self.sock.settimeout(timeout)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        #: All bytes ever received (kept only while `record` is true).
        self.received = bytearray()
        self.record = True
        self.buffer = bytearray()
        self.eof = False

    # Bytes.

    def send(self, data: bytes | str):
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        return self

    def fill(self) -> bool:
        """One read; False at the end of the stream. A reset raises `Closed`."""
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionError as error:
            self.eof = True
            raise Closed(bytes(self.buffer), reset=True) from error
        if not data:
            self.eof = True
            return False
        if self.record:
            self.received += data
        self.buffer += data
        return True

    def recv_until(self, marker: bytes) -> bytes:
        """Everything up to and including the marker."""
        start = 0
        while (at := self.buffer.find(marker, start)) < 0:
            start = max(0, len(self.buffer) - len(marker))
            if not self.fill():
                raise Closed(bytes(self.buffer), reset=False)
        end = at + len(marker)
        taken = bytes(self.buffer[:end])
        del self.buffer[:end]
        return taken

    def recv_exact(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not self.fill():
                raise Closed(bytes(self.buffer), reset=False)
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def recv_some(self, limit: int = 1 << 16) -> bytes:
        """What is there, at least one byte; empty at the end of the stream."""
        if not self.buffer and not self.fill():
            return b""
        taken = bytes(self.buffer[:limit])
        del self.buffer[: len(taken)]
        return taken

    def recv_all(self) -> bytes:
        """Everything up to the end of the stream, a reset included."""
        with contextlib.suppress(Closed):
            while self.fill():
                pass
        taken = bytes(self.buffer)
        self.buffer.clear()
        return taken

    def expect_closed(self):
        """The peer closes (or resets) without another byte."""
        rest = self.recv_all()
        assert rest == b"", f"expected the end of the connection, got {rest!r}"

    def readable(self, timeout: float) -> bool:
        """Whether a byte or the end comes within this time. Only for 'nothing comes' with a fence."""
        if self.buffer:
            return True
        previous = self.sock.gettimeout()
        self.sock.settimeout(timeout)
        try:
            self.fill()
            return True
        except TimeoutError:
            return False
        finally:
            self.sock.settimeout(previous)

    # Ends.

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self):
        """Ends the connection with RST instead of FIN."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self):
        # shutdown wakes a thread that is blocked in recv on this socket; close alone doesn't.
        with contextlib.suppress(OSError):
            if not struct.unpack("ii", self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]:
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # Messages.

    def read_head(self) -> Message:
        raw = self.recv_until(b"\r\n\r\n")
        start, _, fields = raw[:-2].partition(b"\r\n")
        if b"\n" in start or b"\r" in start:
            raise WireError(f"bad start line {start!r}")
        return Message(start.decode("latin-1"), parse_fields(fields), raw)

    def frame(self, message: Message, *, response_to: str | None = None) -> Message:
        """Decides how the body is framed (RFC 9112 section 6.3); both lengths at once never pass."""
        lengths, encodings = message.all("content-length"), message.tokens("transfer-encoding")
        if lengths and encodings:
            raise WireError(f"both lengths: {message.raw_head!r}")
        if len(lengths) > 1 or (lengths and not lengths[0].isdigit()):
            raise WireError(f"bad content-length: {lengths}")
        if encodings and encodings != ["chunked"]:
            raise WireError(f"bad transfer-encoding: {encodings}")
        bodiless = response_to is not None and (
            response_to == "HEAD"
            or message.status in (204, 304)
            or message.status < 200
            or (response_to == "CONNECT" and message.status < 300)
        )
        if bodiless:
            message.framing = "none"
        elif encodings:
            message.framing = "chunked"
        elif lengths:
            message.framing = "length"
        else:
            message.framing = "close" if response_to is not None else "none"
        return message

    def body(self, message: Message):
        """Yields the body piece by piece; fills in `trailers` at the end."""
        if message.framing == "length":
            left = int(message.header("content-length"))
            while left:
                piece = self.recv_some(left)
                if not piece:
                    raise Closed(b"", reset=False)
                left -= len(piece)
                yield piece
        elif message.framing == "chunked":
            while True:
                line = self.recv_until(b"\r\n")[:-2]
                if not line or any(byte not in b"0123456789abcdefABCDEF" for byte in line):
                    raise WireError(f"bad chunk size line {line!r}")
                size = int(line, 16)
                if size == 0:
                    break
                piece = self.recv_exact(size)
                if self.recv_exact(2) != b"\r\n":
                    raise WireError("chunk without its CRLF")
                yield piece
            while (line := self.recv_until(b"\r\n")) != b"\r\n":
                message.trailers += parse_fields(line)
        elif message.framing == "close":
            while piece := self.recv_some():
                yield piece

    def read_body(self, message: Message) -> Message:
        message.chunks = list(self.body(message))
        message.body = b"".join(message.chunks)
        return message

    def read_request(self) -> Message:
        return self.read_body(self.frame(self.read_head()))

    def read_response(self, method: str = "GET") -> Message:
        """The next response, an interim one (1xx) included."""
        return self.read_body(self.frame(self.read_head(), response_to=method))


def connect(address: str, timeout: float = TIMEOUT) -> socket.socket:
    """A connected socket to `IP:port`, `[v6]:port` or `unix:/path`."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(address.removeprefix("unix:"))
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)
