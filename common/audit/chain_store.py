"""The chain's state in Redis: who keeps it, how far it is sealed, how far each sink has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.audit.journal import texts
from common.domain.audit_chain import START, Position, SealedRecord, position_of
from common.domain.errors import GatewayError
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import run

LEASE = 6.0
"""Seconds for which a keeper is left alone after it was last heard of."""
HEAD, ANCHOR, ADDED, SPILL = "head", "anchor", "added", "spill"
_SINK = "sink:"


class NotKeeper(GatewayError):
    """Another process keeps the journal by now, or the chain is not where this one left it: it has to look again."""


@dataclass(frozen=True, slots=True)
class Spilled:
    """Up to where records are in a directory of a keeper, and the name of that directory."""

    place: Position
    directory: str

    def text(self) -> str:
        """As it is kept in Redis."""
        return f"{self.place.text()} {self.directory}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainState:
    """How far everything is. ``anchor`` is the last record that was trimmed, ``head`` the last that is sealed."""

    head: Position
    anchor: Position
    sinks: Mapping[str, Position]
    spill: Spilled | None
    added: int | None
    """How many records the stream had taken in its life when none was sealed; None: nobody has looked yet."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What Redis says of the stream: how many records it holds, how many it ever took, and the id of the last one."""

    length: int
    added: int
    last: str


class ChainStore:
    """Fails closed: without Redis each method raises ``StoreUnavailable``."""

    def __init__(self, client: Client, keys: Keys, owner: str = "") -> None:
        """``owner`` names this keeper; a reader needs no name."""
        self._client = client
        self._keys = keys
        self._owner = owner

    def keep(self) -> bool:
        """Take or renew the lease; whether this is the keeper."""
        keys = self._keys
        with store_errors("taking the journal's lease"):
            taken = run(
                self._client,
                "audit_keep",
                [keys.audit_lease, keys.audit_chain],
                [self._owner, int(LEASE * 1000)],
            )
        return bool(taken)

    def let_go(self) -> None:
        """Give the lease up, so that the next keeper need not wait for its end."""
        with store_errors("giving up the journal's lease"):
            run(self._client, "lease_release", [self._keys.audit_lease], [self._owner])

    def state(self) -> ChainState:
        """How far everything is."""
        with store_errors("reading the journal's chain"):
            found: Any = self._client.hgetall(self._keys.audit_chain)
        held = texts(found)
        added = held.get(ADDED, "")
        return ChainState(
            head=position_of(held.get(HEAD)),
            anchor=position_of(held.get(ANCHOR)),
            sinks={
                name.removeprefix(_SINK): position_of(value)
                for name, value in held.items()
                if name.startswith(_SINK)
            },
            spill=_spilled(held.get(SPILL, "")),
            added=int(added) if added.lstrip("-").isdigit() else None,
        )

    def stream(self) -> StreamState:
        """What the stream holds."""
        with store_errors("looking at the journal"):
            if not self._client.exists(self._keys.audit):
                return StreamState(0, 0, START.id)
            found: Any = self._client.xinfo_stream(self._keys.audit)
        last = found["last-generated-id"]
        return StreamState(
            found["length"], found["entries-added"], last.decode() if isinstance(last, bytes) else str(last)
        )

    def entries(self, after: str, most: int) -> list[tuple[str, dict[str, str]]]:
        """The records behind the id ``after``, as the stream holds them."""
        with store_errors("reading the journal"):
            found: Any = self._client.xrange(self._keys.audit, f"({after}", "+", count=most)
        return [(raw_id.decode(), texts(raw)) for raw_id, raw in found]

    def wait(self, after: str, seconds: float) -> None:
        """Wait until there is something behind the id ``after``, at most so long."""
        with store_errors("waiting for the journal"):
            self._client.xread({self._keys.audit: after}, count=1, block=max(1, int(seconds * 1000)))

    def move_head(self, old: Position, new: Position, marks: Sequence[SealedRecord] = ()) -> None:
        """Everything up to ``new`` is sealed. Raises :class:`NotKeeper`."""
        told = [part for mark in marks for part in (mark.seq, mark.position.text())]
        self._put(HEAD, old, new, *told)

    def move_sink(self, name: str, old: Position | None, new: Position) -> None:
        """A sink has everything up to ``new``; ``old`` is None if it had no place yet. Raises :class:`NotKeeper`."""
        self._put(_SINK + name, old, new)

    def set_spill(self, old: Spilled | None, new: Spilled | None) -> None:
        """Up to where records are spilled, and where; None: nowhere. Raises :class:`NotKeeper`."""
        self._write(SPILL, "" if old is None else old.text(), "" if new is None else new.text())

    def set_added(self, old: int | None, new: int) -> None:
        """How many records the stream had taken when none was sealed. Raises :class:`NotKeeper`."""
        self._write(ADDED, "" if old is None else str(old), str(new))

    def _put(self, field: str, old: Position | None, new: Position, *marks: str | int) -> None:
        before = "" if old is None or (old == START and field == HEAD) else old.text()
        self._write(field, before, new.text(), *marks)

    def _write(self, field: str, old: str, new: str, *marks: str | int) -> None:
        keys = self._keys
        with store_errors("moving the journal's chain on"):
            said = run(
                self._client,
                "audit_chain_put",
                [keys.audit_chain, keys.audit_marks],
                [self._owner, field, old, new, *marks],
            )
        if said != b"put":
            raise NotKeeper(f"the journal's {field} was not moved on: {said.decode()}")

    def marks(self, first: int, last: int, most: int = 1000) -> list[Position]:
        """The marks between two numbers, in their order."""
        with store_errors("reading the journal's marks"):
            found: Any = self._client.zrangebyscore(self._keys.audit_marks, first, last, start=0, num=most)
        return [position_of(mark) for mark in found]

    def trim(self, upto: Position, sinks: Sequence[str], *, spilled: bool = False) -> int:
        """Take out the records up to a place; returns how many these were.

        Raises :class:`NotKeeper`, also if one of the sinks, or the spill, has not got them.
        """
        holders = [HEAD, *(_SINK + name for name in sinks), *((SPILL,) if spilled else ())]
        ms, _, number = upto.id.partition("-")
        keys = self._keys
        with store_errors("trimming the journal"):
            gone = run(
                self._client,
                "audit_trim",
                [keys.audit, keys.audit_chain, keys.audit_marks],
                [self._owner, upto.text(), f"{ms}-{int(number) + 1}", *holders],
            )
        if gone < 0:
            raise NotKeeper("the journal was not trimmed: it is another's, or a sink is not that far")
        return int(gone)


def _spilled(text: str) -> Spilled | None:
    place, _, directory = text.rpartition(" ")
    return Spilled(position_of(place), directory) if place else None
