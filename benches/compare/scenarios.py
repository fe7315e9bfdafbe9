"""Every scenario. Each turn of one is a peer's; what is done in a turn is in the file that `open` is from."""

from load import calls, http1, http2, large, short, upload
from handshakes import HANDSHAKES, after_handshakes, handshakes, key_exchanges
from loaded import under_load
from latency import open_loop
from peer import GRPC, HANDSHAKE, HTTP, PAIR, PAIR_TCP, PAIR_UPLOAD, TCP, UPLOAD
from rest import BURST, HELD, HELD_MUTUAL, REST_SECONDS, after_burst, at_rest
from scale import among_many
from scenario import Measure, Scenario
from start import STARTS, from_nothing

PROXIES = ("pillion", "nginx", "haproxy", "envoy")
RATE = Measure("rate", "requests a second", "1/s", 0, ratio=False)
REQUEST = (Measure("cpu_us", "CPU a request", "µs"), RATE)
BYTES = (Measure("cpu_ms_gb", "CPU a gigabyte", "ms", 0), RATE)
LOADED = Measure("pss_mb", "memory under load", "MB")
BUFFERS = Measure("buffers_kb", "buffers a connection", "kB", 0)
WORKERS = (*REQUEST, Measure("busier", "work of the busier worker", "%", 0, ratio=False))
HANDSHAKE_COST = (
    Measure("cpu_us", "CPU a handshake", "µs"), Measure("rate", "handshakes a second", "1/s", 0, ratio=False))
IDLE_CONNECTION = Measure("connection_kb", "an idle connection", "kB")

SCENARIOS = [
    Scenario(
        "single", "HTTP/1.1 to HTTP/1.1, 1 KiB bodies, 64 keep-alive connections", (*PROXIES, "relay"),
        (*REQUEST, LOADED), under_load(HTTP, http1),
    ),
    Scenario(
        "logged", "the same with the access log on, into a file", PROXIES,
        (*REQUEST, Measure("lines", "lines a request", "", 2, ratio=False)), under_load(HTTP, http1, access_log=True),
    ),
    Scenario(
        "h2", "h2c to HTTP/1.1, 1 KiB bodies, 4 connections of 32 streams", PROXIES,
        (*REQUEST, LOADED), under_load(HTTP, http2),
    ),
    Scenario(
        "grpc", "HTTP/2 to HTTP/2, unary gRPC calls, 4 connections of 32 streams", PROXIES,
        (*REQUEST, LOADED), under_load(GRPC, calls),
    ),
    Scenario(
        "large", "HTTP/1.1 to HTTP/1.1, 1 MiB bodies down, 16 connections", (*PROXIES, "relay"),
        (*BYTES, BUFFERS), under_load(HTTP, large),
    ),
    Scenario(
        "upload", "HTTP/1.1 to HTTP/1.1, 1 MiB bodies up, 16 connections", (*PROXIES, "relay"),
        (*BYTES, BUFFERS), under_load(UPLOAD, upload),
    ),
    Scenario(
        "tcp", "opaque TCP, 1 MiB at a time, 16 connections", (*PROXIES, "relay"),
        (*BYTES, BUFFERS), under_load(TCP, large),
    ),
    Scenario(
        "connect", "opaque TCP, a connection for each request of 1 KiB, 64 at a time", (*PROXIES, "relay"),
        (Measure("cpu_us", "CPU a connection", "µs"), Measure("rate", "connections a second", "1/s", 0, ratio=False)),
        under_load(TCP, short),
    ),
    Scenario(
        "pair", "HTTP/1.1 through two proxies of a kind with mTLS between them, 1 KiB bodies, 64 connections", PROXIES,
        REQUEST, under_load(PAIR, http1),
    ),
    Scenario(
        "handshake", "full TLS 1.3 handshakes, P-256 and X25519, each with a small request", PROXIES,
        HANDSHAKE_COST, under_load(HANDSHAKE, handshakes),
    ),
    Scenario(
        "hybrid", "the same handshakes with X25519 and with X25519MLKEM768, where it is known", ("pillion", "envoy"),
        (Measure("classic_us", "X25519", "µs"), Measure("hybrid_us", "X25519MLKEM768", "µs"),
         Measure("extra_us", "its extra cost", "µs")),
        key_exchanges,
    ),
    Scenario(
        "tls-large", "1 MiB bodies down through such a pair, 16 connections", PROXIES, BYTES, under_load(PAIR, large),
    ),
    Scenario(
        "tls-upload", "1 MiB bodies up through such a pair, 16 connections", PROXIES,
        BYTES, under_load(PAIR_UPLOAD, upload),
    ),
    Scenario(
        "tls-tcp", "opaque TCP through a pair with mTLS between them, 1 MiB at a time, 16 connections", PROXIES,
        BYTES, under_load(PAIR_TCP, large),
    ),
    Scenario(
        "latency", "from when a request was due, at half of the slowest proxy's capacity, 64 connections", PROXIES,
        (Measure("p50_us", "p50", "µs", 0), Measure("p99_us", "p99", "µs", 0), Measure("p999_us", "p99.9", "µs", 0),
         Measure("rate", "due a second", "1/s", 0, ratio=False)),
        open_loop,
    ),
    Scenario(
        "workers", "two workers and one, both on two cores, 64 connections of HTTP/1.1", ("two", "one"),
        WORKERS, under_load(HTTP, http1, workers=True), us="two",
    ),
    Scenario(
        "workers-h2", "the same with 4 connections of HTTP/2 that last", ("two", "one"),
        WORKERS, under_load(HTTP, http2, workers=True), us="two",
    ),
    Scenario(
        "idle", f"memory at rest, and with {HELD:,} idle keep-alive connections", PROXIES,
        (Measure("idle_mb", "idle process", "MB"), IDLE_CONNECTION), at_rest(http2=False), most_rounds=3,
    ),
    Scenario(
        "idle-h2", f"memory of {HELD:,} idle connections of HTTP/2", PROXIES,
        (IDLE_CONNECTION,), at_rest(http2=True), most_rounds=3,
    ),
    Scenario(
        "idle-mtls", f"memory of {HELD_MUTUAL:,} idle mTLS connections of HTTP/2", PROXIES,
        (IDLE_CONNECTION,), at_rest(http2=True, mutual=True), most_rounds=3,
    ),
    Scenario(
        "growth", f"memory after {HANDSHAKES:,} handshakes and {REST_SECONDS:g} s", ("pillion",),
        (Measure("few_mb", "after some", "MB"), Measure("many_mb", "after all", "MB"),
         Measure("kept", "after all / some", "", 2)),
        after_handshakes, most_rounds=1,
    ),
    Scenario(
        "burst", f"memory {REST_SECONDS:g} s after {BURST:,} connections were open at once", ("pillion",),
        (Measure("idle_mb", "before", "MB"), Measure("full_mb", "with all open", "MB"),
         Measure("after_mb", "after", "MB"), Measure("kept", "after / before", "", 2)),
        after_burst, most_rounds=1,
    ),
    Scenario(
        "start", f"from exec to the first answer, median of {STARTS}", PROXIES,
        (Measure("first_ms", "first answer after", "ms"),), from_nothing, most_rounds=3,
    ),
    Scenario(
        "scale", "a route and an endpoint found among 10 and among 10,000 of both", ("pillion",),
        (Measure("few_ns", "among 10", "ns", 0), Measure("many_ns", "among 10,000", "ns", 0),
         Measure("growth", "growth", "", 2)),
        among_many, most_rounds=3,
    ),
]
