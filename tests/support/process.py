"""`pillion run` as the tests see it: a process, its two streams of lines, its admin server."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import yaml

from .client import fetch
from .metrics import Metrics
from .wait import TIMEOUT, eventually
from .wire import Message


#: Variables that the tests alone decide about.
OURS = ("PILLION_", "RUST_LOG", "OTEL_")


class Lines:
    """Lines of a stream as they come; call it for all so far."""

    def __init__(self, stream, parse):
        self.text: list[str] = []
        self.parsed: list[dict] = []
        self.changed = threading.Condition()
        self.ended = False
        self.thread = threading.Thread(target=self._read, args=(stream, parse), daemon=True)
        self.thread.start()

    def _read(self, stream, parse):
        for raw in stream:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            with self.changed:
                self.text.append(line)
                if (value := parse(line)) is not None:
                    self.parsed.append(value)
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def __call__(self) -> list[dict]:
        with self.changed:
            return list(self.parsed)

    def wait_for(self, predicate, timeout: float = TIMEOUT) -> dict:
        """The first line that satisfies the predicate."""
        end = time.monotonic() + timeout
        seen = 0
        with self.changed:
            while True:
                for entry in self.parsed[seen:]:
                    if predicate(entry):
                        return entry
                seen = len(self.parsed)
                left = end - time.monotonic()
                if self.ended or left <= 0:
                    raise AssertionError("no such line; the last ones:\n" + "\n".join(self.text[-20:]))
                self.changed.wait(left)

    def find(self, timeout: float = TIMEOUT, **fields) -> dict:
        """The first line whose fields have these values."""
        return self.wait_for(lambda line: all(line.get(key) == value for key, value in fields.items()), timeout)


def parse_json(line: str) -> dict | None:
    """A log line with the fields of the event beside its level and target."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    return {**value, **value["fields"]} if isinstance(value.get("fields"), dict) else value


def as_yaml(config: dict | str) -> str:
    """A configuration as text, with the admin server on a free port unless it says otherwise."""
    if isinstance(config, str):
        written = yaml.safe_load(config)
        return config if "admin" in written else config.rstrip() + "\nadmin: { address: 127.0.0.1:0 }\n"
    return yaml.safe_dump({"admin": {"address": "127.0.0.1:0"}, **config}, sort_keys=False)


