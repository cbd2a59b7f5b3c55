"""What tests of the journal share: events in a stream, and keepers that are run by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import uuid4

from common.audit.chain_store import ChainStore
from common.audit.journal import audit_command
from common.audit.keeper import Keeper
from common.audit.rules import Rules
from common.audit.spill import Spill
from common.domain.audit import AuditEvent, EventKind
from common.domain.audit_chain import START, Position, SealedRecord, seal_all
from common.ports import AuditSink
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys


def write_events(client: Client, keys: Keys, count: int, *, first: int = 0) -> None:
    """Some events, each with its number as detail."""
    with client.pipeline(transaction=False) as pipe:
        for number in range(first, first + count):
            pipe.execute_command(
                *audit_command(keys, AuditEvent(kind=EventKind.SESSION_CREATED, detail=str(number)))
            )
        pipe.execute()


def records(count: int, *, first: int = 0, before: Position = START, key: bytes = b"") -> list[SealedRecord]:
    """Sealed records that never were in Redis, one a second."""
    entries = [
        (f"{(first + number + 1) * 1000}-0", {"kind": "x", "detail": str(first + number)})
        for number in range(count)
    ]
    return seal_all(before, entries, key)


class Collector:
    """A sink that keeps what it gets, and can be told to fail or to hang."""

    def __init__(self) -> None:
        self.got: list[SealedRecord] = []
        self.failing = False
        self.holding = threading.Event()
        self.holding.set()
        self.closed = False

    def write(self, records: Sequence[SealedRecord]) -> int:
        self.holding.wait()
        if self.failing and records:
            raise RuntimeError("this sink fails")
        self.got += records
        return self.got[-1].seq if self.got else 0

    def close(self) -> None:
        self.closed = True

    @property
    def numbers(self) -> list[int]:
        return [record.seq for record in self.got]


def keeper_of(
    address: StoreAddress,
    keys: Keys,
    sinks: Mapping[str, AuditSink],
    *,
    most: int = 100_000,
    key: bytes = b"",
    spill: Spill | None = None,
) -> Keeper:
    """A keeper of its own name."""
    return Keeper(
        lambda: connect(address, size=2),
        keys,
        sinks,
        Rules(most=most, key=key),
        owner=uuid4().hex,
        spill=spill,
    )


@contextmanager
def kept(keeper: Keeper) -> Iterator[Keeper]:
    """Runs within the block."""
    thread = threading.Thread(target=keeper.run)
    thread.start()
    try:
        yield keeper
    finally:
        keeper.stop()
        thread.join(20)
        assert not thread.is_alive()


def head_of(client: Client, keys: Keys) -> Position:
    """The last record that is sealed."""
    return ChainStore(client, keys).state().head
