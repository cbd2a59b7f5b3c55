"""Which resources of a tool session somebody watches, and who: MCP sessions, also those behind a modern subscription.

It stands in Redis as well, for the session's next incarnation to take up. Whoever watches is told by his own stream
(:mod:`common.sessions.stream`), wherever it is handed out.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import orjson
import structlog

from common.domain.errors import PayloadUnreadable, StoreUnavailable
from common.domain.ids import McpSessionId, ToolId
from common.sessions.stream import told
from common.store.client import store_errors
from common.store.keys import WATCHES_TTL, Keys
from common.store.pipelined import PipelinedConnection
from common.store.sealing import BEGINNING
from gateway_worker.outbox import Command, InPlace, Outbox

log = structlog.get_logger(__name__)

WATCH = "watch"
"""What is sealed under the key of the watches."""
UPDATED = "notifications/resources/updated"
MOST_WATCHES = 1000
"""Of one principal at one tool session, over all its MCP sessions: who uses up its own leaves the others theirs."""
MOST_OF_ALL = 5000
"""Of one tool session."""
LONGEST_URI = 8192
"""Characters of a resource's URI of which updates are told."""
RECORDED_WITHIN = 5.0
"""Seconds that Redis has to take the record of a watch."""
_WITH_PARTS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:/*[^/]")
"""A URI that can have sub-resources: a scheme, and something that it names."""


def _is_of(uri: str, watched: str) -> bool:
    """Whether an update of ``uri`` is one of what is watched: that itself, or a sub-resource of it.

    A session may be shared, so what merely begins alike, or a scheme alone, is no watch on what others have there.
    """
    if uri == watched:
        return True
    if not _WITH_PARTS.match(watched) or not uri.startswith(watched):
        return False
    return watched.endswith("/") or uri[len(watched)] == "/"


class WatchStore:
    """What the watches of all tool sessions of a worker share. ``session_idle`` is in seconds."""

    def __init__(
        self, redis: PipelinedConnection, keys: Keys, outbox: Outbox, *, session_idle: float
    ) -> None:
        self.redis = redis
        self.keys = keys
        self.outbox = outbox
        self.session_idle_ms = int(session_idle * 1000)


class Watches:
    """Of one tool session. Belongs to the worker's loop."""

    def __init__(self, store: WatchStore, tool: ToolId, session: str) -> None:
        self._store = store
        self._tool = tool
        self._key = store.keys.watches(tool, session)
        self._by_uri: dict[str, dict[McpSessionId, str]] = {}
        """Who watches each resource, and the principal behind each of them."""

    def __len__(self) -> int:
        return len(self._by_uri)

    @property
    def uris(self) -> list[str]:
        """What is watched."""
        return list(self._by_uri)

    def has(self, watcher: McpSessionId, uri: str) -> bool:
        """Whether the session watches the resource."""
        return watcher in self._by_uri.get(uri, ())

    def full(self, principal: str) -> bool:
        """Whether nothing more can be watched for this principal."""
        principals = [found for watchers in self._by_uri.values() for found in watchers.values()]
        return len(principals) >= MOST_OF_ALL or principals.count(principal) >= MOST_WATCHES

    async def restore(self) -> None:
        """Take up what the session's last incarnation had. Degrades: without Redis nothing is."""
        try:
            with store_errors("reading the watches of a tool session"):
                found = await self._store.redis.command("HGETALL", self._key)
        except StoreUnavailable as error:
            log.warning("watches_not_read", tool=self._tool, error=str(error))
            return
        for field, value in zip(found[::2], found[1::2], strict=True):
            watcher, _, uri = field.decode().partition(" ")
            try:
                principal, uri = self._read(value, uri)
            except PayloadUnreadable as error:
                log.error("watch_unreadable", tool=self._tool, error=error.message)
                continue
            self._by_uri.setdefault(uri, {})[McpSessionId(watcher)] = principal

    def _written(self, watcher: McpSessionId, uri: str) -> str:
        """The field of a watch: with sealed payloads a digest of the URI, which may hold a secret."""
        if self._store.keys.seals is None:
            return f"{watcher} {uri}"
        return f"{watcher} {hashlib.sha256(f'{self._key} {uri}'.encode()).hexdigest()}"

    def _read(self, value: bytes, uri: str) -> tuple[str, str]:
        """Principal and URI of a watch. Raises :class:`PayloadUnreadable`."""
        keys = self._store.keys
        if keys.seals is None and not value.startswith(BEGINNING):
            return value.decode(), uri
        opened = keys.opened(value, WATCH, self._key)
        if opened is value:
            return value.decode(), uri  # from before payloads were sealed
        principal, named = orjson.loads(opened)
        return principal, named

    def add(self, watcher: McpSessionId, principal: str, uri: str) -> None:
        """A session of this principal watches a resource."""
        self._store.outbox.put(*self._record(watcher, principal, uri))

    async def added(self, watcher: McpSessionId, principal: str, uri: str) -> None:
        """As :meth:`add`, and it is on record when this returns, for every incarnation of the session to come.

        Fails closed: raises :class:`StoreUnavailable` if it is not within :data:`RECORDED_WITHIN`.
        """
        record, lifetime = self._record(watcher, principal, uri)
        try:
            async with asyncio.timeout(RECORDED_WITHIN):
                await self._store.outbox.written(record)
        except TimeoutError:
            raise StoreUnavailable("the watch could not be recorded: Redis does not answer") from None
        self._store.outbox.put(lifetime)

    def _record(self, watcher: McpSessionId, principal: str, uri: str) -> tuple[Command, Command]:
        """The commands that put it on record; from the first one's writing on it is known here, too."""
        self._by_uri.setdefault(uri, {})[watcher] = principal
        keys, value = self._store.keys, principal.encode()
        if keys.seals is not None:
            value = keys.seals.seal(orjson.dumps([principal, uri]), WATCH, self._key)
        field = self._written(watcher, uri)
        return ("HSET", self._key, field, value), ("EXPIRE", self._key, WATCHES_TTL)

    def remove(self, watcher: McpSessionId, uri: str) -> None:
        """It does so no longer."""
        watchers = self._by_uri.get(uri, {})
        watchers.pop(watcher, None)
        if not watchers:
            self._by_uri.pop(uri, None)
        # In its place: whoever ends a watch and begins it again must find it on record.
        self._store.outbox.put(InPlace(("HDEL", self._key, self._written(watcher, uri))))

    def drop(self, uri: str) -> None:
        """Nobody watches the resource any more: the backend does not tell of it."""
        for watcher in list(self._by_uri.get(uri, ())):
            self.remove(watcher, uri)

    async def prune(self) -> bool:
        """Forget sessions that have ended; whether a resource is watched by nobody any more."""
        watchers = sorted({watcher for found in self._by_uri.values() for watcher in found})
        if not watchers:
            return False
        try:
            with store_errors("looking for ended MCP sessions"):
                alive = await self._store.redis.command(
                    "MGET", *(self._store.keys.mcp_session(watcher) for watcher in watchers)
                )
        except StoreUnavailable:
            return False
        gone = {watcher for watcher, record in zip(watchers, alive, strict=True) if record is None}
        before = len(self._by_uri)
        for uri, found in list(self._by_uri.items()):
            for watcher in found.keys() & gone:
                self.remove(watcher, uri)
        self._store.outbox.put(("EXPIRE", self._key, WATCHES_TTL))
        return len(self._by_uri) < before

    def heard(self, params: Mapping[str, Any]) -> None:
        """A resource was updated, or a part of one (2025-11-25, "Resources": the URI may be a sub-resource's).

        An update that is heard twice is told twice: whoever watches reads the resource once more. Its URI is told and
        nothing else, and of a flood as much as of other notifications: it goes to each who watches.
        """
        uri = params.get("uri")
        if not isinstance(uri, str) or len(uri) > LONGEST_URI:
            return
        message = {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": uri}}
        watchers = {
            watcher for watched, found in self._by_uri.items() if _is_of(uri, watched) for watcher in found
        }
        for watcher in sorted(watchers):
            for command in told(
                self._store.keys, watcher, message, idle_ms=self._store.session_idle_ms, tool=self._tool
            ):
                self._store.outbox.put_notification(command)
