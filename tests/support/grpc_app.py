"""A gRPC service made without protoc: messages are bytes, and the method's name says what it does."""

from __future__ import annotations

import threading
from concurrent import futures

import grpc

SERVICE = "pillion.test.Echo"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class GrpcApp:
    """Echoes in every shape of call, and remembers what it saw."""

    def __init__(self):
        self.metadata: list[list[tuple[str, str | bytes]]] = []
        self.cancelled = threading.Event()
        self.entered = threading.Event()
        self.deadlines: list[float | None] = []
        self.server = grpc.server(
            futures.ThreadPoolExecutor(64), options=[*OPTIONS, ("grpc.so_reuseport", 0)]
        )
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
            "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "FailLate": grpc.unary_stream_rpc_method_handler(self._fail_late),
            "Hang": grpc.unary_unary_rpc_method_handler(self._hang),
            "HangStream": grpc.unary_stream_rpc_method_handler(self._hang_stream),
            "Metadata": grpc.unary_unary_rpc_method_handler(self._metadata),
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{self.port}"
        self.server.start()

    def _saw(self, context):
        self.metadata.append(list(context.invocation_metadata()))
        self.deadlines.append(context.time_remaining())

    def _unary(self, request, context):
        self._saw(context)
        return request

    def _download(self, request, context):
        """`count,size`: so many messages of that size."""
        self._saw(context)
        count, size = map(int, request.split(b","))
        for number in range(count):
            yield bytes([number % 256]) * size

    def _upload(self, requests, context):
        self._saw(context)
        count = total = 0
        for message in requests:
            count += 1
            total += len(message)
        return b"%d,%d" % (count, total)

    def _chat(self, requests, context):
        self._saw(context)
        for message in requests:
            yield message.upper()

    def _fail(self, request, context):
        """A status without a message before it: a Trailers-Only response."""
        context.set_trailing_metadata([("x-why", "because"), ("x-raw-bin", b"\x00\xff\x01")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: 100 % übel\n")

    def _fail_late(self, request, context):
        yield b"one"
        yield b"two"
        context.set_trailing_metadata([("x-why", "late")])
        context.abort(grpc.StatusCode.DATA_LOSS, "lost the third")

    def _wait(self, context):
        self._saw(context)
        context.add_callback(self.cancelled.set)
        self.entered.set()
        self.cancelled.wait(60)

    def _hang(self, request, context):
        self._wait(context)
        return b"too late"

    def _hang_stream(self, request, context):
        yield b"first"
        self._wait(context)

    def _metadata(self, request, context):
        self._saw(context)
        context.send_initial_metadata([("x-initial", "i"), ("x-initial-bin", b"\x01\x02\xfe")])
        context.set_trailing_metadata([("x-trailing", "t"), ("x-trailing-bin", b"\x00\xff")])
        return request

    def close(self):
        self.cancelled.set()
        self.server.stop(None).wait(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class GrpcClient:
    """A channel and one multi-callable for each method of `GrpcApp`."""

    def __init__(self, address: str, service: str = SERVICE):
        # Its own connection for every channel, and no proxy from the environment.
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0),
                   ("grpc.enable_retries", 0)]
        self.channel = grpc.insecure_channel(address, options)
        self.unary = self.channel.unary_unary(f"/{service}/Unary")
        self.download = self.channel.unary_stream(f"/{service}/Download")
        self.upload = self.channel.stream_unary(f"/{service}/Upload")
        self.chat = self.channel.stream_stream(f"/{service}/Chat")
        self.fail = self.channel.unary_unary(f"/{service}/Fail")
        self.fail_late = self.channel.unary_stream(f"/{service}/FailLate")
        self.hang = self.channel.unary_unary(f"/{service}/Hang")
        self.hang_stream = self.channel.unary_stream(f"/{service}/HangStream")
        self.metadata = self.channel.unary_unary(f"/{service}/Metadata")
        self.absent = self.channel.unary_unary(f"/{service}/Absent")

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
