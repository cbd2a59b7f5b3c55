"""Server-sent events as they are written (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from common.mcp.jsonrpc import dumps
from common.mcp.revisions import at_least

POLLING_SINCE = "2025-11-25"
"""Clients before this revision choke on an event without data (SEP-1699)."""
RETRY_MS = 1000
"""After that time a client whose stream broke comes back."""
PING = b": ping\n\n"
"""A comment: it keeps the connection alive, and no client sees it."""
STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


def event(
    data: bytes | None, *, name: str | None = None, retry: int | None = None, kind: str = "message"
) -> bytes:
    """One event. ``data`` is JSON on one line; None for one that only says its id (``name``) and ``retry`` in ms."""
    lines = [] if data is None else [b"event: " + kind.encode()]
    if name is not None:
        lines.append(b"id: " + name.encode())
    if retry is not None:
        lines.append(b"retry: %d" % retry)
    lines.append(b"data: " + (data or b""))
    return b"\n".join(lines) + b"\n\n"


def place_to_return(version: str, name: str) -> bytes:
    """What a stream begins with: an id to come back with, and when. A comment for clients that choke on that."""
    return event(None, name=name, retry=RETRY_MS) if at_least(version, POLLING_SINCE) else PING


def events_of(messages: Iterator[Mapping[str, Any] | None]) -> Iterator[bytes]:
    """Messages as events; a comment for each None among them, which says that nothing came for a while."""
    for message in messages:
        yield PING if message is None else event(dumps(message))
