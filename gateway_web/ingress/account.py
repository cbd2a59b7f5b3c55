"""The account of one request: what its log lines carry, its span, and its line in the access log.

It is opened when a message was understood to be a request, and closed when its answer was given, which for a stream is
its end. What is refused before (no identity, no JSON) has none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import structlog

from common.domain.errors import ErrorCode, GatewayError
from common.domain.ids import McpSessionId
from common.domain.invocation import Caller, ExecutionResult, Invocation
from common.mcp.jsonrpc import JsonRpcError, Request, dumps
from common.metrics.figures import OK, OTHER, RPC_ERROR, Figures
from common.telemetry import conventions as names
from common.telemetry.about import About
from common.telemetry.context import TRACEPARENT, read_context
from common.telemetry.spans import Kind, Span, Tracer
from gateway_web.http import HttpAnswer

ACCESS = "canalgate.access"
"""The logger of the access log: a line for each request, at debug, since it makes a call a quarter dearer."""
access = structlog.get_logger(ACCESS)
_level = logging.getLogger(ACCESS)

NOTHING: Mapping[str, str] = {}
METHODS = frozenset(
    {
        *("initialize", "ping", "logging/setLevel", "server/discover", "subscriptions/listen"),
        *(
            "resources/subscribe",
            "resources/unsubscribe",
            "tools/list",
            "tools/call",
            "prompts/list",
            "prompts/get",
        ),
        *("resources/list", "resources/templates/list", "resources/read", "completion/complete"),
    }
)
"""The methods that are counted by name."""
_OUTCOMES = frozenset({OK, names.TOOL_ERROR, "INTERNAL", *(code.value for code in ErrorCode)})


class Account(About):
    """Of one request. Opened and closed in one thread; log lines of others may read it."""

    __slots__ = ("_begun", "_figures", "outcome")

    def __init__(
        self, request: Request, caller: Caller, tool: str | None, figures: Figures | None = None
    ) -> None:
        super().__init__(tool=tool or "")
        self.caller = caller
        self.method = request.method
        self.request_id = request.id
        self.outcome = ""
        """A code of an error; empty for a good end."""
        self._figures = figures
        self._begun = time.perf_counter()

    def described(self, version: str, session: McpSessionId | None) -> None:
        """The revision that the client speaks, and its MCP session."""
        if self.span is not None:
            self.span.attributes[names.MCP_VERSION] = version[: names.MOST_TEXT]
            if session is not None:
                self.span.attributes[names.MCP_SESSION] = session

    def result(self, result: ExecutionResult) -> None:
        """The call that the request became has ended so."""
        failure = result.failure
        if failure is None:
            self.outcome = names.TOOL_ERROR if (result.result or {}).get("isError") is True else ""
        else:
            self.outcome = failure.code.value if failure.rpc is None else str(failure.rpc.get("code"))[:32]
        if self.span is not None:
            self.span.result(result)

    def failed(self, error: BaseException) -> None:
        """It was refused, or broke."""
        span = self.span
        if isinstance(error, GatewayError):
            self.outcome = error.code.value
            if span is not None:
                span.refused(error)
        elif isinstance(error, JsonRpcError):
            self.outcome = str(error.code)
            if span is not None:
                span.answered_error(error.code)
        else:
            self.outcome = "INTERNAL"
            if span is not None:
                span.fail(self.outcome)

    def close(self) -> None:
        """Its answer was given. A second time does nothing."""
        if self.ended:
            return
        if _level.isEnabledFor(logging.DEBUG):
            self._write()
        if self._figures is not None:
            self._count(self._figures)
        self.ended = True
        if self.span is not None:
            _called(self.span, self.invocation)
            self.span.end()

    def close_with(self, answer: HttpAnswer) -> HttpAnswer:
        """Close with an answer: at once if it is whole, else with its last piece."""
        if isinstance(answer.body, bytes):
            self.close()
        else:
            answer.on_close = partial(_both, answer.on_close, self.close)
        return answer

    def _count(self, figures: Figures) -> None:
        """Methods and outcomes that anybody may invent are not told apart."""
        method = self.method if self.method in METHODS else OTHER
        outcome = self.outcome or OK
        if outcome not in _OUTCOMES:
            outcome = RPC_ERROR
        figures.request(method, outcome, time.perf_counter() - self._begun)

    def _write(self) -> None:
        milliseconds = (time.perf_counter() - self._begun) * 1000
        # The facts by hand: the line may be written where another context is current.
        access.debug(
            "request", duration_ms=round(milliseconds, 2), outcome=self.outcome or "ok", **self.facts()
        )


def _both(first: Any, then: Any) -> None:
    try:
        if first is not None:
            first()
    finally:
        then()


def _called(span: Span, call: Invocation | None) -> None:
    """What became of the request, in its span."""
    if call is not None:
        span.attributes[names.INVOCATION] = call.id
        span.attributes[names.TOOL] = call.tool


def with_ambient(raw: bytes, request: Request, headers: Mapping[str, str]) -> bytes:
    """A message that is answered elsewhere than where it came in, with the context of its HTTP headers in ``_meta``.

    As it is, if the headers have none, or the message has its own.
    """
    context, meta = read_context(headers), request.params.get("_meta", {})
    if context is None or not isinstance(meta, dict) or TRACEPARENT in meta:
        return raw
    params = {**request.params, "_meta": {**meta, **context.headers()}}
    return dumps({"jsonrpc": "2.0", "id": request.id, "method": request.method, "params": params})


class Accounts:
    """Opens them. One a process; without a tracer none has a span."""

    def __init__(self, tracer: Tracer | None, figures: Figures | None = None) -> None:
        self._tracer = tracer
        self._figures = figures

    def open(
        self,
        request: Request,
        caller: Caller,
        tool: str | None,
        *,
        protocol: str,
        headers: Mapping[str, str] = NOTHING,
    ) -> Account:
        """The account of a request, which the lines of this context are about from now on.

        ``headers`` are those that came with this very request, by their lower-case names; ``protocol`` is what carries
        it over TCP.
        """
        account = Account(request, caller, tool, self._figures)
        if self._tracer is not None:
            account.span = self._span(self._tracer, request, caller, protocol, headers)
        account.enter()
        return account

    def _span(
        self, tracer: Tracer, request: Request, caller: Caller, protocol: str, headers: Mapping[str, str]
    ) -> Span | None:
        meta = request.params.get("_meta")
        told = read_context(meta) if isinstance(meta, dict) else None
        ambient = read_context(headers)
        parent = told or ambient
        context = tracer.sampled(parent)
        if context is None:
            return None
        name, attributes = names.request_attributes(request.method, request.params)
        attributes[names.REQUEST_ID] = str(request.id)[: names.MOST_TEXT]
        attributes[names.TRANSPORT] = "tcp"
        attributes[names.PROTOCOL] = protocol
        attributes[names.TENANT] = caller.tenant
        attributes[names.CLIENT] = caller.client
        span = tracer.span(name, Kind.SERVER, context, parent, attributes, carrier=headers)
        if told is not None:
            # The conventions for MCP: the context in the message is the parent, the one around it is linked.
            span.link(ambient)
        return span
