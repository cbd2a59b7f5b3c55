"""Processes to be ended: a child with a grandchild, and a parent that guards them. Run as a program, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Family:
    """A parent and the descendants it named, in the order of its output."""

    parent: subprocess.Popen[str]
    descendants: tuple[int, ...]


@contextmanager
def guarded_family(*traits: str, lock: Path | None = None, grace: float = 0.5) -> Iterator[Family]:
    """A parent process with a guard that has registered a child; whatever is left is killed at the end.

    Traits: ``stubborn`` (descendants ignore SIGTERM), ``stray`` (the grandchild has a process group of its
    own), ``leaves`` (the child exits before the grandchild), ``discarded`` (the child is registered and
    discarded), ``exits`` and ``raises`` (the parent ends by itself), ``fork`` and ``exec`` (the parent also
    starts a bystander, named last, that is not registered and keeps what it inherits).
    """
    argv = [
        sys.executable,
        "-m",
        "tests.common.processes.family",
        "parent",
        str(grace),
        str(lock or ""),
        *traits,
    ]
    parent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    descendants = tuple(int(word) for word in parent.stdout.readline().split())
    try:
        yield Family(parent, descendants)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        for pid in descendants:
            kill_quietly(pid)


@contextmanager
def child_with_grandchild(*traits: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A child in a session of its own, and the process id of its grandchild."""
    child = start_child(*traits)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline().split()[1])
    try:
        yield child, grandchild
    finally:
        kill_quietly(grandchild)
        child.kill()
        child.wait()
        child.stdout.close()


def start_child(*traits: str) -> subprocess.Popen[str]:
    """A child that writes its own process id and that of its grandchild, then waits."""
    argv = [sys.executable, "-I", "-S", __file__, "child", *traits]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)


def kill_quietly(pid: int) -> None:
    """SIGKILL, if there is such a process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _child(traits: list[str]) -> None:
    if "stubborn" in traits:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = os.fork()
    if not grandchild:
        if "stray" in traits:
            os.setpgid(0, 0)
        time.sleep(600)
        os._exit(0)
    if "stray" in traits:
        os.setpgid(grandchild, grandchild)
    print(os.getpid(), grandchild, flush=True)
    if "leaves" in traits:
        os._exit(0)
    time.sleep(600)


def _parent(grace: float, lock: str, traits: list[str]) -> None:
    import fcntl

    from common.processes import ProcessGuard

    keep: list[int] = []
    if lock:
        keep.append(os.open(lock, os.O_RDWR | os.O_CREAT))
        fcntl.flock(keep[0], fcntl.LOCK_EX)
    guard = ProcessGuard(grace=grace, keep_fds=keep)
    child = start_child(*traits)
    assert child.stdout is not None
    guard.add(child.pid)
    pids = child.stdout.readline().split()
    if "discarded" in traits:
        guard.discard(child.pid)
    if "exec" in traits:
        bystander = subprocess.Popen(
            ["sleep", "600"], close_fds=False, start_new_session=True, stdout=subprocess.DEVNULL
        )
        pids.append(str(bystander.pid))
    if "fork" in traits:
        pids.append(str(_forked_bystander()))
    print(*pids, flush=True)
    _wait_as_told(traits)


def _forked_bystander() -> int:
    pid = os.fork()
    if not pid:
        os.setsid()
        os.close(1)
        time.sleep(600)
        os._exit(0)
    return pid


def _wait_as_told(traits: list[str]) -> None:
    if "exits" in traits:
        return
    if "raises" in traits:
        raise SystemExit(3)
    time.sleep(600)


def _main() -> None:
    role, *arguments = sys.argv[1:]
    if role == "parent":
        grace, lock, *traits = arguments
        _parent(float(grace), lock, traits)
    else:
        _child(arguments)


if __name__ == "__main__":
    _main()
