"""Leaving: nothing that was accepted is lost, and the end comes."""

import os
import signal
import socket

import pytest
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.wait import eventually
from support.wire import Closed


def refused(address: str) -> bool:
    try:
        RawClient(address, timeout=2).close()
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_process_exits_at_once(pillion, echo, number):
    proxy = pillion(http_config(echo.address))
    proxy.signal(number)
    assert proxy.wait_exit(timeout=10) == 0


def test_idle_connections_are_closed_and_don_t_hold_up_the_exit(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    used, silent = connect(proxy.address()), connect(proxy.address())
    assert used.get("/").status == 200
    proxy.signal(signal.SIGTERM)
    used.expect_closed()
    assert silent.recv_all() == b""
    assert proxy.wait_exit(timeout=10) == 0


def test_a_request_in_flight_is_finished_and_told_to_close(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send_request("GET", "/held?gate=g")
    echo.wait_heads(1)
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(proxy.address()), "the listener to be closed")
    echo.open_gate("g")
    response = client.read_response()
    assert response.json()["target"] == "/held?gate=g"
    assert "close" in response.tokens("connection")
    client.expect_closed()
    assert proxy.wait_exit() == 0
    assert proxy.access(path="/held?gate=g")["status"] == 200


def test_a_body_in_flight_is_finished(pillion, echo, connect):
    """The head went out before the signal, so it can't say close; the connection ends all the same."""
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send_request("GET", "/?size=1000000&midgate=g")
    response = client.frame(client.read_head(), response_to="GET")
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(proxy.address()))
    echo.open_gate("g")
    assert len(client.read_body(response).body) == 1_000_000
    client.expect_closed()
    assert proxy.wait_exit() == 0


def test_an_upload_in_flight_is_finished(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send_request("POST", "/", {"Content-Length": "10"}).send("first")
    echo.wait_heads(1)
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(proxy.address()))
    client.send("-last")
    assert client.read_response("POST").json()["body"] == "first-last"
    assert proxy.wait_exit() == 0


def test_what_waits_in_the_accept_queue_is_served(pillion, echo):
    """Connections that the kernel has accepted but Pillion has not yet."""
    proxy = pillion(http_config(echo.address))
    assert fetch(proxy.address()).status == 200
    os.kill(proxy.pid, signal.SIGSTOP)
    clients = []
    try:
        clients = [RawClient(proxy.address()).send_request("GET", f"/{number}") for number in range(50)]
        proxy.signal(signal.SIGTERM)
    finally:
        os.kill(proxy.pid, signal.SIGCONT)
    for number, client in enumerate(clients):
        assert client.read_response().json()["target"] == f"/{number}"
        client.close()
    assert proxy.wait_exit() == 0


def test_readiness_tells_the_drain(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    assert proxy.admin_get("/readyz").status == 200
    client = connect(proxy.address())
    client.send_request("GET", "/?gate=g")
    echo.wait_heads(1)
    proxy.signal(signal.SIGTERM)
    eventually(lambda: proxy.admin_get("/readyz").status == 503, "not ready")
    assert proxy.admin_get("/livez").status == 200
    assert proxy.admin_get("/metrics").status == 200
    echo.open_gate("g")
    assert client.read_response().status == 200
    assert proxy.wait_exit() == 0


def test_post_drain_is_the_same(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send_request("GET", "/?gate=g")
    echo.wait_heads(1)
    proxy.ended_on_purpose = True
    assert proxy.admin_post("/drain").status in (200, 202, 204)
    eventually(lambda: proxy.admin_get("/readyz").status == 503)
    eventually(lambda: refused(proxy.address()))
    echo.open_gate("g")
    assert "close" in client.read_response().tokens("connection")
    assert proxy.wait_exit() == 0


def test_within_the_delay_everything_is_accepted(pillion, echo, connect):
    """Not ready, but serving: the time that endpoints need to be taken out of load balancers."""
    proxy = pillion(http_config(echo.address, drain={"delay": "1s", "deadline": "20s"}))
    early = connect(proxy.address())
    assert early.get("/").status == 200
    proxy.signal(signal.SIGTERM)
    eventually(lambda: proxy.admin_get("/readyz").status == 503)
    served = 0
    while not refused(proxy.address()):
        try:
            served += fetch(proxy.address()).status == 200
        except (ConnectionError, Closed):
            break
    assert served >= 3
    assert proxy.wait_exit() == 0


def test_the_deadline_cuts_what_is_left(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, drain={"deadline": "500ms"}))
    client = connect(proxy.address())
    client.send_request("GET", "/stuck?gate=g")
    echo.wait_heads(1)
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit(timeout=20) == 0
    assert client.recv_all()[:12] in (b"", b"HTTP/1.1 503")
    line = proxy.access_log.wait_for(lambda line: line["path"] == "/stuck?gate=g")
    assert line["reason"] == "draining"
    assert any("deadline" in json_text(line) for line in proxy.logs()), proxy.stderr()


def json_text(line: dict) -> str:
    return " ".join(str(value) for value in line.values())


def test_a_second_signal_forces(pillion, echo, connect):
    proxy = pillion(http_config(echo.address, drain={"deadline": "1h"}))
    client = connect(proxy.address())
    client.send_request("GET", "/?gate=g")
    echo.wait_heads(1)
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(proxy.address()))
    assert proxy.process.poll() is None
    proxy.signal(signal.SIGTERM)
    proxy.wait_exit(timeout=10)