class Pillion:
    """A running proxy. Use as a context manager, or through the `pillion` fixture."""

    def __init__(self, binary: Path, directory: Path, config: dict | str | None, *, env=None, files=None,
                 prefix: list[str] = (), config_path: Path | None = None, ready: bool = True):
        self.directory = directory
        self.config_path = config_path or directory / "pillion.yaml"
        for name, text in (files or {}).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
        if config is not None:
            self.config_path.write_text(as_yaml(config))
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        self.process = subprocess.Popen(
            # Dies with the test run, however that ends.
            ["setpriv", "--pdeathsig", "KILL", "--", *prefix, str(binary), "run", "--config", str(self.config_path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env={**inherited, "PILLION_LOG_FORMAT": "json", "PILLION_WORKERS": "2", "RUST_BACKTRACE": "1", **(env or {})},
        )
        self.logs = Lines(self.process.stderr, parse_json)
        self.access_log = Lines(self.process.stdout, parse_json)
        self.ended_on_purpose = False
        self.started = None
        if ready:
            try:
                self.started = self.logs.find(message="ready")
            except AssertionError:
                self.kill()
                raise

    @property
    def pid(self) -> int:
        return self.process.pid

    # Addresses.

    def listeners(self) -> dict[str, str]:
        """Name to bound address, as of the last line that told."""
        told = [line["listeners"] for line in self.logs() if line.get("message") in ("ready", "configuration accepted")
                and "listeners" in line]
        return dict(pair.split("=", 1) for pair in told[-1].split(",") if pair)

    def address(self, name: str = "web") -> str:
        """Where a listener is bound; waits for one that a reload has just added."""
        return eventually(lambda: self.listeners().get(name), f"listener {name} bound")

    def port(self, name: str = "web") -> int:
        return int(self.address(name).rpartition(":")[2])

    @property
    def admin(self) -> str:
        return self.started["admin"]

    @property
    def probes(self) -> str:
        return self.started["probes"]

    # Admin server.

    def admin_get(self, target: str) -> Message:
        return fetch(self.admin, "GET", target, {"Host": self.admin})

    def admin_post(self, target: str, body: bytes = b"") -> Message:
        return fetch(self.admin, "POST", target, {"Host": self.admin}, body)

    def metrics(self) -> Metrics:
        reply = self.admin_get("/metrics")
        assert reply.status == 200
        return Metrics.parse(reply.body.decode())

    def endpoints(self) -> dict[str, dict]:
        """What `GET /upstreams` tells of the endpoints of the first upstream, by address."""
        first = json.loads(self.admin_get("/upstreams").body)[0]
        return {endpoint["address"]: endpoint for endpoint in first["endpoints"]}

    def generation(self) -> int:
        return int(self.metrics().value("pillion_config_generation"))

    # Configuration.

    def write(self, config: dict | str):
        """Replaces the file as an editor does: a new one renamed over it."""
        temporary = self.config_path.with_name(".next")
        temporary.write_text(as_yaml(config))
        temporary.replace(self.config_path)

    def reload(self, config: dict | str | None = None) -> Message:
        """Writes the file and asks for a reload; the reply, 200 or 422."""
        if config is not None:
            self.write(config)
        return self.admin_post("/reload")

    def must_reload(self, config: dict | str):
        reply = self.reload(config)
        assert reply.status == 200, reply.body.decode()
        return reply

    # Access log and reasons.

    def access(self, **fields) -> dict:
        """The first access-log line with these values, awaited."""
        return self.access_log.find(**fields)

    def wait_reason(self, reason: str, count: int = 1):
        """Waits until the metrics have counted this reason so often."""
        eventually(lambda: self.metrics().reasons().get(reason, 0) >= count, f"metric of {reason} at {count}")

    def refused(self, response: Message, reason: str, status: int, **access) -> dict:
        """A response made by Pillion: reason, Proxy-Status, and the same name in log and metric."""
        assert response.status == status, response
        assert response.reason == reason, response
        assert (response.header("proxy-status") or "").startswith("pillion; error="), response
        assert response.header("server") == "pillion"
        line = self.access(reason=reason, **access)
        assert line["status"] == status, line
        assert line["flags"], line
        self.wait_reason(reason)
        return line

    # Process.

    def rss(self) -> int:
        """Resident memory in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def signal(self, number: int):
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            self.ended_on_purpose = True
        self.process.send_signal(number)

    def wait_exit(self, timeout: float = TIMEOUT) -> int:
        """The exit code."""
        self.ended_on_purpose = True
        code = self.process.wait(timeout)
        self.logs.thread.join(TIMEOUT)
        self.access_log.thread.join(TIMEOUT)
        return code

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(TIMEOUT)

    def stderr(self) -> str:
        return "\n".join(self.logs.text)

    def stop(self):
        """Ends the process and fails if it had ended by itself, or if anything in it panicked."""
        died = self.process.poll() if not self.ended_on_purpose else None
        if self.process.poll() is None:
            # The second signal cuts what the first one would drain.
            for _ in range(2):
                self.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(1)
                    break
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5)
        self.kill()
        self.logs.thread.join(TIMEOUT)
        self.process.stdout.close()
        self.process.stderr.close()
        # Shown with a test that fails.
        print(f"--- the log of {self.pid}", *self.logs.text[-30:], sep="\n")
        assert "panicked at" not in self.stderr(), f"pillion panicked:\n{self.stderr()}"
        assert died is None, f"pillion died by itself with {died}:\n{self.stderr()}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
