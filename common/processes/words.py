"""What a process wants said to Redis if it dies."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_LINE = 60_000
"""Bytes for the words in the reaper's pipe, which takes 64 KiB at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWordsTls:
    """How to trust the other end; paths are absolute. ``verify`` is "none", "optional" or "required"."""

    cafile: str | None = None
    verify: str = "required"
    check_hostname: bool = True
    certfile: str | None = None
    keyfile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWords:
    """Where Redis is, and packed commands for it with those that open the session (AUTH, SELECT).

    ``data`` may hold a password: it is not shown, and reaches the reaper by its pipe alone. ``replies`` is how many
    replies the commands have. They may be said twice, and not at all: the receiver must not mind either.
    """

    data: bytes = field(repr=False)
    replies: int
    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: LastWordsTls | None = None

    def line(self) -> bytes:
        """As they are told to a reaper. Raises :class:`ValueError` if they are too long."""
        wire: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "path": self.path,
            "tls": None if self.tls is None else asdict(self.tls),
            "data": base64.b64encode(self.data).decode("ascii"),
            "replies": self.replies,
        }
        line = base64.b64encode(json.dumps(wire).encode())
        if len(line) > MAX_LINE:
            raise ValueError(
                f"last words of {len(line)} bytes are above {MAX_LINE}: load the script, send its digest"
            )
        return line
