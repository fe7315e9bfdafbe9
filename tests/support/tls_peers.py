"""Real servers that speak TLS: OpenSSL, nginx, HAProxy, Envoy, Caddy, each a process on loopback."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .peers import Peer, find
from .ports import free_port
from .tls import Files, swap_in


def pem(directory: Path, files: Files) -> Path:
    """Certificate and key in one file, as HAProxy has it."""
    path = directory / "both.pem"
    swap_in(path, files.certificate.read_bytes() + files.key.read_bytes())
    return path


def openssl(directory: Path, files: Files, *arguments) -> Peer:
    """`s_server -www` tells of the connection; each request ends it."""
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", files.certificate, "-key", files.key,
               *arguments]
    return Peer([str(argument) for argument in command], directory, f"127.0.0.1:{port}")


def nginx(directory: Path, files: Files, upstream: str, client_ca: Path | None = None, http2: bool = True) -> Peer:
    port = free_port()
    root = "user root;" if os.getuid() == 0 else ""
    verify = f"ssl_verify_client on; ssl_client_certificate {client_ca};" if client_ca else ""
    (directory / "nginx.conf").write_text(f"""
        daemon off; {root} worker_processes 1; pid nginx.pid; error_log stderr info;
        events {{ worker_connections 512; }}
        http {{
            access_log off; client_max_body_size 0;
            client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
            upstream app {{ server {upstream}; keepalive 16; }}
            server {{
                listen 127.0.0.1:{port} ssl {"http2" if http2 else ""};
                ssl_certificate {files.certificate}; ssl_certificate_key {files.key}; ssl_protocols TLSv1.2 TLSv1.3;
                {verify}
                location / {{
                    proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
                    proxy_set_header X-Tls "$ssl_protocol $server_protocol $ssl_client_s_dn";
                    proxy_request_buffering off; proxy_buffering off;
                }}
                location /chat {{
                    proxy_pass http://app; proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
                }}
            }}
        }}""")
    command = [find("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", "stderr"]
    return Peer(command, directory, f"127.0.0.1:{port}")


def haproxy(directory: Path, files: Files, upstream: str, client_ca: Path | None = None, http2: bool = True) -> Peer:
    port = free_port()
    verify = f"verify required ca-file {client_ca}" if client_ca else ""
    (directory / "haproxy.cfg").write_text(f"""
global
    maxconn 512
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend front
    bind 127.0.0.1:{port} ssl crt {pem(directory, files)} alpn {"h2,http/1.1" if http2 else "http/1.1"} {verify}
    http-request set-header x-tls "%[ssl_fc_protocol] HTTP/%[req.ver]"
    default_backend back
backend back
    http-reuse always
    server app {upstream}
