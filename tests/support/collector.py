"""A collector of OTLP, over gRPC or HTTP: it keeps what it is sent, and can be slow or refuse."""

from __future__ import annotations

import gzip
import http.server
import ssl
import threading
import time
from collections import deque
from concurrent import futures
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.trace.v1 import trace_pb2

from .tls import Files
from .wait import TIMEOUT, eventually


@dataclass(frozen=True)
class Signal:
    """How one kind of telemetry is called, and where its items lie."""

    name: str
    service: str
    request: type
    response: type
    resource_items: str
    scope_items: str
    items: str
    rejected: str

    def unpack(self, message) -> list[tuple]:
        """Every item with its resource and its scope."""
        return [
            (item, resource.resource, scope.scope)
            for resource in getattr(message, self.resource_items)
            for scope in getattr(resource, self.scope_items)
            for item in getattr(scope, self.items)
        ]


TRACES = Signal(
    "traces", "opentelemetry.proto.collector.trace.v1.TraceService", trace_service.ExportTraceServiceRequest,
    trace_service.ExportTraceServiceResponse, "resource_spans", "scope_spans", "spans", "rejected_spans",
)
METRICS = Signal(
    "metrics", "opentelemetry.proto.collector.metrics.v1.MetricsService", metrics_service.ExportMetricsServiceRequest,
    metrics_service.ExportMetricsServiceResponse, "resource_metrics", "scope_metrics", "metrics", "rejected_data_points",
)
LOGS = Signal(
    "logs", "opentelemetry.proto.collector.logs.v1.LogsService", logs_service.ExportLogsServiceRequest,
    logs_service.ExportLogsServiceResponse, "resource_logs", "scope_logs", "log_records", "rejected_log_records",
)
SIGNALS = (TRACES, METRICS, LOGS)


def plain(value):
    """An `AnyValue` as Python has it."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    inner = getattr(value, kind)
    if kind == "array_value":
        return [plain(each) for each in inner.values]
    if kind == "kvlist_value":
        return attributes(inner.values)
    return inner


def attributes(pairs) -> dict:
    return {pair.key: plain(pair.value) for pair in pairs}


@dataclass(frozen=True)
class Span:
    """A span as tests like to compare it; all else is in `message`."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict
    status: str
    resource: dict
    message: trace_pb2.Span

    @classmethod
    def of(cls, message, resource) -> Span:
        return cls(
            name=message.name,
            kind=trace_pb2.Span.SpanKind.Name(message.kind).removeprefix("SPAN_KIND_").lower(),
            trace_id=message.trace_id.hex(),
            span_id=message.span_id.hex(),
            parent_id=message.parent_span_id.hex(),
            attributes=attributes(message.attributes),
            status=trace_pb2.Status.StatusCode.Name(message.status.code).removeprefix("STATUS_CODE_").lower(),
            resource=attributes(resource.attributes),
            message=message,
        )

    @property
    def events(self) -> list[tuple[str, dict]]:
        return [(event.name, attributes(event.attributes)) for event in self.message.events]

    @property
    def links(self) -> list[tuple[str, str]]:
        return [(link.trace_id.hex(), link.span_id.hex()) for link in self.message.links]


@dataclass(frozen=True)
class Received:
    """One export: its signal, its headers in lower case, its message, and when it came."""

    signal: str
    headers: dict[str, str]
    message: object
    at: float


@dataclass(frozen=True)
class Refusal:
    """An answer that is no: a status of gRPC or of HTTP, and when to come again."""

    status: grpc.StatusCode | int
    retry_after: float | None = None


