"""For what can't bind port 0 and tell."""

import socket


def free_port() -> int:
    """A port that was free a moment ago. Only for real peers and for addresses nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
