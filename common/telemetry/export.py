"""From our spans to OpenTelemetry's, and out. The only module that imports OpenTelemetry, and only when tracing is on.

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
from typing import Any

import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from common import __version__
from common.telemetry.context import TraceContext
from common.telemetry.plan import Plan
from common.telemetry.spans import Kind, Span

log = structlog.get_logger(__name__)

SCOPE = InstrumentationScope("canalgate", __version__)
TELL_EVERY = 60.0
"""Seconds between two lines about spans that were lost."""
CLOSE_TIMEOUT = 3.0
"""Seconds that a process that ends takes to send what is left."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {kind: SpanKind[kind.name] for kind in Kind}
_OK, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class SpanQueue:
    """Takes ended spans, and sends them. Its thread begins with the first span: nothing of it crosses a fork."""

    def __init__(
        self,
        make: Callable[[], SpanExporter],
        resource: Resource,
        *,
        most: int,
        batch: int,
        interval: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``most`` spans wait, ``batch`` go out together, at least every ``interval`` seconds; ``now`` is a clock."""
        self._make = make
        self._resource = resource
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
        self._exporter: SpanExporter | None = None
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
            if self._exporter is not None:
                self._exporter.shutdown()

    def _send_all(self) -> None:
        while self._waiting:
            spans = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            try:
                if self._exporter is None:
                    self._exporter = self._make()
                sent = self._exporter.export([self._readable(span) for span in spans])
            except Exception as error:  # noqa: BLE001 - whatever it is, the next batch must be tried
                log.debug("spans_not_sent", error=repr(error))
                sent = SpanExportResult.FAILURE
            if sent is not SpanExportResult.SUCCESS:
                self.lost += len(spans)
        if (self.dropped or self.lost) and self._now() - self._told >= TELL_EVERY:
            log.warning("spans_lost", queue_full=self.dropped, not_taken=self.lost)
            self._told = self._now()
            self.dropped = self.lost = 0

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context=_context(span.context, remote=False),
            parent=None if span.parent is None else _context(span.parent, remote=True),
            resource=self._resource,
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


def span_queue(plan: Plan) -> SpanQueue:
    """The queue of a plan. Raises what a wrong plan raises, here and not in its thread."""
    attributes: dict[str, Any] = {"service.version": __version__, **plan.resource}
    resource = Resource.create(attributes)
    return SpanQueue(
        _exporter(plan), resource, most=plan.most_waiting, batch=plan.batch, interval=plan.interval
    )


def _exporter(plan: Plan) -> Callable[[], SpanExporter]:
    """What makes the exporter, in the thread that uses it; imported here, since that takes a moment."""
    if plan.exporter == "console":
        return lambda: ConsoleSpanExporter(out=sys.stderr, formatter=_line)
    headers = dict(plan.headers) or None
    if plan.exporter == "otlp_http":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        def make() -> SpanExporter:
            return OTLPSpanExporter(endpoint=plan.traces_url, headers=headers)

        # One is made here, for what is wrong with it, and for what it imports only then.
        make().shutdown()
        return make
    if "gevent" in sys.modules:
        # gRPC waits outside of Python: without this every greenlet would wait with it.
        import grpc.experimental.gevent as grpc_gevent

        grpc_gevent.init_gevent()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return lambda: GrpcExporter(endpoint=plan.endpoint, headers=headers)


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


__all__: Sequence[str] = ("SpanQueue", "span_queue")
