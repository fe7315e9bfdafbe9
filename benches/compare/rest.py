"""What a proxy weighs when nothing happens: without connections, with many idle ones, after a burst of them."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hold import held
from origin import FILES
from peer import HTTP, Peer, Proxy
from process import settle
from scenario import Open, Stage, Turn

HELD = int(os.environ.get("BENCH_HELD", 4000))
BURST = int(os.environ.get("BENCH_BURST", 10_000))
REST_SECONDS = float(os.environ.get("BENCH_REST", 30))


def at_rest(http2: bool) -> Open:
    """Each turn starts a fresh process, weighs it, opens connections that fall silent, and weighs it again."""

    @contextlib.contextmanager
    def opened(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
        def turn(peer: Peer) -> dict[str, float]:
            with fresh(peer, stage) as proxy:
                idle = settle(proxy.pss)
                with held(proxy.h2 if http2 else proxy.address, HELD, FILES["/1k"], http2):
                    full = settle(proxy.pss)
            return {"idle_mb": idle / 1e6, "connection_kb": (full - idle) / HELD / 1e3}

        yield {peer.name: lambda peer=peer: turn(peer) for peer in peers}

    return opened


@contextlib.contextmanager
def after_burst(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
    """Connections that are all open at once, each answered once; then none, and a rest."""

    def turn(peer: Peer) -> dict[str, float]:
        with fresh(peer, stage) as proxy:
            idle = settle(proxy.pss)
            with held(proxy.address, BURST, FILES["/1k"], http2=False):
                full = proxy.pss()
            time.sleep(REST_SECONDS)
            after = proxy.pss()
        return {"idle_mb": idle / 1e6, "full_mb": full / 1e6, "after_mb": after / 1e6, "kept": after / idle}

    yield {peer.name: lambda peer=peer: turn(peer) for peer in peers}


@contextlib.contextmanager
def fresh(peer: Peer, stage: Stage) -> Iterator[Proxy]:
    with (
        tempfile.TemporaryDirectory(dir=stage.directory) as directory,
        Proxy(peer, HTTP, Path(directory) / peer.name, (stage.cores.proxy,), stage.origins[HTTP.origin]) as proxy,
    ):
        yield proxy
        proxy.must_run()
