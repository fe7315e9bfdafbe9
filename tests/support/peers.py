"""Real peers: nginx, HAProxy and Envoy as servers, PostgreSQL, each a process on loopback."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from .ports import free_port
from .wait import TIMEOUT, eventually
from .wire import connect


def find(program: str, *more: str) -> str:
    """The program's path. A peer that is missing is an error, never a skip."""
    for name in (program, *more):
        path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path:
            return path
    raise AssertionError(f"{program} is not installed; run `make setup`")


def listens(address: str) -> bool:
    try:
        connect(address, timeout=1).close()
    except OSError:
        return False
    return True


class Peer:
    """A process that is there once its address answers, and is gone at the end."""

    def __init__(self, command: list[str], directory: Path, address: str):
        self.address = address
        self.log = directory / "output.log"
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=directory,
            )
        try:
            eventually(self._up, f"{command[0]} at {address}")
        except BaseException:
            self.close()
            raise

    def _up(self) -> bool:
        assert self.process.poll() is None or self._failed()
        return listens(self.address)

    def _failed(self):
        raise RuntimeError(f"{self.process.args} ended:\n{self.log.read_text(errors='replace')[-3000:]}")

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def nginx(directory: Path, upstream: str) -> Peer:
    """nginx with keep-alive HTTP/1.1 towards the upstream, HTTP/1.1 and h2c towards clients."""
    return nginx_with(directory, upstream, "proxy_set_header Host $host;")


def nginx_with(directory: Path, upstream: str, proxying: str, listen: str = "", server: str = "",
               scheme: str = "http") -> Peer:
    """nginx on the way to `upstream`; the rest is put into its configuration where the name says."""
    port = free_port()
    root = "user root;" if os.getuid() == 0 else ""
    (directory / "nginx.conf").write_text(f"""
        daemon off; {root} worker_processes 1; pid nginx.pid; error_log stderr info;
        events {{ worker_connections 512; }}
        http {{
            access_log off; client_max_body_size 0;
            client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
            upstream app {{ server {upstream}; keepalive 16; }}
            server {{
                listen 127.0.0.1:{port} {listen};
                {server}
                location / {{
                    proxy_pass {scheme}://app; proxy_http_version 1.1; proxy_set_header Connection "";
                    {proxying}
                    proxy_request_buffering off; proxy_buffering off;
                }}
            }}
        }}""")
    command = [find("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", "stderr"]
    return Peer(command, directory, f"127.0.0.1:{port}")


def haproxy(directory: Path, upstream: str, protocol: str = "") -> Peer:
    """HAProxy; `protocol` is `proto h2` for HTTP/2 with prior knowledge towards the upstream."""
    return haproxy_with(directory, f"{upstream} {protocol}")


def haproxy_with(directory: Path, server: str, bind: str = "", rule: str = "") -> Peer:
    """HAProxy on the way to `server`; the rest is put into its configuration where the name says."""
    port = free_port()
    (directory / "haproxy.cfg").write_text(f"""
global
    maxconn 512
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend front
    bind 127.0.0.1:{port} {bind}
    {rule}
    default_backend back
backend back
    http-reuse always
    server app {server}
""")
    return Peer([find("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")], directory, f"127.0.0.1:{port}")


def envoy(directory: Path, upstream: str, http2: bool = False) -> Peer:
    """Envoy; HTTP/1.1 or h2c from clients (told apart), HTTP/1.1 or HTTP/2 towards the upstream."""
    options = "http2_protocol_options: {}" if http2 else "http_protocol_options: {}"
    return envoy_with(directory, upstream, f"explicit_http_config: {{ {options} }}")


def envoy_with(directory: Path, upstream: str, options: str, downstream_tls: str = "", upstream_tls: str = "",
               headers: str = "", manager: str = "", cluster: str = "") -> Peer:
    """Envoy on the way to `upstream`. `options`: of HTTP towards it. The rest is in YAML's flow style: a TLS context for
    either side, headers to add to requests, what else is said to its connection manager, one more cluster.
    """
    port = free_port()
    host, _, upstream_port = upstream.rpartition(":")

    def socket(side: str, context: str) -> str:
        kind = f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext"
        return f"""transport_socket: {{
            name: envoy.transport_sockets.tls, typed_config: {{ "@type": {kind}, {context} }} }}""" if context else ""

    (directory / "envoy.yaml").write_text(f"""
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          codec_type: AUTO
          {manager}
          route_config:
            request_headers_to_add: [{headers}]
            virtual_hosts:
            - {{ name: all, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: app }} }} ] }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
      {socket("Downstream", downstream_tls)}
  clusters:
  - name: app
    connect_timeout: 5s
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {upstream_port} }} }} }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        {options}
    {socket("Upstream", upstream_tls)}
  {"- " + cluster if cluster else ""}
""")
    command = [beside("envoy"), "-c", str(directory / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart",
               "-l", "warning"]
    return Peer(command, directory, f"127.0.0.1:{port}")


def beside(program: str) -> str:
    """A program that pip has installed."""
    path = Path(sys.executable).parent / program
    return str(path) if path.exists() else find(program)


class Postgres:
    """A PostgreSQL of its own, which must not run as root."""

    def __init__(self):
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        assert versions, "PostgreSQL is not installed; run `make setup`"
        self.programs = versions[-1]
        self.directory = Path(tempfile.mkdtemp(prefix="pg"))
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.user: list[str] = []
        if os.getuid() == 0:
            entry = pwd.getpwnam("postgres")
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
            self.user = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--"]
        try:
            self._run("initdb", "-D", "data", "-U", "tester", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
            self.peer = Peer(
                [*self.user, str(self.programs / "postgres"), "-D", str(self.directory / "data"), "-p", str(self.port),
                 "-k", str(self.directory), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
                self.directory, self.address)
            eventually(lambda: self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), check=False) == 0)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        return subprocess.run([*self.user, str(self.programs / program), *arguments], cwd=self.directory, check=check,
                              stdout=subprocess.DEVNULL).returncode

    def close(self):
        self.peer.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
