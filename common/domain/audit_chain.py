"""The chain that binds the journal's records: each has a number, and a digest over itself and the record before it.

The chain is a pure function of the stream: whoever starts at a position and reads the same records finds the same
numbers and digests. So several readers never have to agree, and the one that takes over goes on exactly where the last
one stopped. With a key the digests are HMACs: who has no key cannot make them fit what was changed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import orjson

from common.domain.audit_call import unpacked
from common.domain.errors import InvalidRequest

NOTHING = "0" * 64
"""Stands before the first record."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the chain: number and digest of the last record that is behind it, and its id in the stream."""

    id: str
    seq: int
    hash: str

    def text(self) -> str:
        """As it is kept in Redis."""
        return f"{self.seq} {self.id} {self.hash}"


START = Position("0-0", 0, NOTHING)


def position_of(text: str | bytes | None) -> Position:
    """Inverse of :meth:`Position.text`; nothing is the start. Raises :class:`InvalidRequest` for what is none."""
    if text is None:
        return START
    told = text.decode(errors="replace") if isinstance(text, bytes) else text
    seq, _, rest = told.partition(" ")
    name, _, digest = rest.partition(" ")
    if not (seq.isdecimal() and is_id(name) and len(digest) == len(NOTHING)):
        raise InvalidRequest("the journal's state in Redis holds what is no position", field="audit-chain")
    return Position(name, int(seq), digest)


def is_id(text: str) -> bool:
    """Whether it is the id of a record in a stream."""
    ms, _, number = text.partition("-")
    return ms.isdecimal() and number.isdecimal()


def id_key(name: str) -> tuple[int, int]:
    """By which ids are ordered."""
    ms, _, number = name.partition("-")
    return int(ms), int(number)


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A record with its place in the chain. ``event`` are its fields as readers see them."""

    seq: int
    id: str
    event: Mapping[str, str]
    prev: str
    hash: str

    @property
    def position(self) -> Position:
        """The place behind it."""
        return Position(self.id, self.seq, self.hash)

    @property
    def at(self) -> int:
        """When it was written, in milliseconds of Redis time."""
        return int(self.id.partition("-")[0])

    def members(self) -> dict[str, Any]:
        """As plain data: ``seq``, ``id``, ``time``, ``event``, ``prev``, ``hash``."""
        return {
            "seq": self.seq,
            "id": self.id,
            "time": _time(self.id),
            "event": dict(self.event),
            "prev": self.prev,
            "hash": self.hash,
        }

    def line(self) -> bytes:
        """As one line of JSON, with its end."""
        return orjson.dumps(self.members(), option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Inverse of :meth:`line`. Raises :class:`InvalidRequest` for what is no such line, or says another time."""
        try:
            found = orjson.loads(line)
            record = cls(found["seq"], found["id"], found["event"], found["prev"], found["hash"])
            sound = isinstance(record.seq, int) and found == record.members()
        except (orjson.JSONDecodeError, LookupError, TypeError, ValueError, OverflowError, OSError) as error:
            raise InvalidRequest("this is no record of a journal", field="line") from error
        if not sound:
            raise InvalidRequest(
                "this is no record of a journal, or its time is not that of its id", field="line"
            )
        return record


def seal(before: Position, name: str, fields: Mapping[str, str], key: bytes = b"") -> SealedRecord:
    """The record of the stream that stands behind ``before``; ``fields`` are those that the stream holds."""
    event = unpacked(fields)
    seq = before.seq + 1
    return SealedRecord(seq, name, event, before.hash, digest(seq, name, event, before.hash, key))


def seal_all(
    before: Position, entries: Iterable[tuple[str, Mapping[str, str]]], key: bytes = b""
) -> list[SealedRecord]:
    """The records of the stream that stand behind ``before``, in their order."""
    sealed: list[SealedRecord] = []
    for name, fields in entries:
        sealed.append(seal(before, name, fields, key))
        before = sealed[-1].position
    return sealed


def digest(seq: int, name: str, event: Mapping[str, str], prev: str, key: bytes = b"") -> str:
    """SHA-256 (with a key: HMAC-SHA-256) over the digest before and the record in its one canonical form.

    That form is ``[seq, id, event]`` as JSON in UTF-8, without spaces, names in the order of their code points.
    """
    told = prev.encode() + orjson.dumps([seq, name, dict(event)], option=orjson.OPT_SORT_KEYS)
    if key:
        return hmac.digest(key, told, "sha256").hex()
    return hashlib.sha256(told).hexdigest()


def _time(name: str) -> str:
    ms = int(name.partition("-")[0])
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
