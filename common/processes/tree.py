"""Ending a child together with everything it started."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from common.processes import reaper


def kill_tree(pgid: int, *, grace: float, stop_signal: int = signal.SIGTERM) -> bool:
    """End the process group ``pgid`` and, on Linux, all of the session it leads; block until it is gone.

    ``stop_signal`` goes to the group first; whatever is left after ``grace`` seconds gets SIGKILL. With
    ``grace`` 0 SIGKILL is the first signal. A group that is gone already is no error. Zombies count as gone:
    reaping the child stays with whoever started it.

    Returns:
        True when nobody is left; False if SIGKILL had no effect within 2 s (a process stuck in the kernel, or
        one that changed its user).

    Raises:
        ValueError: ``pgid`` is our own group or session, or no group.
    """
    leaders = _leaders(pgid)
    if grace > 0:
        if not reaper.survivors(leaders):
            return True
        reaper.send(leaders, stop_signal)
        for delay in reaper.poll_delays(grace):
            if not reaper.survivors(leaders):
                return True
            time.sleep(delay)
    return reaper.kill_remaining(leaders)


async def terminate_tree(pgid: int, *, grace: float, stop_signal: int = signal.SIGTERM) -> bool:
    """As ``kill_tree``, for the event loop. A cancelled call sends SIGKILL at once, and then is cancelled.

    Raises:
        ValueError: ``pgid`` is our own group or session, or no group.
    """
    leaders = _leaders(pgid)
    try:
        if grace > 0:
            if not reaper.survivors(leaders):
                return True
            reaper.send(leaders, stop_signal)
            if await _gone_within(leaders, grace):
                return True
        return await _killed(leaders)
    except asyncio.CancelledError:
        reaper.send(leaders, signal.SIGKILL)
        raise


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to somebody else
        return True
    return not reaper.is_zombie(pid)


async def _gone_within(leaders: tuple[int], seconds: float) -> bool:
    for delay in reaper.poll_delays(seconds):
        if not reaper.survivors(leaders):
            return True
        await asyncio.sleep(delay)
    return not reaper.survivors(leaders)


async def _killed(leaders: tuple[int]) -> bool:
    for delay in reaper.poll_delays(reaper.KILL_PATIENCE):
        if not reaper.survivors(leaders):
            return True
        reaper.send(leaders, signal.SIGKILL)
        await asyncio.sleep(delay)
    return not reaper.survivors(leaders)


def _leaders(pgid: int) -> tuple[int]:
    if pgid <= 1 or pgid in (os.getpgrp(), os.getsid(0)):
        raise ValueError(f"process group {pgid} is our own or none: only the group of a child can be ended")
    return (pgid,)
