"""What goes over a child's standard streams: JSON-RPC messages, one a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from common.domain.errors import GatewayError, ResponseTooLarge
from gateway_worker.egress.link import LinkLost

_BRACKETS = re.compile(rb"[\[{]")
_ID = re.compile(rb'"id"\s*:\s*(\d{1,15})\s*(?:[,}]|$)')


def line_of(message: dict[str, Any]) -> bytes:
    """The message as a line. Raises :class:`orjson.JSONEncodeError`."""
    return orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)


class Lines:
    """Takes a stream apart into lines. Raises :class:`ResponseTooLarge` for one above the bound."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._begun: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that ``data`` ends, without their line feeds."""
        first, *others = data.split(b"\n")
        self._begun.append(first)
        self._size += len(first)
        self._check()
        for beginning in others:
            yield self._take()
            self._begun.append(beginning)
            self._size = len(beginning)
            self._check()

    def end(self) -> Iterator[bytes]:
        """The last line, if it has no line feed."""
        rest = self._take()
        if rest.strip():
            yield rest

    def _take(self) -> bytes:
        line = self._begun[0] if len(self._begun) == 1 else b"".join(self._begun)
        self._begun.clear()
        return line

    def _check(self) -> None:
        if self._size > self._limit:
            self._begun.clear()
            raise ResponseTooLarge("the tool sent a line above the bound (runtime.max_result_bytes)")


def salvaged(line: bytes) -> tuple[Any, GatewayError]:
    """What a line that is no JSON tells of whose answer it is, if anything, and what is wrong with it.

    Python reads more than is JSON (NaN, lone surrogates).
    """
    fault = LinkLost("the tool's answer is no valid JSON")
    if not line.startswith(b"{"):
        return None, fault
    try:
        return json.JSONDecoder().decode(line.decode("utf-8", "replace")), fault
    except RecursionError:
        return _outermost(line), ResponseTooLarge("the tool's answer is nested too deeply")
    except ValueError:
        return None, fault


def _outermost(line: bytes) -> dict[str, Any]:
    """What an object too deep to be read says before its first and behind its last inner bracket: id and method."""
    inner = _BRACKETS.search(line, 1)
    rest = line.rstrip()[:-1]
    last = max(rest.rfind(b"}"), rest.rfind(b"]"))
    edges = line[: inner.start()] + line[last + 1 :] if inner else line
    found = _ID.search(edges)
    members: dict[str, Any] = {} if found is None else {"id": int(found[1])}
    return {**members, "method": ""} if b'"method"' in edges else members
