"""What is measured: Pillion and Envoy with more or less telemetry, spans to a collector over gRPC."""

import contextlib
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from net import answers, free_port, wait
from process import Process
from tools import find


class Proxy:
    name: str
    #: How much of the traffic is traced, from 0 to 1.
    sampled: float
    process: Process
    address: str

    @contextlib.contextmanager
    def start(self, directory: Path, core: int, origin: str, collector: str) -> Iterator["Proxy"]:
        directory.mkdir()
        self.address, self.admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        command = self.command(directory, origin, collector)
        with Process(command, directory, (core,), {"PILLION_WORKERS": "1"}) as self.process:
            wait(self.process, self.name, lambda: None if answers(self.address, "/1k") else "it does not answer")
            yield self

    def counted(self, path: str, pattern: str) -> int:
        with urllib.request.urlopen(f"http://{self.admin}{path}") as reply:
            return sum(int(float(count)) for count in re.findall(pattern, reply.read().decode(), re.MULTILINE))


class Pillion(Proxy):
    def __init__(self, name: str, binary: str, telemetry: dict):
        self.name, self.binary, self.telemetry = name, binary, telemetry
        self.sampled = float(telemetry.get("tracing", {"sampling": "0%"})["sampling"].rstrip("%")) / 100

    def command(self, directory: Path, origin: str, collector: str) -> list[str]:
        config = directory / "pillion.yaml"
        config.write_text(json.dumps({
            "admin": {"address": self.admin}, "accessLog": {"enabled": False}, "otlp": {"endpoint": f"http://{collector}"},
            "listeners": [{"address": self.address, "upstream": "app"}],
            "upstreams": [{"name": "app", "endpoints": [origin]}], **self.telemetry,
        }))
        return [self.binary, "run", "--config", str(config)]

    def exported(self) -> int:
        return self.counted("/metrics", r'^pillion_otlp_exported_total\{signal="traces"\} (\S+)')

    def dropped(self) -> int:
        return self.counted("/metrics", r'^pillion_otlp_dropped_total\{signal="traces".*\} (\S+)')


class Envoy(Proxy):
    def __init__(self, name: str, traced: bool):
        self.name, self.traced, self.sampled = name, traced, float(traced)

    def command(self, directory: Path, origin: str, collector: str) -> list[str]:
        here = Path(__file__).resolve().parent
        text = (here.parent / "compare" / "peers" / "http" / "envoy.yaml").read_text()
        tracing = ""
        if self.traced:
            tracing = (here / "envoy-tracing.yaml").read_text()
            # It traces nothing that has no id.
            text = text.replace("generate_request_id: false", "generate_request_id: true")
        places = {"access_log": "[]\n" + indented(tracing, 10)}
        for name, address in (("listen", self.address), ("admin", self.admin), ("origin", origin), ("collector", collector)):
            places[f"{name}_host"], _, places[f"{name}_port"] = address.rpartition(":")
        text += indented((here / "envoy-collector.yaml").read_text(), 2)
        text += "admin: { address: { socket_address: { address: @admin_host@, port_value: @admin_port@ } } }\n"
        config = directory / "envoy.yaml"
        config.write_text(re.sub(r"@(\w+)@", lambda match: places[match[1]], text))
        return [find("envoy"), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]

    def exported(self) -> int:
        return self.counted("/stats", r"^tracing\.opentelemetry\.spans_sent: (\d+)")

    def dropped(self) -> int:
        return 0


def indented(text: str, by: int) -> str:
    return "".join(" " * by + line + "\n" for line in text.splitlines())
