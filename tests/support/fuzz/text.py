"""JSON as it may be written, rightly or wrongly: duplicate members, odd escapes, tokens that are no JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that are written as they are, whatever they mean."""

    text: bytes


class Pairs(list[tuple[str, Any]]):
    """An object by its members as written: the same name may stand twice."""

    def get(self, name: str) -> Any:
        """The first member of that name; None without one."""
        return next((value for key, value in self if key == name), None)


def pairs(value: Any) -> Any:
    """The same with every object as :class:`Pairs`."""
    if isinstance(value, dict):
        return Pairs((name, pairs(inner)) for name, inner in value.items())
    if isinstance(value, list) and not isinstance(value, Pairs):
        return [pairs(inner) for inner in value]
    return value


def write(value: Any, rng: Random, *, escapes: float = 0.0, blanks: float = 0.0) -> bytes:
    """Write a value; ``escapes`` and ``blanks`` are how probably a character is escaped, and a blank comes between."""

    def blank() -> bytes:
        return rng.choice((b" ", b"\t", b"\n", b"\r\n  ")) if blanks and rng.random() < blanks else b""

    def string(text: str) -> bytes:
        return b'"' + b"".join(_character(one, rng.random() < escapes) for one in text) + b'"'

    def node(inner: Any) -> bytes:
        if isinstance(inner, Raw):
            return inner.text
        if isinstance(inner, Pairs):
            members = (blank() + string(name) + blank() + b":" + node(member) for name, member in inner)
            return b"{" + b",".join(members) + blank() + b"}"
        if isinstance(inner, list):
            return b"[" + b",".join(node(item) for item in inner) + b"]"
        if isinstance(inner, str):
            return blank() + string(inner) + blank()
        return blank() + json.dumps(inner).encode() + blank()

    return node(pairs(value))


def _character(one: str, escaped: bool) -> bytes:
    if escaped and one not in '"\\':
        units = one.encode("utf-16-be", "surrogatepass")
        return b"".join(b"\\u%02x%02x" % (units[at], units[at + 1]) for at in range(0, len(units), 2))
    return json.dumps(one, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
