"""A name server on loopback whose answers a test changes as it goes."""

import ipaddress
import socket
import struct
import threading

A, AAAA, SRV = 1, 28, 33
SERVFAIL, NXDOMAIN = 2, 3


def encode_name(name: str) -> bytes:
    labels = name.rstrip(".").split(".")
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


class DnsServer:
    """Answers over UDP from `records`: (name, type) to a list of data.

    Data of A and AAAA is an address, of SRV (priority, weight, port, target). A name without any
    record does not exist.
    """

    def __init__(self, ttl: int = 1):
        self.ttl = ttl
        self.records: dict[tuple[str, int], list] = {}
        #: SERVFAIL for every question while set; `silent` answers nothing at all.
        self.failing = False
        self.silent = False
        self.questions: list[tuple[str, int]] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def set(self, name: str, *addresses: str):
        """The addresses of a host, of both families."""
        parsed = [ipaddress.ip_address(address) for address in addresses]
        self.records[name, A] = [address for address in parsed if address.version == 4]
        self.records[name, AAAA] = [address for address in parsed if address.version == 6]

    def set_srv(self, name: str, *targets: tuple[int, int, int, str]):
        self.records[name, SRV] = list(targets)

    def _serve(self):
        while True:
            try:
                query, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            if (reply := self._answer(query)) is not None:
                self.socket.sendto(reply, peer)

    def _answer(self, query: bytes) -> bytes | None:
        position, labels = 12, []
        while length := query[position]:
            labels.append(query[position + 1:position + 1 + length].decode().lower())
            position += length + 1
        kind = struct.unpack("!H", query[position + 1:position + 3])[0]
        question = query[12:position + 5]
        name = ".".join(labels)
        self.questions.append((name, kind))
        if self.silent:
            return None
        known = {existing for existing, _ in self.records}
        code = SERVFAIL if self.failing else 0 if name in known else NXDOMAIN
        data = self.records.get((name, kind), []) if code == 0 else []
        answers = b""
        for value in data:
            if kind == SRV:
                priority, weight, port, target = value
                content = struct.pack("!HHH", priority, weight, port) + encode_name(target)
            else:
                content = value.packed
            answers += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, self.ttl, len(content)) + content
        flags = 0x8180 | code
        return query[:2] + struct.pack("!HHHHH", flags, 1, len(data), 0, 0) + question + answers

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
