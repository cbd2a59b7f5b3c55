"""The Celery worker around the engine: its state, its events, its queues.

The engine calls from its own thread, and no call of a tool wakes Celery's. What Celery shows of running calls
(``state``: sets that its remote control walks over, so only its own thread may change them) is brought up to date when
somebody looks, and once a second. Whatever touches the broker connection is handed to Celery's main loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

import structlog
from celery.utils.collections import LimitedSet
from celery.worker import state

from common.calls.contract import INVOKE_TASK
from common.domain.ids import ToolId, queue_of
from common.domain.invocation import ExecutionResult
from gateway_worker.channel import Channel
from gateway_worker.events import ROUTING_KEY, EventSink, TaskEvents
from gateway_worker.outbox import Command
from gateway_worker.requests import RunningRequest

log = structlog.get_logger(__name__)

DELIVER_AGAIN = 1.0
"""Seconds until a message is handed over again to a Celery whose connection had just broken."""
SHOW_INTERVAL = 1.0
"""Seconds; for Celery's heartbeat and autoscaler, which look without a word."""
MOST_TICKS = 2**63 - 1

Tools = Callable[[], list[ToolId]]


class CeleryHost:
    """Implements :class:`gateway_worker.engine.Host`."""

    def __init__(self) -> None:
        self._consumer: Any = None
        self._hub: Any = None
        self._timer: Any = None
        self._tasks: Collection[str] = ()
        self._follow_registry = False
        self._engine_tools: Tools = list
        self._followed: set[str] = set()
        self._work: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._deliveries: deque[Callable[[Any], None]] = deque()
        self._events = TaskEvents()
        self._calls: dict[str, RunningRequest] = {}
        self._revoked = LimitedSet(maxlen=state.REVOKES_MAX, expires=state.REVOKE_EXPIRES)
        self._revoked_unshown: deque[str] = deque(maxlen=state.REVOKES_MAX)
        self._begun = 0
        self._counted = 0

    def attach(self, consumer: Any, *, follow_registry: bool, tools: Tools) -> None:
        """The consumer is connected. ``follow_registry`` is False for a worker pinned by ``-Q``."""
        self._consumer = consumer
        self._hub = consumer.hub
        self._tasks = consumer.app.tasks
        self._follow_registry = follow_registry
        self._engine_tools = tools
        self._timer = consumer.timer.call_repeatedly(SHOW_INTERVAL, self.show)
        self._events.attach(event_sink(consumer))
        self._later(self._deliver_all)

    def detach(self) -> None:
        """The consumer is gone for now. Its calls go on, and so do their events."""
        self.show()
        self._consumer = None
        if self._timer is not None:
            self._timer.cancel()

    # -- calls, from the engine's thread ----------------------------------------------------------------

    def began(self, request: RunningRequest) -> None:
        """A call begins."""
        self._calls[request.id] = request
        self._begun += 1
        self._events.began(request)

    def ended(self, request: RunningRequest, result: ExecutionResult) -> None:
        """A call ended."""
        self._calls.pop(request.id, None)
        self._events.ended(request, result)

    def events(self) -> Iterator[Command]:
        """Commands that publish the events so far."""
        return self._events.take()

    def show(self) -> None:
        """Bring Celery's state up to date. Runs in Celery's main thread."""
        calls = self._calls.copy()
        for request in tuple(state.active_requests):
            if isinstance(request, RunningRequest) and calls.get(request.id) is not request:
                state.task_ready(request)
        for request in calls.values():
            if request not in state.active_requests:
                state.requests[request.id] = request
                state.reserved_requests.add(request)
                state.active_requests.add(request)
        while self._revoked_unshown:
            state.revoked.add(self._revoked_unshown.popleft())
        begun, self._counted = self._begun - self._counted, self._begun
        if begun:
            state.total_count.update({INVOKE_TASK: begun})
            state.all_total_count[0] += begun

    def revoked(self, task_id: str) -> bool:
        """Whether ``revoke`` or a caller's cancellation named it."""
        return task_id in self._revoked or task_id in state.revoked

    def revoke(self, task_id: str) -> None:
        """Remember a call that must not begin: here at once, in Celery's state at its next look."""
        self._revoked.add(task_id)
        self._revoked_unshown.append(task_id)

    def registered(self, task: str) -> bool:
        """Whether the app has a task of this name."""
        return task in self._tasks

    # -- Celery's own path, and its queues --------------------------------------------------------------

    def deliver(
        self,
        envelope: dict[str, Any],
        queue: str,
        taken: Callable[[], None],
        refused: Callable[[], None],
    ) -> None:
        """Celery's own path: a foreign or delayed task in a tool's queue.

        ``taken`` is called once Celery has it, ``refused`` if it cannot read it; while the consumer is away or loses
        its connection it waits, and stays recorded as ours.
        """

        def hand_over(consumer: Any) -> None:
            try:
                consumer.connection.transport._deliver(envelope, queue)  # noqa: SLF001 - kombu has no other door
            except Exception as error:
                # kombu counts KeyError among the errors of connections; here it comes from the message.
                if isinstance(error, consumer.connection_errors) and not isinstance(error, KeyError):
                    self._deliveries.appendleft(hand_over)
                    consumer.timer.call_after(DELIVER_AGAIN, self._later, (self._deliver_all,))
                    raise
                log.warning("delivery_refused", queue=queue, error=type(error).__name__)
                refused()
                # kombu recorded it before it failed, and would put it back into its queue when the worker stops.
                consumer.task_consumer.channel.qos.ack(envelope["properties"]["delivery_tag"])
            else:
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

    def _later(self, work: Callable[[], None]) -> None:
        """Run on Celery's main loop, in order; before the first connection it waits."""
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


def event_sink(consumer: Any) -> EventSink:
    """Where this consumer's dispatcher publishes, and whether anybody switched task events on."""
    dispatcher = consumer.event_dispatcher
    channel = dispatcher.connection.default_channel
    if not isinstance(channel, Channel):
        raise TypeError(f"events go over {type(channel).__name__}, which is not this worker's channel")
    return EventSink(
        topic=channel.fanout_topic(dispatcher.exchange.name, ROUTING_KEY),
        exchange=dispatcher.exchange.name,
        hostname=dispatcher.hostname,
        # Any control message may set the clock, to any number: a larger one could not be written as JSON.
        tick=lambda: consumer.app.clock.forward() & MOST_TICKS,
        wanted=_Wanted(dispatcher),
    )


class _Wanted:
    """Whether task events are wanted: Celery's ``-E``, ``enable_events`` and ``disable_events`` decide.

    A dispatcher that was closed with its connection says no more what is wanted: then it is as it was before.
    """

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._last = False
        self()

    def __call__(self) -> bool:
        if self._dispatcher.enabled:
            groups = self._dispatcher.groups
            self._last = not groups or "task" in groups
        return self._last
