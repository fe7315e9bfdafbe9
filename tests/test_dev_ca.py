"""`pillion dev-ca`, seen with OpenSSL's eyes."""

import re
import ssl
import stat
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.wait import TIMEOUT


@pytest.fixture
def dev_ca(binary, tmp_path):
    """`dev_ca("--out", "pki", "web")` runs the command in an empty directory."""
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([binary, "dev-ca", *arguments], cwd=tmp_path, capture_output=True, text=True,
                              timeout=TIMEOUT)
    return run


@pytest.fixture
def pki(tmp_path) -> Path:
    return tmp_path / "pki"


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True, timeout=TIMEOUT)
    return done.stdout + done.stderr


def described(path: Path) -> str:
    return openssl("x509", "-in", path, "-noout", "-text")


def names(path: Path) -> list[str]:
    return re.search(r"Subject Alternative Name: *\n +(.+)", described(path))[1].split(", ")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def expiry(path: Path) -> datetime:
    text = openssl("x509", "-in", path, "-noout", "-enddate").strip().removeprefix("notAfter=")
    return datetime.strptime(text, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc)


def test_what_it_writes_is_what_the_contract_says(dev_ca, pki):
    done = dev_ca("--out", "pki", "--trust-domain", "bench.local", "--dns", "a.example", "--dns", "*.b.example",
                  "server", "client")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(files(pki)) == ["ca.crt", "ca.key", "client.crt", "client.key", "server.crt", "server.key"]
    for name in ("server", "client"):
        crt, key = pki / f"{name}.crt", pki / f"{name}.key"
        for purpose in ("sslserver", "sslclient"):
            assert "OK" in openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", pki / "ca.crt", crt)
        assert names(crt) == [f"URI:spiffe://bench.local/ns/default/sa/{name}", f"DNS:{name}", "DNS:localhost",
                              "DNS:a.example", "DNS:*.b.example", "IP Address:127.0.0.1"]
        text = described(crt)
        assert "TLS Web Server Authentication, TLS Web Client Authentication" in text
        assert "NIST CURVE: P-256" in text
        assert key.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
        assert openssl("pkey", "-in", key, "-pubout") == openssl("x509", "-in", crt, "-noout", "-pubkey")
        assert (mode(crt), mode(key)) == (0o644, 0o600)
        assert abs(expiry(crt) - datetime.now(timezone.utc) - timedelta(days=90)) < timedelta(hours=1)
    authority = described(pki / "ca.crt")
    assert "CA:TRUE, pathlen:0" in authority
    assert "Certificate Sign, CRL Sign" in authority
    assert mode(pki / "ca.key") == 0o600


def test_it_says_what_it_wrote(dev_ca):
    lines = dev_ca("--out", "pki", "web").stdout.splitlines()
    assert [re.sub(r"\d{4}-[\dT:-]+Z", "DATE", line) for line in lines] == [
        "made pki/ca.crt and pki/ca.key: what both sides trust, and its key, valid to DATE",
        "made pki/web.crt and pki/web.key: spiffe://pillion.local/ns/default/sa/web, valid to DATE",
    ]
    lines = dev_ca("--out", "pki", "web", "db").stdout.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["used", "renewed", "made"]


def test_an_authority_is_used_again_and_a_certificate_renewed(dev_ca, pki):
    dev_ca("--out", "pki", "web", "db")
    before = files(pki)
    done = dev_ca("--out", "pki", "--days", "7", "web")
    assert done.returncode == 0
    after = files(pki)
    assert {name for name in before if before[name] != after[name]} == {"web.crt", "web.key"}
    assert sorted(before) == sorted(after)
    assert "OK" in openssl("verify", "-CAfile", pki / "ca.crt", pki / "web.crt")
    assert abs(expiry(pki / "web.crt") - datetime.now(timezone.utc) - timedelta(days=7)) < timedelta(hours=1)


def test_a_certificate_never_outlives_its_authority(dev_ca, pki):
    dev_ca("--out", "pki", "--days", "3650", "web")
    dev_ca("--out", "pki", "--days", "3650", "db")
    assert expiry(pki / "db.crt") <= expiry(pki / "ca.crt")


