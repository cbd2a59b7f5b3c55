"""The gateway at one look: Redis, workers, tools and their queues, and whether calls can be served."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from common.calls.dead_letters import DeadLetters
from common.control.cluster import QueueStatus, WorkerStatus, queues, workers
from common.control.tools import ToolOverview, overview, overview_to_wire
from common.domain.circuit import CircuitState
from common.domain.errors import StoreUnavailable
from common.domain.tool import ToolState
from common.store.client import Client
from common.store.keys import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How everything stands, each part a moment apart. ``redis`` is False, and all else empty, if it did not answer."""

    redis: bool
    workers: tuple[WorkerStatus, ...] = ()
    tools: tuple[tuple[ToolOverview, QueueStatus], ...] = ()
    dead_letters: int = 0

    @property
    def missing(self) -> tuple[str, ...]:
        """What keeps calls from being served; empty: nothing, so the gateway is ready."""
        if not self.redis:
            return ("Redis does not answer",)
        found = []
        if not any(worker.lease > 0 for worker in self.workers):
            found.append("no worker lives")
        if not any(_serves(tool) for tool, _ in self.tools):
            found.append("no tool takes calls" if self.tools else "no tool is registered")
        return tuple(found)

    @property
    def ready(self) -> bool:
        return not self.missing


def status(client: Client, keys: Keys) -> Status:
    """How everything stands. Degrades: without Redis the status says so, and nothing is raised."""
    try:
        tools = overview(client, keys)
        waiting = queues(client, keys, [tool.entry.id for tool in tools])
        return Status(
            redis=True,
            workers=tuple(workers(client, keys)),
            tools=tuple(zip(tools, waiting, strict=True)),
            dead_letters=DeadLetters(client, keys).count(),
        )
    except StoreUnavailable:
        return Status(redis=False)


def status_to_wire(found: Status) -> dict[str, Any]:
    """The status as plain JSON."""
    return {
        "ready": found.ready,
        "missing": list(found.missing),
        "redis": found.redis,
        "workers": [asdict(worker) for worker in found.workers],
        "tools": [overview_to_wire(tool) | {"queue": asdict(queue)} for tool, queue in found.tools],
        "dead_letters": found.dead_letters,
    }


def _serves(tool: ToolOverview) -> bool:
    return tool.entry.state in (ToolState.ENABLED, ToolState.DEGRADED) and (
        tool.circuit.state is not CircuitState.OPEN
    )
