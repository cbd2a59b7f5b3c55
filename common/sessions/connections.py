"""Open connections of the HTTP+SSE transport, so that what a client POSTs to any web process reaches the one that holds
its stream.

Source: 2024-11-05, "Transports", "HTTP with SSE".
"""

from __future__ import annotations

import secrets

import orjson

from common.domain.errors import SessionNotFound, Throttled
from common.domain.ids import ToolId
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

LEASE = 60.0
"""Seconds after which a connection that its holder does not keep is gone."""
MOST_WAITING = 64
"""Messages that may wait for the holder."""
GONE = "this session does not exist or has ended; open the event stream again"
_LEASE_MS = int(LEASE * 1000)
_TAKEN_AT_ONCE = 16


class Connections:
    """One a process. Fails closed: without Redis no message is handed on, and its sender is told so.

    A connection ends with its stream, so what its holder has not taken by then is no loss.
    """

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    def open(self, principal: str, tool: ToolId | None) -> str:
        """Make a connection known under an unguessable name. Raises :class:`StoreUnavailable`."""
        name = secrets.token_urlsafe(24)
        with store_errors("opening a connection"):
            self._connection.command(
                "SET", self._keys.connection(name), _owner(principal, tool), "PX", _LEASE_MS
            )
        return name

    def keep(self, name: str) -> bool:
        """Keep it for another :data:`LEASE`; False if it is gone. Raises :class:`StoreUnavailable`."""
        with store_errors("keeping a connection"):
            return bool(self._connection.command("PEXPIRE", self._keys.connection(name), _LEASE_MS))

    def post(self, name: str, principal: str, tool: ToolId | None, message: bytes) -> None:
        """Hand a message to the holder.

        Raises :class:`SessionNotFound` alike for a connection that is unknown, has ended, or is another principal's or
        another endpoint's; :class:`Throttled` if its holder does not keep up; :class:`StoreUnavailable`.
        """
        keys = [self._keys.connection(name), self._keys.connection_inbox(name)]
        args: list[str | bytes | int | float] = [
            _owner(principal, tool),
            message,
            MOST_WAITING,
            _LEASE_MS,
            self._keys.session_stream_channel,
            name,
        ]
        with store_errors("handing on a message"):
            verdict = int(self._connection.run("connection_post", keys, args))
        if verdict == 0:
            raise SessionNotFound(GONE)
        if verdict < 0:
            raise Throttled(f"more than {MOST_WAITING} messages wait on this connection", retry_after=1)

    def take(self, name: str) -> list[bytes]:
        """Some of the messages that wait for the holder, in order. Raises :class:`StoreUnavailable`."""
        with store_errors("taking messages of a connection"):
            found: list[bytes] | None = self._connection.command(
                "LPOP", self._keys.connection_inbox(name), _TAKEN_AT_ONCE
            )
        return found or []

    def close(self, name: str) -> None:
        """It has ended. Raises :class:`StoreUnavailable`."""
        with store_errors("ending a connection"):
            self._connection.command("DEL", self._keys.connection(name), self._keys.connection_inbox(name))


def _owner(principal: str, tool: ToolId | None) -> bytes:
    return orjson.dumps([principal, tool])
