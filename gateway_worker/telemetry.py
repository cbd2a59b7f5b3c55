"""Celery's task signals for calls on the engine's path, so that whoever instruments Celery sees them.

Celery sends ``task_prerun``, ``task_postrun`` and ``task_failure`` from its tracer, which these calls never pass
through. OpenTelemetry's instrumentation listens to them: the span of a call begins with the first, is made current in
the context in which that is sent, and ends with the second in the same context; the caller's trace context is read
from the message's headers through ``task.request``. So both are sent inside the call's own asyncio task.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import signals
from celery.app.task import Context

from common.calls.contract import REDACTED
from common.domain.errors import GatewayError
from common.domain.invocation import ExecutionResult, error_of
from gateway_worker.discreet import DiscreetTask
from gateway_worker.message import TaskMessage

_METHODS = frozenset(name for name in dir(Context) if callable(getattr(Context, name)))
"""A header of such a name would hide the method."""
_request: ContextVar[Context | None] = ContextVar("request", default=None)


class InvokeTask(DiscreetTask):
    """A task of which many run at once in one thread: each call's asyncio task has its own ``request``."""

    resultrepr_maxsize = 0
    """Celery shows so many characters of a delayed call's result in its log and events."""

    @property
    def request(self) -> Context:
        """The request of the call that asks; on Celery's own path what it is always."""
        return _request.get() or super().request


class TaskSignals:
    """Sends the signals, as long as anybody listens. Receivers see the arguments as ``<redacted>``.

    A receiver that raises is logged by Celery and harms nobody.
    """

    def __init__(self, task: Any, *, hostname: str) -> None:
        self._task = task
        self._hostname = hostname

    @property
    def wanted(self) -> bool:
        """Whether anybody listens now."""
        return bool(
            signals.task_prerun.receivers or signals.task_postrun.receivers or signals.task_failure.receivers
        )

    def begin(self, message: TaskMessage) -> None:
        """A call begins; sent in its asyncio task."""
        _request.set(_request_of(message, self._hostname))
        signals.task_prerun.send(
            sender=self._task, task_id=message.id, task=self._task, args=(REDACTED,), kwargs={}
        )

    def end(self, message: TaskMessage, result: ExecutionResult) -> None:
        """It ended, in the same asyncio task. As with Celery's results, only what is no answer is a failure."""
        if not result.answered and result.failure is not None:
            error = error_of(result.failure)
            info = _exception_info(error)
            signals.task_failure.send(
                sender=self._task,
                task_id=message.id,
                exception=error,
                args=(REDACTED,),
                kwargs={},
                traceback=info.tb,
                einfo=info,
            )
        signals.task_postrun.send(
            sender=self._task,
            task_id=message.id,
            task=self._task,
            args=(REDACTED,),
            kwargs={},
            retval=REDACTED,
            state="SUCCESS" if result.answered else "FAILURE",
        )


def _request_of(message: TaskMessage, hostname: str) -> Context:
    """The request as Celery's tracer makes it of a message, without the arguments."""
    headers = {str(name): value for name, value in message.headers.items() if name not in _METHODS}
    properties: Mapping[str, Any] = message.envelope["properties"]
    limits = headers.get("timelimit")
    return Context(
        headers,
        argsrepr=REDACTED,
        kwargsrepr="{}",
        called_directly=False,
        # The one header that receivers look into: another type would cost the end of the span.
        timelimit=limits if isinstance(limits, list) else None,
        hostname=hostname,
        correlation_id=properties.get("correlation_id"),
        reply_to=message.reply_to or None,
        delivery_info={"exchange": "", "routing_key": message.queue, "priority": 0, "redelivered": False},
    )


def _exception_info(error: GatewayError) -> ExceptionInfo:
    try:
        raise error
    except GatewayError:
        return ExceptionInfo()
