"""The guard: a promise that no child of ours lives on after us, kept by a reaper process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_REAPER = Path(__file__).with_name("reaper.py").resolve()
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # what an interpreter may need to start
_CLOSE_MARGIN = 5.0


class ProcessGuardError(RuntimeError):
    """The guard is closed, or its reaper could not be started."""


class ProcessGuard:
    """Ends registered process groups when this process is gone, in whatever way, ``kill -9`` included.

    One reaper process per guard (10 MB, of which 4 MB its own) waits on a pipe that only this process holds
    open; see ``common.processes.reaper``. A child must lead a session of its own
    (``start_new_session=True``) and is to be registered at once after it was started::

        child = subprocess.Popen(argv, start_new_session=True)
        guard.add(child.pid)
        ...
        kill_tree(child.pid, grace=2.0)
        guard.discard(child.pid)

    All methods may be called from any thread and take microseconds, but for those that start a reaper (a few
    milliseconds) and ``close``. A process forked from this one has no part in the guard: there it is
    as if new.

    Args:
        grace: seconds between SIGTERM and SIGKILL for what is still registered at the end.
        keep_fds: file descriptors that the reaper holds open until it is done, such as that of a
            lock on what the children use.
    """

    def __init__(self, *, grace: float = 2.0, keep_fds: Sequence[int] = ()) -> None:
        self._grace = grace
        self._keep_fds = tuple(keep_fds)
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._reaper: subprocess.Popen[bytes] | None = None
        self._closed = False
        _guards.add(self)

    @property
    def reaper_pid(self) -> int | None:
        """Process id of the reaper; None when the guard is not started or closed."""
        reaper = self._reaper
        return None if reaper is None else reaper.pid

    def start(self) -> None:
        """Start the reaper, if it is not running. ``add`` does so too.

        Raises:
            ProcessGuardError: the guard is closed, or the process could not be started.
        """
        self.ensure()

    def ensure(self) -> bool:
        """Start the reaper if there is none or it has died; True if that was needed. It costs microseconds.

        Raises:
            ProcessGuardError: the guard is closed, or the process could not be started.
        """
        with self._lock:
            self._refuse_closed()
            if self._reaper is not None and self._reaper.poll() is None:
                return False
            self._replace_reaper()
            return True

    def add(self, pgid: int) -> None:
        """Register a child by its process group id, which is its process id.

        Raises:
            ValueError: the group is our own or none at all.
            ProcessGuardError: the guard is closed, or has no reaper and cannot start one; end the child then.
        """
        if pgid <= 1 or pgid in (os.getpgrp(), os.getsid(0)):
            raise ValueError(f"process group {pgid} is not that of a child in a session of its own")
        with self._lock:
            self._refuse_closed()
            self._groups.add(pgid)
            self._tell(b"+%d\n" % pgid)

    def discard(self, pgid: int) -> None:
        """Forget a group, once all of it is gone. An unknown group, or any after ``close``, is no error.

        Raises:
            ProcessGuardError: the reaper is gone and cannot be started again.
        """
        with self._lock:
            if pgid not in self._groups:
                return
            self._groups.discard(pgid)
            self._tell(b"-%d\n" % pgid)

    def close(self) -> None:
        """End what is still registered as if we had died, wait for that, let the reaper go. Repeatable."""
        with self._lock:
            self._closed = True
            self._groups.clear()
            reaper, self._reaper = self._reaper, None
        if reaper is None:
            return
        _close_pipe(reaper)
        try:
            reaper.wait(self._grace + _CLOSE_MARGIN)
        except subprocess.TimeoutExpired:
            reaper.kill()
            reaper.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ProcessGuardError("the process guard is closed")

    def _tell(self, line: bytes) -> None:
        reaper = self._reaper
        if reaper is None or reaper.stdin is None:
            self._replace_reaper()
            return
        try:
            os.write(reaper.stdin.fileno(), line)  # shorter than PIPE_BUF: all or nothing
        except (BrokenPipeError, BlockingIOError):  # it died, or has been stopped for thousands of lines
            self._replace_reaper()

    def _replace_reaper(self) -> None:
        """Start a reaper that knows all groups, after making sure that the old one cannot act any more.

        The order matters: a reaper that still lives when its pipe is closed would end all our children.
        """
        old, self._reaper = self._reaper, None
        if old is not None:
            old.kill()
            old.wait()
            _close_pipe(old)
        try:
            new = self._spawn()
        except OSError as error:
            raise ProcessGuardError(f"cannot start the reaper of child processes: {error}") from error
        self._reaper = new
        if new.stdin is None:
            raise ProcessGuardError("the reaper of child processes has no pipe")
        lines = b"".join(b"+%d\n" % pgid for pgid in sorted(self._groups))
        try:
            new.stdin.write(lines)
        except BrokenPipeError as error:
            raise ProcessGuardError("the reaper of child processes ended at its start") from error
        os.set_blocking(new.stdin.fileno(), False)

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", str(_REAPER), str(self._grace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # an inherited pipe would keep its reader waiting
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=environment,
            start_new_session=True,
            pass_fds=self._keep_fds,
        )

    def _leave_to_parent(self) -> None:
        """In a forked child: give up our copy of the pipe, or the reaper would wait for us as well."""
        self._lock = threading.Lock()  # another thread of the parent may have held the old one
        self._groups = set()
        reaper, self._reaper = self._reaper, None
        if reaper is not None:
            _close_pipe(reaper)
            reaper.returncode = 0  # it is no child of ours: never to be waited for or warned of


def _close_pipe(reaper: subprocess.Popen[bytes]) -> None:
    if reaper.stdin is not None:
        reaper.stdin.close()


def _leave_all_to_parent() -> None:
    for guard in list(_guards):
        guard._leave_to_parent()  # noqa: SLF001 - the fork hook is part of the class


_guards: weakref.WeakSet[ProcessGuard] = weakref.WeakSet()
os.register_at_fork(after_in_child=_leave_all_to_parent)
