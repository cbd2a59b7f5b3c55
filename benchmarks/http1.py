"""An incremental parser of HTTP/1.1 responses, and of the event streams inside them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

MAX_HEAD = 64 * 1024


class BadHttpError(Exception):
    """The peer's bytes are not an HTTP/1.1 response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One complete response. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the server ends the connection after this response."""
        return self.headers.get("connection", "").lower() == "close"


class ResponseParser:
    """Collects bytes until one response is complete. One request is in flight at a time."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._status = 0
        self._headers: dict[str, str] | None = None
        self._chunks = bytearray()

    def feed(self, data: bytes) -> Response | None:
        """Take ``data``; return the response if it is complete now.

        Raises:
            BadHttpError: the head or a chunk is malformed.
        """
        self._bytes += data
        if self._headers is None and not self._read_head():
            return None
        body = self._read_body()
        return None if body is None else self._finish(body)

    def end(self) -> Response | None:
        """The connection has ended: return the response under way, if that is what ends its body."""
        if self._headers is None or "content-length" in self._headers or self._chunked:
            return None
        return self._finish(bytes(self._bytes))

    @property
    def _chunked(self) -> bool:
        return self._headers is not None and "chunked" in self._headers.get("transfer-encoding", "").lower()

    def _read_head(self) -> bool:
        end = self._bytes.find(b"\r\n\r\n")
        if end < 0:
            if len(self._bytes) > MAX_HEAD:
                raise BadHttpError("no end of the response head")
            return False
        status_line, *lines = self._bytes[:end].decode("latin-1").split("\r\n")
        version, _, rest = status_line.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise BadHttpError(f"bad status line {status_line[:80]!r}")
        self._status = int(rest[:3])
        pairs = (line.partition(":") for line in lines)
        self._headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        del self._bytes[: end + 4]
        return True

    def _read_body(self) -> bytes | None:
        assert self._headers is not None
        if self._status in {204, 304}:
            return b""
        if self._chunked:
            return self._read_chunks()
        if (stated := self._headers.get("content-length")) is None:
            return None  # the body ends with the connection
        length = int(stated)
        if len(self._bytes) < length:
            return None
        body = bytes(self._bytes[:length])
        del self._bytes[:length]
        return body

    def _read_chunks(self) -> bytes | None:
        while (end := self._bytes.find(b"\r\n")) >= 0:
            try:
                size = int(self._bytes[:end].split(b";", 1)[0], 16)
            except ValueError:
                raise BadHttpError(f"bad chunk size {bytes(self._bytes[:end][:40])!r}") from None
            stop = end + 2 + size + 2
            if len(self._bytes) < stop:
                return None
            self._chunks += self._bytes[end + 2 : end + 2 + size]
            del self._bytes[:stop]
            if size == 0:
                return bytes(self._chunks)
        return None

    def _finish(self, body: bytes) -> Response:
        assert self._headers is not None
        response = Response(status=self._status, headers=self._headers, body=body)
        self._headers = None
        self._chunks = bytearray()
        return response


def event_data(body: bytes) -> list[bytes]:
    """Return the data of every event of an event stream that has any, comments and other fields left out."""
    events = []
    for block in body.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
        if any(lines):
            events.append(b"\n".join(lines))
    return events


def last_message(response: Response) -> Any:
    """Return the JSON of the response: its body, or its last event (the others are notifications).

    Raises:
        BadHttpError: there is no JSON in it.
    """
    documents = [response.body]
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        documents = event_data(response.body) or [b""]
    try:
        return orjson.loads(documents[-1])
    except orjson.JSONDecodeError:
        start = response.body[:120]
        raise BadHttpError(f"HTTP {response.status} without a JSON-RPC message: {start!r}") from None
