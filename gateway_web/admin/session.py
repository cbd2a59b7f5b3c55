"""Who makes the present request, for the views of the admin API."""

from __future__ import annotations

from collections.abc import Callable

from flask import g

from common.domain.errors import Forbidden, Unauthenticated
from common.identity.operators import Actor, Role


def remember(recognise: Callable[[], Actor]) -> None:
    """This request is his who is recognised. Raises :class:`Unauthenticated` for nobody."""
    g.actor = recognise()
    g.recognise = recognise


def acting_as(role: Role) -> Actor:
    """Who makes this request. Raises :class:`Forbidden` if he may not act as this. Every view asks, first of all."""
    actor: Actor = g.actor
    actor.require(role)
    return actor


def still_acting_as(role: Role) -> Callable[[], bool]:
    """Tells, whenever it is asked, whether who makes this request may act as this: for answers that go on for long,
    during which his token may be taken out.
    """
    recognise: Callable[[], Actor] = g.recognise

    def may() -> bool:
        try:
            recognise().require(role)
        except (Unauthenticated, Forbidden):
            return False
        return True

    return may
