"""Whoever dies with whom, in whatever way: two seconds later nothing is left of a child, daemons included."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.processes import ProcessGuard, is_running
from tests.common.processes.daemons import Kept, keeper
from tests.support.wait import wait_until

BOUND = 2.0


def _all_gone(kept: Kept) -> Callable[[], bool]:
    return lambda: not any(is_running(pid) for pid in kept.family)


def _kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("traits", [(), ("stubborn",), ("unregistered",), ("stubborn", "unregistered")])
def test_no_daemon_outlives_a_killed_worker(traits: tuple[str, ...], tmp_path: Path) -> None:
    """Neither one that ignores SIGTERM, nor one whose worker died between starting and registering its parent."""
    with keeper(*traits, daemons=3, directory=tmp_path) as kept:
        _kill(kept.keeper.pid)
        wait_until(_all_gone(kept), timeout=BOUND, description="the child and its daemons to be gone")


def test_a_reaper_has_ended_the_family_before_it_ends_itself(tmp_path: Path) -> None:
    """Both reapers go too, and only after their work."""
    with keeper("stubborn", directory=tmp_path) as kept:
        _kill(kept.keeper.pid)
        wait_until(lambda: not is_running(kept.reapers[0]), description="the first reaper to end")
        assert _all_gone(kept)()
        wait_until(lambda: not is_running(kept.reapers[1]), timeout=1, description="the second reaper to end")


@pytest.mark.parametrize("which", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("stubborn", [(), ("stubborn",)], ids=["obedient", "stubborn"])
def test_a_worker_killed_together_with_a_reaper(
    which: int, stubborn: tuple[str, ...], tmp_path: Path
) -> None:
    """The other one does the work, daemons of an unregistered child included."""
    with keeper(*stubborn, "unregistered", daemons=2, directory=tmp_path) as kept:
        _kill(kept.reapers[which], kept.keeper.pid)
        wait_until(_all_gone(kept), timeout=BOUND, description="the child and its daemons to be gone")


def test_a_worker_killed_some_time_after_its_first_reaper(tmp_path: Path) -> None:
    """Nobody has noticed the reaper's death in between; the second knows all the same."""
    with keeper(directory=tmp_path) as kept:
        _kill(kept.reapers[0])
        wait_until(lambda: not is_running(kept.reapers[0]), description="the first reaper's end")
        assert not _all_gone(kept)()
        _kill(kept.keeper.pid)
        wait_until(_all_gone(kept), timeout=BOUND, description="the child and its daemon to be gone")


@pytest.mark.slow
def test_a_reaper_that_hangs_is_replaced_by_the_second(tmp_path: Path) -> None:
    """Stopped, it holds the baton: after its patience and a margin the second acts."""
    with keeper(grace=0.1, directory=tmp_path) as kept:
        os.kill(kept.reapers[0], signal.SIGSTOP)
        try:
            _kill(kept.keeper.pid)
            wait_until(_all_gone(kept), timeout=8, description="the child and its daemon to be gone")
        finally:
            _kill(kept.reapers[0])


def test_the_children_of_those_who_all_died_are_ended_by_the_next_guard(tmp_path: Path) -> None:
    """Worker and both reapers killed together: the next guard on this machine ends what they left."""
    with keeper(daemons=2, directory=tmp_path) as kept:
        _kill(*kept.reapers, kept.keeper.pid)
        kept.keeper.wait()
        assert not _all_gone(kept)()
        with ProcessGuard(grace=0.2):
            wait_until(_all_gone(kept), timeout=BOUND, description="the forsaken to be gone")


def test_the_children_of_the_living_are_left_alone(tmp_path: Path) -> None:
    """The guard of one worker sees the children of another, and that their owner lives."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    with (
        keeper(directory=tmp_path / "one") as living,
        keeper(directory=tmp_path / "other") as dead,
    ):
        _kill(*dead.reapers, dead.keeper.pid)
        dead.keeper.wait()
        with ProcessGuard(grace=0.2):
            wait_until(_all_gone(dead), timeout=BOUND, description="the forsaken to be gone")
            assert all(map(is_running, living.family))


@pytest.mark.parametrize("way", ["closes", "exits"])
def test_an_orderly_end_leaves_nobody_either(way: str, tmp_path: Path) -> None:
    """Closing the guard ends the daemons before it returns; a mere exit has the reaper do it."""
    with keeper(way, "stubborn", daemons=2, grace=0.3, directory=tmp_path) as kept:
        assert kept.keeper.stdin is not None
        kept.keeper.stdin.close()
        kept.keeper.wait(5)
        if way == "exits":
            wait_until(_all_gone(kept), timeout=BOUND, description="the child and its daemons to be gone")
        assert _all_gone(kept)()


@pytest.mark.slow
def test_two_hundred_daemons(tmp_path: Path) -> None:
    """Two seconds are enough for them too."""
    with keeper(daemons=200, directory=tmp_path) as kept:
        killed = time.monotonic()
        _kill(kept.keeper.pid)
        wait_until(_all_gone(kept), timeout=BOUND, description="200 daemons to be gone")
        assert time.monotonic() - killed < BOUND
