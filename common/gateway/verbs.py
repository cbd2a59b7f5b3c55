"""What an operator does by the Python API: the same control plane as the admin API's and the command line's.

Every change is audited under its ``actor``. Each method fails closed: without Redis it raises ``StoreUnavailable`` and
nothing is changed. What names a tool that is not registered raises ``ToolNotFound``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.audit.journal import Journal
from common.control.calls import LiveCall, LiveCalls
from common.control.sessions import LiveSession, LiveSessions
from common.control.status import Status, status
from common.control.tool_changes import ToolChanges
from common.control.tools import ToolOverview, overview, overview_of
from common.domain.audit import AuditRecord
from common.domain.circuit import Transition
from common.domain.errors import InternalError, StoreUnavailable
from common.domain.ids import InvocationId, ToolId
from common.domain.tool_status import StateChange
from common.gateway.calling import Calling
from common.registry.lifecycle import DrainProgress, Lifecycle
from common.registry.registry import ANY_VERSION, API
from common.store.client import Client
from common.store.keys import Keys


class Verbs(Calling):
    """The control plane. This process sees its own changes at once; others within a second."""

    _closed = False

    # -- tools ------------------------------------------------------------------------------------------

    def list_tools(self) -> list[ToolOverview]:
        """All tools with their state, circuit and load, by id; an operator's view, without policy."""
        return overview(*self._store)

    def get_tool(self, tool: str) -> ToolOverview:
        """One tool, the same."""
        return overview_of(*self._store, ToolId(tool))

    def register_tool(
        self, tool: str, entry: Mapping[str, Any], *, actor: str = API, expected: int = ANY_VERSION
    ) -> ToolOverview:
        """Register a tool, or replace its definition; the same again changes nothing.

        ``entry`` is written as under ``tools`` of the settings file; what it leaves out this gateway's settings give.
        ``expected`` is the one version that may be replaced, 0 for none at all. Raises ``InvalidRequest`` that names
        the key at fault, also for what ``egress`` does not let in at run time, and ``VersionConflict``.
        """
        self._changes.put(ToolId(tool), entry, actor=actor, expected=expected)
        return self._changed(tool)

    def update_tool(
        self,
        tool: str,
        changes: Mapping[str, Any],
        *,
        actor: str = API,
        expected: int = ANY_VERSION,
        change_transport: bool = False,
    ) -> ToolOverview:
        """Change some keys of a definition: what is not named stays, None gives a default back.

        A command becomes a URL, or the other way round, only with ``change_transport``. Raises as
        :meth:`register_tool`.
        """
        self._changes.patch(
            ToolId(tool), changes, actor=actor, expected=expected, change_transport=change_transport
        )
        return self._changed(tool)

    def remove_tool(self, tool: str, *, actor: str = API, expected: int = ANY_VERSION) -> None:
        """Take a tool off. Calls under way end as they would. Raises ``VersionConflict``."""
        self._require_open()
        self.registry.remove(ToolId(tool), actor=actor, expected=expected)
        self.catalogue.refresh()

    def refresh_tool(self, tool: str) -> None:
        """Have the workers ask the tool again what it offers."""
        self._require_open()
        self.registry.refresh(ToolId(tool))

    def enable_tool(self, tool: str, *, actor: str = API) -> StateChange:
        """Let the tool be called, whatever its definition says. It ends no drain and resets no circuit."""
        return self._switched(self._lifecycle.enable(ToolId(tool), actor=actor))

    def disable_tool(self, tool: str, *, actor: str = API) -> StateChange:
        """Refuse new calls with TOOL_DISABLED; those that workers hold end as they would."""
        return self._switched(self._lifecycle.disable(ToolId(tool), actor=actor))

    def drain_tool(self, tool: str, *, actor: str = API) -> StateChange:
        """Let the tool take no new sessions; those that live go on."""
        return self._switched(self._lifecycle.drain(ToolId(tool), actor=actor))

    def undrain_tool(self, tool: str, *, actor: str = API) -> StateChange:
        """Let the tool take new sessions again."""
        return self._switched(self._lifecycle.undrain(ToolId(tool), actor=actor))

    def wait_drained(
        self, tool: str, timeout: float, *, watch: Callable[[DrainProgress], None] = lambda _progress: None
    ) -> DrainProgress:
        """Wait until the tool has neither sessions nor calls, at most ``timeout`` seconds; what is left then.

        ``watch`` is told each change.
        """
        return self._lifecycle.wait_drained(ToolId(tool), timeout, watch=watch)

    def reset_circuit(self, tool: str, *, actor: str = API) -> Transition | None:
        """Close the tool's circuit; None if it was closed and without failures."""
        return self._lifecycle.reset_circuit(ToolId(tool), actor=actor)

    def trip_circuit(self, tool: str, reason: str, *, actor: str = API) -> Transition | None:
        """Open the tool's circuit until it is reset; None if it was tripped already, then the reason is another."""
        return self._lifecycle.trip_circuit(ToolId(tool), reason, actor=actor)

    # -- what lives now -----------------------------------------------------------------------------------

    def status(self) -> Status:
        """The gateway at one look. Degrades: without Redis the status says so."""
        return status(*self._store)

    def sessions(self, tool: str | None = None) -> list[LiveSession]:
        """The sessions with a tool, or with all; whose each is, which worker holds it, what runs there."""
        return LiveSessions(*self._store).of_tools(self._ids(tool))

    def close_session(
        self, tool: str, session: str, *, actor: str = API, force: bool = False, timeout: float = 2.0
    ) -> bool:
        """Close a tool session when its calls have ended, or with ``force`` at once; whether it is closed already.

        Waits for that at most ``timeout`` seconds. Raises ``SessionNotFound``.
        """
        live = LiveSessions(*self._store)
        return live.close(ToolId(tool), session, actor=actor, force=force, timeout=timeout)

    def calls(self, tool: str | None = None) -> list[LiveCall]:
        """The calls of a tool, or of all, that wait for a worker or that one has. Arguments are not among it."""
        live = LiveCalls(*self._store)
        return [call for name in self._ids(tool) for call in live.of_tool(name)]

    def cancel_call(self, call: str, *, actor: str = API) -> LiveCall:
        """Take a call back, whoever waits for it. Raises ``InvocationNotFound`` if there is none of this id now."""
        return LiveCalls(*self._store).cancel(InvocationId(call), tools=self._ids(None), actor=actor)

    # -- the journal --------------------------------------------------------------------------------------

    def audit(
        self, most: int = 100, *, chosen: Callable[[AuditRecord], bool] = lambda _record: True
    ) -> list[AuditRecord]:
        """The newest records of the audit journal that ``chosen`` takes, the newest first."""
        return Journal(*self._store).newest(most, chosen=chosen)

    def subscribe(
        self, last: str = "$", *, chosen: Callable[[AuditRecord], bool] = lambda _record: True
    ) -> Iterator[AuditRecord]:
        """Every record of the audit journal behind the one with the id ``last`` (``$``: from now on), as they come.

        Ends within a second when the gateway is closed. Whoever comes back gives the id of the last record it had;
        what Redis holds no more by then is not told, sinks are what may not miss anything.
        """
        journal = Journal(*self._store)
        if last == "$":
            # "From now on" is from this line on, and not from when the first record is asked for.
            last = journal.newest_id()
        return self._heard(journal.subscribe(last, chosen=chosen, wanted=lambda: not self._closed))

    def _heard(self, records: Iterator[AuditRecord]) -> Iterator[AuditRecord]:
        try:
            yield from records
        except StoreUnavailable:
            # Closing takes the connection away from whoever waits on it.
            if not self._closed:
                raise

    # -- helpers ----------------------------------------------------------------------------------------

    @property
    def _store(self) -> tuple[Client, Keys]:
        self._require_open()
        return self.client, self.keys

    @property
    def _lifecycle(self) -> Lifecycle:
        return Lifecycle(*self._store)

    @property
    def _changes(self) -> ToolChanges:
        self._require_open()
        return ToolChanges(self.registry, self.settings.runtime)

    def _require_open(self) -> None:
        """Raise :class:`InternalError` once the gateway is closed: its connections would open again, for good."""
        if self._closed:
            raise InternalError("this gateway was closed; make another one")

    def _ids(self, tool: str | None) -> list[ToolId]:
        """The tool that is meant, which may have been removed, or all that are registered."""
        self._require_open()
        return [ToolId(tool)] if tool is not None else [entry.id for entry in self.registry.entries()]

    def _changed(self, tool: str) -> ToolOverview:
        self.catalogue.refresh()
        return self.get_tool(tool)

    def _switched(self, change: StateChange) -> StateChange:
        self.catalogue.refresh()
        return change
