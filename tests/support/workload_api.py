"""An agent that hands out identities: the SPIFFE Workload API over a Unix socket, with grpcio.

It is as good or as bad as a test wants it to be; whatever it is told is true for calls that are open
and for those to come.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from concurrent import futures
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from .pki import Authority, Identity
from .wait import TIMEOUT, eventually

METHOD = "/SpiffeWorkloadAPI/FetchX509SVID"
#: Without it the agent answers nobody: whoever is tricked into fetching a URL can't set it.
SECURITY = ("workload.spiffe.io", "true")


def messages():
    """The public proto's messages, made without protoc."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pillion_test_workload.proto", syntax="proto3")

    def add(parent, name, fields):
        message = parent.add(name=name)
        for number, (field_name, kind, repeated) in enumerate(fields, 1):
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            one = message.field.add(name=field_name, number=number, label=label)
            if isinstance(kind, str):
                one.type, one.type_name = field.TYPE_MESSAGE, kind
            else:
                one.type = kind
        return message

    add(file.message_type, "X509SVIDRequest", [])
    add(file.message_type, "X509SVID", [
        ("spiffe_id", field.TYPE_STRING, False),
        ("x509_svid", field.TYPE_BYTES, False),
        ("x509_svid_key", field.TYPE_BYTES, False),
        ("bundle", field.TYPE_BYTES, False),
        ("hint", field.TYPE_STRING, False),
    ])
    response = add(file.message_type, "X509SVIDResponse", [
        ("svids", ".X509SVID", True),
        ("crl", field.TYPE_BYTES, True),
        ("federated_bundles", ".X509SVIDResponse.FederatedBundlesEntry", True),
    ])
    entry = add(response.nested_type, "FederatedBundlesEntry", [
        ("key", field.TYPE_STRING, False), ("value", field.TYPE_BYTES, False),
    ])
    entry.options.map_entry = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("X509SVIDRequest", "X509SVIDResponse")
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]


Request, Response = messages()


class WorkloadApi:
    """The agent. A new one stalls: it takes calls and says nothing until it is told what."""

    def __init__(self, path: Path):
        self.path = path
        #: Calls so far, also those that were refused.
        self.calls = 0
        #: The metadata of each.
        self.metadata: list[dict[str, str | bytes]] = []
        self.identities: tuple[Identity, ...] = ()
        self._options: dict = {}
        self._lock = threading.Lock()
        self._open: set[queue.SimpleQueue] = set()
        #: What a new call hears first: a message, an end, or nothing.
        self._first: bytes | Denied | None = None
        self._server: grpc.Server | None = None
        self.start()

    def set(self, *identities: Identity, authorities: Iterable[Authority] | None = None,
            federated: dict[str, Iterable[Authority]] | None = None, revocation_lists: Iterable[bytes] = ()):
        """Hands these out, the first as the default. `authorities`: those of their trust domain,
        if not just the one that has signed; fewer than before revoke what is missing."""
        self.identities = identities
        self._options = {"authorities": authorities, "federated": federated, "revocation_lists": revocation_lists}
        response = Response(crl=list(revocation_lists))
        for identity in identities:
            trusted = [identity.authority] if authorities is None else authorities
            response.svids.add(
                spiffe_id=identity.id, x509_svid=identity.chain_der(), x509_svid_key=identity.key_der(),
                bundle=b"".join(authority.der() for authority in trusted),
            )
        for domain, trusted in (federated or {}).items():
            response.federated_bundles[domain] = b"".join(authority.der() for authority in trusted)
        self._say(response.SerializeToString())

    def rotate(self, **options) -> tuple[Identity, ...]:
        """New certificates and keys for the same names, all else as it was; returns them."""
        self.set(*(identity.again(**options) for identity in self.identities), **self._options)
        return self.identities

    def mismatch(self):
        """Hands out the certificate of one key with another key."""
        identity = self.identities[0]
        other = identity.again()
        mixed = Identity(identity.id, identity.certificate, other.key, identity.authority)
        good, options = self.identities, self._options
        self.set(mixed, **options)
        self.identities = good

    def garbage(self, message: bytes = b"\x0a\x7fgarbage"):
        """Sends what is no message of this proto."""
        self._say(message)

    def deny(self, text: str = "no identity issued"):
        """There is no identity for this workload (any more)."""
        self._say(Denied(text))

    def stall(self):
        """Says nothing to calls that come from now on."""
        with self._lock:
            self._first = None

    def disconnect(self):
        """Ends abruptly and comes back at once, as an agent that is restarted. It knows what it
        knew before."""
        self.stop()
        self.start()

    def stop(self):
        """Ends abruptly: nobody is behind the path any more."""
        if self._server:
            self._server.stop(None).wait(TIMEOUT)
            self._server = None
            self.path.unlink(missing_ok=True)

    def start(self):
        self._server = grpc.server(futures.ThreadPoolExecutor(32))
        handler = grpc.unary_stream_rpc_method_handler(self._fetch)
        service, method = METHOD.strip("/").split("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        assert self._server.add_insecure_port(f"unix:{self.path}"), self.path
        self._server.start()

    def wait_calls(self, count: int):
        eventually(lambda: self.calls >= count, f"{count} calls of the Workload API; there were {self.calls}")

    @property
    def open_calls(self) -> int:
        return len(self._open)

    def close(self):
        self.stop()

    def __enter__(self) -> WorkloadApi:
        return self

    def __exit__(self, *_):
        self.close()

    def _say(self, word: bytes | Denied):
        with self._lock:
            self._first = word
            for call in self._open:
                call.put(word)

    def _fetch(self, request: bytes, context):
        metadata = dict(context.invocation_metadata())
        words: queue.SimpleQueue = queue.SimpleQueue()
        with self._lock:
            self.calls += 1
            self.metadata.append(metadata)
            if self._first is not None:
                words.put(self._first)
            self._open.add(words)
        # None: the client has gone.
        if not context.add_callback(lambda: words.put(None)):
            words.put(None)
        try:
            if metadata.get(SECURITY[0]) != SECURITY[1]:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
            Request.FromString(request)
            while (word := words.get()) is not None:
                if isinstance(word, Denied):
                    context.abort(grpc.StatusCode.PERMISSION_DENIED, word.text)
                yield word
        finally:
            with self._lock:
                self._open.discard(words)


class Denied:
    def __init__(self, text: str):
        self.text = text
