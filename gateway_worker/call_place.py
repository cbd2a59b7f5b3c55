"""What is around a worker's calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.domain.ids import ToolId
from common.metrics.figures import Figures
from common.registry.records import Entry
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.telemetry.spans import Tracer
from common.tenants.view import Tenants
from gateway_worker.circuits import CircuitReports
from gateway_worker.dead_letters import DeadLetterBox
from gateway_worker.journey import Journey
from gateway_worker.outbox import Outbox
from gateway_worker.refused import RefusedCalls
from gateway_worker.telemetry import TaskSignals


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where calls run, and where their ends go."""

    hostname: str
    keys: Keys
    clock: RedisClock
    outbox: Outbox
    journey: Journey
    circuits: CircuitReports
    entry: Callable[[ToolId], Entry | None]
    dead_letters: DeadLetterBox
    tenants: Tenants
    refused: RefusedCalls
    signals: TaskSignals | None
    tracer: Tracer | None
    figures: Figures | None = None
