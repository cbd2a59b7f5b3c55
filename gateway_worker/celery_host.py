"""The Celery worker around the engine: its state, its events, its queues.

The engine calls from its own thread. Whatever touches the broker connection is handed to Celery's main loop.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from celery.worker import state

from common.domain.errors import Status
from common.domain.ids import queue_of
from common.domain.invocation import ExecutionResult
from gateway_worker.requests import RunningRequest

log = structlog.get_logger(__name__)


class CeleryHost:
    """Implements :class:`gateway_worker.engine.Host`."""

    def __init__(self) -> None:
        self._consumer: Any = None
        self._follow_registry = False
        self._engine_tools: Any = None

    def attach(self, consumer: Any, *, follow_registry: bool, tools: Any) -> None:
        """The consumer is connected. ``follow_registry`` is False for a worker pinned by ``-Q``."""
        self._consumer = consumer
        self._follow_registry = follow_registry
        self._engine_tools = tools

    def detach(self) -> None:
        """The consumer is gone for now."""
        self._consumer = None

    def reserved(self, request: RunningRequest) -> None:
        """Show a call to inspection, and announce it."""
        state.task_reserved(request)
        self._event(
            "task-received", request, name=request.name, args=request.argsrepr, kwargs="{}", retries=0
        )

    def accepted(self, request: RunningRequest) -> None:
        """A call begins."""
        state.task_accepted(request)
        self._event("task-started", request)

    def ready(self, request: RunningRequest, result: ExecutionResult) -> None:
        """A call ended; its event tells the status and never the result."""
        state.task_ready(request, successful=result.answered)
        if result.answered:
            runtime = time.time() - (request.time_start or time.time())
            self._event("task-succeeded", request, result=f"<{result.status.value}>", runtime=runtime)
        elif result.failure is not None and result.status is Status.DENIED:
            self._event("task-rejected", request, requeue=False)
        elif result.failure is not None:
            self._event("task-failed", request, exception=str(result.failure.code), traceback="")

    def revoked(self, task_id: str) -> bool:
        """Whether ``revoke`` or a caller's cancellation named it."""
        return task_id in state.revoked

    def revoke(self, task_id: str) -> None:
        """Remember a call that must not begin."""
        state.revoked.add(task_id)

    def deliver(self, envelope: dict[str, Any], queue: str) -> None:
        """Celery's own path: a foreign or delayed task in a tool's queue."""
        self._on_main(lambda consumer: consumer.connection.transport._deliver(envelope, queue))  # noqa: SLF001

    def tools_changed(self) -> None:
        """Take up the queues of new tools, drop those of removed ones."""
        self._on_main(lambda _: self.follow_tools())

    def follow_tools(self) -> None:
        """Compare the catalogue with what is consumed. Runs on Celery's main loop."""
        consumer = self._consumer
        if consumer is None or not self._follow_registry or consumer.task_consumer is None:
            return
        wanted = {queue_of(tool) for tool in self._engine_tools()}
        present = {name for name in consumer.app.amqp.queues.consume_from if name.startswith("tool.")}
        for queue in sorted(wanted - present):
            consumer.add_task_queue(queue)
        for queue in sorted(present - wanted):
            consumer.cancel_task_queue(queue)

    def _event(self, kind: str, request: RunningRequest, **fields: Any) -> None:
        consumer = self._consumer
        if consumer is None or not consumer.event_dispatcher or not consumer.event_dispatcher.enabled:
            return
        fields |= {"uuid": request.id, "timestamp": time.time()}
        self._on_main(lambda main: main.event_dispatcher.send(kind, **fields))

    def _on_main(self, work: Any) -> None:
        consumer = self._consumer
        if consumer is None or consumer.hub is None:
            log.debug("consumer_away")
            return

        def run() -> None:
            # Whatever fails here belongs to a connection that Celery is about to find broken itself.
            if self._consumer is not None:
                work(self._consumer)

        consumer.hub.call_soon(run)
