"""Who makes the present request, for the views of the admin API."""

from __future__ import annotations

from flask import g

from common.identity.operators import Actor, Role


def remember(actor: Actor) -> None:
    """This request is his."""
    g.actor = actor


def acting_as(role: Role) -> Actor:
    """Who makes this request. Raises :class:`Forbidden` if he may not act as this. Every view asks, first of all."""
    actor: Actor = g.actor
    actor.require(role)
    return actor
