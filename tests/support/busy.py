"""A Pillion that has met everything: every series of the metrics that can be brought about on loopback."""

import contextlib

from .client import RawClient
from .moody import Moody
from .ports import free_port
from .tls import Pki, TlsClient, context
from .upstream import EchoUpstream, RawUpstream
from .wait import eventually
from .wire import Closed, connect

DENIED = [{"name": "denied", "action": "deny", "listeners": ["web"], "to": {"paths": [{"value": "/denied"}]}}]


def rule(path: str, **rest) -> dict:
    return {"name": path.strip("/"), "matches": [{"path": {"value": path}}], **rest}


def to(upstream: str, path: str, **rest) -> dict:
    return rule(path, backendRefs=[{"name": upstream}], **rest)


def config(pki: Pki, good: str, moody: str, silent: str, collector: str) -> dict:
    files = pki.workload("server")
    answer = {"type": "DirectResponse", "directResponse": {"statusCode": 200, "body": "ok"}}
    return {
        "identity": files.config, "trust": [pki.trust],
        "otlp": {"endpoint": collector, "protocol": "http/protobuf", "timeout": "100ms", "batch": {"delay": "10ms"}},
        "tracing": {"sampling": "always"},
        "metrics": {"otlp": {"interval": "1s"}},
        "access": DENIED,
        "listeners": [
            {"name": "web", "address": "127.0.0.1:0"},
            {"name": "secure", "address": "127.0.0.1:0", "tls": {}},
            {"name": "tcp", "address": "127.0.0.1:0", "protocol": "tcp", "upstream": "gone"},
        ],
        "routes": [{"name": "all", "rules": [
            to("app", "/app", filters=[{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "app"}}}]),
            to("moody", "/moody", retry={"attempts": 2}),
            to("moody", "/hedged", retry={"hedge": {"delay": "1ms"}}),
            to("gone", "/gone", fallback={"response": {"statusCode": 200, "body": "instead"}}),
            to("secured", "/secured"),
            to("tight", "/tight"),
            rule("/limited", filters=[{"type": "RateLimit", "rateLimit": {"requests": 1, "per": "1h"}}, answer]),
            rule("/faulty", filters=[{"type": "Fault", "fault": {"abort": {"statusCode": 503}}}, answer]),
            rule("/denied", filters=[answer]),
        ]}],
        "upstreams": [
            {"name": "app", "endpoints": [good], "limits": {"adaptive": True},
             "healthChecks": [{"type": "tcp", "interval": "50ms", "timeout": "50ms"}]},
            {"name": "moody", "endpoints": [moody], "breaker": "off", "retryBudget": {"percent": 0, "minPerSecond": 0}},
            {"name": "gone", "endpoints": [f"127.0.0.1:{free_port()}"]},
            {"name": "secured", "endpoints": [good], "tls": {"minVersion": "1.2"}},
            {"name": "tight", "endpoints": [silent.replace("127.0.0.1", "localhost")], "limits": {"requests": 1}},
        ],
    }


@contextlib.contextmanager
def busy(start, directory):
    """`start(config)` gives the Pillion, as the fixtures do. It, and the authority that it believes."""
    pki = Pki(directory / "pki")
    with EchoUpstream() as good, Moody([503, None, 200]) as moody, RawUpstream() as silent:
        collector = f"http://127.0.0.1:{free_port()}"
        proxy = start(config(pki, good.address, moody.address, silent.address, collector))
        meet_everything(proxy, pki)
        yield proxy, pki


def meet_everything(proxy, pki: Pki):
    seen = proxy.metrics
    with TlsClient(proxy.address("secure"), context(pki.ca, pki.workload("client"))) as client:
        client.get("/app")
    for path in ("/app", "/moody", "/hedged", "/gone", "/secured", "/limited", "/faulty", "/denied", "/none"):
        for _ in range(6):
            with contextlib.suppress(Closed), RawClient(proxy.address()) as client:
                client.get(path)
    # One is in flight, which is as many as may be.
    with RawClient(proxy.address()) as waits, RawClient(proxy.address()) as refused:
        waits.send("GET /tight HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: seen().value("pillion_upstream_requests_active", upstream="tight") == 1, "a request in flight")
        refused.get("/tight")
    # A head that is none, plaintext where TLS belongs, TCP to nowhere.
    for name, data in {"web": b"nothing\r\n\r\n", "secure": b"GET / HTTP/1.1\r\n\r\n", "tcp": b"hello"}.items():
        with contextlib.suppress(OSError), connect(proxy.address(name)) as sock:
            sock.sendall(data)
            while sock.recv(4096):
                pass
    proxy.reload()
    for name in ("pillion_upstream_health_checks_total", "pillion_listener_tls_handshakes_failed_total",
                 "pillion_listener_connections_failed_total"):
        eventually(lambda name=name: seen().value(name) > 0, name)
