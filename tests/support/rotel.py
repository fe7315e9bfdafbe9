"""Rotel: a collector that is not ours (Streamfold's, in Rust)."""

import subprocess
from pathlib import Path

import rotel

from .ports import free_port


class Rotel:
    """Prints the spans that it gets. Use as a context manager."""

    def __init__(self, directory: Path):
        self.grpc, self.http = free_port(), free_port()
        self.log = directory / "rotel.log"
        command = [
            Path(rotel.__file__).parent / "rotel-agent", "start", "--otlp-grpc-endpoint", f"127.0.0.1:{self.grpc}",
            "--otlp-http-endpoint", f"127.0.0.1:{self.http}", "--exporter", "blackhole",
            "--debug-log", "traces", "--debug-log-verbosity", "detailed",
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, cwd=directory,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
