"""Active health checks: what endpoints are asked, and what their answers do."""

import contextlib
import threading
from concurrent import futures

import grpc
import pytest
from support.client import RawClient, fetch
from support.config import http_config, tcp_config
from support.dns import DnsServer
from support.ports import free_port
from support.tls import TlsEcho, context
from support.upstream import RawUpstream, header
from support.wait import eventually
from support.wire import Closed

#: Often enough not to wait for, with time enough for a machine that has other things to do.
OFTEN = {"interval": "200ms", "timeout": "200ms"}
#: One result decides in both directions.
AT_ONCE = {**OFTEN, "unhealthyThreshold": 1, "healthyThreshold": 1}


def checked_by(*checks: dict, **upstream) -> dict:
    return {"healthChecks": list(checks), **upstream}


class Patient(RawUpstream):
    """Answers checks with the status of its health, and everything else with 200, or `app`.

    A health of `None` closes the connection; "silent" answers nothing.
    """

    def __init__(self, health=200, app=200, **options):
        self.health, self.app = health, app
        self.checks: list = []
        self.requests: list = []
        super().__init__(self._converse, **options)

    def _converse(self, connection):
        while True:
            try:
                request = connection.read_request()
            except Closed:
                return
            is_check = (request.header("user-agent") or "").startswith("pillion-check/")
            (self.checks if is_check else self.requests).append(request)
            status = self.health if is_check else self.app
            if isinstance(status, list):
                status = status[(len(self.checks) - 1) % len(status)]
            if status == "silent":
                return
            if status is None:
                connection.close()
                return
            connection.send(f"HTTP/1.1 {status} Said\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def patient():
    with contextlib.ExitStack() as stack:
        yield lambda health=200, **options: stack.enter_context(Patient(health, **options))


def state(proxy, address: str) -> str | None:
    return proxy.endpoints()[address]["checked"]


def wait_state(proxy, address: str, wanted: str) -> dict:
    """Waits until checks say so, and returns what is shown of the endpoint."""
    eventually(lambda: state(proxy, address) == wanted, f"{address} to be {wanted}")
    return proxy.endpoints()[address]


def checks(proxy, **labels) -> float:
    return proxy.metrics().value("pillion_upstream_health_checks_total", **labels)


def test_off_unless_written(pillion, patient):
    app = patient()
    proxy = pillion(http_config(app.address))
    assert fetch(proxy.address()).status == 200
    shown = proxy.endpoints()[app.address]
    assert (shown["checked"], shown["checks"]) == (None, [])
    assert app.checks == []


@pytest.mark.parametrize("health, check, error", [
    (200, {}, None),
    (204, {}, None),
    (503, {}, "status 503"),
    (404, {}, "status 404"),
    (404, {"expectedStatuses": ["200-299", 404]}, None),
    (200, {"expectedStatuses": [401]}, "status 200"),
    (None, {}, "closed"),
], ids=str)
def test_the_status_decides(pillion, patient, health, check, error):
    app = patient(health)
    proxy = pillion(http_config(app.address, upstream=checked_by({"type": "http", **OFTEN, **check})))
    shown = wait_state(proxy, app.address, "unhealthy" if error else "healthy")
    [one] = shown["checks"]
    assert one["type"] == "http" and one["lastSecondsAgo"] >= 0 and one["lastMs"] > 0
    if error:
        assert (one["lastResult"], one["state"]) == ("failure", "unhealthy") and error in one["lastError"], one
        line = proxy.refused(fetch(proxy.address()), "no_healthy_endpoints", 503)
        assert "none of 1 endpoints healthy, last: failure" in line["detail"], line
        assert app.requests == []
        proxy.logs.find(level="WARN", message="an endpoint is unhealthy", check="http", result="failure")
        assert proxy.metrics().value("pillion_upstream_endpoints", state="unhealthy") == 1
        assert proxy.metrics().value("pillion_upstream_endpoints_checked", state="unhealthy") == 1
        assert checks(proxy, type="http", result="failure") >= 1
    else:
        assert (one["lastResult"], one["lastError"]) == ("success", None)
        assert fetch(proxy.address()).status == 200
        assert proxy.metrics().value("pillion_upstream_endpoints_checked", state="healthy") == 1
    # What requests tell is another thing, and readiness is neither's.
    assert shown["health"] == "healthy"
    assert proxy.admin_get("/readyz").status == 200


def test_what_is_asked(pillion, patient):
    app = patient()
    http = {"type": "http", **OFTEN}
    proxy = pillion(http_config(app.address, upstream=checked_by(
        http, {**http, "path": "/deep?all=1", "method": "POST", "host": "app.internal:80"})))
    wait_state(proxy, app.address, "healthy")
    seen = {request.target: request for request in list(app.checks)}
    plain, deep = seen["/healthz"], seen["/deep?all=1"]
    assert (plain.method, plain.header("host")) == ("GET", app.address)
    assert (deep.method, deep.header("host"), deep.header("content-length")) == ("POST", "app.internal:80", "0")
    assert plain.header("connection") == "close"
    # A request that is ours alone: no access log, no limit, no connection of the upstream's.
    assert fetch(proxy.address(), "GET", "/one").status == 200
    proxy.access(path="/one")
    assert not any(line["path"] == "/healthz" for line in proxy.access_log())
    assert proxy.metrics().value("pillion_upstream_connections_total") == 1


def test_requests_go_to_the_healthy_ones(pillion, patient):
    good, bad = patient(), patient(503)
    proxy = pillion(http_config(good.address, bad.address, upstream=checked_by({"type": "http", **OFTEN})))
    wait_state(proxy, bad.address, "unhealthy")
    with RawClient(proxy.address()) as client:
        before = len(bad.requests)
        assert {client.get("/").status for _ in range(50)} == {200}
        assert len(bad.requests) == before
        bad.health = 200
        wait_state(proxy, bad.address, "healthy")
        proxy.logs.find(level="INFO", message="an endpoint is healthy again")
        eventually(lambda: client.get("/").status == 200 and len(bad.requests) > before, "requests to come back")


def test_panic_sends_to_all(pillion, patient):
    app = patient(503)
    proxy = pillion(http_config(app.address, upstream=checked_by(
        {"type": "http", **OFTEN}, ejection={"panicThreshold": "50%"})))
    wait_state(proxy, app.address, "unhealthy")
    assert fetch(proxy.address()).status == 200


def test_flapping_stays_what_it_was(pillion, patient):
    app = patient([200, 503, 503])
    proxy = pillion(http_config(app.address, upstream=checked_by({"type": "http", **OFTEN})))
    eventually(lambda: len(app.checks) >= 1, "a check")
    # Unless the first one came late, it was a success; from then on two in a row are too few.
    eventually(lambda: len(app.checks) > 12, "many checks")
    assert state(proxy, app.address) == "healthy"
    assert checks(proxy, result="failure") > 3
    assert not any(line.get("message") == "an endpoint is unhealthy" for line in proxy.logs())


def test_thresholds_hold_both_ways(pillion, patient):
    app = patient([200, 503, 503, 503, 200, 200])
    proxy = pillion(http_config(app.address, upstream=checked_by({"type": "http", **OFTEN})))
    proxy.logs.find(message="an endpoint is unhealthy")
    seen = len(app.checks)
    proxy.logs.find(message="an endpoint is healthy again")
    assert seen >= 4 and len(app.checks) >= 6


def test_silence_is_a_timeout(pillion, patient):
    app = patient("silent")
    proxy = pillion(http_config(app.address, upstream=checked_by({"type": "http", **OFTEN})))
    shown = wait_state(proxy, app.address, "unhealthy")
    assert shown["checks"][0]["lastResult"] == "timeout"
    assert "200ms" in shown["checks"][0]["lastError"]
    assert checks(proxy, type="http", result="timeout") >= 1


def test_tcp_asks_for_a_connection(pillion):
    port = free_port()
    address = f"127.0.0.1:{port}"
    proxy = pillion(tcp_config(address, upstream=checked_by({"type": "tcp", **OFTEN})))
    shown = wait_state(proxy, address, "unhealthy")
    assert shown["checks"][0]["lastResult"] == "unreachable"
    assert "refused" in shown["checks"][0]["lastError"]
    with RawUpstream(port=port) as app:
        # Never seen healthy before: one success is enough.
        wait_state(proxy, address, "healthy")
        assert app.received == b""
    wait_state(proxy, address, "unhealthy")


def test_another_port_and_a_unix_socket(pillion, patient, short_dir):
    app, beside, local = patient(), patient(503), patient(path=short_dir / "app.sock")
    check = {"type": "http", "port": beside.port, **OFTEN}
    proxy = pillion(http_config(app.address, local.address, upstream=checked_by(check)))
    wait_state(proxy, app.address, "unhealthy")
    wait_state(proxy, local.address, "healthy")
    assert app.checks == []
    assert beside.checks[0].header("host") == app.address
    assert local.checks[0].header("host") == "localhost"


@pytest.mark.parametrize("version, expected", [
    ("v1", b"PROXY UNKNOWN\r\nGET "),
    ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET "),
], ids=str)
def test_a_proxy_header_says_whose_connection_it_is(pillion, raw_upstream, version, expected):
    app = raw_upstream()
    pillion(http_config(app.address, upstream=checked_by({"type": "http", **OFTEN}, proxyProtocol=version)))
    app.connection().wait_received(lambda data: data.startswith(expected), "the header")


class Health:
    """The health service of gRPC, without protoc."""

    STATUS = {"UNKNOWN": b"", "SERVING": b"\x08\x01", "NOT_SERVING": b"\x08\x02"}

    def __init__(self, status: str = "SERVING"):
        self.status = status
        self.asked: list[bytes] = []
        self.agents: set[str] = set()
        self.server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(self._check)
        service = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})
        self.server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def _check(self, request: bytes, call) -> bytes:
        self.asked.append(request)
        self.agents.update(value for key, value in call.invocation_metadata() if key == "user-agent")
        if self.status not in self.STATUS:
            call.abort(getattr(grpc.StatusCode, self.status), "no such service")
        return self.STATUS[self.status]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(None).wait()


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_grpc_asks_the_health_service(pillion, protocol):
    with Health() as app:
        check = {"type": "grpc", "service": "shop.Carts", **AT_ONCE}
        proxy = pillion(http_config(app.address, upstream=checked_by(check, protocol=protocol)))
        wait_state(proxy, app.address, "healthy")
        assert set(app.asked) == {b"\x0a\x0ashop.Carts"}
        assert all(agent.startswith("pillion-check/") for agent in app.agents) and app.agents
        for status, error in [("NOT_SERVING", "NOT_SERVING"), ("NOT_FOUND", "NotFound: no such service"),
                              ("UNKNOWN", "UNKNOWN")]:
            app.status = "SERVING"
            wait_state(proxy, app.address, "healthy")
            app.status = status
            shown = wait_state(proxy, app.address, "unhealthy")
            assert shown["checks"][0]["lastError"] == error
            assert shown["checks"][0]["lastResult"] == "failure"


