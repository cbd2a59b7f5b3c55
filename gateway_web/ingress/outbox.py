"""What waits to be written to one client: bounded, for the client may read slowly, or never."""

from __future__ import annotations

import threading
from collections import deque

MOST_BYTES = 4 * 1024 * 1024
"""So much may wait; a single message may be larger."""


class Outbox:
    """Filled by whoever has something for the client, emptied by the one that writes. Safe from any thread.

    Whoever fills it waits while it is full: what cuts off a client that does not read is the time that one write to it
    may take.
    """

    def __init__(self, bound: int = MOST_BYTES) -> None:
        """``bound`` is in bytes."""
        self._bound = bound
        self._bytes = 0
        self._messages: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._nudged = False
        self._ending = self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing is written any more."""
        return self._closed

    def put(self, message: bytes) -> bool:
        """Add a message; False if nothing is written any more."""
        with self._changed:
            while self._messages and self._bytes + len(message) > self._bound and not self._closed:
                self._changed.wait()
            if self._closed or self._ending:
                return False
            self._messages.append(message)
            self._bytes += len(message)
            self._changed.notify_all()
            return True

    def get(self, seconds: float) -> bytes | None:
        """The next message; None if there was none within that time, after a :meth:`nudge`, or if :attr:`closed`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._messages or self._nudged or self._ending or self._closed, seconds
            )
            nudged, self._nudged = self._nudged, False
            if self._ending and not self._messages:
                self._closed = True
            if nudged or self._closed or not self._messages:
                return None
            message = self._messages.popleft()
            self._bytes -= len(message)
            self._changed.notify_all()
            return message

    def nudge(self) -> None:
        """Have whoever writes look at what else there is to write."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def wait_closed(self, seconds: float) -> bool:
        """Wait until nothing is written any more; False after ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, seconds)

    def end(self) -> None:
        """Take no message any more, and close when what waits is taken."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def close(self) -> None:
        """Write nothing any more; what waits is dropped, and nobody waits any longer."""
        with self._changed:
            self._closed = True
            self._messages.clear()
            self._changed.notify_all()
