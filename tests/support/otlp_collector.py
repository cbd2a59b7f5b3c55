"""An OTLP collector: a real receiver for HTTP and for gRPC, that keeps the spans and metrics it is sent."""

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
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_services
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


@dataclass(frozen=True, kw_only=True)
class PointSeen:
    """A point of a metric as it came. ``value`` of a histogram is its count; times are ns."""

    name: str
    kind: str
    unit: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    value: float
    sum: float = 0.0
    buckets: tuple[int, ...] = ()
    bounds: tuple[float, ...] = ()
    cumulative: bool = True
    monotonic: bool = False
    since: int = 0
    at: int = 0

    @property
    def instance(self) -> str:
        """Whose it is."""
        return str(self.resource["service.instance.id"])


@dataclass
class Collector:
    """What has come. While it is ``down`` it refuses everything."""

    http_url: str = ""
    grpc_url: str = ""
    spans: list[SpanSeen] = field(default_factory=list)
    points: list[PointSeen] = field(default_factory=list)
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

    def take_metrics(self, body: bytes, headers: dict[str, str]) -> None:
        """One request of an exporter of metrics."""
        request = metrics_service.ExportMetricsServiceRequest.FromString(body)
        found = [
            point
            for of_resource in request.resource_metrics
            for scope in of_resource.scope_metrics
            for metric in scope.metrics
            for point in _points(metric, _attributes(of_resource.resource.attributes))
        ]
        with self._lock:
            self.raw.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            self.points += found

    def latest(self, name: str, **attributes: str) -> list[PointSeen]:
        """The newest point of each series of a metric with these attributes."""
        with self._lock:
            found = {
                (point.instance, *sorted(point.attributes.items())): point
                for point in self.points
                if point.name == name and attributes.items() <= point.attributes.items()
            }
        return list(found.values())

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


def _points(metric: Any, resource: dict[str, Any]) -> Iterator[PointSeen]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    for point in data.data_points:
        is_histogram = kind == "histogram"
        yield PointSeen(
            name=metric.name,
            kind=kind,
            unit=metric.unit,
            attributes=_attributes(point.attributes),
            resource=resource,
            value=point.count if is_histogram else point.as_double,
            sum=point.sum if is_histogram else 0.0,
            buckets=tuple(point.bucket_counts) if is_histogram else (),
            bounds=tuple(point.explicit_bounds) if is_histogram else (),
            cumulative=kind == "gauge" or data.aggregation_temporality == 2,
            monotonic=kind == "sum" and data.is_monotonic,
            since=point.start_time_unix_nano,
            at=point.time_unix_nano,
        )


def _attributes(pairs: Sequence[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on free ports, for both protocols."""
    found = Collector()
    http, rpc = _http_server(found), grpc.server(futures.ThreadPoolExecutor(2))
    services.add_TraceServiceServicer_to_server(_Service(found), rpc)
    metrics_services.add_MetricsServiceServicer_to_server(_Metrics(found), rpc)
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


class _Metrics(metrics_services.MetricsServiceServicer):  # type: ignore[misc]
    def __init__(self, found: Collector) -> None:
        self._found = found

    def Export(self, request: Any, context: Any) -> Any:
        if self._found.down:
            context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        self._found.take_metrics(request.SerializeToString(), dict(context.invocation_metadata()))
        return metrics_service.ExportMetricsServiceResponse()


def _http_server(found: Collector) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            take = {"/v1/traces": found.take, "/v1/metrics": found.take_metrics}.get(self.path)
            status = 404 if take is None else 503 if found.down else 200
            if take is not None and status == 200:
                unzipped = gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body
                take(unzipped, dict(self.headers.items()))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: it is no test's business."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)
