"""GOAWAY at drain (RFC 9113 section 6.8-18): two steps, idle connections included."""

import signal

import pytest
from support.config import http_config
from support.h2raw import Code, Upstream, dial
from support.ports import free_port
from support.wait import eventually

LAST = (1 << 31) - 1


@pytest.fixture
def proxy(pillion, echo):
    return pillion(http_config(echo.address))


def two_steps(client):
    """The GOAWAYs of a polite end: first without a limit, then with the last stream."""
    assert [code for _, code, _ in client.goaways] == [Code.NO_ERROR] * len(client.goaways)
    lasts = [last for last, _, _ in client.goaways]
    assert len(lasts) >= 2 and lasts[0] == LAST, lasts
    assert lasts == sorted(lasts, reverse=True), "it may never grow"
    return lasts[-1]


def test_idle_connections_are_told_in_two_steps(proxy):
    with dial(proxy.address()) as used, dial(proxy.address()) as fresh:
        stream = used.response(used.request())
        proxy.signal(signal.SIGTERM)
        for client in (used, fresh):
            client.expect_closed()
        assert two_steps(used) == stream.id
        assert two_steps(fresh) == 0
    assert proxy.wait_exit() == 0


def test_streams_in_flight_are_completed(proxy, echo):
    with dial(proxy.address()) as client:
        before = client.request(path="/?gate=drain")
        upload = client.request("POST", end=False)
        eventually(lambda: echo.heads == 2, "two requests at the upstream")
        proxy.signal(signal.SIGTERM)
        client.until(lambda: client.goaways, what="the first GOAWAY")
        assert client.goaways[0][:2] == (LAST, Code.NO_ERROR)
        client.write(upload, b"still here")
        client.end(upload)
        assert b"still here" in client.response(upload).data
        echo.open_gate("drain")
        assert client.response(before).status == 200
        client.expect_closed()
        assert two_steps(client) >= upload.id
    assert proxy.wait_exit() == 0


def test_a_stream_that_crosses_the_first_goaway_is_served(proxy, echo):
    """What a client sent before it heard of the drain is not lost."""
    with dial(proxy.address()) as client:
        client.acknowledge = False  # hold back the PING that the second step may wait for
        held = client.request(path="/?gate=drain")
        eventually(lambda: echo.heads == 1, "the request at the upstream")
        proxy.signal(signal.SIGTERM)
        client.until(lambda: client.goaways, what="the first GOAWAY")
        crossing = client.request(path="/crossing")
        assert client.response(crossing).status == 200
        echo.open_gate("drain")
        assert client.response(held).status == 200
    assert proxy.wait_exit() == 0


def test_an_idle_client_that_does_not_answer_is_not_waited_for(proxy):
    """The second step waits for an answer to a PING, but not until the deadline."""
    with dial(proxy.address()) as client:
        client.acknowledge = False
        proxy.signal(signal.SIGTERM)
        client.expect_closed(timeout=10)
        assert two_steps(client) == 0
    assert proxy.wait_exit(10) == 0


def test_the_deadline_cuts_what_does_not_end(pillion, echo):
    proxy = pillion(http_config(echo.address, drain={"deadline": "500ms"}))
    with dial(proxy.address()) as client:
        client.request(path="/?gate=never")
        eventually(lambda: echo.heads == 1, "the request at the upstream")
        proxy.signal(signal.SIGTERM)
        client.expect_closed()
    assert proxy.wait_exit() == 0


def test_a_removed_listener_drains(proxy, echo):
    """By a reload: in-flight streams end well, GOAWAY is sent, the process lives on."""
    with dial(proxy.address()) as client, dial(proxy.address()) as idle:
        stream = client.request(path="/?gate=drain")
        eventually(lambda: echo.heads == 1, "the request at the upstream")
        # A name of its own on an address of its own: the same address would be a renaming.
        config = http_config(echo.address, listener={"name": "other", "address": f"127.0.0.1:{free_port()}"})
        proxy.must_reload(config)
        idle.expect_closed()
        two_steps(idle)
        client.until(lambda: client.goaways, what="GOAWAY")
        echo.open_gate("drain")
        assert client.response(stream).status == 200
        client.expect_closed()
    with dial(proxy.address("other")) as other:
        other.expect_alive()


def test_a_listener_that_stays_keeps_its_connections(proxy, echo):
    """A reload that changes nothing, or only routes, sends no GOAWAY; the next stream has the new routes."""
    with dial(proxy.address()) as client:
        client.expect_alive()
        rule = {
            "matches": [{"path": {"type": "Exact", "value": "/direct"}}],
            "filters": [{"type": "DirectResponse", "directResponse": {"statusCode": 200, "body": "direct"}}],
        }
        proxy.must_reload(http_config(
            echo.address, listener={"upstream": "app"}, routes=[{"name": "direct", "rules": [rule]}]))
        assert client.response(client.request(path="/direct")).data == b"direct"
        client.expect_alive()


def test_upstream_connections_are_told_too(pillion):
    """The HTTP/2 connections to upstreams end when their requests have."""
    with Upstream() as upstream:
        proxy = pillion(http_config(upstream.address, upstream={"protocol": "http2"}))
        with dial(proxy.address()) as client:
            stream = client.request()
            with upstream.accept(client) as server:
                request = server.next_request(client)
                proxy.signal(signal.SIGTERM)
                client.until(lambda: client.goaways, server, what="GOAWAY")
                server.respond(request, body=b"in time")
                assert client.response(stream, server).data == b"in time"
                server.expect_closed()
        assert proxy.wait_exit() == 0
