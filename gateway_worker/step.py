"""The bootstep that ties the engine to Celery's consumer, at the start and after each reconnection."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.exceptions import ImproperlyConfigured
from kombu import pidbox

from common.domain.ids import QUEUE_PREFIX
from gateway_worker.channel import bridge
from gateway_worker.pool import EnginePool


class ControlNode(pidbox.Node):
    """Celery's remote control, which looks at the calls as they are at this moment."""

    def handle(self, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a command."""
        pool = self.state.consumer.pool if self.state is not None else None
        if isinstance(pool, EnginePool):
            pool.host.show()
        return super().handle(method, arguments)


class EngineStep(bootsteps.StartStopStep):
    """Starts after the task consumer; follows the registry unless ``-Q`` pinned the worker to some queues."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        chosen = consumer.app.amqp.queues._consume_from  # noqa: SLF001 - there is no public word for "-Q was given"
        self._pinned = chosen is not None

    def start(self, consumer: Any) -> None:
        """Attach, and take up the queues of the tools known by now."""
        pool = consumer.pool
        if not isinstance(pool, EnginePool):
            raise ImproperlyConfigured("this worker needs its own pool: start it without -P/--pool")
        pool.host.attach(consumer, follow_registry=not self._pinned, tools=pool.engine.tools)
        pool.host.follow_tools()
        if bridge.follow is not None:
            queues = [name for name in consumer.app.amqp.queues.consume_from if name.startswith(QUEUE_PREFIX)]
            bridge.follow(queues)

    def stop(self, consumer: Any) -> None:
        """Detach: events and queue changes wait for the next connection."""
        if isinstance(consumer.pool, EnginePool):
            consumer.pool.host.detach()
