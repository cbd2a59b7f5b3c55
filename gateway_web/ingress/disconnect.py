"""Noticing that a client has hung up, without writing to it.

A WSGI application is not told. The server's socket is in the environment, though, and peeking at it tells the
end of the stream apart from silence. In the modern era a closed connection is a cancellation.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

SOCKET_KEYS = ("gunicorn.socket", "werkzeug.socket")


@runtime_checkable
class SaysItself(Protocol):
    """A connection inside which an end cannot be seen from outside: TLS."""

    def hung_up(self) -> bool:
        """Whether the client has closed it."""


def hung_up(environ: Mapping[str, Any]) -> bool:
    """True if the client has closed its connection; False also where the server does not show its socket."""
    connection = next((environ[key] for key in SOCKET_KEYS if key in environ), None)
    if connection is None:
        return False
    if isinstance(connection, SaysItself):
        return connection.hung_up()
    try:
        fileno = connection.fileno()
        if fileno < 0:
            return True
        # poll, not select: descriptors beyond 1024 are ordinary here.
        poller = select.poll()
        poller.register(fileno, select.POLLIN | select.POLLHUP)
        if not poller.poll(0):
            return False
        return len(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) == 0
    except (BlockingIOError, InterruptedError):
        return False
    except (OSError, ValueError):
        return True
