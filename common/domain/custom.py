"""The transport that somebody else brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomTransport:
    """``factory`` names the class that opens sessions (``package.module:Class``, or an entry point's name).

    ``options`` are plain JSON, for that class alone. They may hold secrets.
    """

    factory: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


def custom_to_wire(transport: CustomTransport) -> dict[str, Any]:
    """As kept in the registry."""
    return {"type": "custom", "factory": transport.factory, "options": dict(transport.options)}


def custom_from_wire(wire: Mapping[str, Any]) -> CustomTransport:
    """Inverse of :func:`custom_to_wire`."""
    return CustomTransport(factory=wire["factory"], options=wire["options"])
