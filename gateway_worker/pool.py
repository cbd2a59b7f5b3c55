"""The worker's pool: calls run on the engine's loop, Celery's other tasks on a few threads."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

from celery.concurrency.thread import TaskPool
from celery.worker import state

from common.calls.contract import INVOKE_TASK
from common.domain.invocation import ExecutionResult
from common.telemetry.start import start_tracing
from gateway_worker.celery_host import CeleryHost
from gateway_worker.channel import bridge
from gateway_worker.engine import Engine
from gateway_worker.reloading import WorkerReload
from gateway_worker.settings import address, settings
from gateway_worker.telemetry import TaskSignals

HOUSEKEEPING_THREADS = 4
MOST_AT_ONCE = 10_000
"""By how much the calls in flight may be changed at a time."""
COLLECT_AT = (20_000, 20, 50)
"""Garbage collection: new objects that start the first generation's, and rounds of one generation to the next."""


class EnginePool(TaskPool):
    """``-c`` is the most calls in flight."""

    def __init__(self, limit: int, *, initargs: tuple[Any, ...], **options: Any) -> None:
        super().__init__(limit=HOUSEKEEPING_THREADS, initargs=initargs, **options)
        self.limit = limit
        app, hostname = initargs
        self.hostname: str = hostname
        self.host = CeleryHost()
        self.engine = Engine(
            settings(),
            address(),
            hostname=hostname,
            limit=limit,
            host=self.host,
            signals=TaskSignals(app.tasks[INVOKE_TASK], hostname=hostname),
            # Not from one of Celery's signals: an error there would only be logged.
            tracer=start_tracing(settings().telemetry, settings().egress.rules, "worker"),
        )

    def on_start(self) -> None:
        """Start the engine before Celery consumes anything."""
        self.engine.start()
        _set_aside_what_was_loaded()
        bridge.follow = self.engine.follow
        current.pool = self
        WorkerReload(self.engine, self.hostname).listen()

    def on_stop(self) -> None:
        """Warm shutdown: let the calls in flight end."""
        self.engine.stop(drain_timeout=0 if state.should_terminate else None)
        self.host.show()
        super().on_stop()

    def on_terminate(self) -> None:
        """Cold shutdown: cut them off, and say so to their callers."""
        self.engine.stop(drain_timeout=0)

    def grow(self, n: int = 1) -> None:
        """``pool_grow``: more calls in flight. Raises :class:`ValueError` for what is no number of them."""
        self.engine.limit += _number(n)
        self.limit = self.engine.limit

    def shrink(self, n: int = 1) -> None:
        """``pool_shrink``: fewer; those that run end first. Raises :class:`ValueError` as :meth:`grow` does."""
        self.engine.limit = max(1, self.engine.limit - _number(n))
        self.limit = self.engine.limit

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()  # type: ignore[misc]
        info.update(
            {"max-concurrency": self.limit, "in-flight": self.engine.in_flight, "node": self.engine.node}
        )
        return info


def _number(n: object) -> int:
    """Celery passes on whatever it was sent."""
    if type(n) is not int or not 1 <= n <= MOST_AT_ONCE:
        raise ValueError(f"n must be a whole number from 1 to {MOST_AT_ONCE}")
    return n


def _set_aside_what_was_loaded() -> None:
    """Take everything that was made by now out of garbage collection, and collect more rarely.

    Celery and what it imports are some hundred thousand objects that live for ever. Looking through them takes a
    full collection up to 0.1 s, in which no call moves on. The registry, which comes later, is large as well where
    there are hundreds of tools: by Python's own thresholds it would be looked through many times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)


class _Current:
    """The pool of this process, for tasks that come by Celery's own path."""

    pool: EnginePool | None = None


current = _Current()


def enqueue(payload: object, task_id: str, trace: Mapping[str, str] | None = None) -> ExecutionResult | None:
    """Queue a delayed invocation that is due. Raises RuntimeError outside a worker."""
    if current.pool is None:
        raise RuntimeError("gateway.invoke runs only in a worker started with the engine's pool")
    return current.pool.engine.enqueue(payload, task_id, trace)
