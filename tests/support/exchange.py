"""One exchange through the proxy, the same to write whichever HTTP version is on either side.

    with Exchange(address, listener, "h2", "h1") as x:
        x.ask("POST", "/", [("x-a", "1")], body=True)
        x.send(b"some"); x.finish(trailers=[("x-t", "1")])
        x.arrive()                        # x.request_headers: what the upstream sees
        x.answer(200, [("x-b", "2")], body=True)
        x.reply(b"thing"); x.end()
        x.done()                          # x.status, x.headers, x.body, x.trailers: the client's view

The bytes of both ends move in every call, so either side may be waited for at any time.
"""

from __future__ import annotations

from . import h1raw, h2raw
from .reactor import TIMEOUT, Listener, until

VERSIONS = [("h1", "h1"), ("h2", "h1"), ("h1", "h2"), ("h2", "h2")]
IDS = [f"{client}-to-{upstream}" for client, upstream in VERSIONS]
PROTOCOL = {"h1": "http1", "h2": "http2"}


class Exchange:
    def __init__(self, address: str, listener: Listener, client: str, upstream: str, own_settings=()):
        self.listener, self.versions, self.own_settings = listener, (client, upstream), own_settings
        if client == "h2":
            self.client = _H2Client(h2raw.dial(address))
        else:
            self.client = _H1Client(h1raw.dial(address))
        self.server = None

    @property
    def peers(self):
        return [end.peer for end in (self.client, self.server) if end]

    def until(self, done, what: str = "a condition", timeout: float = TIMEOUT):
        return until(done, *self.peers, what=what, timeout=timeout)

    # The client's side.

    def ask(self, method="GET", path="/", headers=(), body: bool = False):
        """The head of the request; `body` if `send` and `finish` follow."""
        self.client.ask(method, path, list(headers), body)

    def send(self, data: bytes):
        self.client.send(data)

    def finish(self, trailers=None):
        self.client.finish(trailers)

    def got_head(self):
        """Waits until the client has the head of the response."""
        self.until(lambda: self.client.status, "the response's head")
        return self

    def done(self):
        """Waits until the client has the whole response."""
        self.until(lambda: self.client.complete, "the response's end")
        return self

    def got(self, size: int):
        self.until(lambda: len(self.client.body) >= size, f"{size} octets at the client")

    status = property(lambda self: self.client.status)
    headers = property(lambda self: self.client.headers)
    body = property(lambda self: bytes(self.client.body))
    trailers = property(lambda self: dict(self.client.trailers))

    def header(self, name: str):
        return dict(self.headers).get(name)

    # The upstream's side.

    def arrive(self):
        """Accepts the connection, if there is none, and waits for the head of a request."""
        if self.server is None:
            sock = self.listener.accept_socket(self.client.peer)
            if self.versions[1] == "h2":
                self.server = _H2Server(h2raw.H2(sock, client=False, own_settings=self.own_settings))
            else:
                self.server = _H1Server(h1raw.H1(sock, client=False))
        self.until(self.server.next, "a request at the upstream")
        return self

    def arrived(self, size: int):
        self.until(lambda: len(self.server.body) >= size, f"{size} octets at the upstream")

    def arrived_whole(self):
        self.until(lambda: self.server.complete, "the request's end at the upstream")
        return self

    def answer(self, status=200, headers=(), body: bool = False):
        self.server.answer(status, list(headers), body)

    def reply(self, data: bytes):
        self.server.reply(data)

    def end(self, trailers=None):
        self.server.end(trailers)

    request_headers = property(lambda self: self.server.headers)
    request_body = property(lambda self: bytes(self.server.body))
    request_trailers = property(lambda self: dict(self.server.trailers))

    def request_header(self, name: str):
        return dict(self.request_headers).get(name)

    def close(self):
        for peer in self.peers:
            peer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def lower(fields):
    return [(name.lower(), value) for name, value in fields]


