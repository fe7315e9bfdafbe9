"""Endpoints of one upstream that share a script: what each attempt in turn meets, wherever it goes."""

import threading
from dataclasses import dataclass

from .upstream import RawUpstream
from .wire import Closed, Message


@dataclass
class Attempt:
    """One request as an endpoint has received it, whole."""

    endpoint: int
    request: Message
    connection: object

    def header(self, name: str) -> str | None:
        return self.request.header(name)


class Fleet:
    """`acts`: the first attempt meets the first one, and so on; the last one is repeated."""

    def __init__(self, *acts, count: int = 3):
        self.acts = acts
        self.attempts: list[Attempt] = []
        self.lock = threading.Lock()
        self.upstreams = [RawUpstream(lambda connection, number=number: self._serve(number, connection))
                          for number in range(count)]

    @property
    def addresses(self) -> list[str]:
        return [upstream.address for upstream in self.upstreams]

    @property
    def endpoints(self) -> list[int]:
        """Where the attempts went."""
        return [attempt.endpoint for attempt in self.attempts]

    def _serve(self, number: int, connection):
        while True:
            try:
                request = connection.read_request()
            except Closed:
                return
            with self.lock:
                act = self.acts[min(len(self.attempts), len(self.acts) - 1)]
                self.attempts.append(Attempt(number, request, connection))
            act(connection)

    def close(self):
        for upstream in self.upstreams:
            upstream.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def answers(status: int = 200, body: bytes = b"ok", **headers: str):
    """An act; `retry_after="1"` is a header `retry-after`."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} Told\r\n{lines}Content-Length: {len(body)}\r\n\r\n"

    def act(connection):
        connection.send(head.encode() + body)

    return act


def resets(connection):
    connection.reset()
    raise Closed(b"", True)


def closes(connection):
    connection.close()
    raise Closed(b"", False)


def hangs(connection):
    """Until the other side gives up."""
    while connection.fill():
        pass
    raise Closed(b"", False)


def breaks_off_in_the_head(connection):
    connection.send("HTTP/1.1 200 OK\r\nContent-")
    closes(connection)
