"""A side that does not read stops the other one; memory stays bounded; nothing is lost."""

import pytest
from support.config import http_config
from support.exchange import IDS, PROTOCOL, VERSIONS, Exchange
from support.h2raw import INITIAL_WINDOW, MAX_STREAMS, Upstream, dial
from support.reactor import Listener

HUGE = 96 << 20
# What may be under way: two kernels' socket buffers and HTTP/2 windows, never the body.
UNDER_WAY = 24 << 20
both = pytest.mark.parametrize("versions", VERSIONS, ids=IDS)


# Answered by Pillion itself, on the one worker that also has the exchange.
PROBE = {
    "name": "probe",
    "rules": [{
        "matches": [{"path": {"type": "Exact", "value": "/probe"}}],
        "filters": [{"type": "DirectResponse", "directResponse": {"statusCode": 200, "body": "ok"}}],
    }],
}


@pytest.fixture
def exchange(pillion, versions):
    client, upstream = versions
    with Listener() as listener:
        config = http_config(
            listener.address, upstream={"protocol": PROTOCOL[upstream]}, listener={"upstream": "app"}, routes=[PROBE],
        )
        proxy = pillion(config, env={"PILLION_WORKERS": "1"})
        with Exchange(proxy.address(), listener, client, upstream) as x, dial(proxy.address()) as x.probe:
            x.proxy = proxy
            yield x


def queued(end) -> int:
    """What an end still has to send."""
    stream = getattr(end, "stream", None)
    return len(end.peer.outbox) + sum(len(chunk) for chunk in (stream.chunks if stream else ()))


def settle(x, sender) -> int:
    """Lets one end send until it is stopped; returns what it could not send.

    Between two looks the proxy answers another client, so what could still move has had its turn;
    and that client is served while the exchange stands still.
    """
    before, calm = -1, 0
    while calm < 20:
        stream = x.probe.response(x.probe.request(path="/probe"), sender.peer)
        assert stream.status == 200
        calm = calm + 1 if queued(sender) == before else 0
        before = queued(sender)
    return before


@both
def test_a_client_that_does_not_read_stops_the_upstream(exchange):
    x = exchange
    if hasattr(x.client.peer, "credit"):
        x.client.peer.credit = False
    x.ask()
    x.arrive()
    before = x.proxy.rss()
    x.answer(200, [("content-length", str(HUGE))], body=True)
    x.reply(bytes(HUGE))
    left = settle(x, x.server)
    assert left > HUGE - UNDER_WAY, f"{HUGE - left} octets were taken that nobody read"
    assert x.proxy.rss() - before < UNDER_WAY
    if hasattr(x.client.peer, "credit"):
        x.client.peer.credit = True
        x.client.peer.window_update(0, 1 << 20)
        x.client.peer.window_update(x.client.stream.id, 1 << 20)
    x.end()
    x.until(lambda: x.client.complete, "the response", timeout=50)
    assert len(x.body) == HUGE


@both
def test_an_upstream_that_does_not_read_stops_the_client(exchange):
    x = exchange
    x.ask("POST", "/", [("content-length", str(HUGE))], body=True)
    x.arrive()
    before = x.proxy.rss()
    if hasattr(x.server.peer, "credit"):
        x.server.peer.credit = False
    x.send(bytes(HUGE))
    left = settle(x, x.client)
    assert left > HUGE - UNDER_WAY, f"{HUGE - left} octets were taken that nobody read"
    assert x.proxy.rss() - before < UNDER_WAY
    if hasattr(x.server.peer, "credit"):
        x.server.peer.credit = True
        x.server.peer.window_update(0, 1 << 20)
        x.server.peer.window_update(x.server.stream.id, 1 << 20)
    x.finish()
    x.until(lambda: x.server.complete, "the request", timeout=50)
    assert len(x.request_body) == HUGE
    x.answer(200)
    assert x.done().status == 200


def test_one_slow_stream_does_not_stop_its_neighbours_at_the_upstream(pillion):
    """Two clients share an upstream connection: one reads nothing, the other gets all."""
    with Upstream() as upstream:
        proxy = pillion(
            http_config(upstream.address, upstream={"protocol": "http2"}), env={"PILLION_WORKERS": "1"}
        )
        with dial(proxy.address(), (INITIAL_WINDOW, 0), credit=False) as slow, dial(proxy.address()) as quick:
            stuck = slow.request(path="/stuck")
            with upstream.accept(slow, own_settings=[(MAX_STREAMS, 1000)]) as server:
                first = server.next_request(slow)
                server.respond(first, 200, body=bytes(32 << 20))
                slow.head(stuck, server)
                for number in range(5):
                    stream = quick.request(path=f"/{number}")
                    request = server.next_request(quick, slow)
                    server.respond(request, 200, body=bytes(1 << 20))
                    quick.until(lambda s=stream: s.over, server, slow, what="the quick one")
                    assert len(stream.data) == 1 << 20
                assert not stuck.data