def test_grpc_of_a_server_that_has_none(pillion):
    app = grpc.server(futures.ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    address = f"127.0.0.1:{app.add_insecure_port('127.0.0.1:0')}"
    app.start()
    proxy = pillion(http_config(address, upstream=checked_by({"type": "grpc", **OFTEN})))
    shown = wait_state(proxy, address, "unhealthy")
    assert "Unimplemented" in shown["checks"][0]["lastError"]
    app.stop(None).wait()


def test_http_over_http2(pillion):
    def answering(status: int) -> dict:
        respond = {"type": "DirectResponse", "directResponse": {"statusCode": status, "body": "so it is\n"}}
        return http_config("127.0.0.1:1", routes=[{"rules": [{"filters": [respond]}]}])

    app = pillion(answering(200))
    proxy = pillion(http_config(app.address(), upstream=checked_by({"type": "http", **AT_ONCE}, protocol="http2")))
    wait_state(proxy, app.address(), "healthy")
    line = app.access(path="/healthz")
    assert line["protocol"] == "HTTP/2" and line["user_agent"].startswith("pillion-check/"), line
    app.must_reload(answering(503))
    shown = wait_state(proxy, app.address(), "unhealthy")
    assert shown["checks"][0]["lastError"] == "status 503"


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_tls_as_for_requests(pillion, pki, other_pki, kind):
    files = pki.workload("server")
    mutual = context(pki.ca, files, server=True, require=True)
    with TlsEcho(made=mutual) as app:
        config = http_config(app.address, identity=pki.workload("client").config, trust=[pki.trust],
                             upstream=checked_by({"type": kind, **AT_ONCE}, tls={"peers": [files.identity.id]}))
        proxy = pillion(config)
        wait_state(proxy, app.address, "healthy")
        assert fetch(proxy.address()).status == 200
        if kind == "http":
            account = next(one for one in app.requests if one["target"] == "/healthz")
            assert header(account, "user-agent").startswith("pillion-check/")
        # Whom it must not trust it does not ask.
        config["upstreams"][0]["tls"] = {"peers": ["spiffe://example.org/somebody-else"]}
        proxy.must_reload(config)
        shown = wait_state(proxy, app.address, "unhealthy")
        assert shown["checks"][0]["lastResult"] == "unreachable"


def test_a_good_check_closes_no_breaker(pillion, patient):
    app = patient(app=500)
    proxy = pillion(http_config(app.address, upstream=checked_by(
        {"type": "http", **OFTEN}, breaker={"backoff": "30s"}, ejection="off")))
    with RawClient(proxy.address()) as client:
        eventually(lambda: client.get("/").reason == "breaker_open", "the breaker to open")
        wait_state(proxy, app.address, "healthy")
        count = len(app.checks)
        eventually(lambda: len(app.checks) > count + 2, "more checks")
        assert client.get("/").reason == "breaker_open"
    shown = proxy.endpoints()[app.address]
    assert (shown["health"], shown["checked"]) == ("open", "healthy")


def test_no_breaker_probes_what_checks_refuse(pillion, patient):
    app = patient(app=500)
    proxy = pillion(http_config(app.address, upstream=checked_by(
        {"type": "http", **AT_ONCE}, breaker={"backoff": "10ms", "maxBackoff": "10ms"}, ejection="off")))
    with RawClient(proxy.address()) as client:
        for _ in range(5):
            client.request("POST", "/", body=b"x")
        assert proxy.endpoints()[app.address]["health"] == "open"
        app.health = 503
        wait_state(proxy, app.address, "unhealthy")
        seen, count = len(app.requests), len(app.checks)
        # The backoff is over long before these checks are.
        while len(app.checks) < count + 3:
            assert client.get("/").reason == "no_healthy_endpoints"
        assert len(app.requests) == seen
        app.health = app.app = 200
        eventually(lambda: client.get("/").status == 200, "a check and a probe to find it well")


def test_endpoints_come_and_go(pillion, patient):
    first, second = patient(), patient(503)
    config = http_config(first.address, second.address, upstream=checked_by({"type": "http", **OFTEN}))
    proxy = pillion(config)
    wait_state(proxy, second.address, "unhealthy")
    wait_state(proxy, first.address, "healthy")
    # Another configuration of the upstream: what is known of its endpoints stays.
    third = patient()
    config["upstreams"][0]["endpoints"] = [first.address, second.address, third.address]
    proxy.must_reload(config)
    shown = proxy.endpoints()
    assert (shown[first.address]["checked"], shown[second.address]["checked"]) == ("healthy", "unhealthy")
    wait_state(proxy, third.address, "healthy")
    # Whoever is gone is asked no more.
    config["upstreams"][0]["endpoints"] = [first.address, third.address]
    proxy.must_reload(config)
    gone, stays = len(second.checks), len(first.checks)
    eventually(lambda: len(first.checks) > stays + 5, "checks of the others")
    assert len(second.checks) <= gone + 1
    # Without checks nobody is.
    del config["upstreams"][0]["healthChecks"]
    proxy.must_reload(config)
    assert state(proxy, first.address) is None
    assert proxy.metrics().value("pillion_upstream_endpoints", state="unhealthy") == 0


def test_checks_taken_away_let_requests_through(pillion, patient):
    app = patient(503)
    config = http_config(app.address, upstream=checked_by({"type": "http", **OFTEN}))
    proxy = pillion(config)
    wait_state(proxy, app.address, "unhealthy")
    assert fetch(proxy.address()).reason == "no_healthy_endpoints"
    del config["upstreams"][0]["healthChecks"]
    proxy.must_reload(config)
    assert fetch(proxy.address()).status == 200


def test_what_discovery_finds_is_asked(pillion, patient):
    first = patient(address="127.0.0.1")
    second = patient(address="127.0.0.2", port=first.port)
    with DnsServer() as dns:
        dns.set("app.test", "127.0.0.1")
        proxy = pillion(
            http_config(f"app.test:{first.port}", upstream=checked_by({"type": "http", **OFTEN}, dns={"minTtl": "100ms"})),
            env={"PILLION_DNS": dns.address})
        eventually(lambda: {one["checked"] for one in proxy.endpoints().values()} == {"healthy"}, "the first one")
        assert first.checks[0].header("host") == f"app.test:{first.port}"
        dns.set("app.test", "127.0.0.2")
        eventually(lambda: [one["checked"] for one in proxy.endpoints().values()] == ["healthy"]
                   and second.address in proxy.endpoints(), "the second one")
        gone, stays = len(first.checks), len(second.checks)
        eventually(lambda: len(second.checks) > stays + 3, "checks of the second one")
        assert len(first.checks) <= gone + 1


def test_many_endpoints_at_once(pillion):
    """More checks than may run at once, all of them silent: every endpoint is asked."""
    lock, asked = threading.Lock(), set()

    def script(connection):
        with lock:
            asked.add(connection.sock.getsockname()[0])

    with contextlib.ExitStack() as stack:
        apps = [stack.enter_context(RawUpstream(script, address=f"127.0.1.{last}")) for last in range(1, 101)]
        checks_of_it = [{"type": "http", "path": f"/{number}", **OFTEN} for number in range(4)]
        proxy = pillion(http_config(*(app.address for app in apps), upstream=checked_by(*checks_of_it)))
        eventually(lambda: {one["checked"] for one in proxy.endpoints().values()} == {"unhealthy"}, "all to be found")
    assert len(asked) == 100


@pytest.mark.parametrize("status", [200, 503])
def test_an_answer_is_taken_to_its_end(pillion, raw_upstream, status):
    """Whoever answers a check with a body sees an ordinary end of the connection, no reset."""
    ends = []

    def script(connection):
        connection.read_request()
        connection.send(f"HTTP/1.1 {status} Said\r\nContent-Length: 20000\r\n\r\n" + "x" * 20000)
        connection.half_close()
        # A reset would be an error.
        ends.append(connection.sock.recv(1))

    app = raw_upstream(script)
    proxy = pillion(http_config(app.address, upstream=checked_by({"type": "http", **OFTEN})))
    wait_state(proxy, app.address, "healthy" if status == 200 else "unhealthy")
    eventually(lambda: len(ends) > 2, "checks to end")
    assert set(ends) == {b""}
