"""Open connections of the HTTP+SSE transport, so that what a client POSTs to any web process reaches the one that holds
its stream.

Source: 2024-11-05, "Transports", "HTTP with SSE".
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

import orjson

from common.domain.errors import SessionNotFound, Throttled
from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

LEASE = 60.0
"""Seconds after which a connection is gone whose process does not keep it."""
KEEP_EVERY = LEASE / 3
"""Seconds between two times that a process keeps its connections."""
MOST_WAITING, MOST_WAITING_BYTES = 64, 8 * 1024 * 1024
"""Messages that may wait for the holder, and bytes of all of them; one that waits alone may be larger."""
GONE = "this session does not exist or has ended; open the event stream again"
INBOX = "inbox"
"""What is sealed under the name of the connection."""
_NONE, _OTHERS = 0, -2
"""Answers of the script that posts."""
_LEASE_MS = int(LEASE * 1000)
_TAKEN_AT_ONCE = 16
_KEPT_AT_ONCE = 200


class Posted(NamedTuple):
    """A message of the client, and the scopes of the one who sent it: the same principal may come with others.

    ``number`` grows from one to the next.
    """

    number: int
    message: bytes
    scopes: frozenset[str]


class Connections:
    """One a process. Fails closed: without Redis no message is handed on, and its sender is told so.

    A connection ends with its stream, so what its holder has not taken by then is no loss. The process keeps all that
    it holds, whatever their streams are busy with: :meth:`keep` is to be called again and again.
    """

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._held: dict[str, Callable[[], None]] = {}
        self._keep_at = 0.0

    def open(self, principal: str, tool: ToolId | None, on_lost: Callable[[], None]) -> str:
        """Make a connection known under an unguessable name.

        ``on_lost`` is called if Redis loses it. Raises :class:`StoreUnavailable`.
        """
        name = secrets.token_urlsafe(24)
        with store_errors("opening a connection"):
            self._connection.command(
                "SET", self._keys.connection(name), _owner(principal, tool), "PX", _LEASE_MS
            )
        self._held[name] = on_lost
        return name

    def keep(self) -> None:
        """Keep all that are held here for another lease, when it is time. Raises :class:`StoreUnavailable`."""
        if time.monotonic() < self._keep_at:
            return
        held = list(self._held)
        for first in range(0, len(held), _KEPT_AT_ONCE):
            names = held[first : first + _KEPT_AT_ONCE]
            with store_errors("keeping connections"):
                gone = self._connection.run(
                    "connections_keep", [self._keys.connection(name) for name in names], [_LEASE_MS]
                )
            for place in gone:
                if (on_lost := self._held.pop(names[place], None)) is not None:
                    on_lost()
        self._keep_at = time.monotonic() + KEEP_EVERY

    def post(self, name: str, caller: Caller, tool: ToolId | None, message: bytes) -> None:
        """Hand a message to the holder.

        Raises :class:`SessionNotFound` alike for a connection that is unknown, has ended, or is another principal's or
        another endpoint's; :class:`Throttled` if its holder does not keep up; :class:`StoreUnavailable`.
        """
        keys = [self._keys.connection(name), *self._inbox(name)]
        args: list[str | bytes | int | float] = [
            _owner(caller.principal, tool),
            self._keys.sealed(b"%b\n%b" % (orjson.dumps(sorted(caller.scopes)), message), INBOX, name),
            MOST_WAITING,
            _LEASE_MS,
            self._keys.session_stream_channel,
            name,
            MOST_WAITING_BYTES,
        ]
        with store_errors("handing on a message"):
            verdict = int(self._connection.run("connection_post", keys, args))
        if verdict in (_NONE, _OTHERS):
            error = SessionNotFound(GONE)
            error.stranger = verdict == _OTHERS
            raise error
        if verdict < 0:
            bounds = f"{MOST_WAITING} messages, or {MOST_WAITING_BYTES} bytes,"
            raise Throttled(f"more than {bounds} would wait on this connection", retry_after=1)

    def take(self, name: str, heard: int) -> list[Posted]:
        """Some of the messages behind the one with the number ``heard``, in order; up to that one they are forgotten.

        Raises :class:`StoreUnavailable`, and :class:`PayloadUnreadable` for one that cannot be opened; nothing is lost
        then, for they are forgotten by the next call alone.
        """
        with store_errors("taking messages of a connection"):
            found: list[bytes] = self._connection.run(
                "connection_take", self._inbox(name), [_TAKEN_AT_ONCE, heard]
            )
        return [self._posted(name, raw) for raw in found]

    def close(self, name: str) -> None:
        """It has ended. Raises :class:`StoreUnavailable`."""
        self._held.pop(name, None)
        with store_errors("ending a connection"):
            self._connection.command("DEL", self._keys.connection(name), *self._inbox(name))

    def _posted(self, name: str, raw: bytes) -> Posted:
        number, _, sealed = raw.partition(b"\n")
        scopes, _, message = self._keys.opened(sealed, INBOX, name).partition(b"\n")
        return Posted(int(number), message, frozenset(orjson.loads(scopes)))

    def _inbox(self, name: str) -> list[str]:
        """The keys of what waits, and of its size."""
        return [self._keys.connection_inbox(name), self._keys.connection_bytes(name)]


def _owner(principal: str, tool: ToolId | None) -> bytes:
    return orjson.dumps([principal, tool])
