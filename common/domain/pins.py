"""Pins: the definitions of a tool's capabilities that were approved, and what to do about others.

A *place* is where a definition stands: the member of its list in the protocol's results, and its key there. Each has at
most one approved definition, and one that waits for an operator. Pure: what is decided here on what was read is
written only if nobody else wrote meanwhile (``common/store/lua/lib/pins.lua``), so every decision is of the present.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from common.domain.content_rules import ContentRules
from common.domain.errors import InvalidRequest, VersionConflict

Place = tuple[str, str]

MOST_PINS = 10_000
"""Approved definitions of one tool. What is listed beyond them waits for an operator: none is forgotten for it."""
MOST_TEXT = 8 * 1024 * 1024
"""Bytes of all texts that are kept of one tool; of what is beyond them only the digest is."""
SHORTEST_DIGEST = 12
"""Characters by which an operator says which definition he saw."""
FIRST_USE = "first use"
"""Who approved what was trusted because it was the first of its name."""


class Standing(StrEnum):
    """How a definition that is not approved stands."""

    CHANGED = "changed"
    """Another one was approved."""
    NEW = "new"
    """None was approved: the tool wants that first, or has too many."""
    REJECTED = "rejected"
    """An operator has said no to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A definition. ``at`` is in ms of Redis time; ``text`` its canonical JSON, empty if it is not kept.

    ``word`` is who approved it, or how it stands (:class:`Standing`).
    """

    digest: str
    at: int
    word: str
    text: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A definition as a discovery found it."""

    digest: str
    text: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """All of one tool, as they were at ``version``."""

    version: int = 0
    approved: Mapping[Place, Pin] = field(default_factory=dict)
    waiting: Mapping[Place, Pin] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one step makes of the pins: those that are others now (None: gone), and of which places it is to be told."""

    approved: Mapping[Place, Pin] = field(default_factory=dict)
    waiting: Mapping[Place, Pin | None] = field(default_factory=dict)
    told: tuple[Place, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.approved or self.waiting)

    def applied(self, pins: Pins) -> Pins:
        """The pins after this step."""
        waiting = {**pins.waiting, **self.waiting}
        return Pins(
            version=pins.version + 1,
            approved={**pins.approved, **self.approved},
            waiting={place: pin for place, pin in waiting.items() if pin is not None},
        )


def discovered(pins: Pins, offered: Mapping[Place, Offered], rules: ContentRules, *, now: int) -> Change:
    """What a discovery changes. What is offered no more waits no more; what was approved stays so, should it return."""
    room = MOST_PINS - len(pins.approved)
    text = MOST_TEXT - sum(len(pin.text) for pin in (*pins.approved.values(), *pins.waiting.values()))
    approved: dict[Place, Pin] = {}
    waiting: dict[Place, Pin | None] = {
        place: None for place in pins.waiting if place not in offered or _is_approved(pins, place, offered)
    }
    told: list[Place] = []
    for place, found in offered.items():
        before, known = pins.approved.get(place), pins.waiting.get(place)
        trusted = before is None and not rules.approve_first and room > len(approved)
        trusted = trusted and (known is None or known.word == Standing.NEW)
        if before is not None and found.digest == before.digest:
            continue
        if not trusted and known is not None and found.digest == known.digest:
            continue
        text -= len(found.text)
        pin = Pin(digest=found.digest, at=now, word=FIRST_USE, text=found.text if text >= 0 else b"")
        if trusted:
            approved[place], waiting[place] = pin, None
            continue
        waiting[place] = replace(pin, word=(Standing.NEW if before is None else Standing.CHANGED).value)
        told.append(place)
    return Change(approved=approved, waiting=waiting, told=tuple(told))


def _is_approved(pins: Pins, place: Place, offered: Mapping[Place, Offered]) -> bool:
    approved = pins.approved.get(place)
    return approved is not None and approved.digest == offered[place].digest


def approve(pins: Pins, place: Place, digest: str, *, by: str, now: int) -> Change:
    """An operator approves what waits at a place, as he saw it.

    ``digest`` may be its beginning. Raises :class:`InvalidRequest` if nothing waits there or the digest is too short,
    :class:`VersionConflict` if it is another by now.
    """
    waits = _waiting(pins, place, digest)
    return Change(approved={place: replace(waits, at=now, word=by)}, waiting={place: None}, told=(place,))


def reject(pins: Pins, place: Place, digest: str, *, now: int) -> Change:
    """An operator says no to what waits at a place: it goes on waiting, and is no news. Raises as :func:`approve`."""
    waits = _waiting(pins, place, digest)
    return Change(waiting={place: replace(waits, at=now, word=Standing.REJECTED.value)}, told=(place,))


def _waiting(pins: Pins, place: Place, digest: str) -> Pin:
    waits = pins.waiting.get(place)
    if len(digest) < SHORTEST_DIGEST:
        raise InvalidRequest(f"give at least {SHORTEST_DIGEST} characters of the digest", field="digest")
    if waits is None:
        raise InvalidRequest(f"nothing waits for approval at {place[0]} {place[1][:200]!r}", field="name")
    if not waits.digest.startswith(digest):
        raise VersionConflict(
            f"the definition of {place[0]} {place[1][:200]!r} is another by now; look at it again",
            digest=waits.digest,
        )
    return waits


def changed_members(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[str, ...]:
    """The names of the members in which two definitions differ, sorted."""
    names: Iterable[str] = before.keys() | after.keys()
    return tuple(sorted(name for name in names if before.get(name) != after.get(name)))
