"""Versions of what processes write for one another: a newer one is refused by name, never read as if it were ours.

Records and messages of JSON have their version under ``v``; where there is none it is 1. What is only added, and may be
left out by whoever does not know it, is no new version. Heads of messages begin with theirs
(:mod:`common.calls.head`), sealed texts with a mark (:mod:`common.store.sealing`); what only scripts read has a new key
when it has a new form, so that the scripts of two versions never meet in it (``common/store/keys.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.domain.errors import FormatTooNew, InvalidRequest

MEMBER = "v"
FIRST = 1


def check_format(wire: Any, known: int = FIRST, *, what: str) -> None:
    """Let pass what is of the version that is ``known`` here, or of an older one.

    What is no mapping is for its reader to refuse. Raises :class:`FormatTooNew` that names both for a newer one, and
    :class:`InvalidRequest` for what is no version.
    """
    found = wire.get(MEMBER, FIRST) if isinstance(wire, Mapping) else FIRST
    if isinstance(found, bool) or not isinstance(found, int) or found < FIRST:
        raise InvalidRequest(f"{what} is of no version that anybody writes", field=MEMBER)
    if found > known:
        raise too_new(what, found, known)


def too_new(what: str, found: int, known: int) -> FormatTooNew:
    """The refusal of something of a newer version."""
    return FormatTooNew(
        f"{what} is of version {found}, written by a newer release; this process reads version {known}: upgrade it",
        field=MEMBER,
        found=found,
        known=known,
    )
