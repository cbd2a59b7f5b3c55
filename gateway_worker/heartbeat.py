"""The heartbeat file: what a container's health check looks at, without starting a process of ours.

``celery inspect ping`` takes seconds of CPU each time; a file's age takes none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import structlog

from gateway_worker.node import Node

log = structlog.get_logger(__name__)

BEAT = 1.0
"""Seconds between two touches; they cost a few microseconds each."""
READY, WAITING = "ready", "waiting"


class Heartbeat:
    """Touches the file as long as the engine's loop turns, whether Redis answers or not: to restart a worker
    brings no Redis back. The file's one word says whether the node may act.

    Degrades: a file that cannot be written is told once, and the worker goes on.
    """

    def __init__(self, path: Path, node: Node) -> None:
        self._path = path
        self._node = node
        self._said = ""
        self._failed = False

    async def run(self) -> None:
        """Beat for ever. In the end it takes the file away: a worker that stopped is none that lives."""
        try:
            while True:
                self.beat()
                await asyncio.sleep(BEAT)
        finally:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def beat(self) -> None:
        """Touch the file; write it anew if the word has changed or somebody took the file away."""
        word = READY if self._node.may_act else WAITING
        try:
            if word != self._said or not self._touched():
                self._write(word)
        except OSError as error:
            if not self._failed:
                log.error("heartbeat_not_written", file=str(self._path), reason=error.strerror)
            self._said, self._failed = "", True
        else:
            self._said, self._failed = word, False

    def _touched(self) -> bool:
        try:
            os.utime(self._path)
        except FileNotFoundError:
            return False
        return True

    def _write(self, word: str) -> None:
        """In one step: whoever reads it meanwhile reads the old word or the new."""
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        fresh.write_text(f"{word}\n", encoding="ascii")
        fresh.replace(self._path)
