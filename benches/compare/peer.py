"""The proxies that are compared, each with one worker but for `two`.

A peer is a command and, for each role, a file of configuration in `peers` in which `@name@` is filled in:
`@listen@` and `@h2@` (the same address where the peer tells HTTP/1.1 from HTTP/2 by itself), `@origin@`,
`@access_log@`, `@user@`, `@admin_port@`, `@pki@` (see `pki`); addresses also as `@listen_host@`, `@listen_port@` and so on.
"""

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from net import free_port, wait, wait_for_body
from origin import CALL, CALL_FIELDS, FILES, READ
from pki import client
from process import Process
from tools import find, version

if TYPE_CHECKING:
    from scenario import Stage

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Where there is one, Pillion runs the file that outside checks run, too: its name, and where it listens, forwards
# to and has its admin.
CONTRACT = {
    "http": ("single.yaml", 9110, 9000, 9911),
    "pair-client": ("pair-client.yaml", 9120, 9121, 9912),
    "pair-server": ("pair-server.yaml", 9121, 9000, 9913),
}
PILLION = "pillion.yaml"


@dataclass(frozen=True)
class Role:
    """What the proxies are set up for: folders of `peers`, an origin, and how it shows that all is well.

    For each folder a process runs, which forwards to the next one's; the last forwards to the origin.
    """

    folders: tuple[str, ...]
    origin: str
    probe: Callable[["Proxy"], None]


@dataclass(frozen=True)
class Peer:
    """`command` gets the path of the filled-in configuration, the listening address and the origin's."""

    name: str
    command: Callable[[str, str, str], list[str]]
    version: Callable[[], str]
    # The name of its configuration; a program without one does the same in all roles.
    file: str | None = None
    # What stands for `@access_log@` when it is off, and when it is on (with `@log@` for the file).
    access_log: tuple[str, str] = ("", "")
    # Whether HTTP/2 beside HTTP/1.1 needs a port of its own.
    h2_port: bool = False
    env: dict[str, str] = field(default_factory=dict)


class Prepared:
    """A peer ready to be started in one of a role's folders: everything but the process."""

    def __init__(self, peer: Peer, folder: str, directory: Path, origin: str, pki: Path, access_log: bool = False):
        directory.mkdir(parents=True, exist_ok=True)
        self.address = f"127.0.0.1:{free_port()}"
        self.h2 = f"127.0.0.1:{free_port()}" if peer.h2_port and folder in HTTP.folders else self.address
        log = peer.access_log[access_log]
        # HAProxy and Pillion log to standard output.
        self.log = directory / ("access.log" if "@log@" in log else "output.log")
        config = directory / (peer.file or "none")
        if peer.file:
            config.write_text(fill(peer, folder, {
                "listen": self.address, "h2": self.h2, "origin": origin, "access_log": log.replace("@log@", str(self.log)),
                "user": "user root;" if os.getuid() == 0 else "", "admin_port": str(free_port()),
                "pki": str(pki),
            }))
        self.command = peer.command(str(config), self.address, origin)
        self.env = {**peer.env, "PILLION_PKI": str(pki)}


class Proxy:
    """A peer that runs and has answered: one process, or a chain of them, whose costs are added up."""

    def __init__(
        self, peer: Peer, role: Role, directory: Path, cores: tuple[int, ...], stage: "Stage", access_log: bool = False,
    ):
        self.name, self.pki, self.directory = peer.name, stage.pki, directory
        self.processes: list[Process] = []
        origin = stage.origins[role.origin]
        try:
            for folder in reversed(role.folders):
                ready = Prepared(peer, folder, directory / folder, origin, stage.pki, access_log)
                self.processes.append(Process(ready.command, directory / folder, cores, ready.env))
                origin = ready.address
            # Of the one that the clients talk to.
            self.address, self.h2, self.log = ready.address, ready.h2, ready.log
            role.probe(self)
        except BaseException:
            self.close()
            raise

    def cpu(self) -> float:
        return sum(process.cpu() for process in self.processes)

    def pss(self) -> int:
        return sum(process.pss() for process in self.processes)

    def pipes(self) -> int:
        return sum(process.pipes() for process in self.processes)

    def threads(self, name: str) -> dict[int, float]:
        return {thread: used for process in self.processes for thread, used in process.threads(name).items()}

    def must_run(self):
        for process in self.processes:
            process.must_run()

    def close(self):
        for process in self.processes:
            process.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def fill(peer: Peer, folder: str, values: dict[str, str]) -> str:
    for name in ("listen", "origin"):
        values[f"{name}_host"], _, values[f"{name}_port"] = values[name].rpartition(":")
    if peer.file == PILLION and folder in CONTRACT:
        return fill_contract(*CONTRACT[folder], values)
    text = (HERE / "peers" / folder / peer.file).read_text()
    return re.sub("@([a-z0-9_]+)@", lambda name: values[name[1]], text)


