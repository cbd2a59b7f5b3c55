"""The tasks by name. Calls take the engine's path; only delayed ones arrive here."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.exceptions import Ignore

from common.calls.contract import INVOKE_TASK
from common.domain.invocation import result_to_wire
from common.telemetry.context import BAGGAGE, TRACEPARENT, TRACESTATE
from gateway_worker.telemetry import InvokeTask

_TRACE = (TRACEPARENT, TRACESTATE, BAGGAGE)


def _trace(request: Any) -> dict[str, str]:
    """The trace's headers, which Celery makes attributes of the request."""
    found = {name: getattr(request, name, None) for name in _TRACE}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def register(app: Celery) -> None:
    """Register the tasks on the app."""

    @app.task(name=INVOKE_TASK, bind=True, base=InvokeTask, shared=False)
    def invoke(task: Any, invocation: dict[str, Any]) -> dict[str, Any]:
        """A delayed invocation is due: it goes on its tool's queue, and its result comes from there.

        Returns an ExecutionResult as plain JSON only if it is refused.
        """
        from gateway_worker.pool import enqueue

        refusal = enqueue(invocation, task.request.id, _trace(task.request))
        if refusal is None:
            # Celery stores no result then: the engine does, under the same id, when the call has its end.
            raise Ignore
        return result_to_wire(refusal)
