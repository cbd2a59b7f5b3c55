"""This worker as a node of the cluster: its present incarnation, and whether it may still act."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

from common.domain.ids import NodeId

LEASE = 8.0
"""Seconds for which a beat keeps the node's lease."""
SELF_FENCE = 6.0
"""Seconds after the last confirmed beat from which the node sends nothing more to any backend.

Counted from the moment at which the beat was sent, so it ends before the lease by Redis' clock does, and nobody can
own a session while this node still uses it.
"""
DOUBT = 2.0
"""Seconds after a beat that failed from which nothing is sent either: Redis may have been restarted and have forgotten
whose the sessions are, and QUARANTINE after that others may claim them."""
CUT_OFF = 60.0
"""Seconds after the last confirmed beat from which the node gives up its sessions, whoever has them by then."""


_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lease_time() -> float:
    """Seconds on the clock by which a node judges its lease: it goes on while the machine sleeps, as Redis' does.

    Only Linux has such a clock; elsewhere one that was asleep finds out with its next beat.
    """
    return time.clock_gettime(_CLOCK)


class Node:
    """One incarnation after the other: one that was declared dead never comes back. Belongs to the engine's loop."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._confirmed_at = float("-inf")
        self._doubted_at = float("inf")
        self._confirmed = asyncio.Event()
        self.id = self._new_id()

    def _new_id(self) -> NodeId:
        return NodeId(f"{self._hostname}:{uuid4().hex[:8]}")

    def renew(self) -> NodeId:
        """Become another incarnation, which has to be confirmed first; returns the id of the last one."""
        last, self.id = self.id, self._new_id()
        self._confirmed_at = float("-inf")
        self._confirmed.clear()
        return last

    def confirm(self, sent_at: float) -> None:
        """A beat that was sent at ``sent_at`` (:func:`lease_time`) has renewed the lease."""
        self._confirmed_at = sent_at
        self._doubted_at = float("inf")
        self._confirmed.set()

    def doubt(self) -> None:
        """A beat was not answered."""
        self._doubted_at = min(self._doubted_at, lease_time())

    @property
    def may_act(self) -> bool:
        """Whether anything may be sent to a backend at this moment."""
        now = lease_time()
        return now - self._confirmed_at < SELF_FENCE and now - self._doubted_at < DOUBT

    async def until_confirmed(self) -> None:
        """Wait until the node may act."""
        while not self.may_act:
            self._confirmed.clear()
            await self._confirmed.wait()

    async def until_cut_off(self) -> None:
        """Wait until no beat was confirmed for :data:`CUT_OFF` seconds."""
        while (left := self._confirmed_at + CUT_OFF - lease_time()) > 0:  # noqa: ASYNC110 - it is time that is awaited
            await asyncio.sleep(left)
