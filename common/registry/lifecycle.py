"""An operator's verbs on a registered tool: switch, drain, wait until it is drained, and its circuit by hand.

None of them touches the definition, so no session is closed by them. Each is atomic, audited, and idempotent: done
twice it changes nothing and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from common.audit.journal import Journal
from common.circuit.breaker import Circuits
from common.domain.audit import AuditEvent, EventKind
from common.domain.circuit import Transition
from common.domain.errors import GatewayError, InvalidRequest, ToolNotFound
from common.domain.ids import ToolId, queue_of
from common.domain.tool_status import UNTOUCHED, OperatorState, StateChange, operator_from_wire
from common.registry.registry import API
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import run

POLL_INTERVAL = 0.25
AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainProgress:
    """What a tool still has: sessions, calls that wait for a worker, calls that workers hold."""

    sessions: int
    waiting: int
    in_flight: int

    @property
    def done(self) -> bool:
        return not (self.sessions or self.waiting or self.in_flight)


class Lifecycle:
    """The verbs. Each fails closed: without Redis it raises ``StoreUnavailable``, and nothing is changed.

    ``actor`` is what the audit journal is told of who makes the change. For a tool that is not registered they raise
    :class:`ToolNotFound`.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def enable(self, tool: ToolId, *, actor: str = API) -> StateChange:
        """Let the tool be called, whatever its definition says. It does not end a drain and resets no circuit."""
        return self._put(tool, "switch", '"on"', EventKind.TOOL_ENABLED, actor)

    def disable(self, tool: ToolId, *, actor: str = API) -> StateChange:
        """Refuse new calls with TOOL_DISABLED. Calls that workers hold end as they would."""
        return self._put(tool, "switch", '"off"', EventKind.TOOL_DISABLED, actor)

    def drain(self, tool: ToolId, *, actor: str = API) -> StateChange:
        """Let the tool take no new sessions; those that live go on, until they are idle or too old."""
        return self._put(tool, "draining", "true", EventKind.TOOL_DRAINED, actor)

    def undrain(self, tool: ToolId, *, actor: str = API) -> StateChange:
        """Let the tool take new sessions again."""
        return self._put(tool, "draining", "false", EventKind.TOOL_UNDRAINED, actor)

    def retire(self, tool: ToolId, *, actor: str = API) -> StateChange:
        """Refuse new calls as of a disabled tool, and let those that were accepted run: it is about to be removed."""
        return self._put(tool, "retiring", "true", EventKind.TOOL_RETIRED, actor)

    def keep(self, tool: ToolId, *, actor: str = API) -> StateChange:
        """Take a retired tool's calls again."""
        return self._put(tool, "retiring", "false", EventKind.TOOL_KEPT, actor)

    def drain_progress(self, tool: ToolId) -> DrainProgress:
        """What the tool still has. One that is not registered may have some yet: a removed one's sessions end too."""
        return self.progress_of([tool])[0]

    def progress_of(self, tools: Sequence[ToolId]) -> list[DrainProgress]:
        """The same of many tools. So many at a time that Redis serves others in between."""
        progress: list[DrainProgress] = []
        for first in range(0, len(tools), AT_ONCE):
            queues = [queue_of(tool) for tool in tools[first : first + AT_ONCE]]
            with store_errors("looking at a drain"):
                found = run(self._client, "calls_of_tools", [self._keys.nodes], [self._keys.begin, *queues])
            progress += [
                DrainProgress(sessions=sessions, waiting=waiting, in_flight=in_flight)
                for sessions, waiting, in_flight in found
            ]
        return progress

    def wait_drained(
        self,
        tool: ToolId,
        timeout: float,
        *,
        watch: Callable[[DrainProgress], None] = lambda _progress: None,
    ) -> DrainProgress:
        """Wait until nothing is left of the tool, at most ``timeout`` seconds; return what is left then.

        ``watch`` is told each time it has changed. Raises :class:`InvalidRequest` for a timeout that is no time.
        """
        if not 0 <= timeout < float("inf"):
            raise InvalidRequest("timeout must be 0 or more seconds", field="timeout")
        end = time.monotonic() + timeout
        told: DrainProgress | None = None
        while True:
            progress = self.drain_progress(tool)
            if progress != told:
                watch(progress)
                told = progress
            left = end - time.monotonic()
            if progress.done or left <= 0:
                return progress
            time.sleep(min(POLL_INTERVAL, left))

    # -- its circuit ------------------------------------------------------------------------------------

    def reset_circuit(self, tool: ToolId, *, actor: str = API) -> Transition | None:
        """Close the tool's circuit; None if it was closed and without failures.

        The journal is told after it: if Redis goes away in between, the error says so, and the circuit is closed.
        """
        self._require(tool)
        change = Circuits(self._client, self._keys).reset(tool)
        if change is not None:
            detail = f"{change.before.value} -> {change.after.value}"
            self._tell(AuditEvent(kind=EventKind.CIRCUIT_RESET, actor=actor, tool=tool, detail=detail))
        return change

    def trip_circuit(self, tool: ToolId, reason: str, *, actor: str = API) -> Transition | None:
        """Open the tool's circuit until it is reset; None if it was so already, then only the reason is another.

        The journal is told after it, as above. Raises :class:`InvalidRequest` for a reason that says nothing.
        """
        self._require(tool)
        change = Circuits(self._client, self._keys).trip(tool, reason)
        detail = "" if change is None else f"{change.before.value} -> {change.after.value}"
        self._tell(
            AuditEvent(kind=EventKind.CIRCUIT_TRIPPED, actor=actor, tool=tool, reason=reason, detail=detail)
        )
        return change

    def _tell(self, event: AuditEvent) -> None:
        Journal(self._client, self._keys).record(event)

    def _require(self, tool: ToolId) -> None:
        with store_errors("looking for a tool"):
            known = self._client.hexists(self._keys.registry_versions, tool)
        if not known:
            raise ToolNotFound(f"no tool {tool!r} is registered")

    def _put(self, tool: ToolId, part: str, value: str, kind: EventKind, actor: str) -> StateChange:
        """Give one part of the state a value, which is JSON."""
        keys = self._keys
        with store_errors(f"changing the state of a tool ({part})"):
            known, before, after = run(
                self._client,
                "tool_state_put",
                [
                    keys.registry_versions,
                    keys.registry_states,
                    keys.registry_version,
                    keys.registry_changes,
                    keys.audit,
                ],
                [tool, part, value, actor, keys.registry_channel, kind.value],
            )
        if not known:
            raise ToolNotFound(f"no tool {tool!r} is registered")
        return StateChange(before=_state(before), after=_state(after))


def _state(raw: bytes | None) -> OperatorState:
    """The state as told by the script. One that nobody can read was just replaced, and passes for none."""
    try:
        wire: Any = None if raw is None else orjson.loads(raw)
        return UNTOUCHED if wire is None else operator_from_wire(wire)
    except (GatewayError, LookupError, TypeError, ValueError):
        return UNTOUCHED
