"""One MCP message and everything known about who sent it, before any method is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common import __version__
from common.domain.ids import McpSessionId, ToolId
from common.domain.invocation import Caller
from common.domain.session import McpSession
from common.mcp.inbound import LOG_LEVELS
from common.mcp.jsonrpc import Request
from common.mcp.revisions import Era
from gateway_web.ingress.account import Account

SERVER_INFO = {"name": "canalgate", "version": __version__}
"""What this server calls itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpRequest:
    """A request that has passed the guards.

    ``tool`` is the endpoint's tool, None at the aggregate. ``session`` exists in the legacy era only, and not yet
    for ``initialize``. ``headers`` are those of a modern request over HTTP, which repeat what it says; None where
    there are none. ``log_level`` is the least severity of log messages to send along; None sends none in the modern
    era, and all in the legacy era. ``stateless`` is a legacy client that has no session and gets none.
    ``resumable`` says that the client may come back to the stream of its answer. ``account`` is that of the request.
    """

    request: Request
    caller: Caller
    tool: ToolId | None
    era: Era
    version: str
    session: McpSession | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    log_level: str | None = None
    stateless: bool = False
    resumable: bool = False
    account: Account | None = field(default=None, repr=False, compare=False)

    @property
    def params(self) -> dict[str, Any]:
        return self.request.params

    def wants_log(self, level: object) -> bool:
        """Whether a log message of that severity is to be sent along."""
        if self.log_level is None:
            return self.era is Era.LEGACY
        if level not in LOG_LEVELS:
            return True
        return LOG_LEVELS.index(str(level)) >= LOG_LEVELS.index(self.log_level)

    @property
    def session_id(self) -> McpSessionId | None:
        return None if self.session is None else self.session.id
