"""Which part of a gateway a process is, so that CPU and memory can be told apart."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import psutil

_REDIS_NAMES = ("redis-server", "valkey-server")


class Part(StrEnum):
    """The programs of a gateway; ``other`` is its supervisor, its reapers and whatever else it started."""

    WEB = "web"
    WORKER = "worker"
    REDIS = "redis"
    OTHER = "other"


PARTS_OF_A_CALL = (Part.WEB, Part.WORKER, Part.REDIS)


def part_of(command: Iterable[str]) -> Part:
    """Tell a process by its command line."""
    # Program, -m, module: what follows are names and paths that anybody may choose. A title has no NUL between.
    words = [Path(word.split(" ")[0]).name for word in list(command)[:4]]
    if any(word.startswith(_REDIS_NAMES) for word in words[:1]):
        return Part.REDIS
    if any("gunicorn" in word for word in words):
        return Part.WEB
    if any("celery" in word for word in words):
        return Part.WORKER
    return Part.OTHER


def parts_of(processes: Iterable[psutil.Process]) -> dict[int, Part]:
    """Return the part of each process that still lives."""
    found: dict[int, Part] = {}
    for process in processes:
        try:
            found[process.pid] = part_of(process.cmdline())
        except psutil.NoSuchProcess:
            continue
    return found


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the proportional set size (PSS) of ``processes`` together: shared pages count by their share."""
    total = 0
    for process in processes:
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total