class _H1:
    """What an HTTP/1.1 end has received of the current message."""

    @property
    def headers(self):
        return lower(self.message.headers) if self.message else []

    @property
    def body(self):
        return self.message.body if self.message else b""

    @property
    def trailers(self):
        return lower(self.message.trailers) if self.message else []

    @property
    def complete(self):
        return bool(self.message and self.message.complete)

    def _write(self, data):
        if self.chunked:
            self.peer.chunk(data)
        else:
            self.peer.send(data)

    def _end(self, trailers):
        if self.chunked:
            self.peer.last_chunk(trailers or ())

    def _head(self, headers, body):
        self.chunked = body and not dict(headers).get("content-length")
        if self.chunked:
            headers.append(("transfer-encoding", "chunked"))


class _H1Client(_H1):
    def __init__(self, peer):
        self.peer = peer
        self.before = 0  # messages of earlier exchanges

    @property
    def message(self):
        """The final response, once its head is there."""
        final = [m for m in self.peer.messages[self.before :] if m.status == 101 or m.status >= 200]
        return final[0] if final else None

    def ask(self, method, path, headers, body):
        self._head(headers, body)
        self.before = len(self.peer.messages)
        self.peer.request(method, path, headers)

    send, finish = _H1._write, _H1._end

    @property
    def interim(self):
        return [m.status for m in self.peer.messages if m.status < 200]

    @property
    def status(self):
        return self.message.status if self.message else 0

    def cancel(self):
        self.peer.close()

    @property
    def broken(self):
        return self.peer.closed and not self.complete


class _H1Server(_H1):
    message: h1raw.Message | None = None

    def __init__(self, peer):
        self.peer = peer

    def next(self):
        if self.peer.unread:
            self.message = self.peer.unread.popleft()
            return True
        return False

    method = property(lambda self: self.message.method)
    path = property(lambda self: self.message.target)
    authority = property(lambda self: self.message.get("host"))

    def answer(self, status, headers, body):
        if not body and status not in (204, 304) and "content-length" not in dict(headers):
            headers.append(("content-length", "0"))
        self._head(headers, body)
        self.peer.respond(status, headers, body=None)

    reply, end = _H1._write, _H1._end

    def interim(self, status):
        self.peer.respond(status, body=None)

    def abort(self):
        self.peer.abort()

    @property
    def cancelled(self):
        return self.peer.closed


class _H2:
    """What an HTTP/2 end has received of the current stream."""

    stream: h2raw.Stream | None = None
    headers = property(lambda self: [f for f in self.stream.headers if not f[0].startswith(":")])
    body = property(lambda self: self.stream.data)
    trailers = property(lambda self: self.stream.trailers or [])
    complete = property(lambda self: bool(self.stream and self.stream.ended))

    def _write(self, data):
        self.peer.write(self.stream, data)

    def _end(self, trailers):
        self.peer.end(self.stream, trailers)


class _H2Client(_H2):
    def __init__(self, peer):
        self.peer = peer

    def ask(self, method, path, headers, body):
        self.stream = self.peer.request(method, path, headers, end=not body)

    send, finish = _H2._write, _H2._end
    status = property(lambda self: self.stream.status)
    interim = property(lambda self: [int(dict(fields)[":status"]) for fields in self.stream.informational])

    def cancel(self):
        self.peer.rst(self.stream)

    @property
    def broken(self):
        return not self.complete and (self.stream.reset is not None or self.peer.closed)


class _H2Server(_H2):
    def __init__(self, peer):
        self.peer = peer

    def next(self):
        if self.peer.requests:
            self.stream = self.peer.requests.popleft()
            return True
        return False

    method = property(lambda self: self.stream.get(":method"))
    path = property(lambda self: self.stream.path)
    authority = property(lambda self: self.stream.get(":authority"))

    def answer(self, status, headers, body):
        self.peer.respond(self.stream, status, headers, end=not body)

    reply, end = _H2._write, _H2._end

    def interim(self, status):
        self.peer.respond(self.stream, status, end=False)

    def abort(self):
        self.peer.rst(self.stream, h2raw.Code.INTERNAL_ERROR)

    @property
    def cancelled(self):
        return self.stream.reset is not None or self.peer.closed
