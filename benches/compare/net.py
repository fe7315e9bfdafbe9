"""Ports, and a client just good enough to know that a proxy works."""

import http.client
import socket
import time

READY_SECONDS = 15


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=READY_SECONDS)


def wait_for_body(process, address: str, path: str, size: int):
    """Returns once the path is answered with a body of this size."""
    end = time.monotonic() + READY_SECONDS
    while True:
        process.must_run()
        problem: object
        try:
            connection = http.client.HTTPConnection(address, timeout=READY_SECONDS)
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            connection.close()
            if response.status == 200 and len(body) == size:
                return
            problem = f"status {response.status}, {len(body)} bytes"
        except OSError as error:
            problem = error
        if time.monotonic() > end:
            raise RuntimeError(f"{address}{path}: {problem}")
        time.sleep(0.02)
