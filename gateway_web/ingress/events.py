"""Server-sent events as they are written (WHATWG HTML, section 9.2)."""

from __future__ import annotations

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
