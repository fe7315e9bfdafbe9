"""Where a run happened: the cores used, the machine, the kernel, the versions of everybody."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from peer import Peer
from tools import version

# What has Pillion's own version.
OURS = ("two", "one", "relay")


@dataclass(frozen=True)
class Cores:
    """The proxy has one to itself; the origins and the load generator share another one."""

    load: int
    proxy: int
    # For two workers: of only two cores, the load's is one.
    two: tuple[int, ...]

    @classmethod
    def choose(cls) -> "Cores":
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise RuntimeError("the benchmark needs two cores: one for the proxy alone")
        return cls(usable[0], usable[-1], tuple(usable[-2:]))


def describe(peers: list[Peer]) -> dict[str, object]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "kernel": platform.release(),
        "versions": {
            **{peer.name: peer.version() for peer in peers if peer.name not in OURS},
            "wrk": version(["wrk", "-v"]), "h2load": version(["h2load", "--version"]),
        },
    }
