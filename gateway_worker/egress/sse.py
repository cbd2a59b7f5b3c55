"""Server-sent events, parsed as they come (WHATWG HTML, section 9.2.6 "Interpreting an event stream")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.domain.errors import ResponseTooLarge

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
FIELD_ROOM = 64
"""What a line may have beyond the bound on its data: the field's name."""
BEGINNING = 200
"""Characters that are shown of an event that has not ended."""
RETRY_DIGITS = 9
"""More are no time (30 years), and Python refuses to read thousands of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """One event. ``id`` and ``retry`` (ms) are None when the event did not set them."""

    data: str
    event: str = "message"
    id: str | None = None
    retry: int | None = None


class EventParser:
    """Makes events of the bytes of one stream, however they are cut."""

    def __init__(self, *, limit: int) -> None:
        """``limit`` bounds the data of one event, in bytes."""
        self._limit = limit
        self._rest = bytearray()
        self._first, self._after_cr = True, False
        self._begin()

    def _begin(self) -> None:
        self._data: list[str] = []
        self._name, self._size = "message", 0
        self._id: str | None = None
        self._retry: int | None = None

    @property
    def beginning(self) -> str:
        """How the data of the event that has not ended begins, also where that was found too large."""
        whole = self._data[0] if self._data else self._rest[:BEGINNING].decode("utf-8", "replace")
        return whole.removeprefix("data:")[:BEGINNING].lstrip()

    def feed(self, chunk: bytes) -> Iterator[ServerSentEvent]:
        """The events that ``chunk`` completes. Raises :class:`ResponseTooLarge` for one above the bound.

        What follows the last end of an event is dropped with the stream, as the standard says.
        """
        for line in self._lines(chunk):
            if line:
                self._field(line)
                continue
            if self._data or self._id is not None or self._retry is not None:
                data = "\n".join(self._data)
                yield ServerSentEvent(data=data, event=self._name, id=self._id, retry=self._retry)
            self._begin()

    def _field(self, line: bytes) -> None:
        field, _, raw = line.partition(b":")
        raw = raw.removeprefix(b" ")
        value = raw.decode("utf-8", "replace")
        if field == b"data":
            self._size += len(raw) + (1 if self._data else 0)
            if self._size > self._limit:
                self._data.append(value)
                raise ResponseTooLarge("the tool sent an event above the bound (runtime.max_result_bytes)")
            self._data.append(value)
        elif field == b"event":
            self._name = value or "message"
        elif field == b"id" and "\0" not in value:
            self._id = value
        elif field == b"retry" and value.isascii() and value.isdigit() and len(value) <= RETRY_DIGITS:
            self._retry = int(value)

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """Lines ended by LF, CRLF or CR.

        Each byte is looked at once, however small the chunks: a big event in small ones must not hold up the loop.
        """
        if not chunk:
            return
        # A line ends with its CR, at once; a LF right behind it, maybe in the next chunk, belongs to that end.
        fresh = chunk[1:] if self._after_cr and chunk.startswith(b"\n") else chunk
        self._after_cr = chunk.endswith(b"\r")
        for piece in fresh.splitlines(keepends=True):
            self._rest += piece
            if len(self._rest) > self._limit + FIELD_ROOM:
                raise ResponseTooLarge("the tool sent a line above the bound (runtime.max_result_bytes)")
            if piece.endswith((b"\n", b"\r")):
                line = bytes(self._rest).rstrip(b"\r\n")
                self._rest.clear()
                yield line.removeprefix(BYTE_ORDER_MARK) if self._first else line
                self._first = False
