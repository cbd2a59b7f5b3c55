"""What this process connects to, seen where it happens: in the interpreter's own audit of ``socket.connect``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_watching: list[list[str]] = []
_hooked = False


@contextmanager
def connects() -> Iterator[list[str]]:
    """The addresses (of IPv4 and IPv6) that are connected to inside, in order."""
    global _hooked  # noqa: PLW0603 - an audit hook cannot be taken off again
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked = True
    found: list[str] = []
    _watching.append(found)
    try:
        yield found
    finally:
        _watching.remove(found)


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _watching and event == "socket.connect" and isinstance(args[1], tuple):
        for found in _watching:
            found.append(str(args[1][0]))
