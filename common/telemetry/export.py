"""From our spans to OpenTelemetry's exporters. Imports OpenTelemetry; is imported itself only where something is sent.

A call never waits for the collector: an ended span goes into a bounded queue, and a thread of its own sends what is
there. Under gevent that thread is a greenlet. Where the queue is full the span is dropped, counted, and told of rarely.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from common import __version__
from common.domain.egress import EgressRules
from common.telemetry.context import TraceContext
from common.telemetry.otlp import request
from common.telemetry.plan import CLOSE_TIMEOUT, TELL_EVERY, Plan
from common.telemetry.spans import Kind, Span

log = structlog.get_logger(__name__)

SCOPE = InstrumentationScope("canalgate", __version__)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {kind: SpanKind[kind.name] for kind in Kind}
_OK, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class Sender(Protocol):
    """Where ended spans go. Made and used in one thread."""

    def send(self, spans: Sequence[Span]) -> bool:
        """Send them; False if they were not taken. It may take as long as it likes, and raise anything."""

    def close(self) -> None:
        """Let go of the connection."""


class SpanQueue:
    """Takes ended spans, and sends them. Its thread begins with the first span: nothing of it crosses a fork."""

    def __init__(
        self,
        make: Callable[[], Sender],
        *,
        most: int,
        batch: int,
        interval: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``most`` spans wait, ``batch`` go out together, at least every ``interval`` seconds; ``now`` is a clock."""
        self._make = make
        self._most = most
        self._batch = batch
        self._interval = interval
        self._now = now
        self._told = -TELL_EVERY
        self._begin_anew()
        # A strong reference would keep every queue that a test ever made.
        anew = weakref.WeakMethod(self._begin_anew)
        os.register_at_fork(after_in_child=lambda: (method := anew()) and method())

    def _begin_anew(self) -> None:
        """As if nothing had been; in a fork, whose parent sends what was there."""
        self.dropped = self.lost = 0
        """Spans that found no room, and spans that the collector did not take."""
        self._waiting: deque[Span] = deque()
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sender: Sender | None = None
        self._closing = False

    def put(self, span: Span) -> None:
        """Take an ended span, or drop it. Never waits, never raises."""
        if len(self._waiting) >= self._most:
            self.dropped += 1
            return
        self._waiting.append(span)
        if self._thread is None:
            self._start()
        if len(self._waiting) == self._batch:
            self._wake.set()

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Send what is left, for ``timeout`` seconds at most."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        # Whoever instruments the HTTP client as well would make spans of sending spans.
        with suppress_instrumentation():
            while not self._closing:
                self._wake.wait(self._interval)
                self._wake.clear()
                self._send_all()
            if self._sender is not None:
                self._sender.close()

    def _send_all(self) -> None:
        while self._waiting:
            spans = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            try:
                if self._sender is None:
                    self._sender = self._make()
                sent = self._sender.send(spans)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next batch must be tried
                log.debug("spans_not_sent", error=repr(error))
                sent = False
            if not sent:
                self.lost += len(spans)
        if (self.dropped or self.lost) and self._now() - self._told >= TELL_EVERY:
            log.warning("spans_lost", queue_full=self.dropped, not_taken=self.lost)
            self._told = self._now()
            self.dropped = self.lost = 0


def readable(span: Span, resource: Resource) -> ReadableSpan:
    """A span in the SDK's form."""
    remote = span.kind in (Kind.SERVER, Kind.CONSUMER)
    return ReadableSpan(
        span.name,
        context=_context(span.context, remote=False),
        parent=None if span.parent is None else _context(span.parent, remote=remote),
        resource=resource,
        attributes=span.attributes,
        links=[Link(_context(link, remote=True)) for link in span.links],
        kind=_KINDS[span.kind],
        status=_ERROR if span.error else _OK,
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=SCOPE,
    )


def _context(context: TraceContext, *, remote: bool) -> SpanContext:
    state = TraceState.from_header([context.state]) if context.state else None
    return SpanContext(context.trace_id, context.span_id, remote, _SAMPLED, state)


class _Console:
    """A line of JSON for each span, on standard error."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource

    def send(self, spans: Sequence[Span]) -> bool:
        sys.stderr.writelines(f"{readable(span, self._resource).to_json(indent=None)}\n" for span in spans)
        sys.stderr.flush()
        return True

    def close(self) -> None:
        """There is nothing to let go of."""


class _Otlp:
    """An exporter of OpenTelemetry's, which has connection, TLS, compression and patience, without its encoder."""

    def __init__(
        self, resource: Resource, export: Callable[[bytes], bool], close: Callable[[], None]
    ) -> None:
        whole = encode_spans([ReadableSpan("", _NOBODY, resource=resource, instrumentation_scope=SCOPE)])
        (of_resource,) = whole.resource_spans
        self._resource = of_resource.resource.SerializeToString()
        self._scope = of_resource.scope_spans[0].scope.SerializeToString()
        self._export = export
        self.close = close

    def send(self, spans: Sequence[Span]) -> bool:
        return self._export(request(self._resource, self._scope, spans))


_NOBODY = SpanContext(1, 1, is_remote=False)


def span_queue(plan: Plan, egress: EgressRules) -> SpanQueue:
    """The queue of a plan. Raises what a wrong plan raises, here and not in its thread."""
    attributes: dict[str, Any] = {"service.version": __version__, **plan.resource}
    make = _sender(plan, egress, Resource.create(attributes))
    return SpanQueue(make, most=plan.most_waiting, batch=plan.batch, interval=plan.interval)


def _sender(plan: Plan, egress: EgressRules, resource: Resource) -> Callable[[], Sender]:
    """What makes the sender, in the thread that uses it; what it needs is imported here, since that takes a moment."""
    if plan.exporter == "console":
        return lambda: _Console(resource)
    if plan.exporter == "otlp_http":
        return _by_http(plan, egress, resource)
    return _by_grpc(plan, resource)


def _by_http(plan: Plan, egress: EgressRules, resource: Resource) -> Callable[[], Sender]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from common.egress.session import guarded_session

    class Exporter(OTLPSpanExporter):
        def post(self, body: bytes) -> bool:
            return bool(self._client.export(body).success)

    def make() -> Sender:
        session = guarded_session(egress, local=True)
        exporter = Exporter(endpoint=plan.traces_url, headers=dict(plan.headers) or None, session=session)
        return _Otlp(resource, exporter.post, exporter.shutdown)

    # One is made here, for what is wrong with it, and for what it imports only then.
    make().close()
    return make


def grpc_beside_gevent() -> None:
    """gRPC waits outside of Python: without this every greenlet would wait with it."""
    if "gevent" in sys.modules:
        import grpc.experimental.gevent as grpc_gevent

        grpc_gevent.init_gevent()


def _by_grpc(plan: Plan, resource: Resource) -> Callable[[], Sender]:
    grpc_beside_gevent()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    class Exporter(OTLPSpanExporter):
        def _translate_data(self, data: Any) -> ExportTraceServiceRequest:
            read: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(data[0])
            return read

        def post(self, body: bytes) -> bool:
            sent: Any = [body]
            return self.export(sent) is SpanExportResult.SUCCESS

    def make() -> Sender:
        exporter = Exporter(endpoint=plan.endpoint, headers=dict(plan.headers) or None)
        return _Otlp(resource, exporter.post, exporter.shutdown)

    return make
