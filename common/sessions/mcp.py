"""MCP sessions (legacy era) in Redis, so that any web process serves any of them."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any, NoReturn

import orjson

from common.domain.errors import ConcurrencyLimit, InvalidRequest, SessionNotFound
from common.domain.formats import check_format
from common.domain.ids import McpSessionId, TenantId, ToolId
from common.domain.session import McpSession, SessionClaim
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

_FIELDS = frozenset(field.name for field in fields(McpSession)) - {"id"}
GONE = "this MCP session does not exist or has ended; send initialize again"
REMEMBERED, REMEMBERED_BYTES = 10_000, 4 * 1024 * 1024
"""Sessions a process remembers, and the size of their records; the others cost a round trip more."""
RETRY_MOST = 60.0
"""Longest ``retry_after``, in seconds, of a client that may have no session now: one may end at any time."""
MAX_RECORD_BYTES = 16 * 1024
"""What a client says of itself is kept for as long as its session, in Redis and here: so it is bounded."""


class McpSessions:
    """Creates, finds and ends sessions. Fails closed: without Redis there is no session.

    A process remembers the records it has seen. What it remembers is a claim (:meth:`claim`) that the store confirms
    in the same step in which it admits a call; nothing else relies on it.
    """

    def __init__(
        self,
        connection: SharedConnection,
        keys: Keys,
        *,
        idle_timeout: float,
        bound: Callable[[TenantId], int | None] = lambda _: None,
    ) -> None:
        """``idle_timeout`` is in seconds; each use of a session begins it anew.

        ``bound`` is how many sessions a tenant may have, None for any number: those of a tenant with a bound are
        counted, from their first use under it on.
        """
        self._bound = bound
        self._connection = connection
        self._keys = keys
        self._idle_ms = int(idle_timeout * 1000)
        self._remembered: OrderedDict[str, tuple[McpSession, str, int]] = OrderedDict()
        self._remembered_bytes = 0

    def create(
        self,
        *,
        principal: str,
        version: str,
        tool: ToolId | None,
        client_info: dict[str, Any],
        client_capabilities: dict[str, Any],
    ) -> McpSession:
        """Make a session with an unguessable id (192 bits, visible ASCII as the specification asks).

        Raises :class:`InvalidRequest` for a client that says too much of itself, :class:`ConcurrencyLimit` where its
        tenant has as many as it may.
        """
        session = McpSession(
            id=McpSessionId(secrets.token_urlsafe(24)),
            principal=principal,
            version=version,
            tool=tool,
            client_info=client_info,
            client_capabilities=client_capabilities,
        )
        most = self._bound(session.tenant)
        if most is None:
            self._write(session)
        else:
            self._create(session, most)
        return session

    def _create(self, session: McpSession, most: int) -> None:
        """Make one of those that are counted."""
        record = _record(session)
        keys = [self._keys.mcp_session(session.id), self._keys.mcp_sessions_of(session.tenant)]
        with store_errors("beginning an MCP session"):
            wait = self._connection.run("mcp_session_create", keys, [record, self._idle_ms, most])
        if wait:
            raise ConcurrencyLimit(
                f"the tenant has {most} MCP sessions, as many as it may; end one (DELETE), or let one expire",
                reason="mcp_sessions",
                retry_after=min(max(wait / 1000, 1.0), RETRY_MOST),
            )
        self.learn(session.id, record)

    def counted_in(self, session: McpSession) -> str | None:
        """Where its tenant's sessions are counted; None if they are not."""
        tenant = session.tenant
        return None if self._bound(tenant) is None else self._keys.mcp_sessions_of(tenant)

    def set_log_level(self, session: McpSession, level: str) -> None:
        """Remember the least severity of log messages the client wants.

        Raises :class:`SessionNotFound` if the session was ended meanwhile: it is not written back to life.
        """
        if not self._write(replace(session, log_level=level), "KEEPTTL", "XX"):
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
            keep_session(self._connection, key, self._idle_ms, self.counted_in(session))
        return session

    def recall(self, session_id: str, *, principal: str, tool: ToolId | None) -> McpSession:
        """The session as this process remembers it, else as :meth:`use` finds it. To be confirmed by its claim."""
        remembered = self._remembered.get(session_id)
        if remembered is None:
            return self.use(session_id, principal=principal, tool=tool)
        return _owned(remembered[0], principal, tool)

    def claim(self, session: McpSession) -> SessionClaim:
        """What the store has to confirm of a session that was recalled."""
        _, digest, _ = self._remembered.get(session.id, (None, "", 0))
        return SessionClaim(
            id=session.id, digest=digest, idle_ms=self._idle_ms, counted_in=self.counted_in(session)
        )

    def learn(self, session_id: str, raw: bytes) -> McpSession:
        """Remember a record as the store has it."""
        wire = orjson.loads(raw)
        check_format(wire, what="the record of an MCP session")
        # What a newer process has added is left out.
        known = {name: value for name, value in wire.items() if name in _FIELDS}
        session = McpSession(id=McpSessionId(session_id), **known)
        self.forget(session_id)
        self._remembered[session_id] = (
            session,
            hashlib.sha1(raw, usedforsecurity=False).hexdigest(),
            len(raw),
        )
        self._remembered_bytes += len(raw)
        while self._remembered and (
            len(self._remembered) > REMEMBERED or self._remembered_bytes > REMEMBERED_BYTES
        ):
            self.forget(next(iter(self._remembered)))
        return session

    def relearn(self, session: McpSession, raw: bytes) -> McpSession:
        """Remember another record of the same session. Raises :class:`SessionNotFound` if it is another one's now."""
        return _owned(self.learn(session.id, raw), session.principal, session.tool)

    def gone(self, session: McpSession) -> NoReturn:
        """The store has no such session: remember it no longer. Raises :class:`SessionNotFound`."""
        self.forget(session.id)
        raise SessionNotFound(GONE)

    def forget(self, session_id: str) -> None:
        """Remember a session no longer."""
        _, _, size = self._remembered.pop(session_id, (None, "", 0))
        self._remembered_bytes -= size

    def end(self, session: McpSession) -> None:
        """End the session, for every process."""
        self.forget(session.id)
        with store_errors("ending an MCP session"):
            key = self._keys.mcp_session(session.id)
            self._connection.command("DEL", key)
            if (counted := self.counted_in(session)) is not None:
                self._connection.command("ZREM", counted, key)

    def _write(self, session: McpSession, *options: str | int) -> bool:
        record = _record(session)
        key = self._keys.mcp_session(session.id)
        with store_errors("writing an MCP session"):
            done = self._connection.command("SET", key, record, *(options or ("PX", self._idle_ms)))
        if done is not None:
            self.learn(session.id, record)
        return done is not None


def keep_session(connection: SharedConnection, key: str, idle_ms: int, counted_in: str | None) -> bool:
    """Begin the idle time of a session anew; False if there is none of this key. Raises :class:`StoreUnavailable`."""
    if counted_in is None:
        return bool(connection.command("PEXPIRE", key, idle_ms))
    return bool(connection.run("mcp_session_keep", [key, counted_in], [idle_ms]))


def _record(session: McpSession) -> bytes:
    record = orjson.dumps({name: value for name, value in asdict(session).items() if name != "id"})
    if len(record) > MAX_RECORD_BYTES:
        raise InvalidRequest(
            f"clientInfo and capabilities take more than {MAX_RECORD_BYTES} bytes together",
            field="params",
        )
    return record


def _owned(session: McpSession, principal: str, tool: ToolId | None) -> McpSession:
    if session.principal != principal or session.tool != tool:
        error = SessionNotFound(GONE)
        error.stranger = session.principal != principal
        raise error
    return session
