"""One MCP message and everything known about who sent it, before any method is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.domain.ids import McpSessionId, ToolId
from common.domain.invocation import Caller
from common.domain.session import McpSession
from common.mcp.jsonrpc import Request
from common.mcp.revisions import Era


@dataclass(frozen=True, slots=True, kw_only=True)
class McpRequest:
    """A request that has passed the guards.

    ``tool`` is the endpoint's tool, None at the aggregate. ``session`` exists in the legacy era only, and not
    yet for ``initialize``. ``wants_log`` says whether log messages may be sent along.
    """

    request: Request
    caller: Caller
    tool: ToolId | None
    era: Era
    version: str
    session: McpSession | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    wants_log: bool = True

    @property
    def params(self) -> dict[str, Any]:
        return self.request.params

    @property
    def session_id(self) -> McpSessionId | None:
        return None if self.session is None else self.session.id
