"""Log files of children: opened for them, read by us, never between them and us as a pipe would be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_ROTATE_AT = 10 * 1024 * 1024
_TAIL_BYTES = 64 * 1024
_FOLLOW_BYTES = 256 * 1024


@contextmanager
def opened_log(path: Path) -> Iterator[int]:
    """A descriptor to append to ``path`` (mode 0600); a file over 10 MiB is moved to ``<path>.1`` first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _ROTATE_AT:
        path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def log_tail(path: Path, *, start: int = 0, lines: int = 20) -> tuple[str, ...]:
    """The last ``lines`` lines of ``path`` after byte ``start``; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - _TAIL_BYTES))
            return tuple(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ()


@dataclass(slots=True)
class LogFollower:
    """Gives the complete lines that were added to a log since the last look."""

    path: Path
    position: int = 0
    _rest: bytes = b""

    @classmethod
    def at_end(cls, path: Path) -> Self:
        """A follower of what will be written from now on."""
        return cls(path, path.stat().st_size if path.exists() else 0)

    def new_lines(self) -> list[str]:
        """Lines since the last call, at most 256 KiB of them; a moved or shortened file is begun anew."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self.position:
                    self.position, self._rest = 0, b""
                file.seek(self.position)
                chunk = file.read(_FOLLOW_BYTES)
        except OSError:
            return []
        self.position += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [line.decode(errors="replace") for line in lines]
