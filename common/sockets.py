"""Writing to a socket."""

from __future__ import annotations

from typing import Protocol


class Writable(Protocol):
    """What is needed of a socket."""

    def send(self, data: bytes, /) -> int:
        """Send some of it; returns how many bytes."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of it."""


def send_whole(sock: Writable, data: bytes) -> None:
    """Send all of it, at once where the kernel takes it at once.

    That is nearly always, and half the cost of gevent's ``sendall``, which first asks for the size of the kernel's
    buffer. Raises what the socket raises.
    """
    taken = sock.send(data)
    if taken < len(data):
        sock.sendall(data[taken:])
