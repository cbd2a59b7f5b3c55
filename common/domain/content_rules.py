"""The rules of a tool that say what becomes of definitions which changed, or hold what nobody can see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from common.domain.errors import InvalidRequest
from common.domain.rules import choice


class Pinning(StrEnum):
    """What becomes of a capability whose definition is another than the one that was approved."""

    OFF = "off"
    """Definitions are not compared."""
    WARN = "warn"
    """The change is audited, and clients are given the new definition."""
    QUARANTINE = "quarantine"
    """No client is given it, and calls of it are refused, until an operator approves the new definition."""


class HiddenCharacters(StrEnum):
    """What becomes of a definition with characters that nobody sees."""

    REJECT = "reject"
    """No client is given it, and calls of it are refused."""
    STRIP = "strip"
    """They are taken out of descriptions and titles; a definition that has them elsewhere is rejected."""
    WARN = "warn"
    """The definition is given as it is, and flagged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRules:
    """How a tool's definitions are guarded. With ``approve_first`` nobody may use what no operator has approved."""

    pinning: Pinning = Pinning.WARN
    approve_first: bool = False
    hidden_characters: HiddenCharacters = HiddenCharacters.STRIP

    def __post_init__(self) -> None:
        if self.approve_first and self.pinning is not Pinning.QUARANTINE:
            raise InvalidRequest(
                "approve_first goes with pinning: quarantine, which alone withholds anything",
                field="approve_first",
            )

    @property
    def withholds(self) -> bool:
        """Whether what is not approved is kept from clients."""
        return self.pinning is Pinning.QUARANTINE


def content_rules_to_wire(rules: ContentRules) -> dict[str, Any]:
    """The rules as plain JSON."""
    return {
        "pinning": rules.pinning.value,
        "approve_first": rules.approve_first,
        "hidden_characters": rules.hidden_characters.value,
    }


def content_rules_from_wire(wire: Mapping[str, Any]) -> ContentRules:
    """Inverse of :func:`content_rules_to_wire`; what is absent has its default. Raises :class:`InvalidRequest`."""
    default = ContentRules()
    return ContentRules(
        pinning=choice(Pinning, wire.get("pinning", default.pinning), field="pinning"),
        approve_first=wire.get("approve_first", default.approve_first),
        hidden_characters=choice(
            HiddenCharacters,
            wire.get("hidden_characters", default.hidden_characters),
            field="hidden_characters",
        ),
    )
