"""An OTLP collector: a real receiver for HTTP and for gRPC, that keeps the spans it is sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


@dataclass(frozen=True, kw_only=True)
class SpanSeen:
    """A span as it came; ids are hexadecimal, ``parent`` is empty for a root."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    failed: bool
    milliseconds: float

    @property
    def error(self) -> str | None:
        """Its ``error.type``."""
        return self.attributes.get("error.type")


@dataclass
class Collector:
    """What has come. While it is ``down`` it refuses everything."""

    http_url: str = ""
    grpc_url: str = ""
    spans: list[SpanSeen] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    down: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        """One request of an exporter."""
        request = service.ExportTraceServiceRequest.FromString(body)
        found = [
            _seen(span, _attributes(of_resource.resource.attributes))
            for of_resource in request.resource_spans
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self.raw.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            self.spans += found

    def trace(self, trace_id: str) -> list[SpanSeen]:
        """The spans of one trace, parents before children, then by name."""
        with self._lock:
            spans = [span for span in self.spans if span.trace == trace_id]
        by_id = {span.id: span for span in spans}

        def depth(span: SpanSeen) -> int:
            return 1 + depth(by_id[span.parent]) if span.parent in by_id else 0

        return sorted(spans, key=lambda span: (depth(span), span.name))

    def named(self, name: str) -> list[SpanSeen]:
        """All spans of a name."""
        with self._lock:
            return [span for span in self.spans if span.name == name]


def _seen(span: Any, resource: dict[str, Any]) -> SpanSeen:
    return SpanSeen(
        name=span.name,
        kind=KINDS[span.kind],
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        state=span.trace_state,
        attributes=_attributes(span.attributes),
        resource=resource,
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        failed=span.status.code == 2,
        milliseconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
    )


def _attributes(pairs: Sequence[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on free ports, for both protocols."""
    found = Collector()
    http, rpc = _http_server(found), grpc.server(futures.ThreadPoolExecutor(2))
    services.add_TraceServiceServicer_to_server(_Service(found), rpc)
    found.http_url = f"http://127.0.0.1:{http.server_address[1]}"
    found.grpc_url = f"http://127.0.0.1:{rpc.add_insecure_port('127.0.0.1:0')}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    rpc.start()
    try:
        yield found
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        rpc.stop(None).wait()


class _Service(services.TraceServiceServicer):  # type: ignore[misc]
    def __init__(self, found: Collector) -> None:
        self._found = found

    def Export(self, request: Any, context: Any) -> Any:
        if self._found.down:
            context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        self._found.take(request.SerializeToString(), dict(context.invocation_metadata()))
        return service.ExportTraceServiceResponse()


def _http_server(found: Collector) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = 404 if self.path != "/v1/traces" else 503 if found.down else 200
            if status == 200:
                unzipped = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
                found.take(unzipped, dict(self.headers.items()))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: it is no test's business."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)
