"""Pins in Redis: read whole, written in one step if nobody else wrote since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from common.domain.audit import AuditEvent, EventKind, event_fields
from common.domain.content_rules import ContentRules
from common.domain.errors import ToolNotFound, VersionConflict
from common.domain.ids import ToolId
from common.domain.pins import Change, Pin, Pins, Place, changed_members
from common.mcp.hidden_text import visible
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import Arg, run

MOST_TOLD = 100
"""So many events of one discovery; of the rest only how many there are."""
MOST_ATTEMPTS = 10
"""How often a decision is made anew because others were first."""
_VERSION, _APPROVED, _WAITING = b"version", b"a", b"w"
SHOWN_NAME = 100


def pins_from_redis(raw: Mapping[bytes, bytes]) -> Pins:
    """The pins in a hash as it was read whole. Raises TypeError or ValueError for what cannot be read."""
    approved: dict[Place, Pin] = {}
    waiting: dict[Place, Pin] = {}
    for field, value in raw.items():
        if field == _VERSION:
            continue
        member, key = orjson.loads(field[1:])
        if not isinstance(member, str) or not isinstance(key, str):
            raise TypeError("the place of a pin is none")
        (approved if field[:1] == _APPROVED else waiting)[member, key] = _pin(value)
    return Pins(version=int(raw.get(_VERSION, b"0")), approved=approved, waiting=waiting)


def unapproved_of(pins: Pins) -> bytes:
    """The value in ``registry:unapproved``; empty if all that is offered is approved."""
    return orjson.dumps(sorted(pins.waiting)) if pins.waiting else b""


def pin_arguments(pins: Pins, change: Change, events: Iterable[AuditEvent]) -> list[Arg]:
    """The arguments of ``pins_written`` (``lua/lib/pins.lua``) for a change of these pins."""
    after = change.applied(pins)
    sets: list[Arg] = []
    removed: list[Arg] = []
    for place, pin in change.approved.items():
        sets += [_field(_APPROVED, place), _value(pin)]
    for place, waits in change.waiting.items():
        if waits is not None:
            sets += [_field(_WAITING, place), _value(waits)]
        elif place in pins.waiting:
            removed.append(_field(_WAITING, place))
    told: list[Arg] = []
    for event in events:
        parts = event_fields(event)
        told += [len(parts), *parts]
    fixed: list[Arg] = [pins.version, unapproved_of(after)]
    return [*fixed, len(sets) // 2, *sets, len(removed), *removed, *told]


def discovery_events(
    tool: ToolId, pins: Pins, change: Change, rules: ContentRules, *, actor: str
) -> list[AuditEvent]:
    """What the journal is told of a discovery: which definitions changed, and in which of their members."""
    kind = EventKind.TOOL_QUARANTINED if rules.withholds else EventKind.DEFINITION_CHANGED
    events = [
        AuditEvent(
            kind=kind,
            actor=actor,
            tool=tool,
            reason=_why(pins.approved.get(place), pin),
            detail=f"{shown_place(place)}: {_digests(pins.approved.get(place), pin)}",
        )
        for place in change.told[:MOST_TOLD]
        if (pin := change.waiting[place]) is not None
    ]
    more = len(change.told) - MOST_TOLD
    if more > 0:
        events.append(AuditEvent(kind=kind, actor=actor, tool=tool, reason=f"{more} more definitions"))
    return events


def decision_events(
    kind: EventKind, tool: ToolId, pins: Pins, change: Change, *, actor: str
) -> list[AuditEvent]:
    """What the journal is told of an operator's decision."""
    return [
        AuditEvent(
            kind=kind,
            actor=actor,
            tool=tool,
            detail=f"{shown_place(place)}: {_digests(pins.approved.get(place), pins.waiting[place])}",
        )
        for place in change.told
    ]


class PinStore:
    """Reads and changes the pins of tools. Fails closed: without Redis every method raises ``StoreUnavailable``."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def read(self, tool: ToolId) -> Pins:
        """All of one tool; none for one that is not registered."""
        with store_errors("reading the pins of a tool"):
            raw: Any = self._client.hgetall(self._keys.pins(tool))
        return pins_from_redis(raw)

    def now(self) -> int:
        """Redis' time, in ms."""
        with store_errors("reading the time"):
            seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def decide(
        self, tool: ToolId, kind: EventKind, decide: Callable[[Pins, int], Change], *, actor: str
    ) -> None:
        """Write what ``decide`` makes of the present pins at the present time, and audit it.

        It is asked once more each time somebody else was first. Raises what it raises, :class:`ToolNotFound`, and
        :class:`VersionConflict` if others are always first.
        """
        keys = self._keys
        names = [
            *(keys.registry_versions, keys.registry_version, keys.registry_changes),
            *(keys.pins(tool), keys.registry_unapproved, keys.audit),
        ]
        for _ in range(MOST_ATTEMPTS):
            pins = self.read(tool)
            change = decide(pins, self.now())
            told = pin_arguments(pins, change, decision_events(kind, tool, pins, change, actor=actor))
            with store_errors("writing the pins of a tool"):
                written = int(run(self._client, "pins_put", names, [tool, keys.registry_channel, *told]))
            if written < 0:
                raise ToolNotFound(f"no tool {tool!r} is registered")
            if written:
                return
        raise VersionConflict(f"the pins of tool {tool!r} change all the time; try again")


def shown_place(place: Place) -> str:
    """A place for people: nothing hidden in the backend's name for it."""
    member, key = place
    name = visible(key if len(key) <= SHOWN_NAME else key[: SHOWN_NAME - 1] + "…")
    return f'{member} "{name}"'


def members_changed(before: Pin | None, after: Pin) -> tuple[str, ...]:
    """The members in which a definition differs from the approved one; none where that cannot be told."""
    if before is None or not before.text or not after.text:
        return ()
    return changed_members(orjson.loads(before.text), orjson.loads(after.text))


def _why(before: Pin | None, after: Pin) -> str:
    if before is None:
        return "the definition was not approved yet"
    names = ", ".join(visible(name)[:SHOWN_NAME] for name in members_changed(before, after))
    return f"the definition changed: {names}" if names else "the definition changed"


def _digests(before: Pin | None, after: Pin) -> str:
    return f"{'none' if before is None else before.digest} -> {after.digest}"


def _field(kind: bytes, place: Place) -> bytes:
    return kind + orjson.dumps(place)


def _value(pin: Pin) -> bytes:
    return orjson.dumps([pin.digest, pin.at, pin.word]) + b"\n" + pin.text


def _pin(raw: bytes) -> Pin:
    head, _, text = raw.partition(b"\n")
    digest, at, word = orjson.loads(head)
    if not isinstance(digest, str) or not isinstance(at, int) or not isinstance(word, str):
        raise TypeError("what is kept of a pin is none")
    return replace(Pin(digest=digest, at=at, word=word), text=text)
