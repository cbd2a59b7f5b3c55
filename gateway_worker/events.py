"""Celery's task events (Flower, ``celery events``): collected, and published many in one message.

Stock Celery buffers its task events as well and sends a list of them to the routing key ``task.multi``. Ours are
collected and encoded by the engine, and go out on its own connection: Celery's main thread, which has a connection of
its own for them, is not woken for a call. Events never tell arguments or results.
Specification: Celery documentation, "Monitoring", "Event Reference"; "Event Messages".
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
import structlog
from celery.utils.time import utcoffset

from common.calls.contract import REDACTED
from common.domain.errors import Status
from common.domain.invocation import ExecutionResult
from common.telemetry.about import About
from gateway_worker.outbox import Command
from gateway_worker.requests import RunningRequest

log = structlog.get_logger(__name__)

ROUTING_KEY = "task.multi"
MOST_TEXT = 200
"""Characters of what a client has chosen."""
CALL_FIELDS = {name: f"canalgate_{name}" for name in ("tool", "method", "tenant", "client", "request_id")}
"""What an event tells of a call: not under names that Celery has for something else."""
MAX_WAITING = 10_000
"""Begins and ends that wait to be published; beyond it they are dropped and counted."""
MAX_MESSAGE = 200
"""Begins and ends told in one message: as many as are encoded in less than a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSink:
    """Where Celery publishes events at present: a channel of Redis, its exchange, and Celery's logical clock."""

    topic: str
    exchange: str
    hostname: str
    tick: Callable[[], int]
    wanted: Callable[[], bool]


Moment = tuple[str, RunningRequest, float, dict[str, Any]]


class TaskEvents:
    """Belongs to the engine's thread, but for :meth:`attach`."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque()
        self._sink: EventSink | None = None
        self.dropped = 0

    def attach(self, sink: EventSink) -> None:
        """Publish there from now on. What was collected before goes there too."""
        self._sink = sink

    def began(self, request: RunningRequest) -> None:
        """A call was received and starts at once."""
        self._add("", request, request.time_start, {})

    def ended(self, request: RunningRequest, result: ExecutionResult) -> None:
        """A call ended; its event tells the status and never the result."""
        now = time.time()
        if result.answered:
            facts = {"result": f"<{result.status.value}>", "runtime": now - request.time_start}
            self._add("task-succeeded", request, now, facts)
        elif result.status is Status.DENIED:
            self._add("task-rejected", request, now, {"requeue": False})
        elif result.failure is not None:
            facts = {"exception": str(result.failure.code), "traceback": ""}
            self._add("task-failed", request, now, facts)

    def take(self) -> Iterator[Command]:
        """The commands that publish what has been collected by now, each made when it is asked for.

        The first is of one begin or end only, any other of a bounded part: where nobody hears the first, the others
        need not be made. What is not asked for is forgotten.
        """
        sink = self._sink
        if sink is None:
            return
        if self.dropped:
            log.warning("task_events_dropped", count=self.dropped)
            self.dropped = 0
        moments, self._moments = self._moments, deque()
        most = 1
        while moments:
            part = [moments.popleft() for _ in range(min(len(moments), most))]
            yield ("PUBLISH", sink.topic, _message(part, sink))
            most = MAX_MESSAGE

    def _add(self, kind: str, request: RunningRequest, moment: float, facts: dict[str, Any]) -> None:
        if self._sink is not None and not self._sink.wanted():
            return
        if len(self._moments) >= MAX_WAITING:
            self.dropped += 1
        else:
            self._moments.append((kind, request, moment, facts))


def _message(part: list[Moment], sink: EventSink) -> bytes:
    """kombu's envelope around a list of events."""
    body = orjson.dumps(list(_events(part, sink)))
    return orjson.dumps(
        {
            "body": body.decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"hostname": sink.hostname},
            "properties": {
                "delivery_mode": 1,
                "delivery_info": {"exchange": sink.exchange, "routing_key": ROUTING_KEY},
                "priority": 0,
                "body_encoding": "utf-8",
                "delivery_tag": str(uuid4()),
            },
        }
    )


def _events(part: list[Moment], sink: EventSink) -> Iterator[dict[str, Any]]:
    always = {"hostname": sink.hostname, "utcoffset": utcoffset(), "pid": os.getpid()}
    for kind, request, moment, facts in part:
        about = {**always, "uuid": request.id, "timestamp": moment}
        if kind:
            yield {**about, "type": kind, "clock": sink.tick(), **facts}
            continue
        received = {"name": request.name, "args": REDACTED, "kwargs": "{}", "retries": 0}
        whose = {} if request.about is None else told_of(request.about)
        queue = {"exchange": "", "routing_key": request.queue}
        yield {**about, "type": "task-received", "clock": sink.tick(), **received, **queue, **whose}
        yield {**about, "type": "task-started", "clock": sink.tick()}


def told_of(about: About) -> dict[str, str]:
    """Whose call it is, as an event tells it beside what Celery's have: stock monitors ignore it."""
    facts = about.facts()
    return {field: str(facts[name])[:MOST_TEXT] for name, field in CALL_FIELDS.items() if name in facts}
