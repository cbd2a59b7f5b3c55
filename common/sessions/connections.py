"""Open connections of the HTTP+SSE transport, so that what a client POSTs to any web process reaches the one that holds
its stream.

Source: 2024-11-05, "Transports", "HTTP with SSE".
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import orjson

from common.domain.errors import SessionNotFound, Throttled
from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

LEASE = 60.0
"""Seconds after which a connection is gone that its holder does not keep, beyond the time that one write may take."""
MOST_WAITING, MOST_WAITING_BYTES = 64, 8 * 1024 * 1024
"""Messages that may wait for the holder, and bytes of all of them; one that waits alone may be larger."""
GONE = "this session does not exist or has ended; open the event stream again"
_TAKEN_AT_ONCE = 16


class Posted(NamedTuple):
    """A message of the client, and the scopes of the one who sent it: the same principal may come with others."""

    message: bytes
    scopes: frozenset[str]


class Connections:
    """One a process. Fails closed: without Redis no message is handed on, and its sender is told so.

    A connection ends with its stream, so what its holder has not taken by then is no loss.
    """

    def __init__(self, connection: SharedConnection, keys: Keys, *, write_timeout: float) -> None:
        """``write_timeout`` is how many seconds a holder may be busy with one write to the client."""
        self._lease_ms = int((LEASE + write_timeout) * 1000)
        self._connection = connection
        self._keys = keys

    def open(self, principal: str, tool: ToolId | None) -> str:
        """Make a connection known under an unguessable name. Raises :class:`StoreUnavailable`."""
        name = secrets.token_urlsafe(24)
        with store_errors("opening a connection"):
            self._connection.command(
                "SET", self._keys.connection(name), _owner(principal, tool), "PX", self._lease_ms
            )
        return name

    def keep(self, name: str) -> bool:
        """Keep it for another lease; False if it is gone. Raises :class:`StoreUnavailable`."""
        with store_errors("keeping a connection"):
            return bool(self._connection.command("PEXPIRE", self._keys.connection(name), self._lease_ms))

    def post(self, name: str, caller: Caller, tool: ToolId | None, message: bytes) -> None:
        """Hand a message to the holder.

        Raises :class:`SessionNotFound` alike for a connection that is unknown, has ended, or is another principal's or
        another endpoint's; :class:`Throttled` if its holder does not keep up; :class:`StoreUnavailable`.
        """
        keys = [self._keys.connection(name), *self._inbox(name)]
        args: list[str | bytes | int | float] = [
            _owner(caller.principal, tool),
            b"%b\n%b" % (orjson.dumps(sorted(caller.scopes)), message),
            MOST_WAITING,
            self._lease_ms,
            self._keys.session_stream_channel,
            name,
            MOST_WAITING_BYTES,
        ]
        with store_errors("handing on a message"):
            verdict = int(self._connection.run("connection_post", keys, args))
        if verdict == 0:
            raise SessionNotFound(GONE)
        if verdict < 0:
            bounds = f"{MOST_WAITING} messages, or {MOST_WAITING_BYTES} bytes,"
            raise Throttled(f"more than {bounds} would wait on this connection", retry_after=1)

    def take(self, name: str) -> list[Posted]:
        """Some of the messages that wait for the holder, in order. Raises :class:`StoreUnavailable`."""
        with store_errors("taking messages of a connection"):
            found: list[bytes] = self._connection.run("connection_take", self._inbox(name), [_TAKEN_AT_ONCE])
        return [_posted(raw) for raw in found]

    def close(self, name: str) -> None:
        """It has ended. Raises :class:`StoreUnavailable`."""
        with store_errors("ending a connection"):
            self._connection.command("DEL", self._keys.connection(name), *self._inbox(name))

    def _inbox(self, name: str) -> list[str]:
        """The keys of what waits, and of its size."""
        return [self._keys.connection_inbox(name), self._keys.connection_bytes(name)]


def _posted(raw: bytes) -> Posted:
    scopes, _, message = raw.partition(b"\n")
    return Posted(message, frozenset(orjson.loads(scopes)))


def _owner(principal: str, tool: ToolId | None) -> bytes:
    return orjson.dumps([principal, tool])
