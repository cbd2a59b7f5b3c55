"""Requests of all revisions, well formed and not, each from a seed and a number alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.support.fuzz.changes import CHANGES, WEIGHTS
from tests.support.fuzz.framing import broken, on_the_wire, reframed
from tests.support.fuzz.requests import Draft, base
from tests.support.fuzz.text import write


@dataclass(frozen=True, slots=True)
class Case:
    """A request as bytes; ``framed`` if nothing was done to what says where it ends."""

    number: int
    revision: str
    raw: bytes
    framed: bool
    done: tuple[str, ...]


def make(seed: int, number: int) -> Case:
    """The request of that number."""
    rng = Random(f"{seed}/{number}")  # noqa: S311 - to be repeated, not to be unguessable
    draft = base(rng, number)
    for _ in range(rng.choice((0, 0, 1, 1, 1, 2, 2, 3, 5))):
        change: Callable[[Draft], None] = rng.choices(CHANGES, WEIGHTS)[0]
        change(draft)
        draft.done.append(change.__name__.strip("_"))
    body = write(draft.message, rng, escapes=draft.escapes, blanks=draft.blanks)
    if rng.random() < 0.08:
        body = broken(rng, body)
        draft.done.append("body bytes")
    raw, framed = on_the_wire(draft, body), True
    if rng.random() < 0.12:
        draft.done.append("framing")
        raw, framed = reframed(draft, body), False
    if rng.random() < 0.04:
        raw, framed = broken(rng, raw), False
        draft.done.append("bytes")
    return Case(number, draft.revision, raw, framed, tuple(draft.done))
