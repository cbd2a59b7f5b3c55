"""Running calls in the form in which Celery's inspection and control look at them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from common.calls.contract import REDACTED
from common.telemetry.about import About
from gateway_worker.message import TaskMessage


class RunningRequest:
    """Stands in ``celery.worker.state`` where a stock worker has its ``Request``. Made when the call begins."""

    __slots__ = (
        "__weakref__",
        "_cancel",
        "about",
        "eventer",
        "hostname",
        "id",
        "name",
        "queue",
        "time_start",
    )

    task = SimpleNamespace(acks_late=False)
    acknowledged = False

    def __init__(self, message: TaskMessage, *, hostname: str, cancel: Callable[[str], None]) -> None:
        """``cancel`` is called with the id, in any thread."""
        self.id = message.id
        self.name = message.task
        self.hostname = hostname
        self.queue = message.queue
        self.time_start = time.time()
        self.about: About | None = None
        """Whose call it is, as far as it is known by now."""
        self.eventer: Any = None  # Celery's event step assigns it after a reconnection
        self._cancel = cancel

    def info(self, *, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """What ``inspect active`` shows: never the arguments."""
        return {
            "id": self.id,
            "name": self.name,
            "args": REDACTED,
            "kwargs": {},
            "type": self.name,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": {"exchange": "", "routing_key": self.queue, "priority": 0, "redelivered": False},
            "worker_pid": os.getpid(),
        }

    def terminate(self, pool: Any, signal: Any = None, **_: Any) -> None:  # noqa: ARG002 - Celery's signature
        """``revoke(terminate=True)``, or a cold shutdown: cancel the call, and with it the backend's."""
        self._cancel(self.id)

    cancel = terminate
