"""For whom a backend is at work, where nothing tells whose a notification of it is.

Over stdio a log message names no request, and one child may have the calls of several callers, of several tenants where
they share a pool. It is certain whose it is only while everything that the child may be at is one party's.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

from gateway_worker.egress.link import OnNotification, OnSettled

MOST_PARTIES = 1000
"""Parties that are told apart; of those beyond, nobody is told anything."""
_STANDING = "subscriptions/listen"
"""The request whose answer is a stream that stays, of the gateway's own."""


class Parties:
    """Of one link. Belongs to its event loop."""

    def __init__(self) -> None:
        self._at_work: Counter[str | None] = Counter()
        self._listening: dict[int, OnNotification] = {}

    def enter(
        self,
        method: str,
        request_id: int,
        party: str,
        listener: OnNotification | None,
        on_settled: OnSettled | None,
    ) -> OnSettled | None:
        """A request is on its way. What is returned is to be called once the backend is certainly done with it.

        A request that is never settled counts for ever. One that nobody listens to or waits for the end of counts not.
        """
        if method == _STANDING or (listener is None and on_settled is None):
            return on_settled
        known = party in self._at_work or len(self._at_work) < MOST_PARTIES
        name = party if known else None
        self._at_work[name] += 1
        if listener is not None:
            self._listening[request_id] = listener
        return partial(self._settled, name, on_settled)

    def leave(self, request_id: int) -> None:
        """Nobody waits for the request any more; the backend may be at it still."""
        self._listening.pop(request_id, None)

    def listener(self) -> OnNotification | None:
        """Who is told of what names no request: the youngest of the only party; None if that is not certain."""
        if len(self._at_work) != 1 or None in self._at_work:
            return None
        return next(reversed(self._listening.values()), None)

    def _settled(self, name: str | None, on_settled: OnSettled | None) -> None:
        self._at_work[name] -= 1
        if not self._at_work[name]:
            del self._at_work[name]
        if on_settled is not None:
            on_settled()
