"""The tasks by name. Calls take the engine's path; only delayed ones arrive here."""

from __future__ import annotations

from typing import Any

from celery import Celery

from common.calls.contract import INVOKE_TASK
from common.domain.invocation import result_to_wire
from gateway_worker.telemetry import InvokeTask


def register(app: Celery) -> None:
    """Register the tasks on the app."""

    @app.task(name=INVOKE_TASK, bind=True, base=InvokeTask, shared=False)
    def invoke(task: Any, invocation: dict[str, Any]) -> dict[str, Any]:
        """Run one invocation; returns an ExecutionResult as plain JSON."""
        from gateway_worker.pool import run_blocking

        return result_to_wire(run_blocking(invocation, task.request.id))
