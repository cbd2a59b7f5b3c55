"""W3C trace context as it comes from outside: read within bounds, and ignored as a whole if it is malformed.

Sources: W3C "Trace Context" (level 2) and "Baggage"; MCP 2026-07-28, ``_meta`` (SEP-414), which has the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
BAGGAGE: Final = "baggage"

MOST_STATE, MOST_STATE_MEMBERS = 512, 32
"""Characters and members of a ``tracestate`` that is passed on; the specification asks for no more."""
MOST_BAGGAGE, MOST_BAGGAGE_MEMBERS = 8192, 64
_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]{0,64})?")
_STATE_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}")
_BAGGAGE_MEMBER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*=[\x20-\x2b\x2d-\x7e]*")


class TraceContext(NamedTuple):
    """A span as others name it. ``sampled`` says whether its trace is recorded; ``state`` is the ``tracestate``."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""

    @property
    def traceparent(self) -> str:
        """As it travels."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{'01' if self.sampled else '00'}"

    def headers(self) -> dict[str, str]:
        """As it stands in headers, of HTTP and of Celery, and in ``_meta``."""
        found = {TRACEPARENT: self.traceparent}
        if self.state:
            found[TRACESTATE] = self.state
        return found


def read_context(carrier: Mapping[str, Any]) -> TraceContext | None:
    """The context in ``_meta`` or in headers; None if there is none, or none that can be read."""
    parent = carrier.get(TRACEPARENT)
    if not isinstance(parent, str) or (found := _PARENT.fullmatch(parent.strip())) is None:
        return None
    version, trace, span, flags, more = found.groups()
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not trace_id or not span_id or (version == "00" and more is not None):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1), _state(carrier.get(TRACESTATE)))


def _state(value: object) -> str:
    """A ``tracestate`` that may be passed on; empty otherwise, which does the trace no harm."""
    return _list(value, MOST_STATE, MOST_STATE_MEMBERS, _STATE_MEMBER)


def read_baggage(carrier: Mapping[str, Any]) -> str:
    """The ``baggage`` that may be passed on; empty if there is none, or it is malformed or beyond the bounds."""
    return _list(carrier.get(BAGGAGE), MOST_BAGGAGE, MOST_BAGGAGE_MEMBERS, _BAGGAGE_MEMBER)


def _list(value: object, most: int, members: int, member: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= most:
        return ""
    parts = [part.strip() for part in value.split(",")]
    if len(parts) > members or not all(member.fullmatch(part) for part in parts):
        return ""
    return ",".join(parts)
