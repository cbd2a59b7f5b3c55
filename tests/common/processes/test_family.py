"""Who belongs to a child: by session, by mark, by descent; and who does not, whatever its number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.processes import MARK_NAME, family, is_running
from common.processes.family import Family, Process
from tests.common.processes.family import child_with_grandchild
from tests.support.wait import wait_until

MARK = "1-2-3-abc"


@contextmanager
def python(code: str, *, mark: str = MARK, expect: int) -> Iterator[tuple[int, list[int]]]:
    """A marked child in a session of its own, and the numbers of the processes it prints, one a line."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={MARK_NAME: mark} if mark else {},
    )
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(expect)]
    try:
        yield child.pid, told
    finally:
        for pid in told:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        child.kill()
        child.wait()
        child.stdout.close()


def _line(text: str = "os.getpid()") -> str:
    return f"os.write(1, b'%d\\n' % {text})"


DAEMON = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {_line()}
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
"""
NAKED_CHILD = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    {_line()}
    os.execve(sys.executable, [sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'], {{}})
time.sleep(600)
"""
NAKED_SESSION = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setpgid(0, 0)
        {_line()}
        os.execve(sys.executable, [sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)'], {{}})
    {_line()}
    time.sleep(600)
time.sleep(600)
"""


def _is_naked(pid: int) -> bool:
    return Path(f"/proc/{pid}/environ").read_bytes() == b""


def test_a_daemon_is_found_by_its_mark() -> None:
    """Its group, its session and its parent tell nothing any more."""
    with python(DAEMON, expect=1) as (child, [daemon]):
        wait_until(lambda: family._stat(daemon)[1] != str(child).encode(), description="a daemon")  # type: ignore[index]
        started = family.start_time(child)
        assert set(Family({child: started}, MARK).members()) == {child, daemon}
        assert Family({child: started}).members() == [child]
        assert Family({}, "1-2-3-ab").members() == []


def test_the_beginning_of_the_marks_of_many_children() -> None:
    """A guard's mark is the beginning of its children's, up to a dot."""
    with (
        python(DAEMON, mark=f"{MARK}.1", expect=1) as (one, [a]),
        python(DAEMON, mark=f"{MARK}.12", expect=1) as (other, [b]),
    ):
        assert set(Family({}, MARK).members()) == {one, a, other, b}
        assert set(Family({}, f"{MARK}.1").members()) == {one, a}


def test_one_that_emptied_its_environment_is_found_by_its_parent() -> None:
    """For as long as that lives, and afterwards since it was seen."""
    with python(NAKED_CHILD, expect=1) as (child, [naked]):
        wait_until(lambda: _is_naked(naked), description="an empty environment")
        found = Family({child: family.start_time(child)}, MARK)
        assert set(found.members()) == {child, naked}
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not is_running(child), description="the child's end")
        assert found.members() == [naked]
        assert found.kill()
        assert not is_running(naked)


def test_one_that_emptied_its_environment_is_found_by_its_session() -> None:
    """Somebody else of the family is in it."""
    with python(NAKED_SESSION, expect=2) as (child, told):
        naked = next(pid for pid in told if os.getsid(pid) != pid)
        wait_until(lambda: _is_naked(naked), description="an empty environment")
        assert set(Family({child: family.start_time(child)}, MARK).members()) == {child, *told}


def test_a_number_given_out_anew_is_not_our_child() -> None:
    """A child is known by number and start time, so a stranger with a reused number is spared."""
    with child_with_grandchild() as (child, grandchild):
        started = family.start_time(child.pid)
        assert started is not None
        assert set(Family({child.pid: started}).members()) == {child.pid, grandchild}
        assert set(Family({child.pid: None}).members()) == {child.pid, grandchild}
        stranger = Family({child.pid: started - 1})
        assert stranger.end(0.0)
        assert child.poll() is None


def test_one_whose_main_thread_has_ended_lives_on() -> None:
    """It looks like a zombie, and works."""
    code = f"""
import ctypes, os, threading, time
threading.Thread(target=lambda: (time.sleep(0.05), {_line()}, time.sleep(600))).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with python(code, expect=1) as (child, _):
        wait_until(lambda: family._stat(child)[0] == b"Z", description="its main thread's end")  # type: ignore[index]
        found = Family({child: family.start_time(child)}, MARK)
        assert found.members() == [child]
        assert is_running(child)
        assert found.kill()
        assert not is_running(child)


def test_a_family_is_ended_without_a_process_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors nobody can look; the group is ended all the same, and not taken for gone before."""

    def no_table(**_: object) -> list[Process]:
        raise OSError(24, "Too many open files")

    with child_with_grandchild() as (child, grandchild):
        monkeypatch.setattr(family, "processes", no_table)
        found = Family({child.pid: family.start_time(child.pid)}, MARK)
        assert not found.gone()
        found.send(signal.SIGKILL)
        child.wait()
        wait_until(found.gone, description="the group to be gone")
        assert not is_running(grandchild)


# -- whose owner has died -------------------------------------------------------------------------------


def _process(pid: int, mark: str, started: int = 50) -> Process:
    return Process(pid, 1, pid, pid, started, mark)


def test_marks_of_dead_owners_are_forsaken() -> None:
    """Those of a living owner are not, nor those of another pid namespace, nor what is no mark of ours."""
    here = family._namespace()
    table = [
        _process(10, "", started=50),
        _process(11, f"{here}-10-50-aa.1"),  # its owner lives
        _process(12, f"{here}-10-49-bb.7"),  # its owner's number was given out anew
        _process(13, f"{here}-99-50-cc.1"),  # nobody has the number
        _process(14, f"{here}-99-50-cc.2"),
        _process(15, "77-99-50-dd.1"),  # elsewhere
        _process(16, "nonsense"),
        _process(17, f"{here}-x-y-z"),
        _process(18, f"{here}-99"),
        _process(19, "---"),
    ]
    assert family.forsaken(table) == {f"{here}-10-49-bb", f"{here}-99-50-cc"}


def test_our_own_marks_are_not_forsaken() -> None:
    """We live."""
    mark = family.new_mark("x")
    table = [*family.processes(), _process(2**22 + 1, f"{mark}.1")]
    assert mark not in family.forsaken(table)
