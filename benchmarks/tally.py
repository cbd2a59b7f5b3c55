"""Call counts that survive any end of the process that counted them.

A backend maps one small file named after its process id and counts in it. The benchmark thus knows how many calls
really arrived, how many were under way at once, and which process was the backend, even where a peer started it,
and even after a SIGKILL. Standard library only: backends run under interpreters that have nothing else.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".tally"
_COUNTS = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class Counts:
    """What one backend process saw: calls, other messages, and the most calls it held open at once."""

    calls: int = 0
    others: int = 0
    peak: int = 0


class Tally:
    """One process's counters; without a directory it counts in memory only."""

    def __init__(self, directory: Path | None) -> None:
        self._calls = self._others = self._waiting = self._peak = 0
        self._map: mmap.mmap | None = None
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            with (directory / f"{os.getpid()}{SUFFIX}").open("w+b") as file:
                file.write(_COUNTS.pack(0, 0, 0))
                file.flush()
                self._map = mmap.mmap(file.fileno(), _COUNTS.size)

    def bump(self) -> None:
        """Count one call."""
        self._calls += 1
        self._note()

    def bump_other(self) -> None:
        """Count a message that is no call: an opening, a list, a notification."""
        self._others += 1
        self._note()

    def hold(self) -> None:
        """A call is held open from now on."""
        self._waiting += 1
        if self._waiting > self._peak:
            self._peak = self._waiting
            self._note()

    def release(self) -> None:
        """A call that was held open is answered."""
        self._waiting -= 1

    def _note(self) -> None:
        if self._map is not None:
            _COUNTS.pack_into(self._map, 0, self._calls, self._others, self._peak)


def read_counts(directory: Path) -> dict[int, Counts]:
    """Return by process id what every process saw that ever counted into ``directory``."""
    found: dict[int, Counts] = {}
    for path in directory.glob(f"*{SUFFIX}"):
        content = path.read_bytes()
        if len(content) == _COUNTS.size:
            found[int(path.stem)] = Counts(*_COUNTS.unpack(content))
    return found


def total(directory: Path) -> Counts:
    """Return what all of them saw together; the peak is that of the one with the highest."""
    counts = read_counts(directory).values()
    return Counts(
        sum(it.calls for it in counts),
        sum(it.others for it in counts),
        max((it.peak for it in counts), default=0),
    )


def read_tallies(directory: Path) -> dict[int, int]:
    """Return calls by process id, of every backend process that ever counted into ``directory``."""
    return {pid: counts.calls for pid, counts in read_counts(directory).items()}
