"""What an MCP session is told outside its requests: one stream in Redis, so that any web process can hand it out.

Whoever has something for a session appends it and calls out; the web process that holds the session's standing stream
reads on. Each message has an id, by which a client that lost its connection goes on where it was.

Source: 2025-11-25, "Transports", "Listening for messages" and "Resumability": each message on exactly one stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import structlog

from common.domain.errors import PayloadUnreadable
from common.domain.ids import McpSessionId
from common.sessions.mcp import keep_session
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection

log = structlog.get_logger(__name__)

LENGTH = 1000
"""So many messages of a session are kept; of more the earliest are gone."""
BEGINNING = "0-0"
_ENTRY, _TOOL = "m", "t"
STREAM = "stream"
"""What is sealed under the id of the session."""
UNREADABLE = orjson.dumps(
    {
        "jsonrpc": "2.0",
        "method": "notifications/message",
        "params": {
            "level": "warning",
            "logger": "canalgate",
            "data": "a message for this session cannot be read here",
        },
    }
)


class Message(NamedTuple):
    """A message, and the tool it is of; empty for one that is of none."""

    id: str
    data: bytes
    tool: str


def told(
    keys: Keys, session: McpSessionId, message: Mapping[str, Any], *, idle_ms: int, tool: str = ""
) -> tuple[tuple[str | bytes | int, ...], ...]:
    """The commands that tell a session something."""
    key = keys.session_stream(session)
    data = keys.sealed(orjson.dumps(dict(message)), STREAM, session)
    return (
        ("XADD", key, "MAXLEN", "~", LENGTH, "*", _ENTRY, data, _TOOL, tool),
        ("PEXPIRE", key, idle_ms),
        ("PUBLISH", keys.session_stream_channel, session),
    )


class SessionStreams:
    """One a process. Fails closed: what cannot be appended was not told, and whoever reads waits for Redis."""

    def __init__(self, connection: SharedConnection, keys: Keys, *, idle_timeout: float) -> None:
        """``idle_timeout`` is in seconds: a stream lives as long as its session."""
        self._connection = connection
        self._keys = keys
        self._idle_ms = int(idle_timeout * 1000)

    def append(self, session: McpSessionId, message: Mapping[str, Any]) -> None:
        """Tell a session something. Raises :class:`StoreUnavailable`."""
        with store_errors("telling an MCP session something"):
            for command in told(self._keys, session, message, idle_ms=self._idle_ms):
                self._connection.command(*command)

    def read(self, session: McpSessionId, after: str) -> list[Message]:
        """What came after the message of that id, in order. Raises :class:`StoreUnavailable`."""
        with store_errors("reading what an MCP session is told"):
            entries: Sequence[Any] = self._connection.command(
                "XRANGE", self._keys.session_stream(session), f"({after}", "+"
            )
        found = []
        for name, fields in entries:
            parts = dict(zip(fields[::2], fields[1::2], strict=True))
            data = self._opened(session, parts[_ENTRY.encode()])
            found.append(Message(name.decode(), data, parts.get(_TOOL.encode(), b"").decode()))
        return found

    def _opened(self, session: McpSessionId, data: bytes) -> bytes:
        """A message; in the place of one that cannot be opened, word that there was one."""
        try:
            return self._keys.opened(data, STREAM, session)
        except PayloadUnreadable as error:
            log.error("message_unreadable", error=error.message)
            return UNREADABLE

    def last(self, session: McpSessionId) -> str:
        """The id of the newest message. Raises :class:`StoreUnavailable`."""
        with store_errors("reading what an MCP session is told"):
            found: Sequence[Any] = self._connection.command(
                "XREVRANGE", self._keys.session_stream(session), "+", "-", "COUNT", 1
            )
        return found[0][0].decode() if found else BEGINNING

    def hold(self, session: McpSessionId, holder: str) -> None:
        """Be the one that hands the stream out; whoever did so before ends (:meth:`holds`)."""
        key = self._keys.session_holder(session)
        with store_errors("holding the stream of an MCP session"):
            self._connection.command("SET", key, holder, "PX", self._idle_ms)
            self._connection.command("PUBLISH", self._keys.session_stream_channel, session)

    def holds(self, session: McpSessionId, holder: str, *, counted_in: str | None = None) -> bool:
        """Whether this is still the one, and the session lives; both are kept alive then.

        ``counted_in`` is that of :meth:`McpSessions.counted_in`. Raises :class:`StoreUnavailable`.
        """
        keys = self._keys.mcp_session(session), self._keys.session_holder(session)
        with store_errors("holding the stream of an MCP session"):
            alive = keep_session(self._connection, keys[0], self._idle_ms, counted_in)
            found = self._connection.command("GETEX", keys[1], "PX", self._idle_ms)
            self._connection.command("PEXPIRE", self._keys.session_stream(session), self._idle_ms)
        return alive and found == holder.encode()

    def lists_told(self, session: McpSessionId) -> dict[str, str] | None:
        """The lists as the session knows them, by what they are digests of; None if nothing is on record."""
        with store_errors("reading which lists an MCP session knows"):
            raw = self._connection.command("GET", self._keys.session_lists(session))
        if raw is None:
            return None
        found: dict[str, str] = orjson.loads(raw)
        return found

    def tell_lists(self, session: McpSessionId, digests: Mapping[str, str]) -> None:
        """From now on the session knows the lists so."""
        with store_errors("noting which lists an MCP session knows"):
            self._connection.command(
                "SET", self._keys.session_lists(session), orjson.dumps(dict(digests)), "PX", self._idle_ms
            )


class Listener:
    """One who waits in this process for something to be said."""

    def __init__(self, forget: Callable[[Listener], None], heard: Callable[[], None] | None) -> None:
        self._called = threading.Event()
        self._forget = forget
        self._heard = heard
        self.closed = False

    def call(self) -> None:
        """Something was said, perhaps."""
        self._called.set()
        if self._heard is not None:
            self._heard()

    def wait(self, seconds: float) -> bool:
        """Wait until called; False after ``seconds``."""
        called = self._called.wait(seconds)
        self._called.clear()
        return called

    def close(self) -> None:
        """Wait no more."""
        self.closed = True
        self._called.set()
        self._forget(self)


class Listeners:
    """Those who wait in this process: for one session's messages, and all of them for changes of the registry."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_session: dict[str, set[Listener]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_session.values()))

    def listen(self, session: str, heard: Callable[[], None] | None = None) -> Listener:
        """Wait for a session (or for whatever has this name); ``heard`` is for whoever waits for more than that."""

        def forget(listener: Listener) -> None:
            with self._lock:
                found = self._by_session.get(session, set())
                found.discard(listener)
                if not found:
                    self._by_session.pop(session, None)

        listener = Listener(forget, heard)
        with self._lock:
            self._by_session.setdefault(session, set()).add(listener)
        return listener

    def hear(self, session: bytes) -> None:
        """Something was said to a session."""
        with self._lock:
            found = list(self._by_session.get(session.decode(), ()))
        for listener in found:
            listener.call()

    def call_all(self) -> None:
        """Something changed that may matter to all."""
        with self._lock:
            found = [listener for listeners in self._by_session.values() for listener in listeners]
        for listener in found:
            listener.call()
