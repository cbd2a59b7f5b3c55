"""MCP sessions (legacy era) in Redis, so that any web process serves any of them."""

from __future__ import annotations

import secrets
from dataclasses import asdict, fields, replace
from typing import Any

import orjson

from common.domain.errors import SessionNotFound
from common.domain.ids import McpSessionId, ToolId
from common.domain.session import McpSession
from common.store.client import Client, store_errors
from common.store.keys import Keys

_FIELDS = frozenset(field.name for field in fields(McpSession)) - {"id"}
GONE = "this MCP session does not exist or has ended; send initialize again"


class McpSessions:
    """Creates, finds and ends sessions. Fails closed: without Redis there is no session."""

    def __init__(self, client: Client, keys: Keys, *, idle_timeout: float) -> None:
        """``idle_timeout`` is in seconds; each use of a session begins it anew."""
        self._client = client
        self._keys = keys
        self._idle_ms = int(idle_timeout * 1000)

    def create(
        self,
        *,
        principal: str,
        version: str,
        tool: ToolId | None,
        client_info: dict[str, Any],
        client_capabilities: dict[str, Any],
    ) -> McpSession:
        """Make a session with an unguessable id (192 bits, visible ASCII as the specification asks)."""
        session = McpSession(
            id=McpSessionId(secrets.token_urlsafe(24)),
            principal=principal,
            version=version,
            tool=tool,
            client_info=client_info,
            client_capabilities=client_capabilities,
        )
        self._write(session)
        return session

    def _write(self, session: McpSession, *, must_exist: bool = False) -> bool:
        record = {name: value for name, value in asdict(session).items() if name != "id"}
        key = self._keys.mcp_session(session.id)
        with store_errors("writing an MCP session"):
            return bool(self._client.set(key, orjson.dumps(record), px=self._idle_ms, xx=must_exist))

    def set_log_level(self, session: McpSession, level: str) -> None:
        """Remember the least severity of log messages the client wants.

        Raises :class:`SessionNotFound` if the session was ended meanwhile: it is not written back to life.
        """
        if not self._write(replace(session, log_level=level), must_exist=True):
            raise SessionNotFound(GONE)

    def use(self, session_id: str, *, principal: str, tool: ToolId | None) -> McpSession:
        """The session, its idle time begun anew.

        Raises :class:`SessionNotFound` alike for one that is unknown, ended, another principal's or opened at
        another endpoint: a stranger learns nothing from the answer.
        """
        key = self._keys.mcp_session(McpSessionId(session_id))
        with store_errors("reading an MCP session"):
            raw = self._client.getex(key, px=self._idle_ms)
        if raw is None:
            raise SessionNotFound(GONE)
        record = orjson.loads(raw)
        if record["principal"] != principal or record["tool"] != tool:
            raise SessionNotFound(GONE)
        # What a newer process has added is left out.
        known = {name: value for name, value in record.items() if name in _FIELDS}
        return McpSession(id=McpSessionId(session_id), **known)

    def end(self, session: McpSession) -> None:
        """Forget the session."""
        with store_errors("ending an MCP session"):
            self._client.delete(self._keys.mcp_session(session.id))