def fill_contract(file: str, listen: int, origin: int, admin: int, values: dict[str, str]) -> str:
    """The file itself, with its fixed ports exchanged for free ones."""
    text = (ROOT / "config" / "bench" / file).read_text()
    for fixed, free in ((f"127.0.0.1:{listen}", values["listen"]), (f"127.0.0.1:{origin}", values["origin"]),
                        (f"127.0.0.1:{admin}", f"127.0.0.1:{values['admin_port']}"),
                        ("accessLog: { enabled: false }", values["access_log"])):
        if fixed not in text:
            raise RuntimeError(f"{file} has no {fixed}")
        text = text.replace(fixed, free)
    return text


def probe_files(proxy: Proxy):
    for path, size in FILES.items():
        wait_for_body(proxy, proxy.address, path, size)


def probe_upload(proxy: Proxy):
    wait_for_body(proxy, proxy.address, "/", READ)


def probe_call(proxy: Proxy):
    message = proxy.directory / "call"
    message.write_bytes(CALL)
    fields = [option for name in CALL_FIELDS for option in ("-H", name)]
    command = [find("h2load"), "-n1", "-c1", "-d", str(message), *fields, f"http://{proxy.h2}/helloworld.Greeter/SayHello"]

    def problem() -> str | None:
        output = subprocess.run(command, capture_output=True, text=True).stdout
        return None if " 1 succeeded" in output else output

    wait(proxy, f"a call through {proxy.name}", problem)


def probe_handshake(proxy: Proxy):
    wait_for_body(proxy, proxy.address, "/", len("ok"), client(proxy.pki, certificate=False))


def probe_mutual(proxy: Proxy):
    wait_for_body(proxy, proxy.address, "/1k", FILES["/1k"], client(proxy.pki))


HTTP = Role(("http",), "files", probe_files)
UPLOAD = Role(("http",), "calls", probe_upload)
GRPC = Role(("grpc",), "calls", probe_call)
TCP = Role(("tcp",), "files", probe_files)
# Between the two of a pair is mTLS.
PAIR = Role(("pair-client", "pair-server"), "files", probe_files)
PAIR_UPLOAD = Role(("pair-client", "pair-server"), "calls", probe_upload)
PAIR_TCP = Role(("tls-tcp-client", "tls-tcp-server"), "files", probe_files)
# Its far end alone.
MUTUAL = Role(("pair-server",), "files", probe_mutual)
# Plain TLS; nothing is forwarded.
HANDSHAKE = Role(("handshake",), "files", probe_handshake)


def peers(pillion: Path, programs: Path) -> dict[str, Peer]:
    """In the order of the tables. The relay, which understands nothing, is the limit and not a peer."""

    def ours(name: str, workers: int) -> Peer:
        return Peer(
            name, lambda config, *_: [str(pillion), "run", "--config", config],
            lambda: version([str(pillion), "--version"]), PILLION,
            ("accessLog: { enabled: false }", "accessLog: { enabled: true }"),
            env={"PILLION_WORKERS": str(workers)},
        )

    found = [
        ours("pillion", 1),
        Peer(
            "nginx", lambda config, *_: [find("nginx"), "-p", str(Path(config).parent), "-c", config, "-e", "stderr"],
            lambda: version(["nginx", "-v"]), "nginx.conf",
            ("access_log off;", "access_log @log@ combined buffer=64k flush=1s;"), h2_port=True,
        ),
        Peer(
            "haproxy", lambda config, *_: [find("haproxy"), "-db", "-f", config],
            lambda: version(["haproxy", "-v"]), "haproxy.cfg",
            ("", "option httplog\n    log stdout format raw local0"),
        ),
        Peer(
            "envoy", lambda config, *_: [find("envoy"), "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "error"],
            lambda: version(["envoy", "--version"]), "envoy.yaml",
            ("[]", '[{ name: file, typed_config: { "@type": type.googleapis.com/'
                   'envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "@log@" } }]'),
        ),
        ours("two", 2),
        ours("one", 1),
        Peer("relay", lambda _, listen, origin: [str(programs / "relay"), listen, origin], lambda: ""),
    ]
    return {peer.name: peer for peer in found}
