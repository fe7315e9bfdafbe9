"""Certificates, authorities and revocation lists that change under load."""

import contextlib
import hashlib
import shutil
import ssl
import threading
import time

import pytest
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.pki import Authority
from support.tls import Pki, TlsClient, TlsEcho, context, spiffe, swap_in
from support.upstream import EchoUpstream, header
from support.wait import TIMEOUT, eventually
from support.wire import Closed

#: A rotation spreads the replacement of connections over ten seconds.
PATIENCE = 2 * TIMEOUT


def serial(identity) -> int:
    return identity.certificate.serial_number


def shown_by(address: str, made) -> int:
    """The serial number of the certificate that a server shows now."""
    with TlsClient(address, made) as client:
        return shown(client.sock)


def shown(sock) -> int:
    return int(sock.tls.getpeercert()["serialNumber"], 16)


def shows(proxy, identity, made, name: str = "web"):
    eventually(lambda: shown_by(proxy.address(name), made) == serial(identity), "the new certificate")


class Load:
    """Clients that ask without a pause, each on one connection. Every request has to succeed."""

    def __init__(self, address: str, clients: int = 4):
        self.address = address
        self.count = 0
        self.failures: list[str] = []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self):
        try:
            with RawClient(self.address) as client:
                client.record = False
                while not self.stopped.is_set():
                    response = client.request("POST", "/", body=b"x" * 100)
                    if response.status != 200:
                        self.failures.append(f"{response.status} {response.reason} {response.body!r}")
                    self.count += 1
        except Exception as error:
            self.failures.append(repr(error))

    def more(self, count: int = 50):
        """Waits for so many more requests."""
        until = self.count + count
        eventually(lambda: self.failures or self.count >= until, "requests under load")
        assert not self.failures, self.failures[:5]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join(TIMEOUT)
        assert not self.failures, self.failures[:5]


class Ends:
    """Two Pillions whose certificates and trust are replaced together."""

    def __init__(self, pillion, directory, app: str, make=http_config):
        self.name = "web" if make is http_config else "tcp"
        self.authorities = [Authority("authority 0")]
        self.pki = Pki(directory / "ends")
        self.pki.authority = self.authorities[0]
        self.trusts()
        self.files = {name: self.pki.workload(name) for name in ("near", "far")}
        self.far = pillion(make(app, listener={"tls": {"forwardedClientCert": "set"}},
                                identity=self.files["far"].config, trust=[self.pki.trust]))
        self.near = pillion(make(self.far.address(self.name), upstream={"tls": {"peers": [spiffe("far")]}},
                                 identity=self.files["near"].config, trust=[self.pki.trust]))

    def trusts(self, *authorities: Authority):
        swap_in(self.pki.ca, b"".join(authority.pem() for authority in authorities or self.authorities))

    def issue(self, authority: Authority | None = None):
        """New certificates for both."""
        self.pki.authority = authority or self.pki.authority
        for name, files in self.files.items():
            files.replace(self.pki.authority.identity(spiffe(name)))

    def is_new(self, made=None):
        """Waits until both show what they have on disk."""
        made = made or context(self.pki.ca, self.files["near"])
        shows(self.far, self.files["far"].identity, made, self.name)

    def all_new(self, app: EchoUpstream):
        """Waits until every request comes by a connection with the newest certificate of the near
        end, under load."""
        digest = hashlib.sha256(self.files["near"].identity.chain_der()).hexdigest()

        def replaced():
            with app.lock:
                app.requests.clear()
            eventually(lambda: len(app.requests) >= 100, "more requests")
            return all(f"Hash={digest}" in header(request, "x-forwarded-client-cert") for request in list(app.requests))

        eventually(replaced, "only connections with the newest certificate", PATIENCE)


# Under load.


def test_the_connections_of_a_client_move_to_its_new_certificate(pillion, pki):
    files = pki.workload("client")
    made = context(pki.ca, pki.server("server", "127.0.0.1"), server=True, require=True)
    with TlsEcho(made=made) as upstream:
        proxy = pillion(http_config(upstream.address, upstream={"tls": {}}, identity=files.config, trust=[pki.trust]))

        def in_use() -> set[int]:
            return {shown(connection.sock) for connection in list(upstream.shaken)
                    if not connection.finished.is_set()}

        with Load(proxy.address()) as load:
            for _ in range(2):
                identity = files.again()
                eventually(lambda new=identity: in_use() == {serial(new)}, "only the new certificate", PATIENCE)
                load.more()
        assert proxy.metrics().value("pillion_upstream_tls_handshakes_failed_total") == 0


