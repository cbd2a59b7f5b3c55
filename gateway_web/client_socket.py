"""A client's connection that cannot hold a greenlet for ever: bounds on how slowly a client takes, and gives.

gevent's own sockets wait without an end, since gunicorn sets no timeout on them: a client that stops reading would keep
its greenlet, its call and what waits to be written for as long as it likes. The bounds cost nothing while the kernel
takes and gives at once, and do not touch the time that a connection may be idle.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import Any

from gevent.socket import socket as GeventSocket  # noqa: N812 - it is a class
from gevent.socket import wait

from common.settings import WebSettings
from gateway_web.tls_client_socket import TlsClientSocket, slow

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing throws away what was not sent, which the kernel would keep for a client that takes nothing."""


class ClientSocket(GeventSocket):  # type: ignore[misc]
    """gevent's socket, with two bounds more.

    None on reading has a copy (:meth:`dup`), nor a socket that was given a timeout of its own, as those of WebSockets
    are: what comes there is no request any more.
    """

    write_timeout: float | None = None
    """Seconds within which a client must take some of what is written to it."""
    read_timeout: float | None = None
    """Seconds from the first bytes of a request to its last."""
    _until: float | None = None

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        """Send some of it. Raises :class:`TimeoutError` for a client that takes nothing."""
        while True:
            try:
                return int(self._sock.send(data, flags))
            except BlockingIOError:
                if self.timeout == 0.0:
                    raise
            try:
                wait(self._write_event, self.write_timeout, slow("the client does not read"))
            except TimeoutError:
                with suppress(OSError):
                    self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                raise

    def sendall(self, data: bytes, flags: int = 0) -> None:
        """Send all of it, piece by piece. Raises as :meth:`send` does."""
        left = memoryview(data)
        while left:
            left = left[self.send(left, flags) :]

    def recv(self, size: int, flags: int = 0) -> bytes:
        """What has come. Raises :class:`TimeoutError` if a request takes too long to come."""
        if self.read_timeout is None or self.timeout is not None or flags:
            return bytes(super().recv(size, flags))
        if self._until is None:
            data = bytes(super().recv(size))
            self.begin_request()
            return data
        while (left := self._until - time.monotonic()) > 0:
            try:
                return bytes(self._sock.recv(size))
            except BlockingIOError:
                wait(self._read_event, left, slow("the request does not come"))
        raise slow("the request does not come")

    def dup(self) -> ClientSocket:
        """The same connection again."""
        copy: ClientSocket = super().dup()
        copy.write_timeout = self.write_timeout
        return copy

    def begin_request(self) -> None:
        """A request has begun, if only with bytes that had come together with the one before."""
        if self._until is None and self.read_timeout is not None:
            self._until = time.monotonic() + self.read_timeout

    def next_request(self) -> None:
        """A request was answered: the next one has its own time, from its first bytes on."""
        self._until = None


def bounded(client: Any, web: WebSettings) -> Any:
    """The connection with the bounds of the settings; one that is not gevent's own as it is."""
    if isinstance(client, ssl.SSLSocket):
        return TlsClientSocket(client, read_timeout=web.read_timeout, write_timeout=web.write_timeout)
    if type(client) is not GeventSocket:
        return client
    sock = ClientSocket(client.family, client.type, client.proto, fileno=client.detach())
    sock.write_timeout, sock.read_timeout = web.write_timeout, web.read_timeout
    return sock