""")
    return Peer([find("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")], directory, f"127.0.0.1:{port}")


def envoy(directory: Path, files: Files, upstream: str, client_ca: Path | None = None, http2: bool = True) -> Peer:
    port = free_port()
    host, _, upstream_port = upstream.rpartition(":")
    verify = ""
    if client_ca:
        verify = f"validation_context: {{ trusted_ca: {{ filename: {client_ca} }} }}"
    (directory / "envoy.yaml").write_text(f"""
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: {str(bool(client_ca)).lower()}
          common_tls_context:
            alpn_protocols: [{"h2, " if http2 else ""}http/1.1]
            tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }}
            tls_certificates:
            - certificate_chain: {{ filename: {files.certificate} }}
              private_key: {{ filename: {files.key} }}
            {verify}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          codec_type: AUTO
          route_config:
            request_headers_to_add:
            - header: {{ key: x-tls, value: "%DOWNSTREAM_TLS_VERSION% %PROTOCOL% %DOWNSTREAM_PEER_URI_SAN%" }}
            virtual_hosts:
            - {{ name: all, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: app }} }} ] }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: app
    connect_timeout: 5s
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {upstream_port} }} }} }}
""")
    command = [beside("envoy"), "-c", str(directory / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart",
               "-l", "warning"]
    return Peer(command, directory, f"127.0.0.1:{port}")


def caddy(directory: Path, files: Files, upstream: str, client_ca: Path | None = None, http2: bool = True,
          curves: str = "x25519mlkem768") -> Peer:
    """Caddy, by default with no other key exchange than the post-quantum one."""
    port = free_port()
    verify = f"client_auth {{\nmode require_and_verify\ntrust_pool file {client_ca}\n}}" if client_ca else ""
    (directory / "Caddyfile").write_text(f"""
{{
    admin off
    auto_https off
    persist_config off
    storage file_system {directory}/storage
    servers {{
        protocols h1 {"h2" if http2 else ""}
        strict_sni_host insecure_off
    }}
}}
https://:{port} {{
    bind 127.0.0.1
    tls {files.certificate} {files.key} {{
        curves {curves}
        {verify}
    }}
    reverse_proxy {upstream} {{
        header_up X-Tls "{{http.request.tls.version}} {{http.request.proto}} {{http.request.tls.client.san.uris}}"
    }}
}}
""")
    command = [beside("caddy"), "run", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]
    return Peer(command, directory, f"127.0.0.1:{port}")


def caddy_in_front(directory: Path, upstream: str, ca: Path, files: Files, version: str = "2") -> Peer:
    """Caddy as a client of `https://UPSTREAM`, with no other key exchange than the post-quantum one."""
    port = free_port()
    (directory / "Caddyfile").write_text(f"""
{{
    admin off
    auto_https off
    persist_config off
    storage file_system {directory}/storage
}}
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy https://{upstream} {{
        transport http {{
            versions {version}
            tls_trust_pool file {ca}
            tls_client_auth {files.certificate} {files.key}
            tls_server_name localhost
            tls_curves x25519mlkem768
        }}
    }}
}}
""")
    command = [beside("caddy"), "run", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]
    return Peer(command, directory, f"127.0.0.1:{port}")


def nginx_in_front(directory: Path, upstream: str, ca: Path, files: Files) -> Peer:
    """nginx as a client of `https://UPSTREAM`."""
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
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass https://app; proxy_http_version 1.1; proxy_set_header Connection "";
                    proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca};
                    proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
                    proxy_ssl_certificate {files.certificate}; proxy_ssl_certificate_key {files.key};
                    proxy_request_buffering off; proxy_buffering off;
                }}
            }}
        }}""")
    command = [find("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", "stderr"]
    return Peer(command, directory, f"127.0.0.1:{port}")


def haproxy_in_front(directory: Path, upstream: str, ca: Path, files: Files, version: str = "h2") -> Peer:
    """HAProxy as a client of `https://UPSTREAM`."""
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
    bind 127.0.0.1:{port}
    default_backend back
backend back
    http-reuse always
    server app {upstream} ssl verify required ca-file {ca} crt {pem(directory, files)} sni str(localhost) alpn {version}
""")
    return Peer([find("haproxy"), "-db", "-f", str(directory / "haproxy.cfg")], directory, f"127.0.0.1:{port}")


def envoy_in_front(directory: Path, upstream: str, ca: Path, files: Files) -> Peer:
    """Envoy as a client of `https://UPSTREAM`, over HTTP/2 if that is agreed on."""
    port = free_port()
    host, _, upstream_port = upstream.rpartition(":")
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
          route_config:
            virtual_hosts:
            - {{ name: all, domains: ["*"], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: app }} }} ] }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: app
    connect_timeout: 5s
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {upstream_port} }} }} }}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
          tls_certificates:
          - certificate_chain: {{ filename: {files.certificate} }}
            private_key: {{ filename: {files.key} }}
          validation_context: {{ trusted_ca: {{ filename: {ca} }} }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        auto_config: {{}}
""")
    command = [beside("envoy"), "-c", str(directory / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart",
               "-l", "warning"]
    return Peer(command, directory, f"127.0.0.1:{port}")


def beside(program: str) -> str:
    """A program that pip has installed."""
    path = Path(sys.executable).parent / program
    return str(path) if path.exists() else find(program)
