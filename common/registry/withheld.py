"""What of a tool no client is given: its definition is not the approved one, or hides something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import structlog

from common.domain.capabilities import LISTS, Capabilities
from common.domain.content_rules import ContentRules
from common.domain.errors import CapabilityQuarantined
from common.domain.pins import Place
from common.mcp import resource_uris
from common.mcp.listings import LISTINGS, PROMPTS, RESOURCE_TEMPLATES, RESOURCES, TOOLS

log = structlog.get_logger(__name__)

SERVER = "instructions"
"""The member under which a server's own instructions stand among the pins, with an empty key."""
_KEYS: Mapping[str, str] = {listing.member: listing.key for listing in LISTINGS}
_BY_METHOD: Mapping[str, tuple[str, str]] = {
    "tools/call": (TOOLS.member, "name"),
    "prompts/get": (PROMPTS.member, "name"),
    "resources/read": (RESOURCES.member, "uri"),
    "resources/subscribe": (RESOURCES.member, "uri"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """The places of one tool that clients are not given. ``approved_only``: nothing else may be used, known or not.

    ``unapproved`` are those of them whose definitions wait for an operator.
    """

    places: frozenset[Place] = frozenset()
    approved_only: bool = False
    unapproved: frozenset[Place] = frozenset()

    def __bool__(self) -> bool:
        """Whether calls have to be looked at."""
        return bool(self.places) or self.approved_only

    def without(self, capabilities: Capabilities) -> Capabilities:
        """The capabilities as clients are given them."""
        if not self.places:
            return capabilities
        lists: dict[str, Any] = {
            field: tuple(
                item
                for item in getattr(capabilities, field)
                if (member, item.get(_KEYS[member])) not in self.places
            )
            for member, field in LISTS.items()
        }
        instructions = None if (SERVER, "") in self.places else capabilities.instructions
        return replace(capabilities, instructions=instructions, **lists)

    def check(self, tool: str, known: Capabilities | None, method: str, params: Mapping[str, Any]) -> None:
        """Raise :class:`CapabilityQuarantined` for a request to use what is withheld.

        ``known`` is what clients are given. Fails closed: where only approved definitions may be used, what is not
        known yet may not.
        """
        place = used(method, params)
        if place is None:
            return
        if self._is_withheld(place) or (self.approved_only and not _is_known(place, known)):
            raise CapabilityQuarantined(
                f"{_shown(place)} of tool {tool!r} is in quarantine: its definition is not the one "
                "that was approved, or hides something; an operator decides on it (canalgate tools quarantine)"
            )

    def _is_withheld(self, place: Place) -> bool:
        if place in self.places:
            return True
        if place[0] != RESOURCES.member:
            return False
        return any(
            member == RESOURCE_TEMPLATES.member and (key == place[1] or resource_uris.matches(key, place[1]))
            for member, key in self.places
        )


NOTHING = Withheld()


def _shown(place: Place) -> str:
    """What is told of a place: a name, but of a URI nothing, for it may hold a secret."""
    return "this resource" if ":" in place[1] else f"{place[0]} {place[1][:200]!r}"


def used(method: str, params: Mapping[str, Any]) -> Place | None:
    """The place of what a request uses; None for one that uses no capability by name."""
    if method == "completion/complete":
        reference = params.get("ref")
        if not isinstance(reference, Mapping):
            return None
        member, key = (PROMPTS.member, "name") if "name" in reference else (RESOURCES.member, "uri")
        value = reference.get(key)
    elif (found := _BY_METHOD.get(method)) is not None:
        member, value = found[0], params.get(found[1])
    else:
        return None
    return (member, value) if isinstance(value, str) else None


def withheld_of(rules: ContentRules, unapproved: bytes | None, capabilities: Capabilities | None) -> Withheld:
    """What the records of a tool in Redis say. Fails closed: pins that cannot be read withhold all that is known."""
    refused = (
        {(item.list, item.name) for item in capabilities.quarantined if item.refused}
        if capabilities
        else set()
    )
    if not rules.withholds:
        return Withheld(places=frozenset(refused))
    try:
        pending = {(str(member), str(key)) for member, key in orjson.loads(unapproved or b"[]")}
    except (ValueError, TypeError) as error:
        log.error("pins_unreadable", error=repr(error))
        return Withheld(places=frozenset(refused | _all_places(capabilities)), approved_only=True)
    return Withheld(
        places=frozenset(refused | pending), approved_only=rules.approve_first, unapproved=frozenset(pending)
    )


def _all_places(capabilities: Capabilities | None) -> set[Place]:
    if capabilities is None:
        return set()
    return {
        (member, str(item.get(_KEYS[member])))
        for member, items in capabilities.lists.items()
        for item in items
    } | {(SERVER, "")}


def _is_known(place: Place, known: Capabilities | None) -> bool:
    if known is None:
        return False
    member, key = place
    if any(item.get(_KEYS[member]) == key for item in known.lists[member]):
        return True
    if member != RESOURCES.member:
        return False
    templates = (str(item.get("uriTemplate")) for item in known.resource_templates)
    return any(template == key or resource_uris.matches(template, key) for template in templates)
