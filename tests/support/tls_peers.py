"""Real servers that speak TLS: OpenSSL, nginx, HAProxy, Envoy, Caddy, each a process on loopback."""

from __future__ import annotations

from pathlib import Path

from .peers import Peer, beside, envoy_with, haproxy_with, nginx_with
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
    verify = f"ssl_verify_client on; ssl_client_certificate {client_ca};" if client_ca else ""
    return nginx_with(
        directory, upstream, 'proxy_set_header X-Tls "$ssl_protocol $server_protocol $ssl_client_s_dn";',
        listen="ssl http2" if http2 else "ssl",
        server=f"""
                ssl_certificate {files.certificate}; ssl_certificate_key {files.key}; ssl_protocols TLSv1.2 TLSv1.3;
                {verify}
                location /chat {{
                    proxy_pass http://app; proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
                }}""")


def haproxy(directory: Path, files: Files, upstream: str, client_ca: Path | None = None, http2: bool = True) -> Peer:
    verify = f"verify required ca-file {client_ca}" if client_ca else ""
    return haproxy_with(
        directory, upstream,
        bind=f"ssl crt {pem(directory, files)} alpn {'h2,http/1.1' if http2 else 'http/1.1'} {verify}",
        rule='http-request set-header x-tls "%[ssl_fc_protocol] HTTP/%[req.ver]"')


def envoy(directory: Path, files: Files, upstream: str, client_ca: Path | None = None, http2: bool = True) -> Peer:
    return envoy_with(
        directory, upstream, "explicit_http_config: { http_protocol_options: {} }",
        downstream_tls=f"""
            require_client_certificate: {str(bool(client_ca)).lower()},
            common_tls_context: {{
              alpn_protocols: [{"h2, " if http2 else ""}http/1.1],
              tls_params: {{ tls_maximum_protocol_version: TLSv1_3 }},
              {envoy_files(files, client_ca)} }}""",
        headers='{ header: { key: x-tls, value: "%DOWNSTREAM_TLS_VERSION% %PROTOCOL% %DOWNSTREAM_PEER_URI_SAN%" } }')


def envoy_files(files: Files, ca: Path | None) -> str:
    """What Envoy shows, and whom it believes."""
    shown = f"{{ certificate_chain: {{ filename: {files.certificate} }}, private_key: {{ filename: {files.key} }} }}"
    believed = f", validation_context: {{ trusted_ca: {{ filename: {ca} }} }}" if ca else ""
    return f"tls_certificates: [{shown}]{believed}"


def caddy(directory: Path, files: Files, upstream: str, client_ca: Path | None = None, http2: bool = True,
          curves: str = "x25519mlkem768") -> Peer:
    """Caddy, by default with no other key exchange than the post-quantum one."""
    verify = f"client_auth {{\nmode require_and_verify\ntrust_pool file {client_ca}\n}}" if client_ca else ""
    return caddy_with(
        directory, "https",
        f"""
    tls {files.certificate} {files.key} {{
        curves {curves}
        {verify}
    }}
    reverse_proxy {upstream} {{
        header_up X-Tls "{{http.request.tls.version}} {{http.request.proto}} {{http.request.tls.client.san.uris}}"
    }}""",
        f"""
    servers {{
        protocols h1 {"h2" if http2 else ""}
        strict_sni_host insecure_off
    }}""")


def caddy_in_front(directory: Path, upstream: str, ca: Path, files: Files, version: str = "2") -> Peer:
    """Caddy as a client of `https://UPSTREAM`, with no other key exchange than the post-quantum one."""
    return caddy_with(
        directory, "http",
        f"""
    reverse_proxy https://{upstream} {{
        transport http {{
            versions {version}
            tls_trust_pool file {ca}
            tls_client_auth {files.certificate} {files.key}
            tls_server_name localhost
            tls_curves x25519mlkem768
        }}
    }}""")


def caddy_with(directory: Path, scheme: str, site: str, options: str = "") -> Peer:
    port = free_port()
    (directory / "Caddyfile").write_text(f"""
{{
    admin off
    auto_https off
    persist_config off
    storage file_system {directory}/storage
    {options}
}}
{scheme}://:{port} {{
    bind 127.0.0.1
    {site}
}}
""")
    command = [beside("caddy"), "run", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]
    return Peer(command, directory, f"127.0.0.1:{port}")


def nginx_in_front(directory: Path, upstream: str, ca: Path, files: Files) -> Peer:
    """nginx as a client of `https://UPSTREAM`."""
    return nginx_with(
        directory, upstream, scheme="https",
        proxying=f"""
                    proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca};
                    proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;
                    proxy_ssl_certificate {files.certificate}; proxy_ssl_certificate_key {files.key};""")


def haproxy_in_front(directory: Path, upstream: str, ca: Path, files: Files, version: str = "h2") -> Peer:
    """HAProxy as a client of `https://UPSTREAM`."""
    tls = f"ssl verify required ca-file {ca} crt {pem(directory, files)} sni str(localhost) alpn {version}"
    return haproxy_with(directory, f"{upstream} {tls}")


def envoy_in_front(directory: Path, upstream: str, ca: Path, files: Files) -> Peer:
    """Envoy as a client of `https://UPSTREAM`, over HTTP/2 if that is agreed on."""
    return envoy_with(
        directory, upstream, "auto_config: {}",
        upstream_tls=f"""
            sni: localhost,
            common_tls_context: {{
              tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }},
              {envoy_files(files, ca)} }}""")
