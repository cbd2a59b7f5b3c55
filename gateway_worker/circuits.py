"""Telling the tools' circuits how calls ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from common.audit.journal import audit_command
from common.circuit.breaker import ScriptCall, report_call, transition_of
from common.domain.audit import AuditEvent, EventKind
from common.domain.circuit import Outcome, Transition, outcome_of
from common.domain.errors import StoreUnavailable
from common.domain.ids import ToolId
from common.domain.invocation import ExecutionResult
from common.registry.records import Entry
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.delivery import Held
from gateway_worker.node import Node
from gateway_worker.outbox import Outbox

log = structlog.get_logger(__name__)

AGAIN, PATIENCE = 0.2, 30.0
"""Seconds between two tries of a report, and after which it is given up."""


class CircuitReports:
    """Reports failures always, the others only while a circuit is not in perfect order: the hot path costs nothing.

    A circuit that asked for a report gets it, or a half-open one would wait until the permit ends. Degrades: what Redis
    does not hear within :data:`PATIENCE` is forgotten, and a failure that nobody asked for at once.
    """

    def __init__(
        self,
        node: Node,
        redis: PipelinedConnection,
        keys: Keys,
        outbox: Outbox,
        entry: Callable[[ToolId], Entry | None],
    ) -> None:
        self._node = node
        self._redis = redis
        self._keys = keys
        self._outbox = outbox
        self._entry = entry
        self._reports: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        """Reports that Redis has not heard yet."""
        return len(self._reports)

    def report(self, held: Held, tool: ToolId, result: ExecutionResult, *, asked_for: bool) -> None:
        """A call has its end. ``asked_for`` says that its tool's circuit wants to know of every one."""
        outcome = outcome_of(result)
        if outcome is not Outcome.FAILURE and not asked_for:
            return
        entry = self._entry(tool)
        if entry is None:
            return
        task = asyncio.create_task(
            self._report(held, entry, outcome, PATIENCE if asked_for else 0.0), name="circuit-report"
        )
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _report(self, held: Held, entry: Entry, outcome: Outcome, patience: float) -> None:
        generation = held.message.envelope.get("circuit")
        script = report_call(
            self._keys,
            entry.id,
            held.head.id,
            generation if isinstance(generation, int) else 0,
            outcome,
            entry.tool.circuit,
        )
        change = await self._change(entry.id, script, patience)
        if change is not None:
            told = f"{change.before.value} -> {change.after.value}"
            log.warning("circuit_state_change", tool=entry.id, change=told, reason=change.reason.value)
            event = AuditEvent(
                kind=EventKind.CIRCUIT_STATE_CHANGE,
                actor=self._node.id,
                tool=entry.id,
                reason=change.reason.value,
                detail=told,
            )
            self._outbox.put(audit_command(self._keys, event))

    async def _change(self, tool: ToolId, script: ScriptCall, patience: float) -> Transition | None:
        """What a report changed, once Redis has heard it."""
        given_up = time.monotonic() + patience
        while True:
            try:
                with store_errors("reporting to a circuit"):
                    return transition_of(await self._redis.run(*script))
            except StoreUnavailable as error:
                if time.monotonic() >= given_up:
                    log.warning("circuit_not_told", tool=tool, cause=repr(error.__cause__))
                    return None
                await asyncio.sleep(AGAIN)
