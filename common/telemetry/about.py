"""What every log line says of the call, or of the tool session, in whose course it is written.

One context variable holds one small object; a line that is written takes from it what is known by then. It counts only
until the call has ended: a task or a greenlet that began in its course and lives on, and so has a copy of the context,
says nothing of it any more.
"""

from __future__ import annotations

from contextvars import Context, ContextVar
from typing import Any

from common.domain.invocation import Caller, Invocation
from common.telemetry.spans import Span

_current: ContextVar[About | None] = ContextVar("about", default=None)


class About:
    """Whose course it is. What is None or empty is not known (yet), or does not apply."""

    __slots__ = (
        "caller",
        "client",
        "ended",
        "id",
        "invocation",
        "method",
        "node",
        "request_id",
        "session",
        "span",
        "tenant",
        "tool",
    )

    def __init__(self, *, tool: str = "", session: str = "", node: str = "") -> None:
        """``session`` is the tool session, ``node`` the worker that has it."""
        self.ended = False
        self.caller: Caller | None = None
        self.tenant = self.client = self.method = self.id = ""
        self.tool = tool
        self.session = session
        self.node = node
        self.request_id: str | int | None = None
        self.invocation: Invocation | None = None
        self.span: Span | None = None

    def enter(self) -> None:
        """Lines of this context are about it from now on."""
        _current.set(self)

    def facts(self) -> dict[str, Any]:
        """What is known, under the names that lines have."""
        call = self.invocation
        caller = self.caller if call is None else call.caller
        span = self.span
        found: dict[str, Any] = {
            "tenant": self.tenant if caller is None else caller.tenant,
            "client": self.client if caller is None else caller.client,
            "tool": self.tool if call is None else call.tool,
            "method": (self.method if call is None else call.method)[:100],
            "request_id": self.request_id if call is None else call.request_id,
            "invocation": self.id if call is None else call.id,
            "mcp_session": None if call is None else call.mcp_session,
            "session": self.session,
            "node": self.node,
        }
        if span is not None:
            found["trace_id"] = f"{span.context.trace_id:032x}"
            found["span_id"] = f"{span.context.span_id:016x}"
        return {name: value for name, value in found.items() if value not in ("", None)}


def current() -> About | None:
    """Whose course this is; None outside any."""
    about = _current.get()
    return None if about is None or about.ended else about


def trace_id() -> str:
    """The id of the trace that this is recorded in; empty if it is not."""
    about = current()
    return "" if about is None or about.span is None else f"{about.span.context.trace_id:032x}"


def note(invocation: Invocation) -> None:
    """The request in whose course this is has become this call."""
    about = current()
    if about is not None:
        about.invocation = invocation


def leave() -> None:
    """Lines of this context are about nothing from now on."""
    _current.set(None)


def apart(about: About | None = None) -> Context:
    """A context for what lives on by itself: nothing of the present one is in it, and its lines are ``about`` this."""
    context = Context()
    context.run(_current.set, about)
    return context


def add_facts(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """A processor of structlog: what the line itself says goes first."""
    about = current()
    return event if about is None else {**about.facts(), **event}
