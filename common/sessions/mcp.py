"""MCP sessions (legacy era) in Redis, so that any web process serves any of them."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import asdict, fields, replace
from typing import Any

import orjson

from common.domain.errors import SessionNotFound
from common.domain.ids import McpSessionId, ToolId
from common.domain.session import McpSession, SessionClaim
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

_FIELDS = frozenset(field.name for field in fields(McpSession)) - {"id"}
GONE = "this MCP session does not exist or has ended; send initialize again"
REMEMBERED = 10_000
"""Sessions a process remembers; the others cost a round trip more."""


class McpSessions:
    """Creates, finds and ends sessions. Fails closed: without Redis there is no session.

    A process remembers the records it has seen. What it remembers is a claim (:meth:`claim`) that the store confirms
    in the same step in which it admits a call; nothing else relies on it.
    """

    def __init__(self, connection: SharedConnection, keys: Keys, *, idle_timeout: float) -> None:
        """``idle_timeout`` is in seconds; each use of a session begins it anew."""
        self._connection = connection
        self._keys = keys
        self._idle_ms = int(idle_timeout * 1000)
        self._remembered: OrderedDict[str, tuple[McpSession, str]] = OrderedDict()

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

    def set_log_level(self, session: McpSession, level: str) -> None:
        """Remember the least severity of log messages the client wants.

        Raises :class:`SessionNotFound` if the session was ended meanwhile: it is not written back to life.
        """
        if not self._write(replace(session, log_level=level), "XX"):
            self.forget(session.id)
            raise SessionNotFound(GONE)

    def use(self, session_id: str, *, principal: str, tool: ToolId | None) -> McpSession:
        """The session, its idle time begun anew.

        Raises :class:`SessionNotFound` alike for one that is unknown, ended, another principal's or opened at
        another endpoint: a stranger learns nothing from the answer, and does not keep it alive.
        """
        key = self._keys.mcp_session(McpSessionId(session_id))
        with store_errors("reading an MCP session"):
            raw = self._connection.command("GET", key)
        if raw is None:
            self.forget(session_id)
            raise SessionNotFound(GONE)
        session = _owned(self.learn(session_id, raw), principal, tool)
        with store_errors("keeping an MCP session"):
            self._connection.command("PEXPIRE", key, self._idle_ms)
        return session

    def recall(self, session_id: str, *, principal: str, tool: ToolId | None) -> McpSession:
        """The session as this process remembers it, else as :meth:`use` finds it. To be confirmed by its claim."""
        remembered = self._remembered.get(session_id)
        if remembered is None:
            return self.use(session_id, principal=principal, tool=tool)
        return _owned(remembered[0], principal, tool)

    def claim(self, session: McpSession) -> SessionClaim:
        """What the store has to confirm of a session that was recalled."""
        _, digest = self._remembered.get(session.id, (None, ""))
        return SessionClaim(id=session.id, digest=digest, idle_ms=self._idle_ms)

    def learn(self, session_id: str, raw: bytes) -> McpSession:
        """Remember a record as the store has it."""
        # What a newer process has added is left out.
        known = {name: value for name, value in orjson.loads(raw).items() if name in _FIELDS}
        session = McpSession(id=McpSessionId(session_id), **known)
        self._remembered[session_id] = session, hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return session

    def forget(self, session_id: str) -> None:
        """Remember a session no longer."""
        self._remembered.pop(session_id, None)

    def end(self, session: McpSession) -> None:
        """End the session, for every process."""
        self.forget(session.id)
        with store_errors("ending an MCP session"):
            self._connection.command("DEL", self._keys.mcp_session(session.id))

    def _write(self, session: McpSession, *condition: str) -> bool:
        record = orjson.dumps({name: value for name, value in asdict(session).items() if name != "id"})
        key = self._keys.mcp_session(session.id)
        with store_errors("writing an MCP session"):
            done = self._connection.command("SET", key, record, "PX", self._idle_ms, *condition)
        if done is not None:
            self.learn(session.id, record)
        return done is not None


def _owned(session: McpSession, principal: str, tool: ToolId | None) -> McpSession:
    if session.principal != principal or session.tool != tool:
        raise SessionNotFound(GONE)
    return session
