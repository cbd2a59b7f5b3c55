"""How many children start at once.

Starting a process stands still until the new one has become its command: a fraction of a millisecond, but 60 and
more where a hundred others are just starting and all want the processor. Meanwhile the loop does nothing else, not even
beat for its node. So a few start at once, and the others wait for their turn.
"""

from __future__ import annotations

import asyncio
import os
from weakref import WeakKeyDictionary

STARTS_AT_ONCE = 2 * (os.cpu_count() or 1)
SLOT_TIME = 1.0
"""Seconds after which a start makes room for others though its child has said nothing: one that hangs harms nobody."""


class Slot:
    """A turn to start; it ends when the child has said something, or soon anyway."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots
        self._timer = asyncio.get_running_loop().call_later(SLOT_TIME, self.release)

    def release(self) -> None:
        """Let the next one start; only the first call counts."""
        self._timer.cancel()
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


async def start_slot() -> Slot:
    """Wait for a turn. All links of a loop share them, first come, first served."""
    loop = asyncio.get_running_loop()
    slots = _slots.get(loop)
    if slots is None:
        slots = _slots[loop] = asyncio.Semaphore(STARTS_AT_ONCE)
    await slots.acquire()
    return Slot(slots)


_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
