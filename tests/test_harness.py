"""The harness itself: its raw client and upstreams agree with each other without a proxy between."""

import pytest
from support.client import RawClient, chunked
from support.metrics import Metrics
from support.upstream import EchoUpstream, header
from support.wire import Closed, WireError


def test_echo_accounts_for_a_request():
    with EchoUpstream() as upstream, RawClient(upstream.address) as client:
        account = client.request("POST", "/a?b=c", {"X-Case": "Kept"}, b"hello").json()
        assert (account["method"], account["target"], account["body"]) == ("POST", "/a?b=c", "hello")
        assert ["X-Case", "Kept"] in account["headers"]
        assert header(account, "content-length") == "5"
        client.send_request("PUT", "/", {"Transfer-Encoding": "chunked"})
        client.send(chunked(b"one", b"two", trailers=(("X-T", "v"),)))
        account = client.read_response("PUT").json()
        assert account["body"] == "onetwo"
        assert account["trailers"] == [["X-T", "v"]]


@pytest.mark.parametrize("switch", ["size=100000", "size=100000&chunked", "size=100000&eof"])
def test_echo_frames_as_told(switch):
    with EchoUpstream() as upstream, RawClient(upstream.address) as client:
        assert len(client.get(f"/?{switch}").body) == 100_000


def test_echo_gates_trailers_and_cuts():
    with EchoUpstream() as upstream, RawClient(upstream.address) as client:
        client.send_request("GET", "/?gate=g&trailers")
        upstream.wait_heads(1)
        upstream.open_gate("g")
        assert client.read_response().trailers == [("x-checksum", "abc"), ("X-Case", "Kept")]
        with pytest.raises(Closed):
            client.get("/?size=100&cut=10")


def test_the_parser_is_strict():
    with EchoUpstream() as upstream, RawClient(upstream.address) as client:
        client.buffer += b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        with pytest.raises(WireError):
            client.read_response()


def test_metrics_are_parsed():
    metrics = Metrics.parse('# HELP a b\na_total{reason="x",k="v"} 2\na_total{reason="y"} 3\nup 1\n# EOF\n')
    assert metrics.value("a_total") == 5
    assert metrics.value("a_total", reason="x") == 2
    assert metrics.reasons() == {"x": 2, "y": 3}
