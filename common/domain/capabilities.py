"""What a tool offers: the lists of its backend, and what is the matter with single items of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from common.domain.formats import check_format


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """An item of one of a backend's lists that no client is given. ``list`` is the list's member in its result.

    ``refused`` says that calls of it are refused as well: it hides something.
    """

    list: str
    name: str
    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """Something about an item that an operator should look at. Clients are given the item all the same."""

    list: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a tool offers, as its backend said it, page for page and byte for byte; or why that is not known.

    ``tool_version`` is the definition it was asked under. ``eras`` are those the backend speaks, newest
    revision of each. ``announced`` counts how often the backend said that a list had changed (by its capability): what
    it announces is announced, also if the list reads the same. ``discovered_at`` and ``retry_at`` are milliseconds of
    Redis time; ``attempts`` counts failures in a row.
    """

    tool_version: int
    discovered_at: int
    eras: Mapping[str, str] = field(default_factory=dict)
    server_info: Mapping[str, Any] = field(default_factory=dict)
    server_capabilities: Mapping[str, Any] = field(default_factory=dict)
    instructions: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    resources: tuple[Mapping[str, Any], ...] = ()
    resource_templates: tuple[Mapping[str, Any], ...] = ()
    prompts: tuple[Mapping[str, Any], ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    flags: tuple[Flag, ...] = ()
    announced: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    attempts: int = 0
    retry_at: int = 0

    @property
    def lists(self) -> Mapping[str, tuple[Mapping[str, Any], ...]]:
        """The lists by their member in the protocol's results."""
        return {member: getattr(self, field) for member, field in LISTS.items()}


LISTS: Mapping[str, str] = {
    "tools": "tools",
    "resources": "resources",
    "resourceTemplates": "resource_templates",
    "prompts": "prompts",
}
"""The member of a list in the protocol's results -> its field in :class:`Capabilities`."""


def capabilities_to_wire(capabilities: Capabilities) -> dict[str, Any]:
    """Capabilities as plain JSON."""
    return {
        "tool_version": capabilities.tool_version,
        "discovered_at": capabilities.discovered_at,
        "eras": dict(capabilities.eras),
        "server_info": dict(capabilities.server_info),
        "server_capabilities": dict(capabilities.server_capabilities),
        "instructions": capabilities.instructions,
        **{field: [dict(item) for item in getattr(capabilities, field)] for field in LISTS.values()},
        "quarantined": [asdict(item) for item in capabilities.quarantined],
        "flags": [asdict(flag) for flag in capabilities.flags],
        "announced": dict(capabilities.announced),
        "error": capabilities.error,
        "attempts": capabilities.attempts,
        "retry_at": capabilities.retry_at,
    }


_NUMBERS = ("tool_version", "discovered_at", "attempts", "retry_at")


def capabilities_from_wire(wire: Mapping[str, Any]) -> Capabilities:
    """Inverse of :func:`capabilities_to_wire`. What a newer writer has added is left out.

    Raises :class:`TypeError`, :class:`FormatTooNew` or :class:`InvalidRequest` for what cannot be read.
    """
    check_format(wire, what="what a tool offers")
    if not isinstance(wire, Mapping) or any(type(wire.get(name, 0)) is not int for name in _NUMBERS):
        raise TypeError("what a tool offers must be an object, and its times and counts whole numbers")
    known = {field.name: wire[field.name] for field in fields(Capabilities) if field.name in wire}
    lists = {field: tuple(wire.get(field, ())) for field in LISTS.values()}
    quarantined = tuple(Quarantined(**item) for item in wire.get("quarantined", ()))
    flags = tuple(Flag(**item) for item in wire.get("flags", ()))
    return Capabilities(**{**known, **lists, "quarantined": quarantined, "flags": flags})
