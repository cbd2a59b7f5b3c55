"""What a child says on its standard error: the last lines are kept for operators, some of it goes to the log."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Iterable, Sequence

import structlog

from common.domain.tool import MASK

log = structlog.get_logger(__name__)

STDERR_LINES = 50
STDERR_LINE_LENGTH = 500
LOGGED_PER_SECOND = 64 << 10
"""Bytes of one child's standard error that go to the debug log within a second; the rest is counted."""


class Stderr:
    """The last lines, masked; of a long line its beginning. Memory is bounded whatever comes."""

    def __init__(self, masked: Iterable[str]) -> None:
        """``masked`` are values that are not to be shown: those of the declared environment, and secrets."""
        values = {line.encode() for value in masked for line in value.splitlines() if len(line) >= 4}
        # The longest first: one secret may begin like another.
        secrets = sorted(values, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, secrets))) if secrets else None
        self._longest = len(secrets[0]) if secrets else 0
        self._room = STDERR_LINE_LENGTH + self._longest
        self._line = b""
        self._lines: deque[str] = deque(maxlen=STDERR_LINES)
        self._log = StderrLog()

    def feed(self, chunk: bytes, *, pid: int) -> None:
        """Take what was read."""
        *ended, rest = chunk.split(b"\n")
        if ended:
            ended[0] = self._line + ended[0]
            self._take(ended, pid)
            self._line = b""
        self._line = (self._line + rest)[: self._room + 1]

    def end(self, *, pid: int) -> None:
        """The stream ended, maybe in the middle of a line."""
        if self._line:
            self._take([self._line], pid)
            self._line = b""
        self._log.end(pid)

    def lines(self) -> list[str]:
        """What is kept; at the end the line that has begun, such as a question for a password.

        Of that as much is left out as the longest secret has: one that is half written cannot be masked.
        """
        begun = self._line[: max(len(self._line) - self._longest, 0)]
        return [*self._lines, *([self._masked(begun)] if begun else [])][-STDERR_LINES:]

    def _take(self, lines: Sequence[bytes], pid: int) -> None:
        kept = [self._masked(line) for line in lines[-STDERR_LINES:]]
        self._lines.extend(kept)
        if logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
            self._log.write(kept, sum(map(len, lines)) + len(lines), pid)

    def _masked(self, line: bytes) -> str:
        kept = line[: self._room]
        if self._pattern is not None:
            kept = self._pattern.sub(MASK.encode(), kept)
            if len(line) > self._room:
                # The cut may have gone through a secret, whose first part is then at the end.
                kept = kept[: -self._longest]
        return kept[:STDERR_LINE_LENGTH].decode("utf-8", "replace")


class StderrLog:
    """Debug lines within a bound; what goes beyond it is told as a number of bytes, once a second and at the end."""

    def __init__(self) -> None:
        self._second = 0.0
        self._written = 0
        self._dropped = 0

    def write(self, lines: Sequence[str], size: int, pid: int) -> None:
        """Log the lines that still find room, which stand for ``size`` bytes of the stream."""
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._tell_dropped(pid)
            self._second, self._written = now, 0
        logged = 0
        for line in lines:
            length = len(line.encode()) + 1
            if self._written + length > LOGGED_PER_SECOND:
                break
            self._written += length
            logged += length
            log.debug("tool_stderr", pid=pid, line=line)
        self._dropped += max(size - logged, 0)

    def end(self, pid: int) -> None:
        """The stream ended: tell what is still untold."""
        self._tell_dropped(pid)

    def _tell_dropped(self, pid: int) -> None:
        if self._dropped:
            log.debug("tool_stderr_dropped", pid=pid, dropped_bytes=self._dropped)
            self._dropped = 0
