"""`X-Forwarded-Client-Cert`, who the log says the client has proven to be, and TLS where none is taken."""

import hashlib
import ssl
import subprocess

import pytest
from support.client import RawClient, fetch
from support.config import http_config
from support.upstream import headers
from support.wait import eventually

CART = "spiffe://pillion.local/ns/default/sa/cart"
FORGED = "Hash=forged"


@pytest.fixture(scope="module")
def pki(binary, tmp_path_factory):
    out = tmp_path_factory.mktemp("pki")
    subprocess.run([binary, "dev-ca", "--out", out, "server", "cart"], check=True, capture_output=True)
    return out


@pytest.fixture
def secured(pillion, echo, pki):
    """`secured(mode)`: a proxy that also takes clients without TLS and without certificates."""
    return lambda mode: pillion(http_config(
        echo.address, identity={"certificate": f"{pki}/server.crt", "key": f"{pki}/server.key"},
        trust=[{"authorities": [f"{pki}/ca.crt"]}],
        listener={"tls": {"mode": "permissive", "clientCertificates": "optional", "forwardedClientCert": mode}}))


def told(proxy, pki, name: str | None) -> list[str]:
    """What the application hears of a client that shows the certificate of `name`, and a forged line."""
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    if name:
        context.load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    with RawClient(proxy.address()) as client:
        client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
        return headers(client.get("/", {"X-Forwarded-Client-Cert": FORGED}).json(), "x-forwarded-client-cert")


def element(pki) -> str:
    der = ssl.PEM_cert_to_DER_cert((pki / "cart.crt").read_text())
    server = "spiffe://pillion.local/ns/default/sa/server"
    return (f'By={server};Hash={hashlib.sha256(der).hexdigest()};Subject="CN=cart";URI={CART};'
            "DNS=cart;DNS=localhost")


@pytest.mark.parametrize(("mode", "expected"), [
    ("sanitize", []), ("set", ["{element}"]), ("append", [FORGED + ", {element}"]), ("forward", [FORGED])])
def test_what_the_application_hears_of_an_authenticated_client(secured, pki, mode, expected):
    assert told(secured(mode), pki, "cart") == [line.format(element=element(pki)) for line in expected]


@pytest.mark.parametrize("mode", ["sanitize", "set", "append", "forward"])
def test_nobody_else_is_believed(secured, pki, mode):
    proxy = secured(mode)
    assert told(proxy, pki, None) == []
    plain = fetch(proxy.address(), "GET", "/", {"X-Forwarded-Client-Cert": FORGED}).json()
    assert headers(plain, "x-forwarded-client-cert") == []


def test_without_tls_the_line_is_a_forwarding_header(pillion, echo):
    def heard(**http):
        proxy = pillion(http_config(echo.address, http=http))
        return headers(fetch(proxy.address(), "GET", "/", {"X-Forwarded-Client-Cert": FORGED}).json(),
                       "x-forwarded-client-cert")
    assert heard() == []
    assert heard(trustedHops=1) == [FORGED]


def test_the_log_says_who_it_was(secured, pki):
    proxy = secured("sanitize")
    told(proxy, pki, "cart")
    assert proxy.access(path="/")["peer_identity"] == CART


def test_tls_on_a_plaintext_listener_has_a_reason_of_its_own(pillion, echo):
    proxy = pillion(http_config(echo.address))
    with RawClient(proxy.address()) as client, pytest.raises((ssl.SSLError, OSError)):
        ssl.create_default_context().wrap_socket(client.sock, server_hostname="localhost")
    line = eventually(lambda: next((line for line in proxy.access_log() if line["reason"] == "unexpected_tls"), None),
                      "a line for it")
    assert "plaintext" in line["detail"]
    assert proxy.metrics().value("pillion_listener_heads_refused_total", reason="unexpected_tls") == 1


def test_no_core_file_holds_a_key(secured):
    proxy = secured("sanitize")
    limits = open(f"/proc/{proxy.pid}/limits").read().splitlines()
    assert next(line for line in limits if line.startswith("Max core file size")).split()[4] in ("0", "1")
