"""Call counts that survive any end of the process that counted them.

A backend maps one eight-byte file named after its process id and bumps it at each call. The benchmark thus
knows how many calls really arrived, and which process was the backend, even where a peer started it, and even
after a SIGKILL. Standard library only: backends run under interpreters that have nothing else.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

SUFFIX = ".tally"
_COUNT = struct.Struct("<Q")


class Tally:
    """One process's counter; without a directory it counts in memory only."""

    def __init__(self, directory: Path | None) -> None:
        self._count = 0
        self._map: mmap.mmap | None = None
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            with (directory / f"{os.getpid()}{SUFFIX}").open("w+b") as file:
                file.write(_COUNT.pack(0))
                file.flush()
                self._map = mmap.mmap(file.fileno(), _COUNT.size)

    def bump(self) -> None:
        """Count one call."""
        self._count += 1
        if self._map is not None:
            _COUNT.pack_into(self._map, 0, self._count)


def read_tallies(directory: Path) -> dict[int, int]:
    """Return calls by process id, of every backend process that ever counted into ``directory``."""
    found: dict[int, int] = {}
    for path in directory.glob(f"*{SUFFIX}"):
        content = path.read_bytes()
        if len(content) == _COUNT.size:
            found[int(path.stem)] = _COUNT.unpack(content)[0]
    return found
