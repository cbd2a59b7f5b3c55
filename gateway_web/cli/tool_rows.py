"""A tool with everything that is known of it, as JSON and as a line of the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.circuit.breaker import Circuits
from common.domain.circuit import CircuitState, CircuitStatus
from common.domain.health import health_to_wire
from common.domain.ids import ToolId
from common.domain.tool import StdioTransport, ToolState
from common.domain.tool_status import operator_to_wire
from common.registry.lifecycle import DrainProgress, Lifecycle
from common.registry.records import Entry
from common.registry.registry import Registry
from gateway_web.cli.where import Store

COLUMNS = (
    *("tool", "state", "health", "circuit", "sessions", "in flight"),
    *("transport", "offers", "eras", "problem"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOverview:
    """What the registry, the circuit and the counters say of one tool, each a moment apart."""

    entry: Entry
    circuit: CircuitStatus
    load: DrainProgress


def overview(where: Store) -> list[ToolOverview]:
    """All tools, sorted by id."""
    return _overviews(where, Registry(where.client, where.keys).entries())


def overview_of(where: Store, tool: ToolId) -> ToolOverview:
    """One tool. Raises :class:`ToolNotFound`."""
    (found,) = _overviews(where, [Registry(where.client, where.keys).get(tool)])
    return found


def _overviews(where: Store, entries: Sequence[Entry]) -> list[ToolOverview]:
    loads = Lifecycle(where.client, where.keys).progress_of([entry.id for entry in entries])
    circuits = Circuits(where.client, where.keys)
    return [
        ToolOverview(entry=entry, circuit=circuits.status(entry.id), load=load)
        for entry, load in zip(entries, loads, strict=True)
    ]


def row(tool: ToolOverview) -> dict[str, Any]:
    """The tool for scripts."""
    entry, circuit, load = tool.entry, tool.circuit, tool.load
    known, health = entry.known, entry.health
    return {
        "id": entry.id,
        "version": entry.registered.version,
        "origin": entry.registered.origin.value,
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
        "transport": "stdio" if isinstance(entry.tool.transport, StdioTransport) else "http",
        "offers": None if known is None else [str(offer.get("name")) for offer in known.tools],
        "lists": {} if known is None else {name: len(items) for name, items in known.lists.items()},
        "quarantined": [] if known is None else [asdict(item) for item in known.quarantined],
        "unapproved": [list(place) for place in sorted(entry.withheld.unapproved)],
        "flags": [] if known is None else [asdict(flag) for flag in known.flags],
        "eras": [] if known is None else [f"{era} {version}" for era, version in known.eras.items()],
        "problem": None if known is None else known.error,
    }


def cells(tool: ToolOverview) -> tuple[str, ...]:
    """The tool as a line of the list, in the order of :data:`COLUMNS`."""
    told = row(tool)
    return (
        told["id"],
        told["state"] + (", draining" if told["draining"] else ""),
        _health(tool.entry),
        _circuit(tool.circuit),
        str(told["sessions"]),
        str(told["in_flight"]),
        told["transport"],
        "not known yet" if told["offers"] is None else _offers(told["lists"]),
        " ".join(told["eras"]),
        _problem(tool),
    )


def _offers(lists: Mapping[str, int]) -> str:
    """How many MCP tools, and what else there is."""
    others = (f"{count} {_LISTS[name]}" for name, count in lists.items() if name in _LISTS and count)
    return ", ".join([str(lists["tools"]), *others])


_LISTS = {"resources": "resources", "resourceTemplates": "templates", "prompts": "prompts"}


def _health(entry: Entry) -> str:
    health = entry.health
    if health is None:
        return "not probed"
    word = "healthy" if health.grade is ToolState.ENABLED else health.grade.value
    return word + ("" if health.latency_ms is None else f", {health.latency_ms:.0f} ms")


def _circuit(circuit: CircuitStatus) -> str:
    if circuit.forced:
        return "tripped"
    if circuit.state is CircuitState.OPEN and circuit.retry_after is not None:
        return f"open {circuit.retry_after:.0f} s"
    failures = f", {circuit.failures} failed" if circuit.failures else ""
    return circuit.state.value.replace("_", "-") + failures


def _problem(tool: ToolOverview) -> str:
    """All that a person has to look at, in one line."""
    known, health = tool.entry.known, tool.entry.health
    found = [None if known is None else known.error, tool.circuit.note]
    if known is not None and known.quarantined:
        first = known.quarantined[0]
        found.append(f"{len(known.quarantined)} quarantined: {first.list} {first.name!r}: {first.reason}")
    if unapproved := tool.entry.withheld.unapproved:
        found.append(f"{len(unapproved)} not approved: see `canalgate tools quarantine list`")
    if health is not None and health.grade is not ToolState.ENABLED:
        found.append(health.reason)
    return "; ".join(_once([" ".join(text.split()) for text in found if text]))


def _once(texts: Sequence[str]) -> list[str]:
    """The texts without those that another one says as well: discovery and probe often find the same.

    What the probe says may be cut, and discovery adds the end of the process's standard error.
    """
    told = [text.removesuffix("…").rstrip() for text in texts]
    return [
        text
        for index, text in enumerate(texts)
        if not any(
            told[index] in other and (told[index] != other or place < index)
            for place, other in enumerate(told)
            if place != index
        )
    ]
