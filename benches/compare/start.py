"""How soon a proxy serves that was not there before."""

import contextlib
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from net import READY_SECONDS, answers
from peer import HTTP, Peer, Prepared
from process import STOP_SECONDS
from scenario import Stage, Turn

STARTS = int(os.environ.get("BENCH_STARTS", 20))
# How often it is tried, seconds: what the clock can be wrong by.
AGAIN = 0.0002


@contextlib.contextmanager
def from_nothing(stage: Stage, peers: list[Peer]) -> Iterator[dict[str, Turn]]:
    def turn(peer: Peer) -> dict[str, float]:
        return {"first_ms": statistics.median(first_answer(peer, stage) for _ in range(STARTS)) * 1e3}

    yield {peer.name: lambda peer=peer: turn(peer) for peer in peers}


def first_answer(peer: Peer, stage: Stage) -> float:
    """Seconds from exec, without any program in between, to the end of the first answer."""
    with tempfile.TemporaryDirectory(dir=stage.directory) as directory:
        ready = Prepared(peer, *HTTP.folders, Path(directory), stage.origins[HTTP.origin], stage.pki)
        usable = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {stage.cores.proxy})
        try:
            start = time.monotonic()
            child = subprocess.Popen(
                ready.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                cwd=directory, env={**os.environ, **ready.env})
        finally:
            os.sched_setaffinity(0, usable)
        try:
            while not answers(ready.address, "/1k"):
                if child.poll() is not None or time.monotonic() > start + READY_SECONDS:
                    raise RuntimeError(f"{' '.join(ready.command)} answered nothing, exit code {child.poll()}")
                time.sleep(AGAIN)
            return time.monotonic() - start
        finally:
            end(child)


def end(child: subprocess.Popen):
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
