"""The guard ends our children when we are gone, however we went, and nobody else."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from common.processes import ProcessGuard, ProcessGuardError, is_running
from tests.common.processes.family import child_with_grandchild, guarded_family
from tests.support.wait import wait_until

_NO_PROCESS = 2**22 + 1  # above the greatest process id of Linux


def _gone(*pids: int) -> Callable[[], bool]:
    return lambda: not any(is_running(pid) for pid in pids)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_the_whole_family_ends_when_the_parent_is_killed(death: signal.Signals) -> None:
    """After any deadly signal to the parent, child and grandchild get SIGTERM at once."""
    with guarded_family(grace=30) as family:
        os.kill(family.parent.pid, death)
        family.parent.wait()
        wait_until(_gone(*family.descendants), timeout=10, description="child and grandchild are gone")


@pytest.mark.parametrize("way", ["exits", "raises"])
def test_the_whole_family_ends_when_the_parent_exits(way: str) -> None:
    """A parent that ends without closing its guard leaves nobody."""
    with guarded_family(way, grace=30) as family:
        family.parent.wait()
        wait_until(_gone(*family.descendants), description="child and grandchild are gone")


@pytest.mark.parametrize("traits", [("stubborn",), ("stubborn", "stray")], ids=" ".join)
def test_a_family_that_ignores_sigterm_is_killed_after_the_grace(traits: tuple[str, ...]) -> None:
    """SIGKILL follows after the grace, also for one of the session that left the process group."""
    with guarded_family(*traits, grace=0.5) as family:
        family.parent.kill()
        killed_at = time.monotonic()
        wait_until(_gone(*family.descendants), description="child and grandchild are gone")
        assert time.monotonic() - killed_at >= 0.4


def test_a_group_outlives_its_leader_and_is_ended_all_the_same() -> None:
    """A child that exits and leaves a grandchild behind does not save the grandchild."""
    with guarded_family("leaves") as family:
        child, grandchild = family.descendants
        wait_until(_gone(child), description="the child has exited")
        family.parent.kill()
        wait_until(_gone(grandchild), description="the grandchild is gone")


def test_a_discarded_group_is_left_alone() -> None:
    """What was registered and discarded lives on after the parent and its reaper are gone."""
    with guarded_family("discarded", grace=0.1) as family:
        reapers = _children_of(family.parent.pid) - set(family.descendants)
        assert len(reapers) == 2
        family.parent.kill()
        family.parent.wait()
        wait_until(_gone(*reapers), description="the reapers have exited")
        assert all(is_running(pid) for pid in family.descendants)


@pytest.mark.parametrize("way", ["exec", "fork"])
def test_a_bystander_does_not_hold_the_pipe_open(way: str) -> None:
    """A process that inherits all it can, by exec or by fork, does not keep end of file from the reaper."""
    with guarded_family(way) as family:
        *guarded, bystander = family.descendants
        family.parent.kill()
        wait_until(_gone(*guarded), description="child and grandchild are gone")
        assert is_running(bystander)


def test_a_kept_descriptor_stays_open_until_the_children_are_gone(tmp_path: Path) -> None:
    """A lock given to the reaper outlives the parent, and ends after its last child."""
    path = tmp_path / "lock"
    with guarded_family("stubborn", lock=path, grace=0.5) as family, path.open("rb") as file:
        family.parent.kill()
        family.parent.wait()
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not any(is_running(pid) for pid in family.descendants)


def test_a_killed_reaper_is_replaced_and_told_everything() -> None:
    """The next write finds the reaper dead; the new one knows the old children, and none was harmed."""
    with ProcessGuard(grace=5) as guard, child_with_grandchild() as (first, first_grandchild):
        guard.add(first.pid)
        _kill_reaper(guard)
        with child_with_grandchild() as (second, second_grandchild):
            guard.add(second.pid)
            assert is_running(guard.reaper_pid or 0)
            assert first.poll() is None
            guard.close()
            pids = (first.pid, first_grandchild, second.pid, second_grandchild)
            wait_until(_gone(*pids), description="both families are gone")


def test_ensure_replaces_a_killed_reaper() -> None:
    """``ensure`` says whether it had to start a reaper."""
    with ProcessGuard() as guard:
        before = guard.reaper_pid
        assert guard.ensure() is False
        _kill_reaper(guard)
        assert guard.ensure() is True
        assert guard.reaper_pid not in (None, before)


def test_a_reaper_that_reads_no_more_is_replaced_and_harms_nobody() -> None:
    """A stopped reaper never makes us wait; when its pipe is full it is killed, not let loose on our own."""
    with ProcessGuard(grace=0.2) as guard, child_with_grandchild() as (child, grandchild):
        guard.add(child.pid)
        stopped = guard.reaper_pid or 0
        os.kill(stopped, signal.SIGSTOP)
        for number in range(_NO_PROCESS, _NO_PROCESS + 20_000):
            guard.add(number)
            guard.discard(number)
        assert guard.reaper_pid != stopped
        wait_until(_gone(stopped), description="the stopped reaper is gone")
        assert child.poll() is None
        guard.close()
        wait_until(_gone(child.pid, grandchild), description="the child is gone")


def test_signals_of_the_terminal_do_not_end_the_reaper() -> None:
    """The reaper has a session of its own and ignores what a terminal or a service manager may send."""
    with ProcessGuard() as guard:
        pid = guard.reaper_pid or 0
        wait_until(lambda: signal.SIGTERM in _ignored(pid), description="the reaper has started")
        assert _ignored(pid) >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        assert os.getsid(pid) == pid


def test_threads_may_register_at_the_same_time() -> None:
    """After eight threads have come and gone, only what stayed registered is ended."""
    with ProcessGuard(grace=5) as guard, child_with_grandchild() as (child, grandchild):

        def come_and_go(first: int) -> None:
            for number in range(first, first + 200):
                guard.add(number)
                guard.discard(number)

        threads = [threading.Thread(target=come_and_go, args=(_NO_PROCESS + i * 1000,)) for i in range(8)]
        for thread in threads:
            thread.start()
        guard.add(child.pid)
        for thread in threads:
            thread.join()
        guard.close()
        wait_until(_gone(child.pid, grandchild), description="the child is gone")


def test_closing_with_nothing_registered_ends_the_reaper_at_once() -> None:
    """No grace is waited for when nobody is left."""
    with ProcessGuard(grace=30) as guard, child_with_grandchild() as (child, _):
        pid = guard.reaper_pid or 0
        guard.add(child.pid)
        guard.discard(child.pid)
        guard.close()
        assert not is_running(pid)
        assert child.poll() is None


@pytest.mark.parametrize("pgid", [0, 1, -1, os.getpgrp()])
def test_our_own_group_is_refused(pgid: int) -> None:
    """Nobody can register the group that the guard itself is to protect."""
    with ProcessGuard() as guard, pytest.raises(ValueError, match="session of its own"):
        guard.add(pgid)


def test_a_closed_guard_takes_no_more() -> None:
    """After ``close``, ``add`` is refused, ``discard`` and another ``close`` are no error."""
    guard = ProcessGuard()
    guard.start()
    guard.close()
    guard.close()
    guard.discard(_NO_PROCESS)
    with pytest.raises(ProcessGuardError, match="closed"):
        guard.add(_NO_PROCESS)


def _kill_reaper(guard: ProcessGuard) -> None:
    pid = guard.reaper_pid or 0
    os.kill(pid, signal.SIGKILL)
    wait_until(_gone(pid), description="the reaper is dead")


def _children_of(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children()}


def _ignored(pid: int) -> set[int]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            mask = int(line.split()[1], 16)
            return {number for number in range(1, 32) if mask & (1 << (number - 1))}
    raise AssertionError("no SigIgn line")
