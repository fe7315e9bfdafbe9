"""Ports, and a client just good enough to know that a proxy works."""

import http.client
import socket
import ssl
import time
from collections.abc import Callable

READY_SECONDS = 15


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)), timeout=READY_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def answers(address: str, path: str) -> bool:
    """Whether it is there and answers with 200."""
    try:
        return ask(address, path)[0] == 200
    except OSError:
        return False


def wait_for_body(process, address: str, path: str, size: int, tls: ssl.SSLContext | None = None):
    """Returns once the path is answered with a body of this size."""

    def problem() -> str | None:
        status, length = ask(address, path, tls)
        return None if (status, length) == (200, size) else f"status {status}, {length} bytes"

    wait(process, f"{address}{path}", problem)


def wait(process, what: str, problem: Callable[[], str | None]):
    """Returns once there is no problem any more."""
    end = time.monotonic() + READY_SECONDS
    while True:
        process.must_run()
        try:
            found = problem()
        except (OSError, RuntimeError) as error:
            found = str(error)
        if found is None:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: {found}")
        time.sleep(0.02)


def ask(address: str, path: str, tls: ssl.SSLContext | None = None) -> tuple[int, int]:
    """Status and size of the body."""
    if tls:
        connection = http.client.HTTPSConnection(address, timeout=READY_SECONDS, context=tls)
    else:
        connection = http.client.HTTPConnection(address, timeout=READY_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, len(response.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"no answer: {error!r}") from error
    finally:
        connection.close()
