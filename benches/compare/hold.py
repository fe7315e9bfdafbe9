"""Connections that were answered once and then fall silent, held from this process."""

import contextlib
import resource
import socket
import ssl
import struct

from net import connect

REQUEST = b"GET /1k HTTP/1.1\r\nHost: bench.local\r\n\r\n"

# Frames of HTTP/2 (RFC 9113): the types that matter here, and their flags.
DATA, HEADERS, SETTINGS = 0, 1, 4
ACK = END_STREAM = 1
END_HEADERS = 4
# GET, http, /1k by a literal path, bench.local (RFC 7541): the first two are in the static table.
FIELDS = b"\x82\x86\x04\x03/1k\x01\x0bbench.local"


@contextlib.contextmanager
def held(address: str, count: int, size: int, http2: bool, tls: ssl.SSLContext | None = None):
    """So many connections. Of those that nobody waits for yet, the kernel's queues hold enough."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < count + 100:
        raise RuntimeError(f"{count} connections need more open files than the {most} that are allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    exchange = exchange_http2 if http2 else exchange_http1
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = connect(address)
            if tls:
                sock = tls.wrap_socket(sock, server_hostname="localhost")
            sockets.append(sock)
            exchange(sock, size)
        yield
    finally:
        for sock in sockets:
            # A reset instead of thousands of ports in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def exchange_http1(sock: socket.socket, size: int):
    sock.sendall(REQUEST)
    data = b""
    while b"\r\n\r\n" not in data or len(data) - data.index(b"\r\n\r\n") - 4 < size:
        data += more(sock)
    if not data.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"answered with {data[:200]!r}")


def exchange_http2(sock: socket.socket, size: int):
    sock.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS | END_STREAM, 1, FIELDS))
    data, got, ended = b"", 0, False
    while not ended:
        data += more(sock)
        while len(data) >= 9 and len(data) >= (end := 9 + int.from_bytes(data[:3], "big")):
            kind, flags = data[3], data[4]
            if kind == SETTINGS and not flags & ACK:
                sock.sendall(frame(SETTINGS, ACK, 0))
            if kind == DATA:
                got += end - 9
            ended |= kind in (DATA, HEADERS) and bool(flags & END_STREAM)
            data = data[end:]
    if got != size:
        raise RuntimeError(f"answered with {got} bytes")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def more(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise RuntimeError("an idle connection was closed")
    return data
