"""Who may come in, and to which tools: what is asked of a caller before a call is made of his request."""

from __future__ import annotations

from common.domain.errors import (
    InvalidRequest,
    ToolDisabled,
    ToolUnavailable,
)
from common.domain.ids import ToolId
from common.domain.invocation import Caller, require_scopes
from common.domain.policy import no_tool
from common.domain.quota import Quota
from common.domain.rules import MOST_WAITS
from common.domain.session import McpSession
from common.domain.tool import Tool
from common.gateway.process import Process
from common.mcp.client_capabilities import interactive
from common.registry.catalogue import CatalogueReader
from common.registry.records import Entry

FIRST_READING = 2.0
"""Longest wait of a call, in seconds, for this process's first reading of the registry."""


class Entrance(Process):
    """The stages that need no call yet. Each raises the :class:`GatewayError` by which it refuses."""

    def authorise_tenant(self, caller: Caller, patience: float | None = None) -> Quota:
        """What the caller's tenant may use. Fails closed: raises :class:`Forbidden` for one that is suspended, or that
        nobody listed, and :class:`ToolUnavailable` while this process has not read what was set at run time, for which
        it waits as :meth:`tools` does.
        """
        if self.tenants.version < 0:
            self._await_reading(patience)
        return self.tenants.authorise(caller.tenant)

    def count_request(self, caller: Caller) -> None:
        """Count a request that queues no call against the rates of its tenant and client.

        Fails closed: raises what :meth:`authorise_tenant` raises, :class:`Throttled`, and for a caller with a rate
        :class:`StoreUnavailable`.
        """
        self._rates.count(self.authorise_tenant(caller), caller)

    def _require_scopes(self, caller: Caller, tool: Tool) -> None:
        """Ask for the scopes of a tool, after everything that no scope would change. Raises
        :class:`InsufficientScope`.
        """
        if tool.required_scopes:
            require_scopes(caller, tool.required_scopes, always=self.settings.identity.required_scopes)

    def tools(self, caller: Caller, patience: float | None = None) -> CatalogueReader:
        """The catalogue as a caller sees it: what policy's rules deny is not there, of tools and of what they offer.

        The file's tools are in it: a process that has just started waits for its first reading.

        Fails closed: raises :class:`ToolUnavailable` if there was none within :data:`FIRST_READING`, or ``patience``
        seconds if that is shorter. Only whoever asks waits.
        """
        self._await_reading(patience)
        return self.policy.seen_by(caller)

    def _await_reading(self, patience: float | None) -> None:
        if not self._first_reading.is_set():
            self._first_reading.wait(FIRST_READING if patience is None else min(FIRST_READING, patience))
        if self.catalogue.version < 0 or self.tenants.version < 0:
            raise ToolUnavailable("this process has not read the registry yet; try again", retry_after=1)

    def find(self, caller: Caller, tool: ToolId, patience: float | None = None) -> Entry:
        """The entry of a tool that a caller may call; ``patience`` as for :meth:`tools`.

        Raises :class:`ToolNotFound`, also for a tool of which the caller may use nothing, and :class:`ToolDisabled`.
        """
        entry = self.tools(caller, patience).get(tool)
        if entry is None:
            raise no_tool(tool, hidden=self.catalogue.get(tool) is not None)
        if not entry.enabled:
            raise ToolDisabled(f"tool {tool!r} is disabled")
        return entry

    def _deadline(self, tool: Tool, timeout: float | None) -> int:
        if timeout is not None and not timeout > 0:
            raise InvalidRequest(
                "timeout must be above 0 seconds; leave it out for the tool's own", field="timeout"
            )
        seconds = tool.request_timeout if timeout is None else min(timeout, tool.request_timeout)
        return self.clock.now() + int(seconds * 1000)

    def _kept_until(self, deadline: int, tool: Tool, session: McpSession | None) -> int:
        """Until when the result of a call may be there, in ms of Redis time: its client's time for answers included."""
        declared = {} if session is None else session.client_capabilities
        waits = MOST_WAITS * tool.input_timeout if declared and interactive(declared) else 0.0
        return deadline + int((waits + self.settings.runtime.result_ttl) * 1000)
