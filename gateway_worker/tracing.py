"""The spans of a call in the worker: its own, the start of a session it waits for, and each exchange with the backend.

They continue the trace that the message's headers carry, whoever sent it (``opentelemetry-instrumentation-celery``
writes the same). A call that is not traced costs one look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from common.calls.contract import ORIGIN
from common.calls.head import parts_of
from common.domain.custom import CustomTransport
from common.domain.errors import ErrorCode, GatewayError
from common.domain.ids import tool_of
from common.domain.invocation import ExecutionResult, Invocation
from common.domain.tool import HttpTransport, Tool
from common.store.clock import RedisClock
from common.telemetry import conventions as names
from common.telemetry.about import About
from common.telemetry.context import read_context
from common.telemetry.spans import Kind, Span, Tracer
from gateway_worker.about import about_call
from gateway_worker.conversation import CallClock
from gateway_worker.delivery import Held
from gateway_worker.egress.backend import Backend
from gateway_worker.egress.link import RpcError
from gateway_worker.tool_session import ToolSession


def entered(held: Held, tracer: Tracer | None, clock: RedisClock) -> About:
    """A call begins in this task, whose log lines are about it from now on. It has a span if it is traced."""
    about = held.about = about_call(held.head, held.node)
    if tracer is not None:
        about.span = _begun_span(tracer, held, clock)
    about.enter()
    return about


def left(about: About, result: ExecutionResult | None) -> None:
    """It has ended, or gone back. An answer is no failure of the worker's, be it an error of the tool."""
    about.ended = True
    if about.span is not None:
        if result is not None and not result.answered:
            about.span.result(result)
        about.span.end()


def _begun_span(tracer: Tracer, held: Held, clock: RedisClock) -> Span | None:
    """The span of a call; None if it is not traced.

    A web process has decided for its calls: of one whose message carries no trace, none is recorded. What another
    producer sends without one begins one here.
    """
    headers = held.message.headers
    parent = read_context(headers)
    if parent is None and str(headers.get("origin")).startswith(ORIGIN):
        return None
    context = tracer.sampled(parent, trusted=True)
    if context is None:
        return None
    head = held.head
    tenant, client, _ = parts_of(head.session)
    attributes: dict[str, Any] = {
        names.MESSAGING_SYSTEM: "celery",
        names.MESSAGING_OPERATION: "process",
        names.MESSAGING_TYPE: "process",
        names.DESTINATION: head.queue,
        names.MESSAGE_ID: head.id,
        names.TASK: held.message.task,
        names.INVOCATION: head.id,
        names.TOOL: tool_of(head.queue) or "",
        names.NODE: held.node,
        names.SESSION: head.session,
        names.ATTEMPT: head.attempt,
    }
    if tenant:
        attributes |= {names.TENANT: tenant, names.CLIENT: client}
    enqueued = held.message.envelope.get("enqueued_at")
    if isinstance(enqueued, int):
        attributes[names.QUEUE_WAIT] = max(0, clock.now() - enqueued)
    return tracer.span(
        f"process {head.queue}", Kind.CONSUMER, context, parent, attributes, carrier=held.message.headers
    )


@contextmanager
def session_start(span: Span | None, session: ToolSession) -> Iterator[None]:
    """While a call waits for its session to start. Later calls of the session link to what started it."""
    if span is None:
        yield
        return
    starting = span.child(
        f"start {session.key.tool}",
        Kind.INTERNAL,
        {names.TOOL: session.key.tool, names.SESSION: session.key.session},
    )
    if session.started_in is None:
        session.started_in = starting.context
    else:
        starting.link(session.started_in)
    try:
        yield
    except GatewayError as error:
        starting.refused(error)
        raise
    except asyncio.CancelledError:
        starting.fail(ErrorCode.INVOCATION_CANCELLED.value)
        raise
    finally:
        starting.end()


@contextmanager
def exchange_span(
    span: Span,
    session: ToolSession,
    backend: Backend,
    invocation: Invocation,
    clock: CallClock | None,
    attempt: int,
) -> Iterator[Span]:
    """One exchange with the backend; the caller tells it of the result. ``attempt`` counts from 0."""
    name, attributes = names.request_attributes(invocation.method, invocation.params)
    attributes |= _where(session.tool)
    attributes[names.MCP_VERSION] = backend.negotiated.version
    attributes[names.TOOL] = session.key.tool
    attributes[names.ATTEMPT] = attempt
    sent = span.child(name, Kind.CLIENT, attributes)
    if session.started_in is not None and session.started_in.trace_id != span.context.trace_id:
        sent.link(session.started_in)
    try:
        yield sent
    except RpcError as error:
        sent.answered_error(error.code)
        raise
    except GatewayError as error:
        sent.refused(error)
        raise
    except asyncio.CancelledError:
        late = clock is not None and clock.remaining <= 0
        sent.fail((ErrorCode.INVOCATION_TIMEOUT if late else ErrorCode.INVOCATION_CANCELLED).value)
        raise
    except Exception:
        sent.fail(ErrorCode.INTERNAL.value)
        raise
    finally:
        sent.end()


def answered(span: Span, raw: Mapping[str, Any]) -> None:
    """The backend gave this result."""
    if raw.get("isError") is True:
        span.fail(names.TOOL_ERROR)


def _where(tool: Tool) -> dict[str, Any]:
    """Where the backend is: never the whole URL, which may hold a secret."""
    if isinstance(tool.transport, CustomTransport):
        return {}
    if not isinstance(tool.transport, HttpTransport):
        return {names.TRANSPORT: "pipe"}
    parts = urlsplit(tool.transport.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {
        names.TRANSPORT: "tcp",
        names.PROTOCOL: "http",
        names.SERVER_ADDRESS: parts.hostname or "",
        names.SERVER_PORT: port,
    }
