"""Celery's own form of a task that waits or runs, without what it was given.

``inspect scheduled``, ``reserved``, ``active`` and ``query_task`` answer with it, to whoever may publish in Redis, and
Flower asks for the answers. Celery's own says the arguments themselves there, whatever ``argsrepr`` is.
"""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.worker.request import Request

from common.calls.contract import REDACTED


class DiscreetRequest(Request):
    """A delayed call, or a task of Celery's own."""

    def info(self, safe: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002 - Celery's signature
        """What inspection shows: never the arguments."""
        return {**super().info(safe=True), "args": REDACTED, "kwargs": {}}


class DiscreetTask(Task):  # type: ignore[type-arg] # generic in its stubs only
    """What every task of the app is made of."""

    Request = f"{DiscreetRequest.__module__}:{DiscreetRequest.__name__}"
