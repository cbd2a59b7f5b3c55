"""The guard: a promise that no child of ours lives on after us, kept by two reaper processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from common.processes import family, reaper
from common.processes.words import LastWords

_REAPER = Path(__file__).with_name("reaper.py").resolve()
# What an interpreter may need to start, and TLS to trust as we do.
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_CLOSE_MARGIN = 5.0


class ProcessGuardError(RuntimeError):
    """The guard is closed, or its reapers could not be started."""


class _Reapers(NamedTuple):
    """The two reapers of a guard, told the same; the second acts only where the first cannot."""

    first: subprocess.Popen[bytes]
    second: subprocess.Popen[bytes]

    @property
    def alive(self) -> bool:
        return self.first.poll() is None and self.second.poll() is None


class ProcessGuard:
    """Ends children when this process is gone, in whatever way, ``kill -9`` of it and of a reaper included.

    Two reaper processes per guard (10 MB each, of which 5 MB their own) wait on pipes that only this process holds
    open; see ``common.processes.reaper``. A child must lead a session of its own (``start_new_session=True``) and
    is to be registered at once after it was started; with a mark in its environment it is guarded even before,
    and what left its session is found too::

        mark = guard.new_mark()
        child = subprocess.Popen(argv, start_new_session=True, env={**environment, MARK_NAME: mark})
        guard.add(child.pid)
        ...
        kill_tree(child.pid, grace=2.0, mark=mark)
        guard.discard(child.pid)

    All methods may be called from any thread and take microseconds, but for those that start reapers (a few
    milliseconds) and ``close``. A process forked from this one has no part in the guard: there it is
    as if new.

    Args:
        grace: seconds between SIGTERM and SIGKILL for what is still registered at the end.
        keep_fds: file descriptors that the reapers hold open until they are done, such as that of a
            lock on what the children use.
    """

    def __init__(self, *, grace: float = 2.0, keep_fds: Sequence[int] = ()) -> None:
        self._grace = grace
        self._keep_fds = tuple(keep_fds)
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._words = b""
        self._reapers: _Reapers | None = None
        self._closed = False
        self._name_marks()
        _guards.add(self)

    @property
    def reaper_pid(self) -> int | None:
        """Process id of the first reaper; None when the guard is not started or closed."""
        reapers = self._reapers
        return None if reapers is None else reapers.first.pid

    @property
    def second_reaper_pid(self) -> int | None:
        """Process id of the second reaper; None when the guard is not started or closed."""
        reapers = self._reapers
        return None if reapers is None else reapers.second.pid

    def new_mark(self) -> str:
        """A mark for one child, to be put into its environment under ``MARK_NAME``. No secret."""
        return f"{self._mark}.{next(self._numbers)}"

    def start(self) -> None:
        """Start the reapers, if they are not running. ``add`` does so too.

        Raises:
            ProcessGuardError: the guard is closed, or the process could not be started.
        """
        self.ensure()

    def ensure(self) -> bool:
        """Start the reapers if there are none or one has died; True if that was needed. It costs microseconds.

        Raises:
            ProcessGuardError: the guard is closed, or the process could not be started.
        """
        with self._lock:
            self._refuse_closed()
            if self._reapers is not None and self._reapers.alive:
                return False
            self._replace_reapers()
            return True

    def add(self, pgid: int) -> None:
        """Register a child by its process group id, which is its process id.

        Raises:
            ValueError: the group is our own or none at all.
            ProcessGuardError: the guard is closed, or has no reapers and cannot start them; end the child then.
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
            ProcessGuardError: the reapers are gone and cannot be started again.
        """
        with self._lock:
            if pgid not in self._groups:
                return
            self._groups.discard(pgid)
            self._tell(b"-%d\n" % pgid)

    def last_words(self, words: LastWords | None) -> None:
        """What a reaper says to Redis if we die, once none of our children is left; None for nothing any more.

        ``close`` takes them back first. They are told over the reapers' pipes, and held in their memory alone.

        Raises:
            ValueError: they are too long.
            ProcessGuardError: the guard is closed, or has no reapers and cannot start them.
        """
        line = b"" if words is None else words.line()
        with self._lock:
            self._refuse_closed()
            self._words = line
            self._tell(b"=" + line + b"\n")

    def close(self) -> None:
        """End what is still registered as if we had died, wait for that, let the reapers go. Repeatable.

        Nothing is said then. Where the reapers are gone and cannot be started again, this process ends the children.
        """
        with self._lock:
            self._closed = True
            if self._words:
                self._take_words_back()
            groups, self._groups = self._groups, set()
            reapers, self._reapers = self._reapers, None
        in_order = reapers is not None and self._let_go(reapers)
        if groups and not in_order:
            leaders = {group: family.start_time(group) for group in groups}
            family.Family(leaders, self._mark).end(self._grace)

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

    def _take_words_back(self) -> None:
        self._words = b""
        if self._reapers is not None:
            with contextlib.suppress(ProcessGuardError):  # then there is nobody left who could say them
                self._tell(b"=\n")

    def _let_go(self, reapers: _Reapers) -> bool:
        """Have the first reaper end what is registered, and wait for it; False if it could not."""
        _kill(reapers.second)
        _close_pipe(reapers.first)
        try:
            return reapers.first.wait(self._grace + _CLOSE_MARGIN) == 0
        except subprocess.TimeoutExpired:
            _kill(reapers.first)
            return False

    def _tell(self, line: bytes) -> None:
        heard = [_write(reaper_process, line) for reaper_process in self._reapers or ()]
        if not heard or not all(heard):
            self._replace_reapers()

    def _replace_reapers(self) -> None:
        """Start reapers that know all, after making sure that the old ones cannot act any more.

        The order matters: a reaper that still lives when its pipe is closed would end all our children.
        """
        old, self._reapers = self._reapers, None
        for reaper_process in old or ():
            _kill(reaper_process)
        try:
            new = self._spawn_both()
        except OSError as error:
            raise ProcessGuardError(f"cannot start the reapers of child processes: {error}") from error
        self._reapers = new
        lines = b"".join(b"+%d\n" % pgid for pgid in sorted(self._groups))
        if self._words:
            lines += b"=" + self._words + b"\n"
        try:
            for reaper_process in new:
                _begin(reaper_process, lines)
        except BrokenPipeError as error:
            raise ProcessGuardError("a reaper of child processes ended at its start") from error

    def _spawn_both(self) -> _Reapers:
        ending, beginning = os.pipe()
        try:
            first = self._spawn(reaper.FIRST, beginning)
            try:
                return _Reapers(first, self._spawn(reaper.SECOND, ending))
            except BaseException:
                _kill(first)
                raise
        finally:
            os.close(beginning)
            os.close(ending)

    def _spawn(self, role: str, baton: int) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", str(_REAPER), str(self._grace), self._mark, role, str(baton)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # an inherited pipe would keep its reader waiting
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=environment,
            start_new_session=True,
            pass_fds=(*self._keep_fds, baton),
        )

    def _name_marks(self) -> None:
        self._mark = family.new_mark(secrets.token_hex(8))
        self._numbers: Iterator[int] = itertools.count(1)

    def _leave_to_parent(self) -> None:
        """In a forked child: give up our copies of the pipes, or the reapers would wait for us as well."""
        self._lock = threading.Lock()  # another thread of the parent may have held the old one
        self._groups = set()
        self._words = b""
        self._name_marks()
        reapers, self._reapers = self._reapers, None
        for reaper_process in reapers or ():
            _close_pipe(reaper_process)
            reaper_process.returncode = 0  # it is no child of ours: never to be waited for or warned of


def _write(process: subprocess.Popen[bytes], line: bytes) -> bool:
    """Tell a reaper; False if it died, or has been stopped for thousands of lines and may have heard half of this."""
    if process.stdin is None:
        return False
    try:
        return os.write(process.stdin.fileno(), line) == len(line)
    except (BrokenPipeError, BlockingIOError):
        return False


def _begin(process: subprocess.Popen[bytes], lines: bytes) -> None:
    """Tell a new reaper everything, waiting for it; from then on its pipe makes nobody wait."""
    if process.stdin is None:
        raise ProcessGuardError("a reaper of child processes has no pipe")
    left = memoryview(lines)
    while left:
        left = left[os.write(process.stdin.fileno(), left) :]
    os.set_blocking(process.stdin.fileno(), False)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    _close_pipe(process)


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _leave_all_to_parent() -> None:
    for guard in list(_guards):
        guard._leave_to_parent()  # noqa: SLF001 - the fork hook is part of the class


_guards: weakref.WeakSet[ProcessGuard] = weakref.WeakSet()
os.register_at_fork(after_in_child=_leave_all_to_parent)