def test_a_second_signal_within_the_delay_forces(pillion, echo):
    proxy = pillion(http_config(echo.address, drain={"delay": "1h", "deadline": "2h"}))
    proxy.signal(signal.SIGTERM)
    eventually(lambda: proxy.admin_get("/readyz").status == 503)
    proxy.signal(signal.SIGTERM)
    proxy.wait_exit(timeout=10)


def test_a_tcp_connection_in_flight_goes_on(pillion, echo, connect):
    proxy = pillion(tcp_config(echo.address))
    client = connect(proxy.address("tcp"))
    client.send_request("GET", "/one")
    assert client.read_response().status == 200
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(proxy.address("tcp")))
    assert client.get("/two").json()["target"] == "/two"
    client.close()
    assert proxy.wait_exit() == 0


def test_the_deadline_cuts_tcp(pillion, echo, connect):
    proxy = pillion(tcp_config(echo.address, drain={"deadline": "500ms"}))
    client = connect(proxy.address("tcp"))
    assert client.get("/").status == 200
    proxy.signal(signal.SIGTERM)
    assert proxy.wait_exit(timeout=20) == 0
    client.expect_closed()


def test_a_tunnel_counts_as_in_flight(pillion, raw_upstream, connect):
    def script(connection):
        connection.read_head()
        connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := connection.recv_some():
            connection.send(data)
        connection.close()

    proxy = pillion(http_config(raw_upstream(script).address))
    client = connect(proxy.address())
    assert client.request("GET", "/", {"Connection": "upgrade", "Upgrade": "echo"}).status == 101
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(proxy.address()))
    client.send("still here")
    assert client.recv_exact(10) == b"still here"
    client.half_close()
    client.expect_closed()
    assert proxy.wait_exit() == 0


def test_reloads_during_a_drain_don_t_bring_it_back(pillion, echo, connect):
    proxy = pillion(http_config(echo.address))
    client = connect(proxy.address())
    client.send_request("GET", "/?gate=g")
    echo.wait_heads(1)
    proxy.signal(signal.SIGTERM)
    eventually(lambda: refused(proxy.address()))
    proxy.reload(http_config(echo.address, http={"via": False}))
    assert refused(proxy.address())
    assert proxy.admin_get("/readyz").status == 503
    echo.open_gate("g")
    assert client.read_response().status == 200
    assert proxy.wait_exit() == 0


# Starting.


def run(pillion, config, **options):
    return pillion(config, ready=False, **options)


def test_a_bad_configuration_is_exit_1_with_every_problem(pillion):
    proxy = run(pillion, "listeners: [{ address: nonsense, upstream: nobody }]\n")
    assert proxy.wait_exit() == 1
    assert "nonsense" in proxy.stderr() and "nobody" in proxy.stderr()
    assert "pillion.yaml:1:" in proxy.stderr()


def test_an_unreadable_file_is_exit_2(pillion, tmp_path):
    assert run(pillion, None, config_path=tmp_path / "missing.yaml").wait_exit() == 2


def test_an_address_in_use_is_exit_1(pillion, echo):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        proxy = run(pillion, http_config(echo.address, listener={"address": address}))
        assert proxy.wait_exit() == 1
        assert address in proxy.stderr()


def test_the_start_is_one_line(pillion, echo):
    proxy = pillion(http_config(echo.address))
    line = proxy.started
    assert line["level"].lower() == "info"
    for key in ("version", "generation", "workers", "config", "admin", "listeners"):
        assert key in line, line
    assert int(line["generation"]) == 1
    assert int(line["workers"]) == 2
