"""A process on cores of its own, and what it costs: CPU time and memory of its whole tree."""

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 5


class Process:
    """Runs until the block ends. Its output goes to `directory/output.log`, opened for appending."""

    def __init__(self, command: list[str], directory: Path, cores: tuple[int, ...], env: dict[str, str] | None = None):
        directory.mkdir(parents=True, exist_ok=True)
        self.output = directory / "output.log"
        with open(self.output, "ab") as output:
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", ",".join(map(str, cores)), *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory,
                env={**os.environ, **(env or {})},
            )

    def cpu(self) -> float:
        """Seconds of user and system time so far, of every thread of every process in the tree."""
        return sum(sum(map(int, stat(pid)[11:13])) for pid in self.tree()) / TICK

    def pss(self) -> int:
        """Bytes: each page divided by the number of processes that share it."""
        return sum(rollup(pid, "Pss") for pid in self.tree())

    def threads(self, name: str) -> dict[int, float]:
        """Seconds of user and system time so far, of each thread whose name begins so."""
        found = {}
        for thread in Path(f"/proc/{self.child.pid}/task").iterdir():
            if (thread / "comm").read_text().startswith(name):
                found[int(thread.name)] = sum(map(int, fields(thread / "stat")[11:13])) / TICK
        return found

    def pipes(self) -> int:
        """Bytes that its pipes can hold, in the kernel, where PSS doesn't see them."""
        found = {}
        for pid in self.tree():
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                # Closed meanwhile, or a pipe whose other end is.
                with contextlib.suppress(OSError):
                    if (name := os.readlink(entry)).startswith("pipe:"):
                        found[name] = capacity(entry)
        return sum(found.values())

    def tree(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    children.setdefault(int(stat(int(entry.name))[1]), []).append(int(entry.name))
        found = [self.child.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def must_run(self):
        if self.child.poll() is not None:
            tail = self.output.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(map(str, self.child.args))} ended by itself:\n{tail}")

    def close(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(STOP_SECONDS)
        for pid in self.tree() if self.child.poll() is None else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def settle(measure, seconds: float = 3.0) -> int:
    """The value of `measure` once it has stopped moving (by 0.2 % in 0.3 s), or after `seconds`."""
    last, end = measure(), time.monotonic() + seconds
    while True:
        time.sleep(0.3)
        now = measure()
        if abs(now - last) <= last * 0.002 or time.monotonic() > end:
            return now
        last = now


def busy(core: int) -> float:
    """Seconds in which the core did anything for anybody."""
    with open("/proc/stat") as lines:
        fields = next(line for line in lines if line.startswith(f"cpu{core} ")).split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / TICK


def stat(pid: int) -> list[str]:
    return fields(Path(f"/proc/{pid}/stat"))


def fields(path: Path) -> list[str]:
    """Fields of a process's or thread's `stat` from the third on; the second, the name, may hold anything."""
    return path.read_text().rpartition(")")[2].split()


def capacity(pipe: Path) -> int:
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
    finally:
        os.close(descriptor)


def rollup(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