def test_the_clients_of_a_server_are_asked_to_move(pillion, echo, pki):
    files = pki.workload("server")
    proxy = pillion(http_config(echo.address, listener={"tls": {}}, identity=files.config, trust=[pki.trust]))
    made = context(pki.ca, pki.workload("client"))
    idle, busy = TlsClient(proxy.address(), made), TlsClient(proxy.address(), made)
    with idle, busy:
        for client in (idle, busy):
            assert client.get("/").header("connection") is None
        files.again()
        shows(proxy, files.identity, made)
        # Answers go on until one says that it is the last.
        assert eventually(lambda: busy.get("/").header("connection") == "close", "the last answer", PATIENCE)
        busy.expect_closed()
        # And one that says nothing hears `close_notify`.
        idle.sock.settimeout(PATIENCE)
        idle.expect_closed()


def test_certificates_are_renewed_under_load(pillion, echo, tmp_path):
    ends = Ends(pillion, tmp_path, echo.address)
    with Load(ends.near.address()) as load:
        for _ in range(5):
            ends.issue()
            ends.is_new()
            load.more()
        ends.all_new(echo)
    assert ends.far.metrics().value("pillion_listener_tls_handshakes_failed_total") == 0


def test_the_authority_is_replaced_under_load(pillion, echo, tmp_path):
    ends = Ends(pillion, tmp_path, echo.address)
    old = context(ends.pki.ca, ends.files["near"])
    with Load(ends.near.address()) as load:
        new = Authority("authority 1")
        # Both are believed before anything is signed by the new one,
        ends.trusts(*ends.authorities, new)
        probe = context(ends.pki.ca, ends.pki.write("probe", new.identity(spiffe("probe"))))
        eventually(lambda: answers(ends.far, probe), "the new authority")
        load.more()
        ends.issue(new)
        ends.is_new(probe)
        load.more()
        # and the old one goes when nothing of it is in use.
        ends.trusts(new)
        eventually(lambda: not answers(ends.far, old), "the end of the old authority")
        load.more(200)
    assert ends.near.metrics().value("pillion_upstream_tls_handshakes_failed_total") == 0


def answers(proxy, made) -> bool:
    try:
        with TlsClient(proxy.address(), made) as client:
            return client.get("/").status == 200
    except (OSError, Closed):
        return False


@pytest.mark.long
@pytest.mark.timeout(180)
def test_everything_changes_every_second_for_a_minute(pillion, echo, tmp_path):
    """Each authority is believed one step before and after it signs, as rotations have it."""
    ends = Ends(pillion, tmp_path, echo.address)
    authorities = [ends.authorities[0], Authority("authority 1")]
    ends.trusts(*authorities)
    with Load(ends.near.address(), clients=8) as load:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            authorities = [*authorities[-2:], Authority(f"authority {time.monotonic()}")]
            ends.trusts(*authorities)
            ends.issue(authorities[1])
            before = load.count
            echo.requests.clear()
            time.sleep(1)
            assert load.count > before and not load.failures, load.failures[:5]
        ends.is_new()
        ends.all_new(echo)
    near, far = ends.near.metrics(), ends.far.metrics()
    print("requests", load.count, "handshakes", near.value("pillion_upstream_tls_handshakes_total"))
    assert near.value("pillion_upstream_tls_handshakes_failed_total") == 0
    assert far.value("pillion_listener_tls_handshakes_total") >= 30


# What can't be used.


@pytest.mark.parametrize("how", ["mismatch", "truncated", "empty", "absent", "directory"])
def test_what_can_t_be_used_is_refused_and_the_old_kept(pillion, echo, pki, how):
    files = pki.workload("server")
    proxy = pillion(http_config(echo.address, listener={"tls": {"clientCertificates": "off"}}, identity=files.config))
    made, old = context(pki.ca), files.identity
    if how == "mismatch":
        swap_in(files.key, old.again().key_pem())
    elif how == "truncated":
        swap_in(files.certificate, old.again().chain_pem()[:200])
    elif how == "empty":
        swap_in(files.certificate, b"")
    else:
        files.certificate.unlink()
        if how == "directory":
            files.certificate.mkdir()
    line = proxy.logs.find(message="refused; what was loaded before stays in use")
    assert "server" in line["problem"], line
    assert shown_by(proxy.address(), made) == serial(old)
    assert fetch(proxy.admin, "GET", "/readyz", {"Host": proxy.admin}).status == 200
    # And when it is mended the new one is taken.
    if how == "directory":
        files.certificate.rmdir()
    files.again()
    shows(proxy, files.identity, made)


