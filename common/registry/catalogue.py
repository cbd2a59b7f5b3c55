"""A process's own view of the registry: read without a round trip, refreshed by version.

The version counter is the truth and is polled; the registry's channel only says that it is worth looking now.
While Redis is away the last view stays in use: calls fail at the queue then, with the right error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from common.domain.ids import ToolId
from common.registry.records import Entry, RawEntry, hashes, readable_entries, readable_entry
from common.store.client import Client, WatchError, store_errors
from common.store.keys import Keys

WRITTEN_AGAIN = 5.0
"""Seconds in which the web processes write a lost registry again."""
FULL_RELOAD_BEHIND = 500
"""A view this many versions behind reads everything again instead of what changed."""


class CatalogueReader(Protocol):
    """What a stage of the pipeline needs of the catalogue."""

    def get(self, tool: ToolId) -> Entry | None:
        """The entry of a tool, or None."""

    def entries(self) -> tuple[Entry, ...]:
        """All entries, sorted by id."""

    def ids(self) -> Collection[str]:
        """The ids of all tools; membership is a look-up."""


class Definitions(CatalogueReader, Protocol):
    """The tools, and which of them are there in a form that only a newer release can read."""

    @property
    def unreadable(self) -> frozenset[str]:
        """Their ids."""


class Catalogue:
    """The view. ``refresh`` is called by one thread at a time; reading is safe from any."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._lock = threading.Lock()
        self._entries: Mapping[ToolId, Entry] = MappingProxyType({})
        self._sorted: tuple[Entry, ...] = ()
        self.unreadable: frozenset[str] = frozenset()
        """Tools that are registered in a form that this process cannot read: a newer release wrote it."""
        self.version = -1
        self.doubted = False
        """Whether all is to be read again, whatever the registry's version says."""
        self._lost_at = float("-inf")

    @property
    def settled(self) -> bool:
        """Whether a tool that is not here was removed.

        A registry that Redis lost is empty until the settings' tools are written again, which takes a moment.
        """
        return time.monotonic() - self._lost_at >= WRITTEN_AGAIN

    def doubt(self) -> None:
        """Redis may have lost the registry: everything is read again, whatever its version says."""
        self.doubted = True

    def get(self, tool: ToolId) -> Entry | None:
        """The entry of a tool, or None."""
        return self._entries.get(tool)

    def entries(self) -> tuple[Entry, ...]:
        """All entries, sorted by id."""
        return self._sorted

    def ids(self) -> Collection[str]:
        """The ids of all tools; membership is a look-up."""
        return self._entries.keys()

    def refresh(self) -> bool:
        """Catch up with the registry; True if anything changed. Raises ``StoreUnavailable``."""
        with self._lock, store_errors("reading the registry"):
            version = int(self._client.get(self._keys.registry_version) or 0)
            behind, doubted = version - self.version, self.doubted
            if not behind and not doubted:
                return False
            # A counter that went back means another or an emptied Redis: nothing known is worth keeping.
            lost = doubted or (behind < 0 <= self.version)
            if lost:
                self._lost_at = time.monotonic()
            full = self.version < 0 or lost or behind > FULL_RELOAD_BEHIND
            self.doubted = False
            try:
                self._replace(*(self._read_all() if full else self._read_changes()))
            except BaseException:
                self.doubted |= doubted
                raise
            return True

    def _replace(self, version: int, entries: dict[ToolId, Entry], unreadable: frozenset[str]) -> None:
        self.unreadable = unreadable
        self._entries = MappingProxyType(entries)
        self._sorted = tuple(entries[name] for name in sorted(entries))
        self.version = version

    def _read_all(self) -> tuple[int, dict[ToolId, Entry], frozenset[str]]:
        keys = self._keys
        with self._client.pipeline(transaction=True) as pipe:
            pipe.get(keys.registry_version)
            for name in hashes(keys):
                pipe.hgetall(name)
            version, *found = pipe.execute()
        entries = {entry.id: entry for entry in readable_entries(keys, *found)}
        unreadable = frozenset(name.decode(errors="replace") for name in found[0]) - entries.keys()
        return int(version or 0), entries, unreadable

    def _read_changes(self) -> tuple[int, dict[ToolId, Entry], frozenset[str]]:
        """What changed since our version, read in one transaction that nobody wrote into."""
        keys = self._keys
        with self._client.pipeline(transaction=True) as pipe:
            try:
                pipe.watch(keys.registry_version)  # type: ignore[no-untyped-call]
                version = int(pipe.get(keys.registry_version) or 0)
                changed: list[Any] = pipe.zrangebyscore(keys.registry_changes, f"({self.version}", "+inf")
                if not changed:
                    return version, dict(self._entries), self.unreadable
                pipe.multi()
                for name in hashes(keys):
                    pipe.hmget(name, changed)
                found = pipe.execute()
            except WatchError:
                return self._read_all()
        entries, unreadable = dict(self._entries), set(self.unreadable)
        for name, *raw in zip(changed, *found, strict=True):
            entry = None if raw[0] is None else readable_entry(name, RawEntry(*raw), keys)
            _set(entries, name, entry)
            unreadable.discard(name.decode(errors="replace"))
            if entry is None and raw[0] is not None:
                unreadable.add(name.decode(errors="replace"))
        return version, entries, frozenset(unreadable)


def _set(entries: dict[ToolId, Entry], name: bytes, entry: Entry | None) -> None:
    if entry is None:
        entries.pop(ToolId(name.decode()), None)
    else:
        entries[ToolId(name.decode())] = entry
