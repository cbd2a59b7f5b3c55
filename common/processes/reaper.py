"""The reaper: a tiny process that ends our children when we are gone, however we went.

It is run as ``python -I -S reaper.py GRACE``, so it may import nothing but the standard library. The parent
holds the only write end of the pipe on its standard input and writes one line for each event: ``+<pgid>`` for
a child that leads a session of its own, ``-<pgid>`` once that child and its descendants are gone. End of file
means that the parent has died or closed the guard: every group still registered gets SIGTERM, then after
``GRACE`` seconds SIGKILL.

The functions on processes are used by ``common.processes.tree`` too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection, Iterable

_HAS_PROC = os.path.exists("/proc/self/stat")
KILL_PATIENCE = 2.0
_FIRST_POLL = 0.005
_LONGEST_POLL = 0.1


def start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot: with the pid it names one process for ever.

    None when there is no such process, or no ``/proc`` to tell.
    """
    stat = _stat(pid)
    return int(stat[19]) if stat else None


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, reaped or not. False for all without ``/proc``."""
    if not _HAS_PROC:
        return False
    stat = _stat(pid)
    return stat is None or stat[0] in "ZX"


def survivors(leaders: Collection[int]) -> list[int]:
    """Targets for ``os.kill`` that are still alive in the groups or sessions led by ``leaders``.

    With ``/proc`` (Linux) these are process ids, without zombies, including those which left their process
    group but not their session. Elsewhere they are the groups that still exist, as negative numbers.
    """
    if not _HAS_PROC:
        return [-leader for leader in leaders if _group_exists(leader)]
    wanted = frozenset(leaders)
    return [pid for pid in _pids() if _belongs(pid, wanted) and not is_zombie(pid)]


def send(leaders: Collection[int], number: int) -> None:
    """Send a signal to the groups led by ``leaders``, then to those of their sessions outside the groups.

    SIGCONT follows every signal but SIGKILL, since a stopped process would not act on it. A process that is
    gone, or that changed its user and is out of our reach, is passed over.
    """
    for leader in leaders:
        _kill(-leader, number)
    if _HAS_PROC:
        groups = frozenset(leaders)
        strays = [pid for pid in survivors(leaders) if _group_of(pid) not in groups]
    else:
        strays = []
    for pid in strays:
        _kill(pid, number)
    if number != signal.SIGKILL:
        for target in (*(-leader for leader in leaders), *strays):
            _kill(target, signal.SIGCONT)


def poll_delays(limit: float) -> Iterable[float]:
    """Growing pauses in seconds between two looks at a dying process, ``limit`` seconds in all."""
    end = time.monotonic() + limit
    delay = _FIRST_POLL
    while (left := end - time.monotonic()) > 0:
        yield min(delay, left)
        delay = min(delay * 1.6, _LONGEST_POLL)


def kill_remaining(leaders: Collection[int]) -> bool:
    """SIGKILL until nobody is left (a stray may fork while we look); False if some still are after 2 s."""
    for delay in poll_delays(KILL_PATIENCE):
        if not survivors(leaders):
            return True
        send(leaders, signal.SIGKILL)
        time.sleep(delay)
    return not survivors(leaders)


def end_groups(leaders: Collection[int], grace: float) -> None:
    """SIGTERM, up to ``grace`` seconds of patience, SIGKILL."""
    send(leaders, signal.SIGTERM)
    for delay in poll_delays(grace):
        if not survivors(leaders):
            return
        time.sleep(delay)
    kill_remaining(leaders)


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/<pid>/stat`` from the state on (``proc_pid_stat(5)``, field 3 is index 0)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return None


def _pids() -> Iterable[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _belongs(pid: int, leaders: frozenset[int]) -> bool:
    try:
        return os.getsid(pid) in leaders or os.getpgid(pid) in leaders
    except OSError:
        return False


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


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


def _registered_at_end(stream: int) -> dict[int, int | None]:
    """Read lines until end of file; the groups still registered, with the start time of their leaders."""
    groups: dict[int, int | None] = {}
    rest = b""
    while chunk := os.read(stream, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            pgid = int(line[1:])
            if line[:1] == b"+":
                groups[pgid] = start_time(pgid)
            else:
                groups.pop(pgid, None)
    return groups


def _same_leader(pgid: int, registered: int | None) -> bool:
    """Whether the number still means our child: no pid is given out anew while its group has members."""
    now = start_time(pgid)
    return now is None or now == registered


def main(grace: float) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    registered = _registered_at_end(0)
    leaders = [pgid for pgid, started in registered.items() if _same_leader(pgid, started)]
    if leaders:
        end_groups(leaders, grace)


if __name__ == "__main__":
    main(float(sys.argv[1]))