class Collector:
    """Keeps what it is sent. Use as a context manager.

    `files`: its certificate and key; `client_authorities`: whose certificates a client has to show
    one of (PEM).
    """

    def __init__(self, protocol: str = "grpc", *, files: Files | None = None,
                 client_authorities: bytes | None = None, port: int = 0):
        self.protocol = protocol
        #: Seconds before each answer.
        self.delay = 0.0
        #: What is rejected of each export, and the text that comes with it.
        self.rejects: tuple[int, str] | None = None
        #: The status of HTTP when all went well.
        self.success = 200
        self.refusals: deque[Refusal] = deque()
        #: What every export is refused with, until it is taken away.
        self.always: Refusal | None = None
        self.received: list[Received] = []
        #: Those that were refused.
        self.refused: list[Received] = []
        self._changed = threading.Condition()
        self._items: dict[str, list] = {signal.name: [] for signal in SIGNALS}
        start = self._grpc if protocol == "grpc" else self._http
        self.port, self._stop = start(files, client_authorities, port)
        self.scheme = "https" if files else "http"
        self.host = "localhost" if files else "127.0.0.1"

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def config(self) -> dict:
        """The `otlp` that leads here, with short waits."""
        protocol = "grpc" if self.protocol == "grpc" else "http/protobuf"
        return {"endpoint": self.endpoint, "protocol": protocol, "batch": {"delay": "20ms"}}

    @property
    def spans(self) -> list[Span]:
        with self._changed:
            return [Span.of(item, resource) for item, resource, _ in self._items["traces"]]

    @property
    def logs(self) -> list:
        """Log records as they came."""
        with self._changed:
            return [item for item, _, _ in self._items["logs"]]

    @property
    def metrics(self) -> list:
        with self._changed:
            return [item for item, _, _ in self._items["metrics"]]

    def resources(self, signal: str = "traces") -> list[dict]:
        with self._changed:
            return [attributes(resource.attributes) for _, resource, _ in self._items[signal]]

    def scopes(self, signal: str = "traces") -> list:
        with self._changed:
            return [scope for _, _, scope in self._items[signal]]

    def wait_for(self, predicate, timeout: float = TIMEOUT):
        """Waits until `predicate(spans)` is true, and returns what it says."""
        return eventually(lambda: predicate(self.spans), "spans at the collector", timeout)

    def wait_spans(self, count: int, timeout: float = TIMEOUT) -> list[Span]:
        return self.wait_for(lambda spans: spans if len(spans) >= count else None, timeout)

    def refuse(self, status, times: int = 1, retry_after: float | None = None):
        """Refuses the next exports."""
        self.refusals.extend([Refusal(status, retry_after)] * times)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._stop()

    # What both protocols do.

    def _take(self, signal: Signal, headers: dict, message) -> Refusal | object:
        """The response, or why there is none."""
        received = Received(signal.name, headers, message, time.monotonic())
        if self.delay:
            time.sleep(self.delay)
        with self._changed:
            refusal = self.refusals.popleft() if self.refusals else self.always
            if refusal:
                self.refused.append(received)
                return refusal
            self.received.append(received)
            self._items[signal.name] += signal.unpack(message)
        response = signal.response()
        if self.rejects:
            rejected, text = self.rejects
            setattr(response.partial_success, signal.rejected, rejected)
            response.partial_success.error_message = text
        return response

    def _grpc(self, files, client_authorities, port):
        def handler(signal: Signal):
            def export(message, context):
                headers = {key: value for key, value in context.invocation_metadata()}
                answer = self._take(signal, headers, message)
                if isinstance(answer, Refusal):
                    if answer.retry_after is not None:
                        details = retry_info(answer.status.value[0], answer.retry_after)
                        context.set_trailing_metadata([("grpc-status-details-bin", details)])
                    context.abort(answer.status, "not now: 100% busy")
                return answer

            method = grpc.unary_unary_rpc_method_handler(
                export, request_deserializer=signal.request.FromString,
                response_serializer=signal.response.SerializeToString,
            )
            return grpc.method_handlers_generic_handler(signal.service, {"Export": method})

        server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers([handler(signal) for signal in SIGNALS])
        if files:
            pair = (files.key.read_bytes(), files.certificate.read_bytes())
            credentials = grpc.ssl_server_credentials(
                [pair], client_authorities, require_client_auth=client_authorities is not None,
            )
            bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
        else:
            bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        return bound, lambda: server.stop(None).wait()

    def _http(self, files, client_authorities, port):
        collector = self
        paths = {f"/v1/{signal.name}": signal for signal in SIGNALS}

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                headers = {key.lower(): value for key, value in self.headers.items()}
                body = self.rfile.read(int(headers["content-length"]))
                if headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                # What is behind other paths was named in whole.
                signal = next((paths[path] for path in paths if self.path.endswith(path)), TRACES)
                headers[":path"] = self.path
                answer = collector._take(signal, headers, signal.request.FromString(body))
                if isinstance(answer, Refusal):
                    self.send_response(answer.status)
                    if answer.retry_after is not None:
                        self.send_header("Retry-After", str(round(answer.retry_after)))
                    content = b"not now"
                else:
                    self.send_response(collector.success)
                    self.send_header("Content-Type", "application/x-protobuf")
                    content = b"" if collector.success == 204 else answer.SerializeToString()
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """A client that goes away is none."""

        server = Server(("127.0.0.1", port), Handler)
        if files:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.certificate, files.key)
            if client_authorities is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(cadata=client_authorities.decode())
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def stop():
            server.shutdown()
            server.server_close()

        return server.server_address[1], stop


def retry_info(code: int, seconds: float) -> bytes:
    """A `google.rpc.Status` with a `RetryInfo`, whose messages are in no package that is here."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    whole = int(seconds)
    nanos = round((seconds - whole) * 1e9)
    duration = b"\x08" + varint(whole) + b"\x10" + varint(nanos)
    info = field(1, duration)
    details = field(1, b"type.googleapis.com/google.rpc.RetryInfo") + field(2, info)
    return b"\x08" + varint(code) + field(3, details)


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])
