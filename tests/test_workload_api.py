"""Identity and trust from the SPIFFE Workload API: as it comes, rotates, stays away and is taken back.
At the end, the agent of the tests agrees with grpcio's client on what the Workload API is."""

import contextlib
import ssl
import threading

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.pki import Authority, Identity
from support.wait import TIMEOUT, eventually
from support.wire import Closed
from support.workload_api import METHOD, SECURITY, Request, Response, WorkloadApi

WEB = "spiffe://test.local/ns/default/sa/web"
CART = "spiffe://test.local/ns/default/sa/cart"


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture
def agent(short_dir):
    """`agent(name)`: an agent of its own."""
    with contextlib.ExitStack() as stack:
        yield lambda name="agent": stack.enter_context(WorkloadApi(short_dir / f"{name}.sock"))


@pytest.fixture
def api(agent):
    return agent()


def identity(api: WorkloadApi, **more) -> dict:
    return {"workloadApi": f"unix:{api.path}", **more}


def secured(config: dict, api: WorkloadApi, **more) -> dict:
    """That configuration with mutual TLS at its listener, and the agent's identity."""
    config["listeners"][0]["tls"] = {}
    return {**config, "identity": identity(api, **more)}


@pytest.fixture
def sidecar(pillion, echo, api):
    """Takes mutual TLS before an echo, with what the agent hands out."""
    return lambda **options: pillion(secured(http_config(echo.address), api, **options))


@pytest.fixture
def call(tmp_path):
    """`call(proxy, identity, trust)`: a TLS connection on which `identity` has shown itself."""
    with contextlib.ExitStack() as stack:

        def dial(proxy, caller: Identity, trust: Authority, listener: str = "web") -> RawClient:
            file = tmp_path / f"{caller.serial}.pem"
            file.write_bytes(caller.key_pem() + caller.chain_pem())
            context = ssl.create_default_context(cadata=trust.der())
            context.load_cert_chain(file)
            client = stack.enter_context(RawClient(proxy.address(listener)))
            client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
            return client

        yield dial


def shown(client: RawClient) -> str:
    """The serial number of the certificate that the proxy shows."""
    return f"{x509.load_der_x509_certificate(client.sock.getpeercert(binary_form=True)).serial_number:x}"


def readiness(proxy) -> tuple[int, str]:
    reply = proxy.admin_get("/readyz?verbose")
    return reply.status, reply.body.decode()


def says(proxy, status: int, *texts: str):
    def right():
        found, told = readiness(proxy)
        assert found == status, told
        for text in texts:
            assert text in told, told
        return True

    assert eventually(right)


def refused(proxy, reason: str) -> float:
    return proxy.metrics().value("pillion_listener_tls_handshakes_failed_total", reason=reason)


def rotations(proxy) -> float:
    return proxy.metrics().value("pillion_tls_rotations_total")


def turned_away(call, proxy, *who, reason: str):
    """A new connection of `who` is refused. With TLS 1.3 it learns so when it reads."""
    before = refused(proxy, reason)
    with pytest.raises((ssl.SSLError, ConnectionError, Closed)):
        call(proxy, *who).get()
    eventually(lambda: refused(proxy, reason) > before, f"a handshake refused for {reason}")


def test_it_is_ready_once_the_identity_is_there(sidecar, api, authority, call):
    proxy = sidecar()
    api.wait_calls(1)
    says(proxy, 503, "[-]identity not ok: not there yet", "[+]workload-api ok: waiting since")
    web, cart = authority.identity(WEB), authority.identity(CART)
    turned_away(call, proxy, cart, authority, reason="no_identity")

    api.set(web)
    says(proxy, 200, f"[+]identity ok: certificate {WEB}", "[+]workload-api ok: last update", "[+]expiry ok: identity")
    client = call(proxy, cart, authority)
    assert (client.get().status, shown(client)) == (200, web.serial)
    (expiry,) = [value for name, labels, value in proxy.metrics().samples
                 if name == "pillion_certificate_expiry_seconds" and labels["kind"] == "identity"]
    assert 3000 < expiry <= 3600
    assert all(metadata["workload.spiffe.io"] == "true" for metadata in api.metadata)


def test_of_several_identities_the_one_that_is_named_is_taken(sidecar, api, authority, call):
    api.set(authority.identity(WEB))
    proxy = sidecar(spiffeId=CART)
    says(proxy, 503, "[-]identity not ok", f"{CART} is not in it, but \"{WEB}\"")
    web, cart = authority.identity(WEB), authority.identity(CART)
    api.set(web, cart)
    says(proxy, 200, f"[+]identity ok: certificate {CART}")
    assert shown(call(proxy, web, authority)) == cart.serial


