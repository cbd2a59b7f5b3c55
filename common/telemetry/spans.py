"""Spans, and the decision which calls have any.

They are decided on before anything is made: of a call that is not sampled there is no span object, no attribute and no
header. What is made is small, and becomes OpenTelemetry's on the exporter's own thread (``export``).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from common.domain.errors import GatewayError
from common.domain.invocation import ExecutionResult
from common.telemetry.context import BAGGAGE, TRACEPARENT, TRACESTATE, TraceContext, read_baggage
from common.telemetry.conventions import ERROR_TYPE, RPC_STATUS, STAGE, TOOL_ERROR

_LOW = (1 << 64) - 1


class Kind(Enum):
    """What a span is towards the other side."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span:
    """Something that took time. Belongs to one thread or task at a time; :meth:`end` it once."""

    __slots__ = (
        "_sink",
        "attributes",
        "baggage",
        "context",
        "end_ns",
        "error",
        "kind",
        "links",
        "name",
        "parent",
        "start_ns",
    )

    def __init__(
        self,
        sink: Callable[[Span], None],
        name: str,
        kind: Kind,
        context: TraceContext,
        parent: TraceContext | None,
        attributes: dict[str, Any],
        baggage: str = "",
    ) -> None:
        """``baggage`` is what is passed on of it; empty for none."""
        self._sink = sink
        self.name = name
        self.kind = kind
        self.context = context
        self.parent = parent
        self.attributes = attributes
        self.baggage = baggage
        self.links: list[TraceContext] = []
        self.error = ""
        self.start_ns = time.time_ns()
        self.end_ns = 0

    def child(self, name: str, kind: Kind, attributes: dict[str, Any]) -> Span:
        """A span below this one."""
        context = TraceContext(self.context.trace_id, _new_id(64), sampled=True, state=self.context.state)
        return Span(self._sink, name, kind, context, self.context, attributes, self.baggage)

    def link(self, other: TraceContext | None) -> None:
        """Name a span that has to do with this one and is not its parent."""
        if other is not None and other != self.parent:
            self.links.append(other)

    def fail(self, error: str) -> None:
        """Mark it as failed; ``error`` is a code, never a text, which might quote an argument."""
        self.error = self.attributes[ERROR_TYPE] = error

    def refused(self, error: GatewayError) -> None:
        """Mark it as failed by one of our own errors."""
        self.fail(error.code.value)
        if isinstance(stage := error.data.get("stage"), str):
            self.attributes[STAGE] = stage

    def answered_error(self, code: object) -> None:
        """Mark it as answered by a JSON-RPC error."""
        self.attributes[RPC_STATUS] = str(code)[:32]
        self.fail(str(code)[:32])

    def result(self, result: ExecutionResult) -> None:
        """Take over how a call ended, as its caller sees it."""
        failure = result.failure
        if failure is None:
            if result.result is not None and result.result.get("isError") is True:
                self.fail(TOOL_ERROR)
        elif failure.rpc is not None:
            self.answered_error(failure.rpc.get("code"))
        else:
            self.fail(failure.code.value)
            if isinstance(stage := failure.data.get("stage"), str):
                self.attributes[STAGE] = stage

    def headers(self) -> dict[str, str]:
        """What carries the trace on, in the headers of HTTP and of Celery."""
        found = self.context.headers()
        if self.baggage:
            found[BAGGAGE] = self.baggage
        return found

    def carried(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """``params`` of a request with the trace in ``_meta``, in the place of what the client sent there.

        The client's own baggage stays there as all else of ``_meta``, if it is within bounds.
        """
        meta = params.get("_meta")
        kept = dict(meta) if isinstance(meta, Mapping) else {}
        for name in (TRACEPARENT, TRACESTATE):
            kept.pop(name, None)
        if BAGGAGE in kept and not read_baggage(kept):
            del kept[BAGGAGE]
        own = self.headers()
        if BAGGAGE in kept:
            own.pop(BAGGAGE, None)
        return {**params, "_meta": {**kept, **own}}

    def end(self) -> None:
        """It is over. A second time does nothing."""
        if not self.end_ns:
            self.end_ns = time.time_ns()
            self._sink(self)


class Tracer:
    """Begins traces, and goes on with those of others. Any thread may use it; it never waits and never raises."""

    def __init__(
        self,
        sink: Callable[[Span], None],
        *,
        ratio: float = 1.0,
        trust_client: bool = True,
        baggage: bool = False,
    ) -> None:
        """``sink`` takes spans that have ended; it must not block. ``ratio`` is the part of traces that are recorded.

        ``trust_client`` says whether a context from outside decides for itself; ``baggage`` whether baggage goes on.
        """
        self._sink = sink
        self._bound = round(ratio * (1 << 64))
        self._trust_client = trust_client
        self._baggage = baggage

    def sampled(self, parent: TraceContext | None, *, trusted: bool | None = None) -> TraceContext | None:
        """The context of a new span below ``parent``; None if it is not recorded.

        ``trusted`` says whether the parent decides; as the settings have it if it is not given. Otherwise the trace's
        id does, in the same way in every process (as OpenTelemetry's TraceIdRatioBased).
        """
        if parent is None:
            trace_id = _new_id(128)
            return TraceContext(trace_id, _new_id(64), sampled=True) if self._within(trace_id) else None
        decides = self._trust_client if trusted is None else trusted
        if not (parent.sampled if decides else self._within(parent.trace_id)):
            return None
        return TraceContext(parent.trace_id, _new_id(64), sampled=True, state=parent.state)

    def _within(self, trace_id: int) -> bool:
        return trace_id & _LOW < self._bound

    def span(
        self,
        name: str,
        kind: Kind,
        context: TraceContext,
        parent: TraceContext | None,
        attributes: dict[str, Any],
        *,
        carrier: Mapping[str, Any] | None = None,
    ) -> Span:
        """A span of a context that :meth:`sampled` gave; ``carrier`` is where baggage may stand."""
        baggage = read_baggage(carrier) if carrier is not None and self._baggage else ""
        return Span(self._sink, name, kind, context, parent, attributes, baggage)


def _new_id(bits: int) -> int:
    """A random id, which must not be 0."""
    return random.getrandbits(bits) or 1
