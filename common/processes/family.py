"""A child and everything that came of it: who belongs to it, whether it still lives, how it is ended.

A process belongs to a child's family if it is in the child's process group or session. With a mark it also does if

- its environment at its start holds the mark (``MARK_NAME``), which a descendant inherits however it leaves its
  group, its session and its parent (a daemon forks twice and calls setsid);
- its parent is in the family, or somebody of the family is in its session.

So only a process escapes whose environment was emptied *and* that left its session *and* whose parent had gone,
all of that before anybody looked. Where there is no ``/proc`` (not Linux), the process group is all there is.

Nothing but the standard library is imported here: the reaper uses it, which runs isolated.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

MARK_NAME = "_CANALGATE_CHILD"
"""The variable in the environment of our children. No setting: so it does not begin with the settings' prefix."""
KILL_PATIENCE = 2.0
"""Seconds that SIGKILL may take to have its effect."""
_HAS_PROC = os.path.exists("/proc/self/stat")
_FIRST_POLL = 0.005
_LONGEST_POLL = 0.1
_STAT_SIZE = 1024
_ENVIRON_SIZE = 32 << 10


class Process(NamedTuple):
    """A living process. ``started`` is in clock ticks since boot: with the pid it names one process for ever."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    mark: str


def start_time(pid: int) -> int | None:
    """Start time of a process, living or zombie; None when there is no such process, or no ``/proc`` to tell."""
    try:
        stat = _stat(pid)
    except OSError:
        return None
    return int(stat[19]) if stat else None


def is_dead(pid: int) -> bool:
    """Whether a process has ended, reaped or not. False for all without ``/proc``."""
    if not _HAS_PROC:
        return False
    try:
        stat = _stat(pid)
    except OSError:  # no descriptor left to look with: nothing says that it has ended
        return False
    return stat is None or _ended(stat)


def processes(*, marks_since: int | None = None) -> list[Process]:
    """All living processes. Raises :class:`OSError` where the table cannot be read (too many open files).

    Marks are read of those that started at ``marks_since`` or later; None reads none, which is cheaper by half.
    """
    found: list[Process] = []
    unclear: list[int] = []
    for pid in [int(name) for name in os.listdir("/proc") if name.isdecimal()]:
        stat = _stat(pid)
        if stat is None or _ended(stat):
            continue
        mark, started = "", int(stat[19])
        # Kernel threads, which have no memory of their own, have no environment either.
        if marks_since is not None and started >= marks_since and stat[20] != b"0":
            read = _mark_of(pid)
            if read is None:
                unclear.append(len(found))
            mark = read or ""
        found.append(Process(pid, int(stat[1]), int(stat[2]), int(stat[3]), started, mark))
    for place in unclear:  # for an instant during an exec there is no environment to be read
        again = _mark_of(found[place].pid)
        if again:
            found[place] = found[place]._replace(mark=again)
    return found


class Family:
    """The children that lead the sessions ``leaders``, and what came of them.

    Args:
        leaders: process ids with their start times, where known: a number given out anew then is not ours.
        mark: that of a child, or the beginning of the marks of all children of one guard; "" for none.
    """

    def __init__(self, leaders: Mapping[int, int | None], mark: str = "") -> None:
        self._leaders = dict(leaders)
        self._mark = mark
        self._sessions = set(leaders)
        self._known: dict[int, int] = {}
        self._strays: list[int] = []

    def members(self) -> list[int]:
        """Targets for ``os.kill`` that still live: process ids, or groups as negative numbers without ``/proc``."""
        table = None
        if _HAS_PROC:
            try:
                table = processes(marks_since=self.since)
            except OSError:
                table = None
        return self.found_in(table)

    @property
    def since(self) -> int | None:
        """From which start time on somebody of the family may have started; None if marks are no matter."""
        if not self._mark:
            return None
        started = [time for time in self._leaders.values() if time is not None]
        return min(started) if started and len(started) == len(self._leaders) else 0

    def found_in(self, table: Iterable[Process] | None) -> list[int]:
        """:meth:`members` by a process table; None if it could not be read: then the groups are all that is known."""
        if table is None:
            self._strays = []
            return [-leader for leader in self._leaders if _group_exists(leader)]
        ours = os.getpid()
        everybody = [process for process in table if process.pid != ours]
        self._forget_strangers(everybody)
        found = {process.pid: process for process in everybody if self._is_member(process)}
        while self._mark and (more := self._followers(everybody, found)):
            found.update((process.pid, process) for process in more)
        self._known.update((process.pid, process.started) for process in found.values())
        self._strays = [process.pid for process in found.values() if process.group not in self._leaders]
        return list(found)

    def surely_lives(self) -> bool:
        """Whether one of those found before still lives: costs much less than a look at all processes."""
        return any(self._is_known_and_lives(pid) for pid in self._known)

    def send(self, number: int) -> None:
        """Send a signal to the groups, and to those outside them that the last look found.

        SIGCONT follows every signal but SIGKILL, since a stopped process would not act on it. A process that is
        gone, or that changed its user and is out of our reach, is passed over.
        """
        targets = [*(-leader for leader in self._leaders), *self._strays]
        for target in targets:
            _kill(target, number)
        if number != signal.SIGKILL:
            for target in targets:
                _kill(target, signal.SIGCONT)

    def gone(self) -> bool:
        """Whether nobody is left."""
        return not self.surely_lives() and not self.members()

    def gone_within(self, seconds: float) -> bool:
        """Wait until nobody is left; False if somebody still is after that time."""
        for delay in poll_delays(seconds):
            if self.gone():
                return True
            time.sleep(delay)
        return self.gone()

    def kill(self) -> bool:
        """SIGKILL until nobody is left (a stray may fork while we look); False if some still are after 2 s."""
        for delay in poll_delays(KILL_PATIENCE):
            if not self.members():
                return True
            self.send(signal.SIGKILL)
            time.sleep(delay)
        return not self.members()

    def end(self, grace: float, stop_signal: int = signal.SIGTERM) -> bool:
        """``stop_signal``, up to ``grace`` seconds of patience, SIGKILL; whether nobody is left."""
        if grace > 0:
            if not self.members():
                return True
            self.send(stop_signal)
            if self.gone_within(grace):
                return True
        return self.kill()

    def _forget_strangers(self, everybody: Iterable[Process]) -> None:
        """Drop a leader whose number names another process by now: no pid is given out while its group has members."""
        for process in everybody:
            started = self._leaders.get(process.pid)
            if started is not None and started != process.started:
                del self._leaders[process.pid]
                self._sessions.discard(process.pid)

    def _is_member(self, process: Process) -> bool:
        if process.session in self._sessions or process.group in self._leaders:
            return True
        if self._known.get(process.pid) == process.started:
            return True
        mark = self._mark
        return bool(mark) and (process.mark == mark or process.mark.startswith(mark + "."))

    def _followers(self, everybody: Iterable[Process], found: Mapping[int, Process]) -> list[Process]:
        """Who belongs to the family through those found so far. Theirs are sessions that no outsider can enter."""
        self._sessions.update(member.session for member in found.values())
        self._sessions.discard(os.getsid(0))
        return [
            process
            for process in everybody
            if process.pid not in found and (process.parent in found or process.session in self._sessions)
        ]

    def _is_known_and_lives(self, pid: int) -> bool:
        try:
            stat = _stat(pid)
        except OSError:
            return False
        return stat is not None and int(stat[19]) == self._known[pid] and not _ended(stat)


def poll_delays(limit: float) -> Iterable[float]:
    """Growing pauses in seconds between two looks at a dying process, ``limit`` seconds in all."""
    end = time.monotonic() + limit
    delay = _FIRST_POLL
    while (left := end - time.monotonic()) > 0:
        yield min(delay, left)
        delay = min(delay * 1.6, _LONGEST_POLL)


# -- marks ----------------------------------------------------------------------------------------------


def new_mark(random: str) -> str:
    """A mark for the children of this process: where and since when it lives, and something that nobody else has."""
    return f"{_namespace()}-{os.getpid()}-{start_time(os.getpid()) or 0}-{random}"


def forsaken(table: Iterable[Process]) -> set[str]:
    """The marks, as :func:`new_mark` made them, that processes of the table bear whose owner no longer lives.

    Owners in another pid namespace (a container) are never taken for dead: their numbers mean nothing here.
    """
    everybody = list(table)
    living = {(process.pid, process.started) for process in everybody}
    here = _namespace()
    found: set[str] = set()
    for mark in {process.mark.partition(".")[0] for process in everybody if process.mark}:
        place, *owner = mark.split("-")[:3]
        if place != here or here == "0" or len(owner) != 2 or not all(part.isdecimal() for part in owner):
            continue
        if (int(owner[0]), int(owner[1])) not in living:
            found.add(mark)
    return found


def _namespace() -> str:
    """What tells this pid namespace from others; "0" where nothing does."""
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "0"


# -- /proc and signals ----------------------------------------------------------------------------------


def _stat(pid: int) -> list[bytes] | None:
    """Fields of ``/proc/<pid>/stat`` from the state on (field 3 of ``proc_pid_stat(5)``); None if it is gone."""
    data = _read(f"/proc/{pid}/stat", _STAT_SIZE)
    return data.rpartition(b")")[2].split() if data else None


def _ended(stat: list[bytes]) -> bool:
    """Dead, or a zombie in which no other thread lives on (its main thread alone may end)."""
    return stat[0] in (b"Z", b"X") and int(stat[17]) <= 1


def _mark_of(pid: int) -> str | None:
    """The mark in a process's environment, "" if it has none, None if the environment is empty."""
    data = _read(f"/proc/{pid}/environ", _ENVIRON_SIZE)
    if not data:
        return None if data is not None else ""
    begin = b"\0" + MARK_NAME.encode() + b"="
    _, found, rest = (b"\0" + data).partition(begin)
    return rest.partition(b"\0")[0].decode("ascii", "replace") if found else ""


def _read(path: str, size: int) -> bytes | None:
    """A file of ``/proc``; None if the process is gone or not ours to read. Raises what is the machine's fault."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    try:
        data = chunk = os.read(file, size)
        while len(chunk) == size:
            chunk = os.read(file, size)
            data += chunk
    except (ProcessLookupError, PermissionError):
        return None
    finally:
        os.close(file)
    return data


def _group_exists(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except OSError:  # EPERM is what BSD and macOS say of a group with nothing but zombies
        return False
    return True


def _kill(target: int, number: int) -> None:
    try:
        os.kill(target, number)
    except (ProcessLookupError, PermissionError):
        return
