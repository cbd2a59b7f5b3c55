"""The worker's pool: calls run on the engine's loop, Celery's other tasks on a few threads."""

from __future__ import annotations

from typing import Any

from celery.concurrency.thread import TaskPool
from celery.worker import state

from common.domain.invocation import ExecutionResult
from gateway_worker.celery_host import CeleryHost
from gateway_worker.channel import bridge
from gateway_worker.engine import Engine
from gateway_worker.settings import address, settings

HOUSEKEEPING_THREADS = 4


class EnginePool(TaskPool):
    """``-c`` is the most calls in flight."""

    def __init__(self, limit: int, *, initargs: tuple[Any, ...], **options: Any) -> None:
        super().__init__(limit=HOUSEKEEPING_THREADS, initargs=initargs, **options)
        self.limit = limit
        _, hostname = initargs
        self.host = CeleryHost()
        self.engine = Engine(settings(), address(), hostname=hostname, limit=limit, host=self.host)

    def on_start(self) -> None:
        """Start the engine before Celery consumes anything."""
        self.engine.start()
        bridge.follow = self.engine.follow
        current.pool = self

    def on_stop(self) -> None:
        """Warm shutdown: let the calls in flight end."""
        self.engine.stop(drain_timeout=0 if state.should_terminate else None)
        super().on_stop()

    def on_terminate(self) -> None:
        """Cold shutdown: cut them off, and say so to their callers."""
        self.engine.stop(drain_timeout=0)

    def grow(self, n: int = 1) -> None:
        """``pool_grow``: more calls in flight."""
        self.engine.limit += n
        self.limit = self.engine.limit

    def shrink(self, n: int = 1) -> None:
        """``pool_shrink``: fewer; those that run end first."""
        self.engine.limit = max(1, self.engine.limit - n)
        self.limit = self.engine.limit

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()  # type: ignore[misc]
        info.update(
            {"max-concurrency": self.limit, "in-flight": self.engine.in_flight, "node": self.engine.node}
        )
        return info


class _Current:
    """The pool of this process, for tasks that come by Celery's own path."""

    pool: EnginePool | None = None


current = _Current()


def run_blocking(payload: object, task_id: str) -> ExecutionResult:
    """Run an invocation on this process's engine. Raises RuntimeError outside a worker."""
    if current.pool is None:
        raise RuntimeError("gateway.invoke runs only in a worker started with the engine's pool")
    return current.pool.engine.run_blocking(payload, task_id)
