"""A client's socket as the WebSocket library uses it, with what that leaves to its sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sized
from contextlib import suppress

from common.sockets import send_whole

MOST_UNREAD = 64
"""Messages that were read and not taken; while there are more, nothing is read."""


class Wire:
    """Writes are whole, one at a time, and within ``write_timeout`` seconds, or the connection is at its end.

    A client that sends faster than its messages are taken has to wait.
    """

    def __init__(self, sock: socket.socket, *, write_timeout: float) -> None:
        self.unread: Sized = ()
        """The messages that were read and not taken."""
        # A copy: the server has bounds on its own for the time that a request takes to come.
        self._socket = sock.dup()
        self._writing = threading.Lock()
        self._room: threading.Event | None = None
        self._ended = False
        self._socket.settimeout(write_timeout)

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
        while len(self.unread) > MOST_UNREAD and not self._ended:
            self._room = threading.Event()
            if len(self.unread) > MOST_UNREAD and not self._ended:
                self._room.wait()
        return self._socket.recv(most)

    def taken(self) -> None:
        """A message was taken."""
        if self._room is not None:
            self._room.set()

    def let_go(self) -> None:
        """No message is taken any more."""
        self._ended = True
        self.taken()

    def close(self) -> None:
        """Close the socket."""
        self._end()
        self._socket.close()

    def _end(self) -> None:
        self.let_go()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
