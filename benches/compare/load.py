"""The loads: closed loops of wrk (HTTP/1.1) and h2load (HTTP/2 without TLS), and the open loop of our own."""

import json
import re
import subprocess
from dataclasses import dataclass

from origin import CALL, CALL_FIELDS, FILES
from peer import Proxy
from scenario import Stage
from tools import find

MEBIBYTE = 1 << 20
UPLOAD = 'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n'


@dataclass(frozen=True)
class Load:
    """What was completed, over which connections, and in which time."""

    requests: int
    bytes: int
    connections: int
    seconds: float


def http1(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    return wrk(f"http://{proxy.address}/1k", stage.cores.load, seconds, 64, FILES["/1k"])


def http2(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    return h2load(f"http://{proxy.h2}/1k", stage.cores.load, seconds, 4, 32, FILES["/1k"])


def calls(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    message = stage.directory / "call"
    message.write_bytes(CALL)
    fields = [option for field in CALL_FIELDS for option in ("-H", field)]
    url = f"http://{proxy.h2}/helloworld.Greeter/SayHello"
    return h2load(url, stage.cores.load, seconds, 4, 32, len(CALL), "-d", str(message), *fields)


def large(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    return wrk(f"http://{proxy.address}/1m", stage.cores.load, seconds, 16, FILES["/1m"])


def upload(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    script = stage.directory / "upload.lua"
    script.write_text(UPLOAD.format(size=MEBIBYTE))
    return wrk(f"http://{proxy.address}/", stage.cores.load, seconds, 16, MEBIBYTE, "-s", str(script))


def short(proxy: Proxy, stage: Stage, seconds: float) -> Load:
    return wrk(f"http://{proxy.address}/1k", stage.cores.load, seconds, 64, FILES["/1k"], "-H", "Connection: close")


def wrk(url: str, core: int, seconds: float, connections: int, body: int, *more: str) -> Load:
    """Whole seconds only; less is rounded up. `body` bytes are what a request is counted for."""
    output = run(core, [find("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", *more, url])
    for trouble in ("Socket errors", "Non-2xx"):
        if trouble in output:
            raise RuntimeError(f"wrk {url}: {output}")
    requests, took = search(r"(\d+) requests in ([\d.]+)s,", output)
    if not int(requests):
        raise RuntimeError(f"wrk {url}: nothing was answered: {output}")
    return Load(int(requests), int(requests) * body, connections, float(took))


def h2load(url: str, core: int, seconds: float, connections: int, streams: int, body: int, *more: str) -> Load:
    output = run(core, [
        find("h2load"), "-t1", f"-c{connections}", f"-m{streams}", "-D", f"{int(seconds * 1000)}ms", *more, url])
    took, unit = search(r"finished in ([\d.]+)(m?s),", output)
    done, good, failed, errors = search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", output)
    if int(failed) or int(errors) or int(done) != int(good) or not int(good):
        raise RuntimeError(f"h2load {url}: {output}")
    return Load(int(good), int(good) * body, connections, float(took) / (1000 if unit == "ms" else 1))


def scheduled(proxy: Proxy, stage: Stage, rate: float, connections: int) -> dict[str, float]:
    """Requests on a schedule, whatever becomes of those before: microseconds from when they were due."""
    output = run(stage.cores.load, [
        str(stage.programs / "openloop"), proxy.address, "/1k", f"{rate:.0f}", f"{stage.seconds:g}", str(connections)])
    return json.loads(output)


def handshaken(proxy: Proxy, stage: Stage, group: str, seconds: float, most: int = 1_000_000_000) -> Load:
    """Connections, each for one small request, until the time is over or so many are done."""
    at_a_time = 32
    output = json.loads(run(stage.cores.load, [
        str(stage.programs / "handshakes"), proxy.address, str(stage.pki / "ca.crt"), group, str(at_a_time),
        f"{seconds:g}", str(most)]))
    return Load(output["connections"], output["connections"] * len("ok"), at_a_time, output["seconds"])


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
