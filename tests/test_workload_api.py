"""The agent of the tests agrees with grpcio's client on what the Workload API is."""

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from support.pki import Authority
from support.wait import TIMEOUT, eventually
from support.workload_api import METHOD, SECURITY, Request, Response, WorkloadApi

WEB = "spiffe://test.local/ns/default/sa/web"


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture
def api(tmp_path):
    with WorkloadApi(tmp_path / "agent.sock") as api:
        yield api


@pytest.fixture
def fetch(api):
    with grpc.insecure_channel(f"unix:{api.path}") as channel:
        call = channel.unary_stream(METHOD, Request.SerializeToString, Response.FromString)
        yield lambda metadata=(SECURITY,): call(Request(), metadata=metadata, timeout=TIMEOUT)


def test_it_hands_out_and_rotates(api, authority, fetch):
    partner = Authority("partner")
    web = authority.identity(WEB)
    api.set(web, federated={"spiffe://partner.local": [partner]},
            revocation_lists=[authority.revocation_list(authority.identity(WEB))])
    stream = fetch()
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
    assert next(fetch()) == second
    stream.cancel()
    eventually(lambda: api.open_calls == 0, "the cancelled calls to end")


def test_it_refuses(api, authority, fetch):
    with pytest.raises(grpc.RpcError) as caught:
        next(fetch(metadata=()))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    api.set(authority.identity(WEB))
    stream = fetch()
    next(stream)
    api.deny()
    for refused in (stream, fetch()):
        with pytest.raises(grpc.RpcError) as caught:
            next(refused)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_it_goes_and_comes_back(api, authority, fetch):
    api.set(authority.identity(WEB))
    stream = fetch()
    first = next(stream)
    api.disconnect()
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    def again():
        try:
            return next(fetch())
        except grpc.RpcError as error:
            raise AssertionError from error

    assert eventually(again, "the agent to be back") == first
