"""A client's socket as the WebSocket library uses it, with what that leaves to its sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from common.sockets import send_whole


class Wire:
    """Writes are whole, one at a time, and within ``write_timeout`` seconds, or the connection is at its end."""

    def __init__(self, sock: socket.socket, *, write_timeout: float) -> None:
        # A copy: the server has bounds on its own for the time that a request takes to come.
        self._socket = sock.dup()
        self._writing = threading.Lock()
        self._on_close: Callable[[], None] | None = None
        self._closed = False
        self._socket.settimeout(write_timeout)

    def on_close(self, do: Callable[[], None]) -> None:
        """What to do when the socket is closed, by whomever and for whatever reason; at once if it is."""
        self._on_close = do
        if self._closed:
            do()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, data: bytes) -> int:
        """Write all of it. Raises OSError, and ends the connection, if the client does not take it in time."""
        with self._writing:
            try:
                send_whole(self._socket, data)
            except OSError:
                # What was written may end within a frame: nothing that follows would be understood.
                self._end()
                raise
        return len(data)

    def recv(self, most: int) -> bytes:
        """Some bytes; none at the end of the connection."""
        return self._socket.recv(most)

    def close(self) -> None:
        """Close the socket, and say so."""
        self._end()
        self._socket.close()
        self._closed = True
        if self._on_close is not None:
            self._on_close()

    def _end(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
