"""kombu's Redis transport, but for the tool queues: those the engine fetches.

Celery goes on believing that it consumes them, so ``-Q``, ``add_consumer``, ``cancel_consumer`` and
``inspect active_queues`` work as ever; this channel tells the engine instead of Redis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.transport import redis

from common.domain.ids import QUEUE_PREFIX

Follow = Callable[[list[str]], None]


class _Bridge:
    """Where the channels of this process find its engine."""

    follow: Follow | None = None


bridge = _Bridge()


class Channel(redis.Channel):
    """Leaves ``tool.*`` to the engine."""

    _leaving = False
    _tools: tuple[str, ...] = ()

    @property
    def active_queues(self) -> list[str]:  # type: ignore[override]
        """The queues that kombu itself asks Redis for."""
        return [queue for queue in super().active_queues if not queue.startswith(QUEUE_PREFIX)]

    def _update_queue_cycle(self) -> None:
        super()._update_queue_cycle()  # type: ignore[misc]
        # Closing a channel cancels its consumers one by one. That is no wish to stop fetching: after a lost
        # connection the next channel takes them up again, and meanwhile the engine has its own connections.
        tools = tuple(queue for queue in super().active_queues if queue.startswith(QUEUE_PREFIX))
        # Remote control has channels of its own that never consume a tool's queue: they have nothing to report.
        if bridge.follow is not None and not self._leaving and tools != self._tools:
            self._tools = tools
            bridge.follow(list(tools))

    def fanout_topic(self, exchange: str, routing_key: str) -> str:
        """The Redis channel on which kombu publishes what is sent to a fanout exchange."""
        topic: str = self._get_publish_topic(exchange, routing_key)  # type: ignore[attr-defined]
        return topic

    def close(self) -> None:
        """Close the channel, not the engine's queues."""
        self._leaving = True
        super().close()


class Transport(redis.Transport):
    """The transport of worker processes; producers and monitors use kombu's own."""

    Channel = Channel


def install() -> None:
    """Make ``redis://`` mean this transport in this process."""
    from kombu import transport

    aliases: dict[str, Any] = transport.TRANSPORT_ALIASES
    for scheme in ("redis", "rediss"):
        aliases[scheme] = "gateway_worker.channel:Transport"
