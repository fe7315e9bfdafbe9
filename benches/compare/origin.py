"""Where the proxies forward to, on the load generator's core: nginx with two static files, and our own
`origin` for calls and uploads, which nginx can't answer as they have to be."""

import os
from pathlib import Path

from net import free_port, wait_for_body
from process import Process
from tools import find

FILES = {"/1k": 1024, "/1m": 1024 * 1024}
# A message of gRPC: not compressed, 7 bytes, a string.
CALL = b"\0\0\0\0\x07\n\x05world"
CALL_FIELDS = ("te: trailers", "content-type: application/grpc")
# What our own origin says to everything else.
READ = len("ok")

# Connections are never closed for their age or their count: what the proxies do with them is measured.
CONFIG = """
daemon off; {user} worker_processes 1; pid nginx.pid; error_log stderr error;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  open_file_cache max=8 inactive=1h; open_file_cache_valid 1h;
  keepalive_timeout 1h; keepalive_requests 1000000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  server {{ listen {address} backlog=4096; root {root}; default_type application/octet-stream; }}
}}
"""


class Files(Process):
    def __init__(self, directory: Path, core: int):
        self.address = f"127.0.0.1:{free_port()}"
        files = directory / "files"
        files.mkdir(parents=True)
        for name, size in FILES.items():
            (files / name[1:]).write_bytes(b"x" * size)
        config = directory / "nginx.conf"
        config.write_text(CONFIG.format(
            user="user root;" if os.getuid() == 0 else "", address=self.address, root=files))
        super().__init__([find("nginx"), "-p", str(directory), "-c", str(config), "-e", "stderr"], directory, (core,))
        try:
            wait_for_body(self, self.address, "/1k", FILES["/1k"])
        except BaseException:
            self.close()
            raise


class Calls(Process):
    def __init__(self, program: Path, directory: Path, core: int):
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__([str(program), self.address], directory, (core,))
        try:
            wait_for_body(self, self.address, "/", READ)
        except BaseException:
            self.close()
            raise
