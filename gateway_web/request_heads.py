"""gunicorn's parser, which remembers the head of the last request on a connection.

A client sends the same head again and again, but for the length of its body. What gunicorn made of it, with all its
checks, is a function of those bytes and of the peer, which is the same for a connection: where they come again, byte
for byte, it need not be made anew. A head that differs in anything else is read by gunicorn, as is one of which more
than its request line and its fields counts (``Expect``, a proxy's scheme).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

LENGTH = "CONTENT-LENGTH"
MOST_DIGITS = 15
"""Of a length that is taken from a head which is remembered."""
_PARTS = ("method", "uri", "path", "query", "fragment", "version")


@dataclass(frozen=True, slots=True)
class _Line:
    """A request line, and what gunicorn read in it, in the order of :data:`_PARTS`."""

    raw: bytes
    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Fields:
    """Header fields: the bytes around the length, what gunicorn read in them, and the place of the length there."""

    before: bytes
    behind: bytes
    headers: tuple[tuple[str, str], ...]
    place: int

    def length_in(self, data: bytes) -> str | None:
        """The length, if all the rest is the same."""
        end = len(data) - len(self.behind)
        digits = data[len(self.before) : end]
        if not (digits.isdigit() and len(digits) <= MOST_DIGITS and data.endswith(self.behind)):
            return None
        return digits.decode() if data.startswith(self.before) else None


class RememberingRequest(Request):  # type: ignore[misc]
    """A request; what is remembered belongs to the connection's reader."""

    def parse_request_line(self, line_bytes: bytes) -> None:
        """As gunicorn does, or as it did the last time."""
        kept: _Line | None = getattr(self.unreader, "last_line", None)
        if kept is not None and kept.raw == line_bytes:
            self.method, self.uri, self.path, self.query, self.fragment, self.version = kept.parts
            return
        super().parse_request_line(line_bytes)
        self.unreader.last_line = _Line(bytes(line_bytes), tuple(getattr(self, name) for name in _PARTS))

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[tuple[str, str]]:  # noqa: FBT001, FBT002 - gunicorn calls it so
        """As gunicorn does, or as it did the last time."""
        kept: _Fields | None = None if from_trailer else getattr(self.unreader, "last_fields", None)
        if kept is not None and (length := kept.length_in(data)) is not None:
            headers = list(kept.headers)
            headers[kept.place] = (LENGTH, length)
            return headers
        scheme = self.scheme
        found: list[tuple[str, str]] = super().parse_headers(data, from_trailer=from_trailer)
        if not from_trailer:
            plain = self.scheme == scheme and not self._expected_100_continue
            self.unreader.last_fields = _remembered(data, found) if plain else None
        return found


def _remembered(data: bytes, headers: list[tuple[str, str]]) -> _Fields | None:
    """What there is to remember; None without exactly one length that is a number."""
    places = [place for place, (name, _) in enumerate(headers) if name == LENGTH]
    if len(places) != 1 or not headers[places[0]][1].isdecimal():
        return None
    begin = 0
    for line in data.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.upper() == LENGTH.encode():
            digits = value.strip(b" \t")
            begin += len(line) - len(value.lstrip(b" \t"))
            return _Fields(data[:begin], data[begin + len(digits) :], tuple(headers), places[0])
        begin += len(line) + 2
    return None


def remember_heads() -> None:
    """Have the connections of this process read so."""
    RequestParser.mesg_class = RememberingRequest
