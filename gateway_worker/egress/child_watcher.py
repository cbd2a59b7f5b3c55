"""How asyncio learns of a child's end: by a file descriptor, as Python does from 3.12 on, and not by a thread each.

A hundred children would be a hundred threads otherwise, and a thread that cannot be started leaves a child unwatched.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

LOST_STATUS = 255
"""Given where somebody else has asked for a child's exit status before us, as asyncio does."""


def watch_by_descriptor() -> None:
    """Use it from now on, in the whole process. Does nothing where Python does so itself, or the system cannot."""
    if sys.version_info >= (3, 12) or not hasattr(os, "pidfd_open"):
        return
    if isinstance(asyncio.get_child_watcher(), DescriptorWatcher):
        return
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # a kernel before 5.3, or no descriptor left, which the start itself will say
        return
    asyncio.set_child_watcher(DescriptorWatcher())


class DescriptorWatcher(asyncio.AbstractChildWatcher):
    """For children of every running loop; asyncio's own of 3.11 knows only the loop of the main thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def is_active(self) -> bool:
        """Always: it needs nothing but the loop that starts a child."""
        return True

    def close(self) -> None:
        """Nothing is held between children."""

    def attach_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Any loop will do."""

    def add_child_handler(  # type: ignore[override]
        self, pid: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call back at the child's end. Raises :class:`OSError` if there is no descriptor left for it."""
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(pid)
        loop.add_reader(descriptor, self._ended, loop, descriptor, pid, callback, args)

    def remove_child_handler(self, pid: int) -> bool:  # noqa: ARG002 - the base class's signature
        """Never needed: asyncio keeps its handlers until the end."""
        return False

    def _ended(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        pid: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        loop.remove_reader(descriptor)
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:
            code = LOST_STATUS
        else:
            code = os.waitstatus_to_exitcode(status)
        os.close(descriptor)
        callback(pid, code, *args)
