"""The proxies that are compared, each on one core with one worker.

A peer is a command and a file of configuration in which `@name@` is filled in: `@listen@` and `@h2@` (the same
address where the peer tells HTTP/1.1 from HTTP/2 by itself), `@origin@`, `@access_log@`, `@user@`; addresses also
as `@listen_host@`, `@listen_port@` and so on.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from net import free_port, wait_for_body
from origin import FILES
from process import Process
from tools import find, version

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONTRACT = ROOT / "config" / "bench" / "single.yaml"


@dataclass(frozen=True)
class Peer:
    """`command` gets the path of the filled-in configuration, the listening address and the origin's."""

    name: str
    command: Callable[[str, str, str], list[str]]
    version: Callable[[], str]
    template: Path | None = None
    # What stands for `@access_log@` when it is off, and when it is on (with `@log@` for the file).
    access_log: tuple[str, str] = ("", "")
    h2_port: bool = False
    env: dict[str, str] = field(default_factory=dict)


class Proxy(Process):
    """A peer that runs and has answered."""

    def __init__(self, peer: Peer, directory: Path, core: int, origin: str, access_log: bool = False):
        directory.mkdir(parents=True)
        self.name = peer.name
        self.address = f"127.0.0.1:{free_port()}"
        self.h2 = f"127.0.0.1:{free_port()}" if peer.h2_port else self.address
        log = peer.access_log[access_log]
        # HAProxy and Pillion log to standard output.
        self.log = directory / ("access.log" if "@log@" in log else "output.log")
        config = directory / (peer.template.name if peer.template else "none")
        if peer.template:
            config.write_text(fill(peer, {
                "listen": self.address, "h2": self.h2, "origin": origin, "access_log": log.replace("@log@", str(self.log)),
                "user": "user root;" if os.getuid() == 0 else "",
            }))
        super().__init__(peer.command(str(config), self.address, origin), directory, core, peer.env)
        try:
            for path, size in FILES.items():
                wait_for_body(self, self.address, path, size)
        except BaseException:
            self.close()
            raise


def fill(peer: Peer, values: dict[str, str]) -> str:
    text = peer.template.read_text()
    for name in ("listen", "origin"):
        values[f"{name}_host"], _, values[f"{name}_port"] = values[name].rpartition(":")
    if peer.template == CONTRACT:
        # The file itself, with its fixed ports exchanged for free ones.
        admin = f"127.0.0.1:{free_port()}"
        for fixed, free in (("127.0.0.1:9110", values["listen"]), ("127.0.0.1:9000", values["origin"]),
                            ("127.0.0.1:9911", admin), ("accessLog: { enabled: false }", values["access_log"])):
            if fixed not in text:
                raise RuntimeError(f"{peer.template} has no {fixed}")
            text = text.replace(fixed, free)
        return text
    return re.sub("@([a-z0-9_]+)@", lambda name: values[name[1]], text)


def peers(pillion: Path, relay: Path) -> dict[str, Peer]:
    """In the order of the tables. The relay, which understands nothing, is the limit and not a peer."""
    found = [
        Peer(
            "pillion", lambda config, *_: [str(pillion), "run", "--config", config],
            lambda: version([str(pillion), "--version"]), CONTRACT,
            ("accessLog: { enabled: false }", "accessLog: { enabled: true }"),
            env={"PILLION_WORKERS": "1"},
        ),
        Peer(
            "nginx", lambda config, *_: [find("nginx"), "-p", str(Path(config).parent), "-c", config, "-e", "stderr"],
            lambda: version(["nginx", "-v"]), HERE / "peers" / "nginx.conf",
            ("access_log off;", "access_log @log@ combined buffer=64k flush=1s;"), h2_port=True,
        ),
        Peer(
            "haproxy", lambda config, *_: [find("haproxy"), "-db", "-f", config],
            lambda: version(["haproxy", "-v"]), HERE / "peers" / "haproxy.cfg",
            ("", "option httplog\n    log stdout format raw local0"),
        ),
        Peer(
            "envoy", lambda config, *_: [find("envoy"), "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "error"],
            lambda: version(["envoy", "--version"]), HERE / "peers" / "envoy.yaml",
            ("[]", '[{ name: file, typed_config: { "@type": type.googleapis.com/'
                   'envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "@log@" } }]'),
        ),
        Peer("relay", lambda _, listen, origin: [str(relay), listen, origin], lambda: ""),
    ]
    return {peer.name: peer for peer in found}
