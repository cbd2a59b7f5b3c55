"""What a child is told: its standard input, and the lines that wait to be written to it."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from itertools import islice

import structlog

from gateway_worker.egress.link import Gate, GateShut, LinkLost

log = structlog.get_logger(__name__)

WRITE_MOST = 256 << 10
"""Bytes of several lines that are joined for one write."""
SHUT_LOOK = 0.05
"""Seconds between two looks at a shut gate, while the rest of a line waits behind it."""

OnEnd = Callable[[LinkLost | None], None]
"""Called once a line was taken by the kernel, or with an error if nothing of it was or will be."""


class ChildInput:
    """Our end of a child's standard input. It keeps nothing: what the kernel does not take is not written."""

    def __init__(self) -> None:
        """Raises :class:`OSError` if there is no descriptor left."""
        self.child_end, self._descriptor = os.pipe()
        os.set_blocking(self._descriptor, False)
        self._waits = False
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Write as much as the kernel takes at once; returns how much. Raises :class:`OSError` if nobody reads."""
        if self.closed:
            raise BrokenPipeError("the child's standard input is closed")
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call back, once, when there is room again or nobody reads any more; never after :meth:`close`."""

        def writable() -> None:
            self._forget()
            callback()

        if not self.closed:
            asyncio.get_running_loop().add_writer(self._descriptor, writable)
            self._waits = True

    def let_go_of_child_end(self) -> None:
        """The child has its end, or there will be none; only the first call counts."""
        end, self.child_end = self.child_end, -1
        if end >= 0:
            os.close(end)

    def close(self) -> None:
        """The child gets an end of file behind what the kernel has; only the first call counts."""
        if self.closed:
            return
        self.let_go_of_child_end()
        self._forget()
        self.closed = True
        os.close(self._descriptor)

    def _forget(self) -> None:
        if self._waits:
            asyncio.get_running_loop().remove_writer(self._descriptor)
            self._waits = False


class Line:
    """One message on its way."""

    __slots__ = ("data", "on_end")

    def __init__(self, data: bytes, on_end: OnEnd | None) -> None:
        self.data = data
        self.on_end = on_end

    def end(self, error: LinkLost | None) -> None:
        """Tell whoever wants to know."""
        if self.on_end is not None:
            self.on_end(error)


class Outgoing:
    """Lines that wait for a child to take them, in their order.

    The gate is asked right before each write, and nothing waits in a buffer behind it: what the kernel has taken cannot
    be called back, every other byte is still here. Where the gate is found shut, lines of which nothing was written are
    given back; the rest of a line that was begun waits for it to open.
    """

    def __init__(self, pipe: ChildInput, gate: Gate, on_broken: Callable[[], None]) -> None:
        """``on_broken`` is called when the child does not read any more, behind the ends of the lines."""
        self.size = 0
        """Bytes that the kernel has not taken."""
        self.aside = 0
        """Those of them in lines whose end nobody wants to know."""
        self._pipe = pipe
        self._gate = gate
        self._on_broken = on_broken
        self._lines: deque[Line] = deque()
        self._taken = 0
        self._flushing = False
        self._look: asyncio.TimerHandle | None = None

    def put(self, data: bytes, on_end: OnEnd | None = None) -> Line:
        """Write it in its turn. Everything that is put in one turn of the loop reaches the child in one write."""
        line = Line(data, on_end)
        self._lines.append(line)
        self._count(line, len(data))
        if len(self._lines) == 1 and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        return line

    def take_back(self, line: Line) -> bool:
        """Forget a line nobody waits for any more; False if it was begun. It is told no end then."""
        for index, found in enumerate(self._lines):
            if found is line:
                if index == 0 and self._taken:
                    return False
                del self._lines[index]
                self._count(line, -len(line.data))
                return True
        return False

    def close(self, *, dead: bool = False) -> None:
        """Give the lines back; first, unless the child is ``dead``, write what it takes at once."""
        if self._lines and not dead:
            self._flush()
        self._give_back(LinkLost("the tool's session was closed", unsent=True), begun=True)
        if self._look is not None:
            self._look.cancel()

    def _count(self, line: Line, size: int) -> None:
        self.size += size
        if line.on_end is None:
            self.aside += size

    def _flush(self) -> None:
        self._flushing = False
        while self._lines:
            if not self._gate():
                self._shut()
                return
            data = self._next()
            try:
                taken = self._pipe.write(data)
            except OSError:
                # Not a byte of this write was taken.
                words = "the tool's process does not read its input"
                self._give_back(LinkLost(words, unsent=True), begun=True)
                self._on_broken()
                return
            self._was_taken(taken)
            if taken < len(data):
                self._flushing = True
                self._pipe.when_writable(self._flush)
                return

    def _next(self) -> bytes | memoryview:
        first = self._lines[0]
        if len(self._lines) == 1 or self._taken:
            return memoryview(first.data)[self._taken :] if self._taken else first.data
        parts, size = [first.data], len(first.data)
        for line in islice(self._lines, 1, None):
            size += len(line.data)
            if size > WRITE_MOST:
                break
            parts.append(line.data)
        return b"".join(parts)

    def _was_taken(self, count: int) -> None:
        while count:
            line = self._lines[0]
            step = min(count, len(line.data) - self._taken)
            count -= step
            self._taken += step
            self._count(line, -step)
            if self._taken == len(line.data):
                self._lines.popleft()
                self._taken = 0
                line.end(None)

    def _shut(self) -> None:
        self._give_back(GateShut(), begun=False)
        if self._lines:
            self._flushing = True
            self._look = asyncio.get_running_loop().call_later(SHUT_LOOK, self._flush)

    def _give_back(self, error: LinkLost, *, begun: bool) -> None:
        """Give the lines back. One that was begun may count as sent: it is told no end, and stays unless ``begun``."""
        first = self._lines.popleft() if self._taken else None
        given, self._lines = self._lines, deque()
        if first is not None and begun:
            self._count(first, self._taken - len(first.data))
            self._taken = 0
        elif first is not None:
            self._lines.append(first)
        for line in given:
            self._count(line, -len(line.data))
            if line.on_end is None:
                log.debug("line_to_child_dropped", reason=error.message)
            line.end(error)
