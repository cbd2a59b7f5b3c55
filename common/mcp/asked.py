"""What a request asks a tool for: which of its capabilities, and with which arguments.

Source: the schemas of the revisions, ``CallToolRequest``, ``ReadResourceRequest``, ``SubscribeRequest``,
``UnsubscribeRequest``, ``GetPromptRequest``, ``CompleteRequest``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from common.domain.policy import Capability, CapabilityKind

NAMED: Final[Mapping[str, tuple[CapabilityKind, str]]] = {
    "tools/call": (CapabilityKind.TOOL, "name"),
    "prompts/get": (CapabilityKind.PROMPT, "name"),
    "resources/read": (CapabilityKind.RESOURCE, "uri"),
    "resources/subscribe": (CapabilityKind.RESOURCE, "uri"),
    "resources/unsubscribe": (CapabilityKind.RESOURCE, "uri"),
}
"""Method -> the kind of what it is about, and the member of its params that names it."""
REFERRED: Final[Mapping[str, tuple[CapabilityKind, str]]] = {
    "ref/prompt": (CapabilityKind.PROMPT, "name"),
    "ref/resource": (CapabilityKind.TEMPLATE, "uri"),
}
"""The same for what a completion refers to, by the type of its reference."""
COMPLETE: Final = "completion/complete"


def capability_asked(method: str, params: Mapping[str, Any]) -> Capability | None:
    """The capability that a request is about, by the tool's own name for it; None if it names none."""
    found, named = NAMED.get(method), params
    if method == COMPLETE and isinstance(reference := params.get("ref"), Mapping):
        kind = reference.get("type")
        found, named = REFERRED.get(kind) if isinstance(kind, str) else None, reference
    if found is None:
        return None
    name = named.get(found[1])
    return Capability(found[0], name) if isinstance(name, str) else None


def arguments_of(method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is handed to the capability: ``arguments``, or the ``argument`` that is to be completed."""
    given = params.get("argument" if method == COMPLETE else "arguments")
    return given if isinstance(given, Mapping) else {}
