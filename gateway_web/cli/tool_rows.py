"""A tool as a line of the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.control.tools import ToolOverview, overview_to_wire
from common.domain.circuit import CircuitState, CircuitStatus
from common.domain.tool import ToolState
from common.registry.records import Entry

COLUMNS = (
    *("tool", "state", "health", "circuit", "sessions", "in flight"),
    *("transport", "offers", "eras", "problem"),
)


def cells(tool: ToolOverview) -> tuple[str, ...]:
    """The tool as a line of the list, in the order of :data:`COLUMNS`."""
    told = overview_to_wire(tool)
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
