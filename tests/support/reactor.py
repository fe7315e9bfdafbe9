"""Sockets that a single test thread drives at both ends of the proxy.

A peer never blocks: what it is told to send waits in its outbox, what arrives is fed to its parser.
`until` moves the bytes of all the peers it is given while it waits for a condition, so a test can
play the client and the upstream of one exchange step by step, with no threads and no sleeps. A peer
that is left out of `until` reads nothing: that is how back-pressure is made.
"""

from __future__ import annotations

import select
import socket
import time

TIMEOUT = 20.0  # seconds; reached only by a test that fails


class Peer:
    """One end of a connection."""

    def __init__(self, sock: socket.socket, name: str):
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.name = name
        self.outbox = bytearray()
        self.reading = True
        self.closed = False  # the other side has ended the connection
        self.aborted = False  # and has done so with a reset

    def feed(self, data: bytes) -> None:
        """Takes what arrived."""
        raise NotImplementedError

    def ended(self) -> None:
        """The other side sends no more."""

    def describe(self) -> str:
        return self.name

    def send(self, data: bytes) -> None:
        self.outbox += data
        self.flush()

    def flush(self) -> None:
        while self.outbox:
            try:
                sent = self.sock.send(self.outbox, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self.outbox.clear()  # what it has said before is still to be read
                return
            del self.outbox[:sent]

    def read(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data, self.aborted = b"", True
        if data:
            self.feed(data)
        else:
            self.closed = True
            self.ended()

    def finish(self) -> None:
        """Ends this direction of the connection."""
        self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Ends the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        self.closed = True
        self.sock.close()

    def expect_closed(self, timeout: float = TIMEOUT) -> None:
        until(lambda: self.closed, self, timeout=timeout, what="the connection's end")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def until(done, *peers: Peer, timeout: float = TIMEOUT, what: str = "a condition"):
    """Moves bytes until `done()` is true and returns what it returned."""
    end = time.monotonic() + timeout
    while not (result := done()):
        open_peers = {p.sock.fileno(): p for p in peers if not p.closed}
        if peers and not open_peers:
            raise AssertionError(f"closed while waiting for {what}\n{_describe(peers)}")
        poll = select.poll()
        for fd, peer in open_peers.items():
            poll.register(fd, (select.POLLIN if peer.reading else 0) | (select.POLLOUT if peer.outbox else 0))
        left = end - time.monotonic()
        # Without a peer the condition is one of the outside world, which cannot be polled.
        ready = poll.poll(max(0, left) * 1000 if peers else 10)
        for fd, events in ready:
            if events & select.POLLOUT:
                open_peers[fd].flush()
            if events & ~select.POLLOUT:
                open_peers[fd].read()
        if left <= 0:
            raise AssertionError(f"timed out waiting for {what}\n{_describe(peers)}")
    return result


class Tick(Peer):
    """Wakes `until` time and again, for a condition that no peer's bytes bring about."""

    def __init__(self):
        ours, self._other = socket.socketpair()
        super().__init__(ours, "tick")
        self._other.sendall(b".")  # never read, so there is always something to read

    def read(self) -> None:
        select.select([], [], [], 0.01)


def _describe(peers) -> str:
    return "\n".join(peer.describe() for peer in peers)


def connect(address) -> socket.socket:
    """`address` is `(host, port)`, `host:port` or `unix:PATH`."""
    if isinstance(address, str):
        if address.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(TIMEOUT)
            sock.connect(address.removeprefix("unix:"))
            return sock
        host, _, port = address.rpartition(":")
        address = (host.strip("[]"), int(port))
    return socket.create_connection(address, TIMEOUT)


class Listener:
    """A port that the test accepts on by hand."""

    def __init__(self, backlog: int = 256, family: int = socket.AF_INET):
        self.sock = socket.socket(family)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(backlog)
        self.sock.setblocking(False)
        self.host, self.port = self.sock.getsockname()
        self.address = f"{self.host}:{self.port}"

    def pending(self) -> bool:
        """Whether a connection waits to be accepted."""
        return bool(select.select([self.sock], [], [], 0)[0])

    def accept_socket(self, *while_waiting: Peer, timeout: float = TIMEOUT) -> socket.socket:
        """The next connection; the bytes of `while_waiting` move in the meantime."""
        if while_waiting:
            door = _Door(self.sock)
            until(lambda: door.open, door, *while_waiting, timeout=timeout, what="a connection")
        elif not select.select([self.sock], [], [], timeout)[0]:
            raise AssertionError(f"nobody connected to {self.address}")
        return self.sock.accept()[0]

    def close(self) -> None:
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Door(Peer):
    """A listening socket as something `until` can wait for."""

    def __init__(self, sock: socket.socket):
        self.sock, self.name = sock, "listener"
        self.outbox, self.reading, self.closed, self.open = bytearray(), True, False, False

    def read(self) -> None:
        self.open = True