def test_authorities_that_can_t_be_read_are_kept(pillion, echo, pki):
    proxy = pillion(http_config(echo.address, listener={"tls": {}}, identity=pki.workload("server").config,
                                trust=[pki.trust]))
    made = context(pki.ca, pki.workload("client"))
    whole = pki.ca.read_bytes()
    swap_in(pki.ca, whole[: len(whole) // 2])
    proxy.logs.find(message="refused; what was loaded before stays in use")
    with TlsClient(proxy.address(), made) as client:
        assert client.get("/").status == 200


def test_a_swap_of_data_as_kubernetes_does_it(pillion, echo, pki, tmp_path):
    volume = tmp_path / "volume"

    def project(version: str, identity):
        folder = volume / f"..{version}"
        folder.mkdir(parents=True)
        (folder / "tls.crt").write_bytes(identity.chain_pem())
        (folder / "tls.key").write_bytes(identity.key_pem())
        (folder / "ca.crt").write_bytes(identity.authority.pem())
        (volume / "..data_tmp").symlink_to(folder.name)
        (volume / "..data_tmp").replace(volume / "..data")

    identity = pki.workload("server").identity
    project("one", identity)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (volume / name).symlink_to(f"..data/{name}")
    proxy = pillion(http_config(
        echo.address, listener={"tls": {"clientCertificates": "off"}},
        identity={"certificate": str(volume / "tls.crt"), "key": str(volume / "tls.key")},
        trust=[{"authorities": [str(volume / "ca.crt")]}]))
    made = context(pki.ca)
    assert shown_by(proxy.address(), made) == serial(identity)
    for version in ("two", "three"):
        identity = identity.again()
        project(version, identity)
        shows(proxy, identity, made)
    shutil.rmtree(volume / "..one")
    assert "refused" not in proxy.stderr()


# Who is no longer believed.


@pytest.fixture(params=["revoked", "removed"])
def distrust(request, pki, tmp_path):
    """The trust of a configuration, what it believes a peer by, and what ends that."""
    if request.param == "revoked":
        peer = pki.workload("peer")
        crl = tmp_path / "list.crl"
        crl.write_bytes(pki.authority.revocation_list())
        trust = [{**pki.trust, "crls": [str(crl)]}]
        return trust, peer, lambda: swap_in(crl, pki.authority.revocation_list(peer.identity)), "revoked"
    second = Pki(tmp_path / "second", "a second authority")
    ca = tmp_path / "both.crt"
    ca.write_bytes(pki.ca.read_bytes() + second.ca.read_bytes())
    trust = [{"authorities": [str(ca)]}]
    return trust, second.workload("peer"), lambda: swap_in(ca, pki.ca.read_bytes()), "unknown_authority"


def test_clients_that_are_no_longer_believed_are_ended(pillion, echo, raw_upstream, pki, distrust):
    trust, peer, end_it, reason = distrust
    server = pki.workload("server").config
    silent = raw_upstream()
    config = http_config(echo.address, listener={"tls": {}}, identity=server, trust=trust)
    opaque = tcp_config(silent.address, listener={"tls": {}})
    opaque["upstreams"][0]["name"] = opaque["listeners"][0]["upstream"] = "raw"
    config["listeners"] += opaque["listeners"]
    config["upstreams"] += opaque["upstreams"]
    proxy = pillion(config)
    made, other = context(pki.ca, peer), context(pki.ca, pki.workload("other"))
    if reason == "unknown_authority":
        made.load_verify_locations(pki.ca)
    idle, stays = TlsClient(proxy.address(), made), TlsClient(proxy.address(), other)
    streaming = TlsClient(proxy.address("tcp"), made)
    held, sending, getting = (TlsClient(proxy.address(), made) for _ in range(3))
    with idle, stays, streaming, held, sending, getting:
        for client in (idle, stays):
            assert client.get("/").status == 200
        streaming.send(b"something")
        silent.connection().wait_received(lambda data: data == b"something")
        held.send_request("GET", "/held?gate=never")
        sending.send("POST /sending HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
        getting.send_request("GET", "/getting?size=200000&midgate=never")
        assert getting.read_head().status == 200
        echo.wait_heads(5)
        end_it()
        # At once, and announced.
        idle.expect_closed()
        # What can't be replaced has its last seconds.
        with contextlib.suppress(Closed, ssl.SSLError):
            streaming.recv_all()
        assert silent.connection().wait_finished() == b"something"
        line = proxy.access(reason="identity_rotated", listener="tcp")
        assert line["upstream"] == "raw", line
        for path in ("/held?gate=never", "/sending", "/getting?size=200000&midgate=never"):
            line = proxy.access(path=path)
            assert line["reason"] == "identity_rotated", line
        # Nobody new of that kind, and nothing changes for the others.
        assert not answers(proxy, made)
        eventually(lambda: proxy.metrics().value("pillion_listener_tls_handshakes_failed_total", reason=reason) >= 1)
        assert stays.get("/").status == 200
    assert answers(proxy, other)


def test_endpoints_that_are_no_longer_believed_are_left(pillion, pki, distrust):
    trust, peer, end_it, reason = distrust
    made = context(pki.ca, peer, server=True)
    with TlsEcho(made=made) as upstream:
        config = http_config(upstream.address, upstream={"tls": {"peers": [spiffe("peer")]}}, trust=trust)
        opaque = tcp_config(upstream.address)
        opaque["listeners"][0]["upstream"] = "app"
        config["listeners"] += opaque["listeners"]
        proxy = pillion(config)
        assert fetch(proxy.address()).status == 200
        with RawClient(proxy.address("tcp")) as client, RawClient(proxy.address()) as getting:
            assert client.get("/").status == 200
            getting.send_request("GET", "/getting?size=200000&midgate=never")
            assert getting.read_head().status == 200
            end_it()
            client.recv_all()
            line = proxy.access(path="/getting?size=200000&midgate=never")
            assert line["reason"] == "identity_rotated", line
        assert proxy.access(listener="tcp")["reason"] == "identity_rotated"
        upstream.open_gate("never")
        eventually(lambda: not upstream.open_connections(), "no connection to the endpoint")
        response = fetch(proxy.address(), "GET", "/late")
        assert (response.status, response.reason) == (502, "upstream_certificate"), response
        assert reason in proxy.access(path="/late")["detail"]


# Another configuration.


def test_another_expectation_is_put_to_open_connections(pillion, pki):
    with TlsEcho(made=context(pki.ca, pki.workload("peer"), server=True)) as upstream:

        def expecting(name: str) -> dict:
            config = http_config(upstream.address, upstream={"tls": {"peers": [spiffe(name)]}}, trust=[pki.trust])
            config["listeners"] += tcp_config(upstream.address)["listeners"]
            return config

        proxy = pillion(expecting("peer"))
        with RawClient(proxy.address()) as client, RawClient(proxy.address("tcp")) as opaque:
            assert client.get("/").status == opaque.get("/").status == 200
            proxy.must_reload(expecting("somebody-else"))
            opaque.recv_all()
            assert proxy.access(listener="tcp")["reason"] == "identity_rotated"
            response = client.get("/late")
            assert (response.status, response.reason) == (502, "upstream_certificate"), response
            assert "wrong_identity" in proxy.access(path="/late")["detail"]


def test_clients_that_a_stricter_listener_would_refuse_are_drained(pillion, echo, pki):
    identity = pki.workload("server").config  # once: a new certificate would replace connections too

    def asking(**tls) -> dict:
        listeners = [*http_config(echo.address)["listeners"], *tcp_config(echo.address)["listeners"]]
        return http_config(echo.address, identity=identity, trust=[pki.trust],
                           listeners=[{**listener, "tls": tls} for listener in listeners], drain={"deadline": "3s"})

    proxy = pillion(asking(mode="permissive", clientCertificates="optional"))
    with (RawClient(proxy.address()) as idle, RawClient(proxy.address()) as busy,
          RawClient(proxy.address("tcp")) as opaque, TlsClient(proxy.address(), context(pki.ca)) as anonymous,
          TlsClient(proxy.address(), context(pki.ca, pki.workload("client"))) as known):
        for client in (idle, opaque, anonymous, known):
            assert client.get("/").status == 200
        busy.send_request("GET", "/held?gate=g")
        echo.wait_heads(5)
        proxy.must_reload(asking())
        idle.expect_closed()
        anonymous.expect_closed()
        echo.open_gate("g")
        last = busy.read_response()
        assert (last.status, last.tokens("connection")) == (200, ["close"])
        busy.expect_closed()
        opaque.recv_all()
        assert proxy.access(listener="tcp")["reason"] == "draining"
        assert known.get("/again").status == 200


def test_no_request_takes_a_connection_from_before_tls(pillion, echo, pki):
    def config(**upstream) -> dict:
        return http_config(echo.address, upstream={"protocol": "http1", **upstream}, trust=[pki.trust])

    proxy = pillion(config())
    with RawClient(proxy.address()) as client:
        assert client.get("/").status == 200
        # The endpoint speaks plaintext only, so that it can't be reached any more.
        proxy.must_reload(config(tls={}))
        assert client.get("/").status == 504
    assert len(echo.requests) == 1
