"""What a proxy weighs when nothing happens: without connections, with many idle ones, after a burst of them."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hold import held
from origin import FILES
from peer import HTTP, MUTUAL, Peer, Proxy, Role
from pki import client
from process import settle
from scenario import Open, Stage, Turn

HELD = int(os.environ.get("BENCH_HELD", 4000))
# Fewer where each costs this process a handshake.
HELD_MUTUAL = min(HELD, 1000)
BURST = int(os.environ.get("BENCH_BURST", 10_000))
REST_SECONDS = float(os.environ.get("BENCH_REST", 30))


def at_rest(http2: bool, mutual: bool = False) -> Open:
    """Each turn starts a fresh process, weighs it, opens connections that fall silent, and weighs it again.

    `mutual`: the connections are mTLS.
    """

    @contextlib.contextmanager
    def opened(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
        def turn(peer: Peer) -> dict[str, float]:
            with fresh(peer, stage, MUTUAL if mutual else HTTP) as proxy:
                tls = client(stage.pki, "h2") if mutual else None
                count = HELD_MUTUAL if mutual else HELD
                idle = settle(proxy.pss)
                with held(proxy.h2 if http2 else proxy.address, count, FILES["/1k"], http2, tls):
                    full = settle(proxy.pss)
            return {"idle_mb": idle / 1e6, "connection_kb": (full - idle) / count / 1e3}

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
def fresh(peer: Peer, stage: Stage, role: Role = HTTP) -> Iterator[Proxy]:
    with (
        tempfile.TemporaryDirectory(dir=stage.directory) as directory,
        Proxy(peer, role, Path(directory) / peer.name, (stage.cores.proxy,), stage) as proxy,
    ):
        yield proxy
        proxy.must_run()
