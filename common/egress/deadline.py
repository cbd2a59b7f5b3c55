"""One time for the whole of a request: for libraries whose timeouts begin anew with each byte that comes."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Deadline:
    """Shuts the connections that it watches down when its time is over, whatever they wait for. A context manager.

    It begins with the block. Reading from such a connection is an end, and writing to it an error: the library at work
    raises what it raises for a connection that broke, and ``over`` says why. Looking a name up is not bounded by it.
    """

    def __init__(self, seconds: float) -> None:
        """``seconds`` for all that is watched together."""
        self.over = False
        self._watched: list[socket.socket] = []
        self._lock = threading.Lock()
        """Held while a connection is shut down and while it is closed: what is closed may be another's by then."""
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # The timer may be at work already, which cancelling does not stop.
        with self._lock:
            for sock in self._watched:
                sock.close()
            self._watched.clear()

    def watch(self, sock: socket.socket) -> None:
        """Let a connection end with it, also after TLS has taken it over: that makes a socket of its own of it."""
        copy = socket.socket(fileno=os.dup(sock.fileno()))
        with self._lock:
            self._watched.append(copy)
            if self.over:
                _shut(copy)

    def _end(self) -> None:
        with self._lock:
            self.over = True
            for sock in self._watched:
                _shut(sock)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
