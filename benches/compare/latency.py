"""Latency at a load that all proxies carry with ease: half of what the slowest of them can do."""

import contextlib
from collections.abc import Iterator

from load import http1, scheduled
from peer import HTTP, Peer, Proxy
from scenario import Stage, Turn

CONNECTIONS = 64


@contextlib.contextmanager
def open_loop(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
    """Each turn is a schedule of its own; what a proxy can do is found out once, before the first."""
    with contextlib.ExitStack() as stack:
        proxies = [
            stack.enter_context(Proxy(peer, HTTP, stage.directory / peer.name, (stage.cores.proxy,), stage))
            for peer in peers
        ]
        capacities = [http1(proxy, stage, stage.seconds) for proxy in proxies]
        rate = min(load.requests / load.seconds for load in capacities) / 2

        def turn(proxy: Proxy) -> dict[str, float]:
            seen = scheduled(proxy, stage, rate, CONNECTIONS)
            proxy.must_run()
            return {
                "p50_us": seen["p50"], "p99_us": seen["p99"], "p999_us": seen["p999"], "most_us": seen["most"],
                "rate": rate, "requests": seen["requests"],
            }

        yield {proxy.name: lambda proxy=proxy: turn(proxy) for proxy in proxies}
