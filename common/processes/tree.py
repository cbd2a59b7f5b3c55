"""Ending a child together with everything it started."""

from __future__ import annotations

import asyncio
import os
import signal
from weakref import WeakKeyDictionary

from common.processes import family
from common.processes.family import Family, Process


def kill_tree(pgid: int, *, grace: float, stop_signal: int = signal.SIGTERM, mark: str = "") -> bool:
    """End the process group ``pgid`` and, on Linux, all of the session it leads; block until it is gone.

    With the mark that the child was given (:meth:`ProcessGuard.new_mark`) what left the session is ended too.
    ``stop_signal`` goes to all first; whatever is left after ``grace`` seconds gets SIGKILL. With
    ``grace`` 0 SIGKILL is the first signal. A group that is gone already is no error. Zombies count as gone:
    reaping the child stays with whoever started it.

    Returns:
        True when nobody is left; False if SIGKILL had no effect within 2 s (a process stuck in the kernel, or
        one that changed its user).

    Raises:
        ValueError: ``pgid`` is our own group or session, or no group.
    """
    return family_of(pgid, mark).end(grace, stop_signal)


async def terminate_tree(
    pgid: int | Family, *, grace: float, stop_signal: int = signal.SIGTERM, mark: str = ""
) -> bool:
    """As ``kill_tree``, for the event loop. A cancelled call sends SIGKILL at once, and then is cancelled.

    ``pgid`` may be what :func:`family_of` returned when the child had just been started: then a process that has
    been given its number since is not taken for it.

    Raises:
        ValueError: ``pgid`` is our own group or session, or no group.
    """
    tree = pgid if isinstance(pgid, Family) else family_of(pgid, mark)
    try:
        if grace > 0:
            if not await _members(tree):
                return True
            tree.send(stop_signal)
            if await _gone_within(tree, grace):
                return True
        return await _killed(tree)
    except asyncio.CancelledError:
        tree.send(signal.SIGKILL)
        raise


def family_of(pgid: int, mark: str = "") -> Family:
    """The family of a child that leads a session of its own. Raises :class:`ValueError` for our own group, or none."""
    if pgid <= 1 or pgid in (os.getpgrp(), os.getsid(0)):
        raise ValueError(f"process group {pgid} is our own or none: only the group of a child can be ended")
    return Family({pgid: family.start_time(pgid)}, mark)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to somebody else
        return True
    return not family.is_dead(pid)


async def _gone_within(tree: Family, seconds: float) -> bool:
    for delay in family.poll_delays(seconds):
        if not tree.surely_lives() and not await _members(tree):
            return True
        await asyncio.sleep(delay)
    return not await _members(tree)


async def _killed(tree: Family) -> bool:
    for delay in family.poll_delays(family.KILL_PATIENCE):
        if not await _members(tree):
            return True
        tree.send(signal.SIGKILL)
        await asyncio.sleep(delay)
    return not await _members(tree)


async def _members(tree: Family) -> list[int]:
    return tree.found_in(await _table())


async def _table() -> list[Process] | None:
    """The process table as it is after this moment; None where there is none, or it cannot be read."""
    loop = asyncio.get_running_loop()
    scans = _scans.get(loop)
    if scans is None:
        scans = _scans[loop] = _Scans()
    return await scans.next()


class _Scans:
    """Looks at all processes in a thread (10 to 20 us each), one look for all who wait for one.

    Whoever asks gets a look that begins after he asked: one under way may have passed over what he wants to see.
    """

    def __init__(self) -> None:
        self._busy = asyncio.Lock()
        self._next: asyncio.Task[list[Process] | None] | None = None

    async def next(self) -> list[Process] | None:
        if self._next is None:
            self._next = asyncio.create_task(self._scan(), name="process-table")
        return await asyncio.shield(self._next)

    async def _scan(self) -> list[Process] | None:
        async with self._busy:
            self._next = None
            try:
                return await asyncio.to_thread(_look)
            except RuntimeError:  # no thread can be started: the limit of processes is reached
                return _look()


def _look() -> list[Process] | None:
    """No child of ours is older than we are, so only marks of what is younger can be ours."""
    try:
        return family.processes(marks_since=family.start_time(os.getpid()) or 0)
    except OSError:  # not Linux, or out of descriptors
        return None


_scans: WeakKeyDictionary[asyncio.AbstractEventLoop, _Scans] = WeakKeyDictionary()
