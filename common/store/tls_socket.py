"""A TLS connection that one thread reads while others write.

OpenSSL's connection belongs to one thread at a time, and before Python 3.13 nothing sees to that. So each step on it is
taken under a lock and never waits; what waits, waits for the socket, without the lock. Timeouts hold as for a plain
socket. Greenlets wait like threads; ``read`` and
``write`` are what gevent does not wait in either when it is told not to wait.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TlsSocket:
    """What the connections need of a socket."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        """``sock`` has shaken hands; its timeout stays in force."""
        self._sock = sock
        self._timeout = sock.gettimeout()
        self._lock = threading.Lock()
        sock.settimeout(0.0)

    def settimeout(self, seconds: float | None) -> None:
        """Bounds each of the other methods; None: for ever."""
        self._timeout = seconds

    def send(self, data: bytes) -> int:
        """Send some of it. Raises :class:`TimeoutError`, :class:`OSError`."""
        return self._step(lambda: self._sock.write(data), self._until())

    def sendall(self, data: bytes) -> None:
        """Send all of it, within the timeout. Raises as :meth:`send` does."""
        until, left = self._until(), memoryview(data)
        while left:
            piece = left
            left = left[self._step(lambda piece=piece: self._sock.write(piece), until) :]  # type: ignore[misc]

    def recv(self, size: int) -> bytes:
        """What has come; empty at the end. Raises as :meth:`send` does."""
        return self._step(lambda: self._sock.read(size), self._until())

    def shutdown(self, how: int) -> None:
        """End it for both sides: whoever waits on it is woken."""
        with self._lock:
            socket.socket.shutdown(self._sock, how)

    def close(self) -> None:
        """Close the descriptor."""
        with self._lock:
            self._sock.close()

    def _until(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _step(self, step: Callable[[], T], until: float | None) -> T:
        while True:
            try:
                with self._lock:
                    return step()
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ValueError):
                # The last is what a socket says that somebody else has closed.
                raise ConnectionResetError("the connection has ended") from None
            self._wait(wanted, until)

    def _wait(self, wanted: int, until: float | None) -> None:
        left = None if until is None else until - time.monotonic()
        poll = select.poll()
        poll.register(self._sock, wanted)
        if (left is not None and left <= 0) or not poll.poll(None if left is None else left * 1000):
            raise TimeoutError("timed out")
