"""Append-only files of events, one JSON line each, that a history is read from."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import orjson


class Journal:
    """One file; any thread may write. Every line has ``event``, ``at`` (monotonic seconds) and ``wall``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: str, **fields: Any) -> float:
        """Append one event; returns its ``at``."""
        at = time.monotonic()
        line = orjson.dumps({"event": event, "at": at, "wall": time.time(), **fields})
        os.write(self._descriptor, line + b"\n")
        return at

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
