"""What Flower remembers of calls and of workers, redacted before it is remembered."""

from __future__ import annotations

from typing import Any

from celery import states
from celery.events.state import Task
from flower.events import Events, EventsState
from flower.inspector import Inspector

from gateway_worker.events import CALL_FIELDS
from gateway_worker.monitor.redaction import shown_answer, shown_event

WORKERS = 1000
"""Workers that are remembered."""


class Call(Task):
    """A task of Celery, and whose call it is."""

    _fields = (*Task._fields, *CALL_FIELDS.values())  # type: ignore[attr-defined]
    merge_rules = {states.RECEIVED: (*Task.merge_rules[states.RECEIVED], *CALL_FIELDS.values())}  # noqa: RUF012
    canalgate_tool = canalgate_method = canalgate_tenant = canalgate_client = canalgate_request_id = None


class Remembered(EventsState):  # type: ignore[misc]
    """Calls and workers, as their events tell."""

    Task = Call

    def event(self, event: dict[str, Any]) -> None:
        """Remember it. Belongs to Flower's loop."""
        super().event(shown_event(event))


class Heard(Events):  # type: ignore[misc]
    """Listens to the events. It never switches a worker's events on: ``worker.events`` decides on them."""

    def __init__(self, app: Any, loop: Any, *, calls: int) -> None:
        super().__init__(
            app, loop, enable_events=False, max_tasks_in_memory=calls, max_workers_in_memory=WORKERS
        )
        self.state = Remembered(max_tasks_in_memory=calls, max_workers_in_memory=WORKERS)


class Asked(Inspector):  # type: ignore[misc]
    """Asks the workers how they are."""

    def _on_update(self, workername: str, method: str, response: Any) -> None:
        super()._on_update(workername, method, shown_answer(method, response))
