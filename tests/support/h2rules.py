"""A table of protocol rules: what is sent, and which outcomes the RFC allows.

    rules = Rules()

    @rules("6.1-9", goaway(Code.PROTOCOL_ERROR))
    def data_on_stream_zero(c): ...

The reference is the section and the paragraph of RFC 9113 (the anchors of its HTML form:
`#section-6.1-9`). The function sends what the rule is about on a settled connection and returns
the stream concerned, or None when it is about the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .h2raw import HEADERS, H2, Code, Stream, dial
from .upstream import EchoUpstream
from .wait import eventually

Outcome = tuple[str, object]
SERVED: Outcome = ("served", None)  # nothing was wrong with it
CLOSED: Outcome = ("closed", None)  # the connection ended without a GOAWAY


def goaway(*codes: Code) -> set[Outcome]:
    """A connection error."""
    return {("goaway", code) for code in codes}


def rst(*codes: Code) -> set[Outcome]:
    """A stream error."""
    return {("rst", code) for code in codes}


def status(*codes: int) -> set[Outcome]:
    """A response of Pillion's own."""
    return {("status", code) for code in codes}


# A whole request, to be sent as it is or with something wrong about it.
FIELDS = [(":method", "GET"), (":scheme", "http"), (":authority", "pillion.test"), (":path", "/")]
POST = [(":method", "POST"), *FIELDS[1:]]


def upload(client: H2) -> Stream:
    """A request whose body is open."""
    return client.request("POST", end=False)


def head(client: H2, flags: int, payload: bytes, stream: Stream | None = None) -> Stream:
    """A HEADERS frame with a payload as given, on a new stream."""
    stream = stream or client.reserve()
    client.send_frame(HEADERS, flags, stream.id, payload)
    return stream


@dataclass(frozen=True)
class Rule:
    reference: str
    name: str
    allowed: frozenset[Outcome]
    send: Callable
    heads: int | None  # request heads that may reach the upstream; None: any number
    again: bool  # the connection must be usable afterwards, where it survives

    @property
    def id(self) -> str:
        return f"{self.reference}-{self.name}"


class Rules(list):
    """The rules of one table."""

    def __call__(self, reference: str, *allowed, heads: int | None = None, again: bool = True):
        outcomes = set()
        for entry in allowed:
            outcomes |= entry if isinstance(entry, set) else {entry}

        def add(send):
            self.append(Rule(reference, send.__name__, frozenset(outcomes), send, heads, again))
            return send

        return add


def observe(client: H2, stream: Stream | None) -> Outcome:
    """What the other side made of it."""

    def broken():
        return client.closed or any(code for _, code, _ in client.goaways)

    if stream is None or stream.over:
        # The answer to a second PING leaves after whatever the first one's reading brought about.
        for mark in (b"observe1", b"observe2"):
            client.send_frame(6, payload=mark)
            client.until(lambda m=mark: broken() or m in client.pongs, what="an outcome")
    else:
        client.until(lambda: broken() or stream.over, what="an outcome")
    if broken():
        if not client.closed:
            client.expect_closed()  # 5.4.1-2: after the GOAWAY, the connection is closed
        errors = [code for _, code, _ in client.goaways if code]
        return ("goaway", errors[-1]) if errors else CLOSED
    if stream is not None and stream.reset is not None:
        # A response that was complete makes a reset without error harmless (8.1-11).
        if stream.reset != Code.NO_ERROR or not stream.status:
            return ("rst", stream.reset)
    if stream is not None and stream.status not in (0, 200):
        return ("status", stream.status)
    return SERVED


def check(rule: Rule, address: str, echo: EchoUpstream) -> None:
    """Plays a rule, whose outcome has to be one of those that it allows."""
    heads = play(rule, address, echo)
    if rule.heads is not None and heads > rule.heads:
        # The upstream may have come to read only now what an earlier rule had sent it and then reset.
        heads = play(rule, address, echo)
        assert heads <= rule.heads, f"{heads} heads reached the upstream"


def play(rule: Rule, address: str, echo: EchoUpstream) -> int:
    """Plays it once; how many heads the upstream read meanwhile."""
    before = echo.heads
    with dial(address) as client:
        stream = rule.send(client)
        outcome = observe(client, stream)
        assert outcome in rule.allowed, f"{outcome} is none of {set(rule.allowed)}\n{client.describe()}"
        heads = echo.heads - before
        if outcome[0] not in ("goaway", "closed") and rule.again:
            client.expect_alive()
    for gate in list(echo.gates):
        echo.open_gate(gate)
    # Whatever happened to this connection, the next one is served.
    with dial(address) as other:
        other.expect_alive()
    return heads


def gated(echo: EchoUpstream, client: H2, name: str, method: str = "GET", **options) -> Stream:
    """A request that the upstream has and answers only when the gate opens."""
    heads = echo.heads
    stream = client.request(method, f"/?gate={name}", **options)
    client.sync()
    eventually(lambda: echo.heads > heads, "the request at the upstream")
    return stream
