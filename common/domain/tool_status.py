"""How a tool stands while the gateway runs: what an operator said of it, beside its definition and its health.

It is kept apart from the definition, so that switching or draining a tool gives no new version of it and closes no
session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from common.domain.formats import check_format
from common.domain.health import Health
from common.domain.tool import Tool, ToolState


class Switch(StrEnum):
    """An operator's word on whether a tool may be called; it goes before the definition's ``enabled``."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorState:
    """What an operator said last. It stays when the tool is changed or registered again, and goes when it is removed.

    ``switch`` is None if nobody has said a word. A ``draining`` tool takes no new sessions; those that live go on. A
    ``retiring`` one is no longer in the settings file: it takes no new calls, and is removed when those that it has
    have ended.
    ``since`` is the Redis time of the last change in milliseconds (0: never), ``by`` who made it.
    """

    switch: Switch | None = None
    draining: bool = False
    retiring: bool = False
    since: int = 0
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """What a verb found and left. The two are the same if it was so already."""

    before: OperatorState
    after: OperatorState

    @property
    def changed(self) -> bool:
        return self.before != self.after


UNTOUCHED = OperatorState()
"""The state of a tool on which no operator has said anything."""


def operator_to_wire(state: OperatorState) -> dict[str, Any]:
    """The state as plain JSON."""
    return {
        "switch": None if state.switch is None else state.switch.value,
        "draining": state.draining,
        "retiring": state.retiring,
        "since": state.since,
        "by": state.by,
    }


def operator_from_wire(wire: Mapping[str, Any]) -> OperatorState:
    """Inverse of :func:`operator_to_wire`; what a newer writer has added is left out.

    Fails closed: raises LookupError, TypeError, ValueError, or :class:`FormatTooNew` for what a newer release wrote. A
    tool that was switched off must not come back because nobody could read that.
    """
    check_format(wire, what="what an operator said of a tool")
    switch, draining, retiring = wire["switch"], wire["draining"], wire.get("retiring", False)
    for name, value in (("draining", draining), ("retiring", retiring)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be true or false, not {type(value).__name__}")
    return OperatorState(
        switch=None if switch is None else Switch(switch),
        draining=draining,
        retiring=retiring,
        since=int(wire.get("since", 0)),
        by=str(wire.get("by", "")),
    )


def runs_calls(tool: Tool, operator: OperatorState) -> bool:
    """Whether calls that were accepted may run: as the operator said, or else as the tool's definition says."""
    return tool.enabled if operator.switch is None else operator.switch is Switch.ON


def is_enabled(tool: Tool, operator: OperatorState) -> bool:
    """Whether the tool may be called: a retiring one only ends the calls that it has."""
    return runs_calls(tool, operator) and not operator.retiring


def shown_state(tool: Tool, operator: OperatorState, health: Health | None) -> ToolState:
    """The one word for the tool's state: what is switched off is disabled, whatever the last probe found."""
    if not is_enabled(tool, operator):
        return ToolState.DISABLED
    return ToolState.ENABLED if health is None else health.grade
