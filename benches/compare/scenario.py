"""What is measured. A scenario is one entry of `SCENARIOS`; it takes turns over its peers."""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hold import held
from load import Load, h2load, wrk
from machine import Cores
from origin import FILES, Origin
from peer import Peer, Proxy
from process import busy, settle

WARM_SECONDS = 0.5
HELD = int(os.environ.get("BENCH_HELD", 4000))


@dataclass(frozen=True)
class Measure:
    """A column of the tables. Ratios are made of those where less is better."""

    key: str
    label: str
    unit: str
    digits: int = 1
    ratio: bool = True


@dataclass(frozen=True)
class Aim:
    """The measure's greatest value, or its greatest ratio to a peer's."""

    measure: str
    most: float
    of: str | None = None


@dataclass(frozen=True)
class Stage:
    """What a turn is given."""

    cores: Cores
    origin: str
    directory: Path
    seconds: float


# Yields one function a peer; called once a round, it returns the measures of that turn.
Turn = Callable[[], dict[str, float]]
Open = Callable[[Stage, list[Peer]], contextlib.AbstractContextManager[dict[str, Turn]]]


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    peers: tuple[str, ...]
    measures: tuple[Measure, ...]
    open: Open
    aims: tuple[Aim, ...] = ()


def under_load(drive: Callable[[Proxy, Stage, float], Load], access_log: bool = False) -> Open:
    """All proxies run all the time; in its turn one of them gets the load, and its CPU time is read before and after."""

    @contextlib.contextmanager
    def opened(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
        def turn(proxy: Proxy) -> dict[str, float]:
            os.truncate(proxy.log, 0)
            cpu, core, start = proxy.cpu(), busy(stage.cores.proxy), time.monotonic()
            loaded: list[int] = []
            sampler = threading.Timer(stage.seconds * 0.7, lambda: loaded.append(proxy.pss()))
            sampler.start()
            load = drive(proxy, stage, stage.seconds)
            took = time.monotonic() - start
            cpu, core = proxy.cpu() - cpu, busy(stage.cores.proxy) - core
            sampler.join()
            proxy.must_run()
            return {
                "cpu_us": cpu / load.requests * 1e6,
                "cpu_ms_gb": cpu / load.bytes * 1e12,
                "rate": load.requests / load.seconds,
                "pss_mb": loaded[0] / 1e6,
                # Share of the core that somebody else took: how far this turn can be trusted.
                "others": max(0.0, core - cpu) / took,
                "requests": load.requests,
                **({"lines": lines(proxy.log) / load.requests} if access_log else {}),
            }

        with contextlib.ExitStack() as stack:
            proxies = [
                stack.enter_context(Proxy(peer, stage.directory / peer.name, stage.cores.proxy, stage.origin, access_log))
                for peer in peers
            ]
            for proxy in proxies:
                drive(proxy, stage, min(WARM_SECONDS, stage.seconds))
            yield {proxy.name: lambda proxy=proxy: turn(proxy) for proxy in proxies}

    return opened


def lines(log: Path) -> int:
    """Lines of the log, after the second that a proxy may keep them back."""
    time.sleep(1.2)
    with open(log, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


@contextlib.contextmanager
def at_rest(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
    """Each turn starts a fresh process, weighs it, opens connections that fall silent, and weighs it again."""

    def turn(peer: Peer) -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=stage.directory) as directory:
            with Proxy(peer, Path(directory) / peer.name, stage.cores.proxy, stage.origin) as proxy:
                idle = settle(proxy.pss)
                with held(proxy.address, HELD, FILES["/1k"]):
                    full = settle(proxy.pss)
        return {"idle_mb": idle / 1e6, "connection_kb": (full - idle) / HELD / 1e3}

    yield {peer.name: lambda peer=peer: turn(peer) for peer in peers}


PROXIES = ("pillion", "nginx", "haproxy", "envoy")
REQUEST = (Measure("cpu_us", "CPU a request", "µs"), Measure("rate", "requests a second", "1/s", 0, ratio=False))
LOADED = Measure("pss_mb", "memory under load", "MB")


def http1(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    return wrk(f"http://{proxy.address}/1k", stage.cores.load, seconds, connections=64)


def http2(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    return h2load(f"http://{proxy.h2}/1k", stage.cores.load, seconds, connections=4, streams=32)


def large(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    return wrk(f"http://{proxy.address}/1m", stage.cores.load, seconds, connections=16)


SCENARIOS = [
    Scenario(
        "single", "HTTP/1.1 to HTTP/1.1, 1 KiB bodies, 64 keep-alive connections", (*PROXIES, "relay"),
        (*REQUEST, LOADED), under_load(http1),
        (Aim("cpu_us", 1.0, "haproxy"), Aim("cpu_us", 0.5, "envoy")),
    ),
    Scenario(
        "logged", "the same with the access log on, into a file", PROXIES,
        (*REQUEST, Measure("lines", "lines a request", "", 2, ratio=False)), under_load(http1, access_log=True),
    ),
    Scenario(
        "h2", "h2c to HTTP/1.1, 1 KiB bodies, 4 connections of 32 streams", PROXIES,
        (*REQUEST, LOADED), under_load(http2), (Aim("cpu_us", 1.5, "haproxy"),),
    ),
    Scenario(
        "large", "HTTP/1.1 to HTTP/1.1, 1 MiB bodies, 16 connections", (*PROXIES, "relay"),
        (Measure("cpu_ms_gb", "CPU a gigabyte", "ms", 0), REQUEST[1], LOADED), under_load(large),
    ),
    Scenario(
        "idle", f"memory at rest, and with {HELD:,} idle keep-alive connections", PROXIES,
        (Measure("idle_mb", "idle process", "MB"), Measure("connection_kb", "an idle connection", "kB")), at_rest,
        (Aim("idle_mb", 8.0), Aim("connection_kb", 12.0)),
    ),
]
