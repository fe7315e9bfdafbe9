"""The certificates of a run: one authority, `client` and `server` under it, made by `pillion dev-ca`; all P-256."""

import ssl
import subprocess
from pathlib import Path

DOMAIN = "bench.local"


def make(pillion: Path, directory: Path) -> Path:
    command = [str(pillion), "dev-ca", "--out", str(directory), "--trust-domain", DOMAIN, "client", "server"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return directory


def client(pki: Path, *protocols: str, certificate: bool = True) -> ssl.SSLContext:
    """What a client trusts, speaks and shows."""
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if certificate:
        context.load_cert_chain(pki / "client.crt", pki / "client.key")
    return context
