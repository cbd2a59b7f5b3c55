"""The Celery worker around the engine: its state, its events, its queues.

The engine calls from its own thread. Whatever touches the broker connection is handed to Celery's main loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from celery.worker import state

from common.calls.contract import REDACTED
from common.domain.errors import Status
from common.domain.ids import ToolId, queue_of
from common.domain.invocation import ExecutionResult
from gateway_worker.requests import RunningRequest

log = structlog.get_logger(__name__)

Tools = Callable[[], list[ToolId]]


class CeleryHost:
    """Implements :class:`gateway_worker.engine.Host`."""

    def __init__(self) -> None:
        self._consumer: Any = None
        self._hub: Any = None
        self._follow_registry = False
        self._engine_tools: Tools = list
        self._followed: set[str] = set()
        self._work: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._deliveries: deque[Callable[[Any], None]] = deque()

    def attach(self, consumer: Any, *, follow_registry: bool, tools: Tools) -> None:
        """The consumer is connected. ``follow_registry`` is False for a worker pinned by ``-Q``."""
        self._consumer = consumer
        self._hub = consumer.hub
        self._follow_registry = follow_registry
        self._engine_tools = tools
        self._later(self._deliver_all)

    def detach(self) -> None:
        """The consumer is gone for now."""
        self._consumer = None

    def reserved(self, request: RunningRequest) -> None:
        """Show a call to inspection, and announce it."""
        self._later(lambda: state.task_reserved(request))
        self._event("task-received", request, name=request.name, args=REDACTED, kwargs="{}", retries=0)

    def accepted(self, request: RunningRequest) -> None:
        """A call begins."""
        self._later(lambda: state.task_accepted(request))
        self._event("task-started", request)

    def ready(self, request: RunningRequest, result: ExecutionResult) -> None:
        """A call ended; its event tells the status and never the result."""
        self._later(lambda: state.task_ready(request, successful=result.answered))
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

    def deliver(self, envelope: dict[str, Any], queue: str, taken: Callable[[], None]) -> None:
        """Celery's own path: a foreign or delayed task in a tool's queue.

        ``taken`` is called once Celery has it; while the consumer is away it waits, and stays recorded as ours.
        """

        def hand_over(consumer: Any) -> None:
            consumer.connection.transport._deliver(envelope, queue)  # noqa: SLF001 - kombu has no other door
            taken()

        self._deliveries.append(hand_over)
        self._later(self._deliver_all)

    def tools_changed(self) -> None:
        """Take up the queues of new tools, drop those of removed ones."""
        self._later(self.follow_tools)

    def follow_tools(self) -> None:
        """Act on what changed in the catalogue since the last look. Runs on Celery's main loop.

        Only on that: a queue that an operator cancelled or added by remote control stays as he wants it.
        """
        consumer = self._consumer
        if consumer is None or not self._follow_registry or consumer.task_consumer is None:
            return
        wanted = {queue_of(tool) for tool in self._engine_tools()}
        for queue in sorted(wanted - self._followed):
            consumer.add_task_queue(queue)
        for queue in sorted(self._followed - wanted):
            consumer.cancel_task_queue(queue)
        self._followed = wanted

    def _deliver_all(self) -> None:
        while self._consumer is not None and self._deliveries:
            self._deliveries.popleft()(self._consumer)

    def _event(self, kind: str, request: RunningRequest, **fields: Any) -> None:
        fields |= {"uuid": request.id, "timestamp": time.time()}

        def send() -> None:
            dispatcher = self._consumer.event_dispatcher if self._consumer is not None else None
            if dispatcher is not None and dispatcher.enabled:
                dispatcher.send(kind, **fields)

        self._later(send)

    def _later(self, work: Callable[[], None]) -> None:
        """Run on Celery's main loop, in order; before the first connection it waits.

        Celery's state is sets that its remote control walks over: only its own thread may change them.
        """
        self._work.append(work)
        if self._hub is not None and not self._scheduled:
            self._scheduled = True
            self._hub.call_soon(self._run_work)

    def _run_work(self) -> None:
        # First the mark, then the work: what is appended from now on schedules anew.
        self._scheduled = False
        while self._work:
            work = self._work.popleft()
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next must run
                # A connection that broke is Celery's to find; the rest of the work is not to suffer.
                log.warning("celery_work_failed", error=repr(error))
