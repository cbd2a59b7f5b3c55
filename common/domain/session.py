"""The client's session with us (legacy era): what any web process needs to know to serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.domain.ids import McpSessionId, TenantId, ToolId
from common.domain.invocation import tenant_of


@dataclass(frozen=True, slots=True, kw_only=True)
class McpSession:
    """A record made by ``initialize``.

    ``principal`` is whom it is bound to, ``tool`` the one tool it was opened for (None: all of them).
    ``log_level`` is the least severity of log messages it wants; None: it has not said.
    """

    id: McpSessionId
    principal: str
    version: str
    tool: ToolId | None = None
    client_info: Mapping[str, Any] = field(default_factory=dict)
    client_capabilities: Mapping[str, Any] = field(default_factory=dict)
    log_level: str | None = None

    @property
    def tenant(self) -> TenantId:
        """Whose client it is."""
        return tenant_of(self.principal)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClaim:
    """A session as a process remembers it, to be confirmed by the store before anything relies on it.

    ``digest`` is the SHA-1 of the remembered record; ``idle_ms`` the time without requests after which it ends.
    ``counted_in`` is where the sessions of its tenant are counted, None if they are not.
    """

    id: McpSessionId
    digest: str
    idle_ms: int
    counted_in: str | None = None