class Load:
    """Requests one after the other on `count` connections, until it is stopped."""

    def __init__(self, address: str, count: int = 4):
        self.stopping = False
        self.done = 0
        self.failures: list = []
        self.threads = [threading.Thread(target=self._run, args=(address,), daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, address):
        try:
            with RawClient(address) as client:
                while not self.stopping:
                    response = client.get("/?size=2000")
                    self.done += 1
                    if response.status != 200 or len(response.body) != 2000:
                        self.failures.append(response)
        except Exception as error:
            self.failures.append(error)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopping = True
        for thread in self.threads:
            thread.join(TIMEOUT)


def test_it_rotates_under_load_without_a_failed_request(pillion, sidecar, agent, api, authority, call):
    ours = agent("ours")
    api.set(authority.identity(WEB))
    ours.set(authority.identity(CART))
    proxy = sidecar()
    out = http_config(f"localhost:{proxy.port()}", upstream={"tls": {"peers": [WEB]}})
    ambassador = pillion({**out, "identity": identity(ours)})
    says(proxy, 200)
    says(ambassador, 200)

    def made() -> float:
        return ambassador.metrics().value("pillion_upstream_connections_total")

    eventually(lambda: fetch(ambassador.address()).status == 200, "the name of the sidecar resolved")
    with Load(ambassador.address()) as load:
        eventually(lambda: load.done > 50, "requests")
        first = made()
        for count in range(10):
            before, done = (rotations(ambassador), rotations(proxy)), load.done
            api.rotate()
            ours.rotate()
            eventually(lambda b=before: rotations(ambassador) > b[0] and rotations(proxy) > b[1], f"rotation {count}")
            eventually(lambda d=done: load.done > d + 20, "requests after it")
        # Whatever was made before the last of them is replaced, and what has no more requests goes.
        last = made()
        eventually(lambda: made() > last >= first, "other connections in their place")
        eventually(lambda: proxy.metrics().value("pillion_tls_connections", state="retired") == 0, "none left")
    assert load.failures == []
    (now,) = api.identities
    assert shown(call(proxy, ours.identities[0], authority)) == now.serial


def test_an_agent_that_goes_takes_nothing_along(sidecar, api, authority, call):
    api.set(authority.identity(WEB))
    proxy = sidecar()
    says(proxy, 200, "workload-api ok: last update")
    cart = authority.identity(CART)
    client = call(proxy, cart, authority)
    api.stop()
    says(proxy, 200, "last error", "cannot connect")
    assert client.get().status == 200
    assert call(proxy, cart, authority).get().status == 200

    api.start()
    says(proxy, 200, "workload-api ok: last update")
    assert client.get().status == 200
    (new,) = api.rotate()
    eventually(lambda: shown(call(proxy, cart, authority)) == new.serial, "the new certificate")


def test_an_agent_that_is_restarted_and_silent_takes_nothing_along(sidecar, api, authority, call):
    api.set(authority.identity(WEB))
    proxy = sidecar()
    says(proxy, 200)
    api.stall()
    calls = api.calls
    api.disconnect()
    api.wait_calls(calls + 1)
    assert call(proxy, authority.identity(CART), authority).get().status == 200
    assert readiness(proxy)[0] == 200
    assert rotations(proxy) == 1


def test_who_is_denied_from_the_start_is_told_why_and_asks_again(sidecar, api, authority):
    api.deny("no entry for this process")
    proxy = sidecar()
    says(proxy, 503, "no identity is registered for this workload", "no entry for this process")
    api.set(authority.identity(WEB))
    says(proxy, 200, f"[+]identity ok: certificate {WEB}")


def denied(api):
    api.deny()


@pytest.mark.parametrize(("harm", "told"), [
    (denied, "no identity is registered for this workload"),
    (WorkloadApi.garbage, "cannot be read"),
    (WorkloadApi.mismatch, "key"),
    (lambda api: api.set(), "no identity in it"),
], ids=["denied", "garbage", "mismatch", "empty"])
def test_what_cannot_be_used_leaves_what_was_there(sidecar, api, authority, call, harm, told):
    old = authority.identity(WEB)
    api.set(old)
    proxy = sidecar()
    says(proxy, 200)
    cart = authority.identity(CART)
    client = call(proxy, cart, authority)
    harm(api)
    says(proxy, 200, "last error", told)
    assert client.get().status == 200
    assert shown(call(proxy, cart, authority)) == old.serial

    new = old.again()
    api.set(new)
    eventually(lambda: shown(call(proxy, cart, authority)) == new.serial, "the new certificate")
    says(proxy, 200, "workload-api ok: last update")


# Trust that is taken back.


def without_the_authority(api, ours, theirs, caller):
    api.set(*api.identities, authorities=[ours])


def with_a_revocation_list(api, ours, theirs, caller):
    api.set(*api.identities, authorities=[ours, theirs], revocation_lists=[theirs.revocation_list(caller)])


REVOCATIONS = pytest.mark.parametrize(("revoke", "reason"), [
    (without_the_authority, "unknown_authority"),
    (with_a_revocation_list, "revoked"),
], ids=["authority", "crl"])


@REVOCATIONS
def test_who_is_no_longer_admitted_is_cut_off(sidecar, api, authority, call, echo, revoke, reason):
    theirs = Authority("theirs")
    cart, friend = theirs.identity(CART), authority.identity(CART)
    api.set(authority.identity(WEB), authorities=[authority, theirs])
    proxy = sidecar()
    says(proxy, 200)
    idle, busy, other = call(proxy, cart, authority), call(proxy, cart, authority), call(proxy, friend, authority)
    for client in (idle, other):
        assert client.get().status == 200
    busy.send_request("GET", "/?gate=never")
    echo.wait_heads(3)

    revoke(api, authority, theirs, cart)
    idle.expect_closed()
    # A request that lasts gets two seconds.
    busy.expect_closed()
    assert proxy.access(reason="identity_rotated", path="/?gate=never")["peer"]
    turned_away(call, proxy, cart, authority, reason=reason)
    assert other.get().status == 200, "whoever is still admitted is not concerned"
    proxy.logs.find(message="peer is no longer admitted", reason=reason)


@REVOCATIONS
def test_an_opaque_connection_of_theirs_ends_and_says_so(pillion, raw_upstream, api, authority, call, revoke, reason):
    theirs = Authority("theirs")
    cart, friend = theirs.identity(CART), authority.identity(CART)
    api.set(authority.identity(WEB), authorities=[authority, theirs])
    upstream = raw_upstream()
    proxy = pillion(secured(tcp_config(upstream.address), api))
    says(proxy, 200)
    for number, caller in enumerate((cart, friend)):
        client = call(proxy, caller, authority, "tcp")
        client.send("hello")
        upstream.connection(number).wait_received()
        if caller is cart:
            gone = client

    revoke(api, authority, theirs, cart)
    gone.expect_closed()
    upstream.connection(0).wait_finished()
    line = proxy.access(reason="identity_rotated", protocol="TCP")
    assert line["bytes_received"] == len("hello")
    proxy.wait_reason("identity_rotated")
    assert not upstream.connection(1).finished.is_set()


def test_a_federated_bundle_admits_the_peers_of_its_domain(sidecar, api, authority, call):
    partner = Authority("partner")
    visitor = partner.identity("spiffe://partner.local/ns/default/sa/cart")
    pretender = partner.identity(CART)
    web = authority.identity(WEB)
    api.set(web)
    proxy = sidecar()
    says(proxy, 200)
    turned_away(call, proxy, visitor, authority, reason="wrong_trust_domain")

    api.set(web, federated={"spiffe://partner.local": [partner]})
    eventually(lambda: rotations(proxy) == 2)
    client = call(proxy, visitor, authority)
    assert client.get().status == 200
    # It vouches for its own domain and for no other.
    turned_away(call, proxy, pretender, authority, reason="unknown_authority")

    api.set(web)
    client.expect_closed()
    turned_away(call, proxy, visitor, authority, reason="wrong_trust_domain")


# The agent of the tests.


@pytest.fixture
def fetch_svids(api):
    with grpc.insecure_channel(f"unix:{api.path}") as channel:
        call = channel.unary_stream(METHOD, Request.SerializeToString, Response.FromString)
        yield lambda metadata=(SECURITY,): call(Request(), metadata=metadata, timeout=TIMEOUT)


def test_the_agent_hands_out_and_rotates(api, authority, fetch_svids):
    partner = Authority("partner")
    web = authority.identity(WEB)
    api.set(web, federated={"spiffe://partner.local": [partner]},
            revocation_lists=[authority.revocation_list(authority.identity(WEB))])
    stream = fetch_svids()
    first = next(stream)
    (svid,) = first.svids
    assert svid.spiffe_id == WEB
    certificate = x509.load_der_x509_certificate(svid.x509_svid)
    assert certificate.public_key() == load_der_private_key(svid.x509_svid_key, None).public_key()
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(svid.bundle))
    assert first.federated_bundles["spiffe://partner.local"] == partner.der()
    (revoked,) = x509.load_der_x509_crl(first.crl[0])
    assert revoked.serial_number != certificate.serial_number

    (new,) = api.rotate()
    second = next(stream)
    assert second.svids[0].x509_svid == new.chain_der() != svid.x509_svid
    assert (second.crl, second.federated_bundles) == (first.crl, first.federated_bundles)
    assert next(fetch_svids()) == second
    stream.cancel()
    eventually(lambda: api.open_calls == 0, "the cancelled calls to end")


def test_the_agent_refuses(api, authority, fetch_svids):
    with pytest.raises(grpc.RpcError) as caught:
        next(fetch_svids(metadata=()))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    api.set(authority.identity(WEB))
    stream = fetch_svids()
    next(stream)
    api.deny()
    for refused in (stream, fetch_svids()):
        with pytest.raises(grpc.RpcError) as caught:
            next(refused)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_the_agent_goes_and_comes_back(api, authority, fetch_svids):
    api.set(authority.identity(WEB))
    stream = fetch_svids()
    first = next(stream)
    api.disconnect()
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    def again():
        try:
            return next(fetch_svids())
        except grpc.RpcError as error:
            raise AssertionError from error

    assert eventually(again, "the agent to be back") == first
