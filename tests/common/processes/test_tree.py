"""Ending a child together with everything it started, from threads and from the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.processes import MARK_NAME, is_running, kill_tree, terminate_tree
from tests.common.processes.family import child_with_grandchild, kill_quietly
from tests.support.servers.process import SERVERS
from tests.support.wait import wait_until

Ending = Callable[[int, float], bool]


def _blocking(pgid: int, grace: float) -> bool:
    return kill_tree(pgid, grace=grace)


def _on_the_loop(pgid: int, grace: float) -> bool:
    return asyncio.run(terminate_tree(pgid, grace=grace))


def _blocking_marked(pgid: int, grace: float, mark: str) -> bool:
    return kill_tree(pgid, grace=grace, mark=mark)


def _on_the_loop_marked(pgid: int, grace: float, mark: str) -> bool:
    return asyncio.run(terminate_tree(pgid, grace=grace, mark=mark))


@contextmanager
def daemoniser(
    mark: str, pid_file: Path, *traits: str
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A marked child that has left two daemons behind, and their numbers."""
    argv = [sys.executable, "-I", "-S", str(SERVERS / "daemoniser.py"), "2", str(pid_file), *traits]
    child = subprocess.Popen(argv, start_new_session=True, env={MARK_NAME: mark})

    def daemons() -> list[int]:
        return [int(line) for line in pid_file.read_text().split()] if pid_file.exists() else []

    try:
        wait_until(lambda: len(daemons()) == 2, description="two daemons")
        yield child, daemons()
    finally:
        for pid in daemons():
            kill_quietly(pid)
        child.kill()
        child.wait()


both = pytest.mark.parametrize("end", [_blocking, _on_the_loop])


@both
def test_an_obedient_family_is_gone_without_waiting_for_the_grace(end: Ending) -> None:
    """Both are gone on return although nobody has reaped the child yet; the grace of 30 s is not used up."""
    with child_with_grandchild() as (child, grandchild):
        assert end(child.pid, 30.0)
        assert not is_running(grandchild)
        assert child.wait() == -signal.SIGTERM


@both
@pytest.mark.parametrize("traits", [("stubborn",), ("stubborn", "stray")], ids=" ".join)
def test_a_stubborn_family_is_killed_after_the_grace(end: Ending, traits: tuple[str, ...]) -> None:
    """SIGKILL comes after the grace; a member of the session outside the process group does not escape."""
    with child_with_grandchild(*traits) as (child, grandchild):
        begin = time.monotonic()
        assert end(child.pid, 0.3)
        assert time.monotonic() - begin >= 0.3
        assert not is_running(grandchild)
        assert child.wait() == -signal.SIGKILL


@both
def test_without_grace_sigkill_is_the_first_signal(end: Ending) -> None:
    """A child that would obey SIGTERM never sees it."""
    with child_with_grandchild() as (child, grandchild):
        assert end(child.pid, 0.0)
        assert not is_running(grandchild)
        assert child.wait() == -signal.SIGKILL


@both
def test_a_stopped_family_obeys_too(end: Ending) -> None:
    """SIGCONT follows SIGTERM, so a suspended child does not use up the grace."""
    with child_with_grandchild() as (child, grandchild):
        os.killpg(child.pid, signal.SIGSTOP)
        assert end(child.pid, 30.0)
        assert not is_running(grandchild)
        assert child.wait() == -signal.SIGTERM


@both
def test_what_the_child_left_behind_is_ended(end: Ending) -> None:
    """The leader has exited and been reaped; its group still has a member."""
    with child_with_grandchild("leaves") as (child, grandchild):
        child.wait()
        assert is_running(grandchild)
        assert end(child.pid, 30.0)
        assert not is_running(grandchild)


@pytest.mark.parametrize("end", [_blocking_marked, _on_the_loop_marked])
@pytest.mark.parametrize(("traits", "grace"), [((), 30.0), (("stubborn",), 0.3), (("stubborn",), 0.0)])
def test_daemons_of_a_marked_child_are_ended_too(
    end: Callable[[int, float, str], bool], traits: tuple[str, ...], grace: float, tmp_path: Path
) -> None:
    """They left group, session and parent; with the child's mark they are found, and those of another are not."""
    with (
        daemoniser("mark.1", tmp_path / "one", *traits) as (child, daemons),
        daemoniser("mark.12", tmp_path / "other") as (other, others),
    ):
        assert end(child.pid, grace, "mark.1")
        assert not any(map(is_running, daemons))
        assert all(map(is_running, others))
        assert other.poll() is None


@both
@pytest.mark.parametrize("grace", [0.0, 30.0])
def test_a_family_that_is_gone_is_no_error(end: Ending, grace: float) -> None:
    """Ending twice is as good as once."""
    with child_with_grandchild() as (child, _):
        assert end(child.pid, grace)
        child.wait()
        assert end(child.pid, grace)


@both
@pytest.mark.parametrize("pgid", [os.getpgrp(), os.getsid(0), 1, 0, -1])
def test_our_own_group_is_never_signalled(end: Ending, pgid: int) -> None:
    """It is refused, and we live to tell."""
    with pytest.raises(ValueError, match="our own or none"):
        end(pgid, 1.0)


def test_a_cancelled_ending_kills_at_once() -> None:
    """When the task is cancelled during the grace, nobody is left to wait: SIGKILL, then the cancellation."""

    async def cancel_while_waiting(pgid: int) -> None:
        ending = asyncio.create_task(terminate_tree(pgid, grace=30.0))
        await asyncio.sleep(0)
        ending.cancel()
        await _expect_cancelled(ending)

    with child_with_grandchild("stubborn") as (child, grandchild):
        asyncio.run(cancel_while_waiting(child.pid))
        assert child.wait(5) == -signal.SIGKILL
        wait_until(lambda: not is_running(grandchild), description="the grandchild is gone")


def test_many_families_end_together_on_the_loop() -> None:
    """Waiting for one does not hold up another."""

    async def end_all(*pgids: int) -> list[bool]:
        return list(await asyncio.gather(*(terminate_tree(pgid, grace=0.5) for pgid in pgids)))

    with (
        child_with_grandchild("stubborn") as (a, _),
        child_with_grandchild("stubborn") as (b, _),
        child_with_grandchild("stubborn") as (c, _),
    ):
        begin = time.monotonic()
        assert asyncio.run(end_all(a.pid, b.pid, c.pid)) == [True, True, True]
        assert time.monotonic() - begin < 1.4


async def _expect_cancelled(task: asyncio.Task[bool]) -> None:
    waiting: Coroutine[object, object, bool] = asyncio.wait_for(task, 5)
    with pytest.raises(asyncio.CancelledError):
        await waiting
