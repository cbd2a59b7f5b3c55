"""The reaper: a tiny process that ends our children when we are gone, however we went.

It is run as ``python -I -S reaper.py GRACE MARK ROLE BATON``, so it may import nothing but the standard library and
its neighbours, which do the same. The parent holds the only write end of the pipe on its standard input and writes
one line for each event:

- ``+<pgid>``: a child that leads a session of its own was started;
- ``-<pgid>``: that child and its family are gone;
- ``=<base64 of JSON>``: what to say to Redis at the end (``farewell.py``); ``=`` alone: nothing any more.

End of file means that the parent has died or closed the guard: every group still registered, and everybody whose
environment bears a mark that begins with ``MARK``, gets SIGTERM, then after ``GRACE`` seconds SIGKILL. Once nobody is
left, and only then, the last words are said.

There are two, told the same, so that nothing is left when the parent and one of them are killed together. ``BATON`` is
the descriptor of a pipe from the first to the second: the second acts only if the first ended without a word or
hangs. While the parent lives, the second looks now and then for the children of others who died together with both of
their reapers, and ends them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator

if __package__:
    from common.processes import family
else:  # run as a file: isolated, it finds its neighbours only when told where they are
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import family  # type: ignore[import-not-found,no-redef]

FIRST, SECOND = "first", "second"
SWEEP_INTERVAL = 10.0
"""Seconds between two looks for the children of those who died together with both of their reapers."""
HANDOVER_MARGIN = 3.0
"""Seconds beyond its own patience that the first reaper gets before the second takes it for hanging."""
_DONE = b"done"


class Told:
    """What the parent has told so far."""

    def __init__(self) -> None:
        self.groups: dict[int, int | None] = {}
        """Registered groups, with the start times of their leaders."""
        self.words = b""
        self._rest = b""

    def take(self, chunk: bytes) -> None:
        """Take what was read."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            kind, value = line[:1], line[1:]
            if kind == b"=":
                self.words = value
            elif kind == b"+":
                self.groups[int(value)] = family.start_time(int(value))
            else:
                self.groups.pop(int(value), None)


def told_until_the_end(stream: int, role: str, grace: float) -> Told:
    """Read lines until end of file. The second reaper looks for forsaken children meanwhile."""
    told = Told()
    for chunk in _chunks(stream, SWEEP_INTERVAL if role == SECOND else None):
        if chunk is None:
            end_forsaken(grace)
        else:
            told.take(chunk)
    return told


def end_forsaken(grace: float) -> None:
    """End the marked children of owners who are gone and had no reaper left."""
    if not os.path.exists("/proc/self/stat"):
        return
    try:
        marks = family.forsaken(family.processes(marks_since=0))
    except OSError:
        return  # out of descriptors: there is a next time
    for mark in sorted(marks):
        family.Family({}, mark).end(grace)


def main(grace: float, mark: str, role: str, baton: int) -> None:
    """Wait for the parent's end, then do what it can no longer do."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    told = told_until_the_end(0, role, grace)
    if role == SECOND and _first_has_done_it(baton, grace + family.KILL_PATIENCE + HANDOVER_MARGIN):
        return
    # Not said while somebody lives: whoever hears it takes the sessions over, and their children must not act any more.
    if family.Family(told.groups, mark).end(grace) and told.words:
        _say(told.words)
    if role == FIRST:
        with contextlib.suppress(OSError):  # the second one may be gone
            os.write(baton, _DONE)


def _chunks(stream: int, pause: float | None) -> Iterator[bytes | None]:
    """What is read from a pipe, to its end; None at the beginning and after each ``pause`` without anything."""
    if pause is None:
        while chunk := os.read(stream, 65536):
            yield chunk
        return
    yield None
    waiting = select.poll()
    waiting.register(stream, select.POLLIN)
    while True:
        if not waiting.poll(pause * 1000):
            yield None
        elif chunk := os.read(stream, 65536):
            yield chunk
        else:
            return


def _first_has_done_it(baton: int, patience: float) -> bool:
    """Wait for the first reaper; False if it was killed or hangs."""
    ready, _, _ = select.select([baton], [], [], patience)
    return bool(ready) and os.read(baton, len(_DONE)) == _DONE


def _say(words: bytes) -> None:
    try:
        if __package__:
            from common.processes import farewell
        else:
            import farewell  # type: ignore[import-not-found,no-redef]
        farewell.say(words)
    except Exception:  # noqa: BLE001, S110 - nobody is left to be told; the node's lease ends without us
        pass


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
