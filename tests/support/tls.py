"""TLS as the tests speak it: over a socket, byte by byte, every kind of end told from the others."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from .client import RawClient
from .pki import Authority, Identity
from .upstream import EchoUpstream, RawUpstream, UpstreamConnection
from .wait import TIMEOUT

DOMAIN = "prod.test"


def spiffe(name: str, domain: str = DOMAIN) -> str:
    return f"spiffe://{domain}/ns/default/sa/{name}"


@dataclass
class Files:
    """A certificate and its key as files, as a configuration names them."""

    certificate: Path
    key: Path
    identity: Identity

    @property
    def config(self) -> dict:
        return {"certificate": str(self.certificate), "key": str(self.key)}

    def replace(self, identity: Identity):
        """As a careful writer does it: each file whole, the key first."""
        self.identity = identity
        for path, text in ((self.key, identity.key_pem()), (self.certificate, identity.chain_pem())):
            swap_in(path, text)

    def again(self, **options) -> Identity:
        """Puts a new certificate for the same names in place, and returns it."""
        self.replace(self.identity.again(**options))
        return self.identity


def swap_in(path: Path, content: bytes):
    """Replaces a file whole; a key is for its owner's eyes only."""
    temporary = path.with_name(f".{path.name}.next")
    temporary.touch(mode=0o600)
    temporary.write_bytes(content)
    temporary.replace(path)


class Pki:
    """One authority and what it has signed, as files of a directory."""

    def __init__(self, directory: Path, name: str = "authority", domain: str = DOMAIN):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.domain = directory, domain
        self.authority = Authority(name)
        self.ca = directory / "ca.crt"
        self.ca.write_bytes(self.authority.pem())

    def workload(self, name: str, *, dns: tuple[str, ...] = ("localhost",), **options) -> Files:
        """`spiffe://DOMAIN/ns/default/sa/NAME`, and a server by these names too."""
        return self.write(name, self.authority.identity(spiffe(name, self.domain), dns=dns, **options))

    def server(self, file: str, *names: str, **options) -> Files:
        """An ordinary server: DNS names and addresses, no SPIFFE ID."""
        return self.write(file, self.named(*names, **options))

    def named(self, *names: str, **options) -> Identity:
        made = self.authority.identity(spiffe("unused"), dns=(), **options)
        old = made.certificate
        builder = x509.CertificateBuilder(
            old.issuer, old.subject, old.public_key(), old.serial_number,
            old.not_valid_before_utc, old.not_valid_after_utc,
        ).add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=True)
        for extension in old.extensions:
            if not isinstance(extension.value, x509.SubjectAlternativeName):
                builder = builder.add_extension(extension.value, extension.critical)
        return Identity("", builder.sign(self.authority.key, hashes.SHA256()), made.key, self.authority)

    def write(self, name: str, identity: Identity) -> Files:
        files = Files(self.directory / f"{name}.crt", self.directory / f"{name}.key", identity)
        files.replace(identity)
        return files

    @property
    def trust(self) -> dict:
        return {"authorities": [str(self.ca)]}


def general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def context(ca: Path | None = None, files: Files | None = None, *, server: bool = False, alpn: tuple[str, ...] = (),
            version: ssl.TLSVersion | None = None, require: bool = False) -> ssl.SSLContext:
    """`ca`: whom to believe, nobody checked without it. `require`: a server asks for certificates."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if ca:
        made.load_verify_locations(ca)
    elif not server:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if require:
        made.verify_mode = ssl.CERT_REQUIRED
    if files:
        made.load_cert_chain(files.certificate, files.key)
    if alpn:
        made.set_alpn_protocols(list(alpn))
    if version:
        made.minimum_version = made.maximum_version = version
    return made


class Truncated(ConnectionError):
    """The end of the socket came without `close_notify`."""


class TlsSocket:
    """A socket with TLS over it. Unlike `ssl.SSLSocket` it can end one direction only, and hold
    back or split what TLS has to say."""

    def __init__(self, sock: socket.socket, made: ssl.SSLContext, name: str | None = None, server: bool = False):
        self.raw = sock
        #: The peer left without `close_notify`.
        self.cut = False
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = made.wrap_bio(self.incoming, self.outgoing, server, name)

    def handshake(self) -> TlsSocket:
        self._run(self.tls.do_handshake)
        return self

    def hello(self) -> bytes:
        """The client's first flight, not sent yet."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def recv(self, size: int) -> bytes:
        """Empty at `close_notify`."""
        try:
            return self._run(self.tls.read, size)
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLEOFError as error:
            self.cut = True
            raise Truncated(str(error)) from error

    def sendall(self, data: bytes):
        view = memoryview(data)
        while view:
            view = view[self._run(self.tls.write, view[: 1 << 16]) :]

    def shutdown(self, how: int):
        """`SHUT_WR` says `close_notify`; all else only ends the socket."""
        if how == socket.SHUT_WR:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.unwrap()
            self._flush()
        self.raw.shutdown(how)

    def _run(self, call, *arguments):
        while True:
            try:
                result = call(*arguments)
                self._flush()
                return result
            except ssl.SSLWantReadError:
                self._flush()
                if data := self.raw.recv(1 << 16):
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            except ssl.SSLError:
                # The alert that says why.
                with contextlib.suppress(OSError):
                    self._flush()
                raise

    def _flush(self):
        if data := self.outgoing.read():
            self.raw.sendall(data)

    def __getattr__(self, name: str):
        return getattr(self.raw, name)


class TlsClient(RawClient):
    """A client whose connection is secured; `sock.tls` tells what was agreed on."""

    def __init__(self, address: str, made: ssl.SSLContext, name: str | None = "localhost", timeout: float = TIMEOUT):
        super().__init__(address, timeout)
        self.sock = TlsSocket(self.sock, made, name)
        try:
            self.sock.handshake()
        except BaseException:
            self.close()
            raise


class _Secured(RawUpstream):
    def __init__(self, *arguments, made: ssl.SSLContext, **options):
        self.made = made
        #: Connections whose handshake is done.
        self.shaken: list[UpstreamConnection] = []
        #: Why handshakes failed, as OpenSSL says it.
        self.refused: list[str] = []
        super().__init__(*arguments, **options)

    def _serve(self, connection: UpstreamConnection):
        connection.sock = TlsSocket(connection.sock, self.made, server=True)
        try:
            connection.sock.handshake()
            self.shaken.append(connection)
        except (ssl.SSLError, OSError) as error:
            self.refused.append(str(error))
            connection.finished.set()
            connection.close()
            return
        super()._serve(connection)


class TlsUpstream(_Secured, RawUpstream):
    """A script for each connection, behind TLS."""


class TlsEcho(_Secured, EchoUpstream):
    """An `EchoUpstream` behind TLS."""
