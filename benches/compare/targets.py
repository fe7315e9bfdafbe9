"""What Pillion is held to, in one place: the tables of the issues "Ahead of every peer" and "mTLS, workload
identity and access policy"."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """The measure's greatest value, or its greatest ratio to the best of some peers; `aim` is hoped for, and
    alone it is no target at all."""

    scenario: str
    measure: str
    most: float | None
    of: tuple[str, ...] = ()
    aim: float | None = None


PEERS = ("nginx", "haproxy", "envoy")

TARGETS = [
    Target("single", "cpu_us", 0.95, ("nginx", "haproxy")),
    Target("single", "cpu_us", 0.45, ("envoy",)),
    Target("single", "cpu_us", 1.35, ("relay",), aim=1.25),
    Target("h2", "cpu_us", 1.0, ("haproxy",)),
    Target("h2", "cpu_us", 0.25, ("envoy",)),
    Target("grpc", "cpu_us", 1.0, ("haproxy",)),
    Target("grpc", "cpu_us", 0.25, ("envoy",)),
    Target("large", "cpu_ms_gb", 0.85, PEERS, aim=0.7),
    Target("large", "buffers_kb", 256),
    Target("upload", "cpu_ms_gb", 0.85, PEERS, aim=0.7),
    Target("upload", "buffers_kb", 256),
    Target("tcp", "cpu_ms_gb", 1.0, ("haproxy",)),
    Target("connect", "cpu_us", 1.0, ("haproxy",)),
    Target("pair", "cpu_us", 1.0, ("haproxy",)),
    Target("pair", "cpu_us", 0.45, ("nginx",)),
    Target("pair", "cpu_us", 0.32, ("envoy",)),
    Target("handshake", "cpu_us", 1.0, PEERS),
    Target("tls-large", "cpu_ms_gb", 1.0, PEERS),
    Target("tls-upload", "cpu_ms_gb", 1.0, PEERS),
    Target("tls-tcp", "cpu_ms_gb", 1.0, PEERS),
    Target("latency", "p50_us", 1.0, PEERS),
    Target("latency", "p99_us", 1.0, PEERS),
    Target("workers", "cpu_us", 1.05, ("one",)),
    Target("workers", "busier", 55),
    Target("workers-h2", "cpu_us", 1.05, ("one",)),
    Target("workers-h2", "busier", 55),
    Target("idle", "idle_mb", 6),
    Target("idle", "connection_kb", 4),
    Target("idle-h2", "connection_kb", 0.5, ("envoy",)),
    Target("idle-h2", "connection_kb", None, aim=24),
    Target("idle-mtls", "connection_kb", 0.5, ("envoy",)),
    Target("idle-mtls", "connection_kb", None, aim=32),
    Target("growth", "kept", 1.05),
    Target("burst", "kept", 1.2),
    Target("start", "first_ms", 20),
    Target("scale", "growth", 2.0),
]
