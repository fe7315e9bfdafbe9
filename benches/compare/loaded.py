"""Scenarios of closed loops: so many connections, each busy all the time."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

from load import Load
from peer import Peer, Proxy, Role
from process import busy
from scenario import Open, Stage, Turn

# Before the first turn. Where turns are as short as this, they only show that all works.
WARM_SECONDS = 1

Drive = Callable[[Proxy, Stage, float], Load]


def under_load(role: Role, drive: Drive, access_log: bool = False, workers: bool = False) -> Open:
    """All proxies run all the time; in its turn one of them gets the load, and its CPU time is read before and after.

    `workers`: the proxy has two cores, one of them the load's where there are only two.
    """

    @contextlib.contextmanager
    def opened(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
        cores = stage.cores.two if workers else (stage.cores.proxy,)
        with contextlib.ExitStack() as stack:
            proxies = [
                stack.enter_context(Proxy(peer, role, stage.directory / peer.name, cores, stage, access_log))
                for peer in peers
            ]
            idle = {proxy.name: proxy.pss() for proxy in proxies}
            for proxy in proxies if stage.seconds > WARM_SECONDS else []:
                drive(proxy, stage, WARM_SECONDS)
            yield {
                proxy.name: lambda proxy=proxy: turn(proxy, drive, stage, cores, idle[proxy.name], access_log)
                for proxy in proxies
            }

    return opened


def turn(proxy: Proxy, drive: Drive, stage: Stage, cores: tuple[int, ...], idle: int, access_log: bool) -> dict[str, float]:
    os.truncate(proxy.log, 0)
    before, start = Usage(proxy, cores), time.monotonic()
    held: list[tuple[int, int]] = []
    sampler = threading.Timer(stage.seconds * 0.7, lambda: held.append((proxy.pss(), proxy.pipes())))
    sampler.start()
    load = drive(proxy, stage, stage.seconds)
    took = time.monotonic() - start
    after = Usage(proxy, cores)
    sampler.join()
    proxy.must_run()
    if not held:
        raise RuntimeError(f"{proxy.name}: its memory could not be read under load")
    (pss, pipes), cpu = held[0], after.cpu - before.cpu
    values = {
        "cpu_us": cpu / load.requests * 1e6,
        "cpu_ms_gb": cpu / load.bytes * 1e12,
        "rate": load.requests / load.seconds,
        "pss_mb": pss / 1e6,
        # What the kernel holds for it in pipes counts as well.
        "buffers_kb": max(0, pss + pipes - idle) / load.connections / 1e3,
        "requests": load.requests,
    }
    if cores == (stage.cores.proxy,):
        # Share of the core that somebody else took: how far this turn can be trusted.
        values["others"] = max(0.0, after.core - before.core - cpu) / took
    else:
        work = [after.workers[thread] - before.workers.get(thread, 0) for thread in after.workers]
        values["busier"] = max(work) / sum(work) * 100 if sum(work) else 0.0
    if access_log:
        values["lines"] = lines(proxy) / load.requests
    return values


class Usage:
    """Seconds so far: of the process, of each of its workers, of everybody on the first of its cores."""

    def __init__(self, proxy: Proxy, cores: tuple[int, ...]):
        self.cpu = proxy.cpu()
        self.workers = proxy.threads("pillion-w")
        self.core = busy(cores[0])


def lines(proxy: Proxy) -> int:
    """Lines of the log, after the second that a proxy may keep them back."""
    time.sleep(1.2)
    with open(proxy.log, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
