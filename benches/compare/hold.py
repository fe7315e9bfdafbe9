"""Idle keep-alive connections, held from this process."""

import contextlib
import resource
import socket
import struct

from net import connect

REQUEST = b"GET /1k HTTP/1.1\r\nHost: bench.local\r\n\r\n"


@contextlib.contextmanager
def held(address: str, count: int, size: int):
    """So many connections, each of which was answered once and then fell silent."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = connect(address)
            sockets.append(sock)
            sock.sendall(REQUEST)
            read_answer(sock, size)
        yield
    finally:
        for sock in sockets:
            # A reset instead of thousands of ports in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def read_answer(sock: socket.socket, size: int):
    data = b""
    while b"\r\n\r\n" not in data or len(data) - data.index(b"\r\n\r\n") - 4 < size:
        more = sock.recv(65536)
        if not more:
            raise RuntimeError(f"closed after {data[:200]!r}")
        data += more
    if not data.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"answered with {data[:200]!r}")
