"""A tool as a line of the list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.domain.circuit import CircuitState
from common.domain.tool import ToolState

COLUMNS = (
    *("tool", "state", "health", "circuit", "sessions", "in flight"),
    *("transport", "offers", "eras", "problem"),
)
Told = Mapping[str, Any]
"""A tool as the admin API tells it."""


def cells(tool: Told, *, whole: bool = False) -> tuple[str, ...]:
    """The tool as a line of the list, in the order of :data:`COLUMNS`.

    Of problems in several lines it has the first, unless the ``whole`` of them is wanted.
    """
    return (
        tool["id"],
        tool["state"] + (", draining" if tool["draining"] else ""),
        _health(tool["health"]),
        _circuit(tool["circuit"]),
        str(tool["sessions"]),
        str(tool["in_flight"]),
        tool["transport"],
        "not known yet" if tool["offers"] is None else _offers(tool["lists"]),
        " ".join(tool["eras"]),
        _problem(tool, whole=whole),
    )


def _offers(lists: Mapping[str, int]) -> str:
    """How many MCP tools, and what else there is."""
    others = (f"{count} {_LISTS[name]}" for name, count in lists.items() if name in _LISTS and count)
    return ", ".join([str(lists["tools"]), *others])


_LISTS = {"resources": "resources", "resourceTemplates": "templates", "prompts": "prompts"}


def _health(health: Told | None) -> str:
    if health is None:
        return "not probed"
    word = "healthy" if health["grade"] == ToolState.ENABLED else health["grade"]
    return word + ("" if health["latency_ms"] is None else f", {health['latency_ms']:.0f} ms")


def _circuit(circuit: Told) -> str:
    if circuit["tripped"]:
        return "tripped"
    if circuit["state"] == CircuitState.OPEN and circuit["retry_after"] is not None:
        return f"open {circuit['retry_after']:.0f} s"
    failures = f", {circuit['failures']} failed" if circuit["failures"] else ""
    return str(circuit["state"]).replace("_", "-") + failures


def _problem(tool: Told, *, whole: bool) -> str:
    """All that a person has to look at, in one line."""
    health = tool["health"]
    found = [tool["problem"], tool["circuit"]["note"]]
    if quarantined := tool["quarantined"]:
        first = quarantined[0]
        found.append(f"{len(quarantined)} quarantined: {first['list']} {first['name']!r}: {first['reason']}")
    if unapproved := tool["unapproved"]:
        found.append(f"{len(unapproved)} not approved: see `canalgate tools quarantine list`")
    if health is not None and health["grade"] != ToolState.ENABLED:
        found.append(health["reason"])
    lines = (text if whole else _first_line(text) for text in found if text)
    return "; ".join(_once([" ".join(line.split()) for line in lines]))


def _first_line(text: str) -> str:
    """The first line that says something, and that there is more than that."""
    line, _, more = text.strip().partition("\n")
    return f"{line.rstrip(' ;:')} …" if more else line


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
