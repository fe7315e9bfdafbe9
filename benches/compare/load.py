"""Load generators: closed loops of wrk (HTTP/1.1) and h2load (HTTP/2 without TLS)."""

import re
import subprocess
from dataclasses import dataclass

from tools import find

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Load:
    """What was completed, and in which time."""

    requests: int
    bytes: int
    seconds: float


def wrk(url: str, core: int, seconds: float, connections: int) -> Load:
    """Whole seconds only; less is rounded up."""
    output = run(core, [find("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", url])
    for trouble in ("Socket errors", "Non-2xx"):
        if trouble in output:
            raise RuntimeError(f"wrk {url}: {output}")
    requests, took, size, unit = search(r"(\d+) requests in ([\d.]+)s, ([\d.]+)([KMG]?)B read", output)
    return Load(int(requests), int(float(size) * UNITS[unit]), float(took))


def h2load(url: str, core: int, seconds: float, connections: int, streams: int) -> Load:
    output = run(core, [find("h2load"), "-t1", f"-c{connections}", f"-m{streams}", "-D", f"{int(seconds * 1000)}ms", url])
    took, unit = search(r"finished in ([\d.]+)(m?s),", output)
    done, good, failed, errors = search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", output)
    size, = search(r"traffic: .*?\((\d+)\) total", output)
    if int(failed) or int(errors) or int(done) != int(good) or not int(good):
        raise RuntimeError(f"h2load {url}: {output}")
    return Load(int(good), int(size), float(took) / (1000 if unit == "ms" else 1))


def run(core: int, command: list[str]) -> str:
    done = subprocess.run(["taskset", "-c", str(core), *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def search(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"no {pattern!r} in:\n{text}")
    return found.groups()
