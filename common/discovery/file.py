"""Tools of a file that is watched, or of all files of a directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from common.domain.errors import ConfigurationError
from common.interchange import parse
from common.settings import document

SUFFIXES = (".json", ".yaml", ".yml")
MOST_BYTES = 4 * 1024 * 1024
STEP = 0.2
Entries = dict[str, Mapping[str, Any]]
Sight = tuple[tuple[str, int, int, int], ...]


class FileSource:
    """Implements ``common.ports.Discovery``: ``mcp.json`` of any client, or YAML with a section ``tools``.

    It looks at names, times and sizes every ``interval`` seconds. What cannot be read raises
    :class:`ConfigurationError`: then all tools stay as they are, those of good files beside it too. A path that is gone
    is such a fault, a file that left its directory is not.
    """

    def __init__(self, path: str, interval: float) -> None:
        self._path = Path(path)
        self._interval = interval

    def watch(self, wanted: Callable[[], bool]) -> Iterator[Entries]:
        """All entries, at once and whenever a file is another one."""
        seen: Sight | None = None
        while wanted():
            now = self._sight()
            if now != seen:
                entries = self._read()
                # Written while it was read: the next look sees that.
                seen = now
                yield entries
            self._pause(wanted)

    def _pause(self, wanted: Callable[[], bool]) -> None:
        end = time.monotonic() + self._interval
        while wanted() and (left := end - time.monotonic()) > 0:
            time.sleep(min(STEP, left))

    def _files(self) -> list[Path]:
        if self._path.is_dir():
            found = self._path.iterdir()
            return sorted(file for file in found if file.suffix in SUFFIXES and not file.name.startswith("."))
        return [self._path]

    def _sight(self) -> Sight:
        try:
            return tuple(
                (str(file), status.st_mtime_ns, status.st_size, status.st_ino)
                for file, status in ((file, os.stat(file)) for file in self._files())
            )
        except OSError as error:
            raise ConfigurationError(f"{self._path}: {error.strerror}") from error

    def _read(self) -> Entries:
        entries: Entries = {}
        for file in self._files():
            for name, entry in _entries_of(file).items():
                if name in entries:
                    raise ConfigurationError(f"{file}: the tool {name[:100]!r} is in another file as well")
                entries[name] = entry
        return entries


def _entries_of(file: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ConfigurationError(f"{file}: it has more than {MOST_BYTES} bytes")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file}: it is not UTF-8") from error
    entries = parse(text).entries if file.suffix == ".json" else _tools_of(file, text)
    for name, entry in entries.items():
        # Whoever writes this file is not who may read this gateway's environment.
        if b"${" in orjson.dumps(entry, default=str):
            raise ConfigurationError(f"{file}: {name[:100]!r} holds a reference, which is not resolved here")
    return entries


def _tools_of(file: Path, text: str) -> Mapping[str, Mapping[str, Any]]:
    tree = document.parse(text, name=str(file)).tree
    tools = tree.get("tools") if isinstance(tree, Mapping) else None
    if not isinstance(tools, Mapping):
        raise ConfigurationError(f"{file}: it has no mapping `tools`")
    return {str(name): entry for name, entry in tools.items()}
