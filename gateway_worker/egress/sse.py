"""Server-sent events, parsed as they come (WHATWG HTML, section 9.2.6 "Interpreting an event stream")."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from common.domain.errors import ResponseTooLarge

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
FIELD_ROOM = 64
"""What a line may have beyond the bound on its data: the field's name."""
RETRY_DIGITS = 9
"""More are no time (30 years), and Python refuses to read thousands of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """One event. ``id`` and ``retry`` (ms) are None when the event did not set them."""

    data: str
    event: str = "message"
    id: str | None = None
    retry: int | None = None


async def events(chunks: AsyncIterator[bytes], *, limit: int) -> AsyncGenerator[ServerSentEvent, None]:
    """Events of a byte stream. Raises :class:`ResponseTooLarge` for one with data above ``limit`` bytes."""
    data: list[str] = []
    name, event_id, retry = "message", None, None
    size = 0
    async for line in _lines(chunks, limit + FIELD_ROOM):
        if not line:
            if data or event_id is not None or retry is not None:
                yield ServerSentEvent(data="\n".join(data), event=name, id=event_id, retry=retry)
            data, name, event_id, retry, size = [], "message", None, None, 0
            continue
        field, _, raw = line.partition(b":")
        raw = raw.removeprefix(b" ")
        value = raw.decode("utf-8", "replace")
        if field == b"data":
            size += len(raw) + (1 if data else 0)
            if size > limit:
                raise ResponseTooLarge("the tool sent an event above the bound (runtime.max_result_bytes)")
            data.append(value)
        elif field == b"event":
            name = value or "message"
        elif field == b"id" and "\0" not in value:
            event_id = value
        elif field == b"retry" and value.isascii() and value.isdigit() and len(value) <= RETRY_DIGITS:
            retry = int(value)


async def _lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Lines ended by LF, CRLF or CR; what follows the last end is dropped, as the standard says.

    Each byte is looked at once, however small the chunks: a big event in small ones must not hold up the loop.
    """
    rest = bytearray()
    first, after_cr = True, False
    async for chunk in chunks:
        if not chunk:
            continue
        # A line ends with its CR, at once; a LF right behind it, maybe in the next chunk, belongs to that end.
        fresh = chunk[1:] if after_cr and chunk.startswith(b"\n") else chunk
        after_cr = chunk.endswith(b"\r")
        for piece in fresh.splitlines(keepends=True):
            rest += piece
            if len(rest) > limit:
                raise ResponseTooLarge("the tool sent a line above the bound (runtime.max_result_bytes)")
            if piece.endswith((b"\n", b"\r")):
                line = bytes(rest).rstrip(b"\r\n")
                rest.clear()
                yield line.removeprefix(BYTE_ORDER_MARK) if first else line
                first = False