def test_certificates_of_an_authority_that_is_gone_are_replaced(dev_ca, pki):
    dev_ca("--out", "pki", "web")
    (pki / "ca.crt").unlink()
    (pki / "ca.key").unlink()
    assert dev_ca("--out", "pki", "web").returncode == 0
    assert "OK" in openssl("verify", "-CAfile", pki / "ca.crt", pki / "web.crt")


def test_two_pythons_speak_mtls_with_them(dev_ca, pki):
    dev_ca("--out", "pki", "server", "client")
    contexts = {side: ssl.create_default_context(purpose, cafile=pki / "ca.crt")
                for side, purpose in (("server", ssl.Purpose.CLIENT_AUTH), ("client", ssl.Purpose.SERVER_AUTH))}
    contexts["server"].verify_mode = ssl.CERT_REQUIRED
    for side, context in contexts.items():
        context.load_cert_chain(pki / f"{side}.crt", pki / f"{side}.key")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = contexts["server"].wrap_bio(there, back, server_side=True)
    client = contexts["client"].wrap_bio(back, there, server_hostname="localhost")
    done = set()
    for _ in range(6):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert done == {client, server}
    assert ("URI", "spiffe://pillion.local/ns/default/sa/client") in server.getpeercert()["subjectAltName"]


# What is refused changes nothing.

def spoil(pki: Path, how: str) -> None:
    foreign = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=other"]
    match how:
        case "authority without key":
            (pki / "ca.key").unlink()
        case "key without authority":
            (pki / "ca.crt").unlink()
        case "key of another authority":
            openssl(*foreign, "-keyout", pki / "ca.key", "-out", pki / "other.crt")
        case "authority that is none":
            (pki / "ca.crt").write_bytes((pki / "web.crt").read_bytes())
        case "authority cut off":
            (pki / "ca.crt").write_bytes((pki / "ca.crt").read_bytes()[:200])
        case "somebody else's certificate":
            openssl(*foreign, "-keyout", pki / "web.key", "-out", pki / "web.crt")
        case "something else":
            (pki / "web.crt").write_text("hello")
        case "key without certificate":
            (pki / "web.crt").unlink()


@pytest.mark.parametrize("how, complaint", [
    ("authority without key", "pki/ca.crt: is there without ca.key"),
    ("key without authority", "pki/ca.key: is there without ca.crt"),
    ("key of another authority", "pki/ca.key: does not belong to ca.crt"),
    ("authority that is none", "pki/ca.crt: is not an authority's certificate"),
    ("authority cut off", "pki/ca.crt: is cut off: the CERTIFICATE that begins on line 1 has no -----END line"),
    ("somebody else's certificate", "pki/web.crt: was not made by pillion dev-ca; not overwritten"),
    ("something else", "pki/web.crt: was not made by pillion dev-ca; not overwritten"),
    ("key without certificate", "pki/web.key: is there without a certificate; not overwritten"),
])
def test_what_is_in_the_way_is_left_alone(dev_ca, pki, how, complaint):
    dev_ca("--out", "pki", "web")
    spoil(pki, how)
    before = files(pki)
    done = dev_ca("--out", "pki", "new", "web")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"pillion: {complaint}")
    assert files(pki) == before


def test_a_place_that_cannot_be_written_is_1(dev_ca, pki):
    pki.write_text("a file, not a folder")
    done = dev_ca("--out", "pki", "web")
    assert done.returncode == 1
    assert done.stderr.startswith("pillion: pki: cannot be made: ")


def test_a_file_that_cannot_be_read_is_2(dev_ca, pki):
    (pki / "ca.crt").mkdir(parents=True)
    done = dev_ca("--out", "pki", "web")
    assert done.returncode == 2
    assert done.stderr.startswith("pillion: cannot read pki/ca.crt: ")


@pytest.mark.parametrize("arguments", [
    ["web"], ["--out", "pki"], ["--out", "pki", "ca"], ["--out", "pki", "../web"], ["--out", "pki", "a b"],
    ["--out", "pki", ".."], ["--out", "pki", "x" * 64], ["--out", "pki", ""],
    ["--out", "pki", "--trust-domain", "Bench", "web"], ["--out", "pki", "--trust-domain", "", "web"],
    ["--out", "pki", "--dns", "a/b", "web"], ["--out", "pki", "--days", "0", "web"],
    ["--out", "pki", "--days", "4000", "web"],
])
def test_wrong_usage_is_2_and_writes_nothing(dev_ca, pki, arguments):
    done = dev_ca(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert not pki.exists()
