"""What is checked before anything else is looked at: Host, Origin, content type, Accept, size.

Specification: MCP, "Transports", security warning (DNS rebinding) and the rules on Accept and Origin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import IO, Any

from gunicorn.http.errors import ParseException

from common.domain.errors import Forbidden, GatewayError, InvalidRequest
from common.settings import WebSettings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
WILDCARDS = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - compared with, not bound
JSON, EVENT_STREAM = "application/json", "text/event-stream"
LONGEST_REMEMBERED = 200
"""Characters of an Accept header whose meaning is remembered."""
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


class Refused(GatewayError):
    """A guard's refusal with an HTTP status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HostGuard:
    """Which Host and Origin headers are accepted.

    Loopback names are always good for a loopback bind. A gateway bound to a wildcard address without
    ``web.allowed_hosts`` accepts any well-formed Host: it cannot know its own names, and there an identity
    resolver is obligatory.
    """

    def __init__(self, web: WebSettings) -> None:
        bound = web.host.lower()
        if ":" in bound and not bound.startswith("["):
            bound = f"[{bound}]"  # as an IPv6 address stands in a Host header
        named = {host.lower() for host in web.allowed_hosts}
        self._any = bound in WILDCARDS and not named
        self._hosts = named | LOOPBACK_NAMES | ({bound} if bound not in WILDCARDS else set())
        self._origins = {origin.lower() for origin in web.allowed_origins}

    def check(self, environ: Mapping[str, Any]) -> None:
        """Raise :class:`Refused` or :class:`Forbidden`."""
        host = str(environ.get("HTTP_HOST", "")).lower()
        found = _HOST.fullmatch(host)
        if found is None:
            raise Refused(400, "the Host header is missing or malformed")
        if not self._any and found["name"] not in self._hosts and host not in self._hosts:
            raise Refused(421, "this Host is not served here; add it to web.allowed_hosts")
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and not self._origin_allowed(str(origin).lower(), host):
            raise Forbidden("this Origin may not call; add it to web.allowed_origins")

    def _origin_allowed(self, origin: str, host: str) -> bool:
        if origin in self._origins:
            return True
        scheme, separator, authority = origin.partition("://")
        return separator == "://" and scheme in {"http", "https"} and authority == host


def check_content_type(value: str | None) -> None:
    """POST bodies are JSON. Raises :class:`Refused`."""
    if (value or "").partition(";")[0].strip().lower() != JSON:
        raise Refused(415, "Content-Type must be application/json")


def check_accept(value: str | None) -> None:
    """A client must take both forms of an answer (MCP, "Sending Messages to the Server"). Raises :class:`Refused`."""
    if not (_accepted(JSON, value) and _accepted(EVENT_STREAM, value)):
        raise Refused(406, "Accept must list both application/json and text/event-stream")


def check_accepts_stream(value: str | None) -> None:
    """A GET asks for a stream (MCP, "Listening for Messages from the Server"). Raises :class:`Refused`."""
    if not _accepted(EVENT_STREAM, value):
        raise Refused(406, "Accept must list text/event-stream")


def _accepted(wanted: str, value: str | None) -> bool:
    text = value or ""
    # There are about as many short texts as kinds of clients; a long one is nobody's habit.
    return (_listed_before if len(text) <= LONGEST_REMEMBERED else _listed)(wanted, text)


def _listed(wanted: str, text: str) -> bool:
    kinds = {part.partition(";")[0].strip().lower() for part in text.split(",")}
    return not kinds.isdisjoint({"*/*", wanted, f"{wanted.partition('/')[0]}/*"})


_listed_before = lru_cache(maxsize=64)(_listed)


def check_transfer(coding: str | None) -> None:
    """A body comes as it is, or in chunks: no other coding is taken off here. Raises :class:`Refused`."""
    if coding is not None and coding.strip().lower() != "chunked":
        raise Refused(400, "Transfer-Encoding must be chunked, or absent")


def read_body(stream: IO[bytes], length: str | None, limit: int) -> bytes:
    """The body: all that was announced, and at most ``limit`` bytes also where nothing was. Raises :class:`Refused`."""
    if length and not (length.isascii() and length.isdigit()):
        raise InvalidRequest("Content-Length is not a number", field="Content-Length")
    # Twenty digits are beyond any limit; thousands of them are no number to Python.
    if length and (len(length) > 20 or int(length) > limit):
        raise Refused(413, f"the body is larger than {limit} bytes (web.max_body_bytes)")
    pieces: list[bytes] = []
    left = limit + 1
    # A stream may give what has come so far.
    try:
        while left > 0 and (piece := stream.read(left)):
            pieces.append(piece)
            left -= len(piece)
    except TimeoutError as error:
        raise Refused(408, "the body did not come in time (web.read_timeout)") from error
    except (OSError, ParseException) as error:  # a client that went, a malformed chunk
        raise Refused(400, "the body cannot be read") from error
    if left <= 0:
        raise Refused(413, f"the body is larger than {limit} bytes (web.max_body_bytes)")
    body = b"".join(pieces)
    if length and len(body) < int(length):
        raise Refused(400, "the body ended before its Content-Length")
    return body
