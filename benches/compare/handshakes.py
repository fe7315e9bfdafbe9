"""What it costs to begin a connection: full handshakes, and what is left of them."""

import contextlib
import time
from collections.abc import Iterator

from load import Load, handshaken
from peer import HANDSHAKE, Peer, Proxy
from process import settle
from rest import REST_SECONDS, fresh
from scenario import Stage, Turn

CLASSIC, HYBRID = "X25519", "X25519MLKEM768"
# Enough that caches and pools are as large as they get.
WARM = 500
HANDSHAKES = 10_000
# Nothing ends by time where they are counted.
LONG_SECONDS = 120.0


def handshakes(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    return handshaken(proxy, stage, CLASSIC, seconds=seconds)


@contextlib.contextmanager
def key_exchanges(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
    """Each turn has both kinds of key exchange, one after the other, for half of the time."""
    with contextlib.ExitStack() as stack:
        proxies = [
            stack.enter_context(Proxy(peer, HANDSHAKE, stage.directory / peer.name, (stage.cores.proxy,), stage))
            for peer in peers
        ]

        def cost(proxy: Proxy, group: str) -> float:
            before = proxy.cpu()
            load = handshaken(proxy, stage, group, seconds=stage.seconds / 2)
            return (proxy.cpu() - before) / load.requests * 1e6

        def turn(proxy: Proxy) -> dict[str, float]:
            classic, hybrid = cost(proxy, CLASSIC), cost(proxy, HYBRID)
            proxy.must_run()
            return {"classic_us": classic, "hybrid_us": hybrid, "extra_us": hybrid - classic}

        yield {proxy.name: lambda proxy=proxy: turn(proxy) for proxy in proxies}


@contextlib.contextmanager
def after_handshakes(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
    """Weighed after some connections and after many more: what each of them leaves behind."""

    def turn(peer: Peer) -> dict[str, float]:
        with fresh(peer, stage, HANDSHAKE) as proxy:
            def rested(count: int) -> int:
                handshaken(proxy, stage, CLASSIC, seconds=LONG_SECONDS, most=count)
                time.sleep(REST_SECONDS)
                return settle(proxy.pss)

            before, after = rested(WARM), rested(HANDSHAKES)
        return {"few_mb": before / 1e6, "many_mb": after / 1e6, "kept": after / before}

    yield {peer.name: lambda peer=peer: turn(peer) for peer in peers}
