"""Server-sent events, parsed as they come (WHATWG HTML, section 9.2.6 "Interpreting an event stream")."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from common.domain.errors import ResponseTooLarge


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """One event. ``id`` and ``retry`` (ms) are None when the event did not set them."""

    data: str
    event: str = "message"
    id: str | None = None
    retry: int | None = None


async def events(chunks: AsyncIterator[bytes], *, limit: int) -> AsyncIterator[ServerSentEvent]:
    """Events of a byte stream. Raises :class:`ResponseTooLarge` for one above ``limit`` bytes."""
    data: list[str] = []
    name, event_id, retry = "message", None, None
    size = 0
    async for line in _lines(chunks, limit):
        if not line:
            if data or event_id is not None or retry is not None:
                yield ServerSentEvent(data="\n".join(data), event=name, id=event_id, retry=retry)
            data, name, event_id, retry, size = [], "message", None, None, 0
            continue
        size += len(line)
        if size > limit:
            raise ResponseTooLarge("the tool sent an event above the bound (runtime.max_result_bytes)")
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            event_id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            retry = int(value)


async def _lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[str]:
    """Lines ended by LF, CRLF or CR; what follows the last end is dropped, as the standard says."""
    rest = b""
    first = True
    async for chunk in chunks:
        buffer = rest + chunk
        if first and len(buffer) >= 3:
            buffer, first = buffer.removeprefix(b"\xef\xbb\xbf"), False
        # A CR at the very end may be half of a CRLF: wait for the next chunk.
        held = b"\r" if buffer.endswith(b"\r") else b""
        body = buffer[: len(buffer) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, tail = body.split(b"\n")
        rest = tail + held
        if len(rest) > limit:
            raise ResponseTooLarge("the tool sent a line above the bound (runtime.max_result_bytes)")
        for line in lines:
            yield line.decode("utf-8", "replace")
