"""A client that sends exactly the bytes it is told to."""

from .wait import TIMEOUT
from .wire import Message, Wire, connect


class RawClient(Wire):
    """A connection to Pillion."""

    def __init__(self, address: str, timeout: float = TIMEOUT):
        self.address = address
        super().__init__(connect(address, timeout), timeout)

    def send_request(self, method="GET", target="/", headers=(), body: bytes | None = None, version="HTTP/1.1"):
        """Sends a whole request; Host is added unless a header of that name is there."""
        fields = list(headers.items() if isinstance(headers, dict) else headers)
        names = {name.lower() for name, _ in fields}
        if "host" not in names:
            fields.insert(0, ("Host", "app.test"))
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            fields.append(("Content-Length", str(len(body))))
        head = f"{method} {target} {version}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
        self.send(head.encode("latin-1") + b"\r\n" + (body or b""))
        return self

    def request(self, method="GET", target="/", headers=(), body: bytes | None = None, version="HTTP/1.1") -> Message:
        """Sends a request and reads its response."""
        self.send_request(method, target, headers, body, version)
        return self.read_response(method)

    def get(self, target="/", headers=()) -> Message:
        return self.request("GET", target, headers)


def fetch(address: str, method="GET", target="/", headers=(), body: bytes | None = None) -> Message:
    """One request on a connection of its own."""
    with RawClient(address) as client:
        return client.request(method, target, headers, body)


def chunked(*pieces: bytes, trailers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A body in chunks."""
    data = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    tail = "".join(f"{name}: {value}\r\n" for name, value in trailers)
    return data + b"0\r\n" + tail.encode() + b"\r\n"
