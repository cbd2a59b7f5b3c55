"""How much may lie unread for several calls together: those whose answers go to one client on one connection.

Each call has bounds of its own (:class:`common.calls.replies.Waiter`), which add up where one client makes many. Beyond
the common bound notifications are dropped, and requests of backends are left for later: they are sent again until they
are answered. A result is never dropped; it counts, so it makes room for nothing else.
"""

from __future__ import annotations

import threading
from typing import Protocol


class Unread(Protocol):
    """The place where one call's frames arrive."""

    @property
    def unread_bytes(self) -> int:
        """Bytes of frames that were delivered, and not done with."""


class SharedBound:
    """Safe from any thread."""

    def __init__(self, most: int) -> None:
        """``most`` is in bytes. A single frame may be larger: what counts is whether there is room before it comes."""
        self._most = most
        self._lock = threading.Lock()
        self._places: tuple[Unread, ...] = ()

    @property
    def full(self) -> bool:
        """Whether as much lies unread as may. It is added up: each place is counted by those who fill and empty it."""
        return sum(place.unread_bytes for place in self._places) >= self._most

    def add(self, place: Unread) -> None:
        """Count this place."""
        with self._lock:
            self._places = (*self._places, place)

    def remove(self, place: Unread) -> None:
        """Count it no longer: nobody reads there any more."""
        with self._lock:
            self._places = tuple(found for found in self._places if found is not place)
