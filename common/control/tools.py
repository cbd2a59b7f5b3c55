"""A tool with everything that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.circuit.breaker import Circuits
from common.domain.circuit import CircuitStatus
from common.domain.health import health_to_wire
from common.domain.ids import ToolId
from common.domain.tool import kind_of
from common.domain.tool_status import operator_to_wire
from common.registry.lifecycle import DrainProgress, Lifecycle
from common.registry.records import Entry
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOverview:
    """What the registry, the circuit and the counters say of one tool, each a moment apart."""

    entry: Entry
    circuit: CircuitStatus
    load: DrainProgress


def overview(client: Client, keys: Keys) -> list[ToolOverview]:
    """All tools, sorted by id. Raises :class:`StoreUnavailable`."""
    return _overviews(client, keys, Registry(client, keys).entries())


def overview_of(client: Client, keys: Keys, tool: ToolId) -> ToolOverview:
    """One tool. Raises :class:`ToolNotFound`, :class:`StoreUnavailable`."""
    (found,) = _overviews(client, keys, [Registry(client, keys).get(tool)])
    return found


def _overviews(client: Client, keys: Keys, entries: Sequence[Entry]) -> list[ToolOverview]:
    loads = Lifecycle(client, keys).progress_of([entry.id for entry in entries])
    circuits = Circuits(client, keys)
    return [
        ToolOverview(entry=entry, circuit=circuits.status(entry.id), load=load)
        for entry, load in zip(entries, loads, strict=True)
    ]


def overview_to_wire(tool: ToolOverview) -> dict[str, Any]:
    """The tool as plain JSON, for scripts and the admin API."""
    entry, circuit, load = tool.entry, tool.circuit, tool.load
    known, health = entry.known, entry.health
    return {
        "id": entry.id,
        "version": entry.registered.version,
        "origin": entry.registered.origin.value,
        "source": entry.registered.source,
        "state": entry.state.value,
        "draining": entry.draining,
        "operator": operator_to_wire(entry.operator),
        "health": None if health is None else health_to_wire(health),
        "circuit": {
            "state": circuit.state.value,
            "failures": circuit.failures,
            "tripped": circuit.forced,
            "retry_after": circuit.retry_after,
            "note": circuit.note,
        },
        "sessions": load.sessions,
        "waiting": load.waiting,
        "in_flight": load.in_flight,
        "transport": kind_of(entry.tool.transport),
        "offers": None if known is None else [str(offer.get("name")) for offer in known.tools],
        "lists": {} if known is None else {name: len(items) for name, items in known.lists.items()},
        "quarantined": [] if known is None else [asdict(item) for item in known.quarantined],
        "unapproved": [list(place) for place in sorted(entry.withheld.unapproved)],
        "flags": [] if known is None else [asdict(flag) for flag in known.flags],
        "eras": [] if known is None else [f"{era} {version}" for era, version in known.eras.items()],
        "problem": None if known is None else known.error,
    }
