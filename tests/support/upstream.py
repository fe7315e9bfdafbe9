"""Upstreams: one that follows a script byte by byte, one that tells what it was sent."""

import contextlib
import hashlib
import json
import socket
import threading
import time
import urllib.parse
from pathlib import Path

from .wait import TIMEOUT, eventually
from .wire import Closed, Message, Wire


class UpstreamConnection(Wire):
    """What the upstream has of one connection from Pillion."""

    def __init__(self, sock: socket.socket, number: int):
        super().__init__(sock)
        self.number = number
        #: Set once nothing more can come: the peer has ended it, or the script has.
        self.finished = threading.Event()

    def wait_received(self, condition=lambda data: data, message="bytes at the upstream") -> bytes:
        """All bytes received, once they satisfy the condition."""
        return eventually(lambda: (data := bytes(self.received)) and condition(data) and data, message)

    def wait_finished(self):
        assert self.finished.wait(TIMEOUT), f"upstream connection still open; it had {bytes(self.received)!r}"
        return bytes(self.received)


class RawUpstream:
    """Runs `script(connection)` in a thread for each connection.

    When the script returns, whatever else comes is read and kept until the peer closes; the
    default script does only that, and so never answers.
    """

    def __init__(self, script=None, *, path: Path | None = None, address: str = "127.0.0.1", port: int = 0,
                 backlog: int = 512):
        self.script = script or (lambda connection: None)
        if path is not None:
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.listener.bind(str(path))
            self.address = f"unix:{path}"
        else:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            self.listener = socket.socket(family, socket.SOCK_STREAM)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((address, port))
            bound = self.listener.getsockname()
            self.address = f"[{bound[0]}]:{bound[1]}" if family == socket.AF_INET6 else f"{bound[0]}:{bound[1]}"
        self.listener.listen(backlog)
        self.connections: list[UpstreamConnection] = []
        self.failures: list[BaseException] = []
        self.stopping = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            connection = UpstreamConnection(sock, len(self.connections))
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: UpstreamConnection):
        try:
            self.script(connection)
            while connection.fill():
                connection.buffer.clear()
        except (Closed, OSError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            connection.finished.set()
            connection.close()

    @property
    def received(self) -> bytes:
        """The bytes of all connections."""
        return b"".join(bytes(connection.received) for connection in self.connections)

    def connection(self, number: int = 0) -> UpstreamConnection:
        """The connection of this number, awaited."""
        eventually(lambda: len(self.connections) > number, f"connection {number} at the upstream")
        return self.connections[number]

    def open_connections(self) -> int:
        return sum(not connection.finished.is_set() for connection in list(self.connections))

    def stop_listening(self):
        """New connections are refused; those that are open go on."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def close(self):
        self.stopping = True
        self.stop_listening()
        for connection in list(self.connections):
            connection.close()
        for failure in self.failures:
            raise AssertionError(f"in the upstream's script: {failure!r}") from failure

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def reply(response: bytes, *, requests: int | None = None):
    """A script: answers every request (or so many, then closes) with these bytes."""

    def script(connection: UpstreamConnection):
        count = 0
        while requests is None or count < requests:
            connection.read_request()
            connection.send(response)
            count += 1
        connection.close()

    return script


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class EchoUpstream(RawUpstream):
    """An HTTP/1.1 server that answers with a JSON account of the request.

    The query of the request steers the answer: `status=N`; `size=N` for a body of N bytes instead
    of the account; `chunked`; `trailers` (chunked, with trailers `x-checksum` and `X-Case`);
    `close` (Connection: close); `eof` (no length, ended by close); `gate=NAME` waits for
    `open_gate(NAME)` before the answer; `midgate=NAME` waits in the middle of the body; `early`
    answers before the body is read; `header=Name:value` (may be repeated); `cut=N` closes after N
    bytes of the body.
    """

    def __init__(self, name: str = "app", **options):
        self.name = name
        #: Every request whose head and body have come whole.
        self.requests: list[dict] = []
        #: How many heads have come, complete or not.
        self.heads = 0
        self.gates: dict[str, threading.Event] = {}
        self.lock = threading.Lock()
        super().__init__(self._converse, **options)

    def gate(self, name: str) -> threading.Event:
        with self.lock:
            return self.gates.setdefault(name, threading.Event())

    def open_gate(self, name: str):
        self.gate(name).set()

    def wait_heads(self, count: int):
        eventually(lambda: self.heads >= count, f"{count} requests at {self.name}; it has {self.heads}")

    def close(self):
        for gate in list(self.gates.values()):
            gate.set()
        super().close()

    def _pass(self, name: str):
        gate = self.gate(name)
        end = time.monotonic() + 60
        while not gate.wait(0.1) and not self.stopping and time.monotonic() < end:
            pass

    def _converse(self, connection: UpstreamConnection):
        connection.record = False
        while True:
            try:
                request = connection.frame(connection.read_head())
            except Closed:
                return
            with self.lock:
                self.heads += 1
            if not self._answer(connection, request):
                connection.close()
                return

    def _account(self, connection: UpstreamConnection, request: Message) -> dict:
        digest, length, start = hashlib.sha256(), 0, b""
        for piece in connection.body(request):
            digest.update(piece)
            length += len(piece)
            if len(start) < 4096:
                start += piece[: 4096 - len(start)]
        account = {
            "server": self.name,
            "connection": connection.number,
            "method": request.method,
            "target": request.target,
            "version": request.version,
            "headers": request.headers,
            "framing": request.framing,
            "length": length,
            "sha256": digest.hexdigest(),
            "body": start.decode("latin-1"),
            "trailers": request.trailers,
        }
        with self.lock:
            self.requests.append(account)
        return account

    def _answer(self, connection: UpstreamConnection, request: Message) -> bool:
        """One exchange; whether the connection is kept."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(request.target).query, keep_blank_values=True)
        early = "early" in query
        if "100-continue" in request.tokens("expect") and not early:
            connection.send("HTTP/1.1 100 Continue\r\n\r\n")
        account = {"early": True} if early else self._account(connection, request)
        if "gate" in query:
            self._pass(query["gate"][0])
        status = int(query.get("status", ["200"])[0])
        keep = "close" not in query and "eof" not in query and "close" not in request.tokens("connection") and not early
        head = [f"HTTP/1.1 {status} Echoed", f"X-Server: {self.name}"]
        head += [value.replace(":", ": ", 1) for value in query.get("header", [])]
        if not keep:
            head.append("Connection: close")
        size = int(query["size"][0]) if "size" in query else None
        body = json.dumps(account).encode() if size is None else None
        length = len(body) if body is not None else size
        bodiless = request.method == "HEAD" or status in (204, 304)
        framing = "chunked" if "chunked" in query or "trailers" in query else "eof" if "eof" in query else "length"
        if framing == "chunked" and not bodiless:
            head.append("Transfer-Encoding: chunked")
            if "trailers" in query:
                head.append("Trailer: x-checksum, X-Case")
        elif framing == "length" and status != 204:
            head.append(f"Content-Length: {length}")
        connection.send("\r\n".join(head) + "\r\n\r\n")
        if bodiless:
            return keep
        pieces = [body] if body is not None else pattern(size)
        sent, cut = 0, int(query["cut"][0]) if "cut" in query else None
        for piece in pieces:
            if cut is not None and sent + len(piece) >= cut:
                connection.send(piece[: cut - sent])
                return False
            if "midgate" in query and sent:
                self._pass(query["midgate"][0])
            connection.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if framing == "chunked" else piece)
            sent += len(piece)
        if framing == "chunked":
            trailers = "x-checksum: abc\r\nX-Case: Kept\r\n" if "trailers" in query else ""
            connection.send(f"0\r\n{trailers}\r\n")
        return keep


PATTERN = bytes(range(256)) * 256


def pattern(size: int):
    """`size` bytes that repeat every 64 KiB, in pieces of that."""
    while size > 0:
        piece = PATTERN[:size]
        yield piece
        size -= len(piece)


def header(account: dict, name: str) -> str | None:
    """A header of an account; the test fails if it stands there twice."""
    values = headers(account, name)
    assert len(values) <= 1, account
    return values[0] if values else None


def headers(account: dict, name: str) -> list[str]:
    return [value for key, value in account["headers"] if key.lower() == name.lower()]
