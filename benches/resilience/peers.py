"""The two proxies, each in front of the same endpoints."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAKY = HERE.parent.parent / "config" / "bench" / "flaky.yaml"
sys.path.append(str(HERE.parent / "compare"))

from tools import find, version  # noqa: E402

# Against an overload both are told that there may be one.
ADAPTIVE = """\
                  - name: envoy.filters.http.adaptive_concurrency
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency
                      gradient_controller_config:
                        sample_aggregate_percentile: { value: 90 }
                        concurrency_limit_params: { concurrency_update_interval: 0.1s }
                        min_rtt_calc_params: { interval: 30s, request_count: 50 }
                      enabled: { default_value: true, runtime_key: adaptive }"""


@dataclass
class Pillion:
    binary: str
    name: str = "Pillion"
    # Under the upstream's keys.
    upstream: dict[str, list[str]] = field(default_factory=lambda: {"overload": ["    limits: { adaptive: true }"]})

    def version(self) -> str:
        return version([self.binary, "--version"])

    def command(self, directory: Path, port: int, admin: int, endpoints: list[int], scenario: str) -> list[str]:
        """The file that outside checks run as well, on other ports."""
        text = FLAKY.read_text().replace("127.0.0.1:9914", f"127.0.0.1:{admin}").replace("127.0.0.1:9130", f"127.0.0.1:{port}")
        for number, endpoint in enumerate(endpoints, 1):
            text = text.replace(f"127.0.0.1:900{number}", f"127.0.0.1:{endpoint}")
        text += "\n".join(self.upstream.get(scenario, [])) + "\n"
        (directory / "pillion.yaml").write_text(text)
        return [self.binary, "run", "--config", str(directory / "pillion.yaml")]


@dataclass
class Envoy:
    name: str = "Envoy"

    def version(self) -> str:
        return version(["envoy", "--version"])

    def command(self, directory: Path, port: int, admin: int, endpoints: list[int], scenario: str) -> list[str]:
        each = "            - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }}"
        text = (HERE / "envoy.yaml").read_text()
        filters = ADAPTIVE if scenario == "overload" else ""
        values = {"port": port, "admin_port": admin, "filters": filters, "endpoints": "\n".join(each.format(p) for p in endpoints)}
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        (directory / "envoy.yaml").write_text(text)
        return [find("envoy"), "-c", str(directory / "envoy.yaml"), "--concurrency", "2", "--disable-hot-restart", "-l", "error"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(peer: Pillion | Envoy, directory: Path, endpoints: list[int], scenario: str) -> Iterator[int]:
    """The port that it listens on, once it is ready."""
    directory.mkdir(parents=True, exist_ok=True)
    port, admin = free_port(), free_port()
    command = peer.command(directory, port, admin, endpoints, scenario)
    with open(directory / "output.log", "ab") as output:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "PILLION_WORKERS": "2"})
    try:
        ready = f"http://127.0.0.1:{admin}/{'readyz' if isinstance(peer, Pillion) else 'ready'}"
        for _ in range(200):
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(ready, timeout=1).status == 200:
                    break
            if child.poll() is not None:
                raise RuntimeError(f"{peer.name} did not start: see {directory}/output.log")
            time.sleep(0.05)
        yield port
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
