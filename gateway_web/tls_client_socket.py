"""A client's TLS connection with the bounds of :mod:`gateway_web.client_socket`.

Each step on the connection is taken without waiting, and waits for the socket then: so the bounds hold inside TLS as
they do outside, and a greenlet that reads does not stand in the way of one that writes.
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from gevent.socket import wait

from gateway_web.listener_tls import subject_of

T = TypeVar("T")
_RESET = struct.pack("ii", 1, 0)


class TlsClientSocket:
    """What gunicorn and the WebSocket library need of a socket.

    ``subject`` is that of the client's verified certificate, and ``subject_until`` the last second at which that
    certificate is good (seconds since 1970); None if it showed none. From then on nothing is read: what was asked
    before is still answered, and the connection then ends, however long it was kept open or whatever it was resumed
    from.
    """

    def __init__(self, sock: Any, *, read_timeout: float | None, write_timeout: float) -> None:
        self._sock = sock
        self._read_timeout = read_timeout
        self._write_timeout = write_timeout
        self._until: float | None = None
        self._timeout: float | None = None
        self._early = b""
        sock.settimeout(0.0)
        shown = sock.getpeercert()
        self.subject = subject_of(shown.get("subject", ())) if shown else None
        self.subject_until = ssl.cert_time_to_seconds(str(shown["notAfter"])) if shown else None

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # noqa: ARG002 - as sockets have it
        """Send some of it. Raises :class:`TimeoutError` for a client that takes nothing."""
        try:
            return self._step(
                lambda: int(self._sock.write(data)), self._write_timeout, "the client does not read"
            )
        except TimeoutError:
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise

    def sendall(self, data: bytes, flags: int = 0) -> None:
        """Send all of it, piece by piece. Raises as :meth:`send` does."""
        left = memoryview(data)
        while left:
            left = left[self.send(left, flags) :]

    def recv(self, size: int, flags: int = 0) -> bytes:  # noqa: ARG002 - as sockets have it
        """What has come. Raises :class:`TimeoutError` if a request takes too long to come, and
        :class:`ConnectionResetError` where the client's certificate has run out.

        It may be more than ``size``: what is decrypted already is not seen by whoever waits for the socket.
        """
        data = self._received(size)
        if self.subject_until is not None and time.time() > self.subject_until:
            raise ConnectionResetError(errno.ECONNRESET, "the client's certificate has run out")
        return data

    def _received(self, size: int) -> bytes:
        if self._early:
            data, self._early = self._early, b""
            return data
        if self._read_timeout is None or self._timeout is not None:
            data = self._step(lambda: bytes(self._sock.read(size)), self._timeout, "timed out")
        elif self._until is None:
            data = self._step(lambda: bytes(self._sock.read(size)), None, "")
            self.begin_request()
        else:
            left = self._until - time.monotonic()
            data = self._step(
                lambda: bytes(self._sock.read(size)), max(left, 0.0), "the request does not come"
            )
        while data and (more := self._sock.pending()):
            data += self._sock.read(more)
        return data

    def hung_up(self) -> bool:
        """Whether the client has closed the connection; what it has sent meanwhile is kept."""
        if self._early:
            return False
        try:
            self._early = bytes(self._sock.read(1))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except (OSError, ValueError):
            return True
        return not self._early

    def dup(self) -> TlsClientSocket:
        """The same connection, for whoever takes it over: without the bound on requests. It cannot be two."""
        self._read_timeout = None
        return self

    def begin_request(self) -> None:
        """A request has begun, if only with bytes that had come together with the one before."""
        if self._until is None and self._read_timeout is not None:
            self._until = time.monotonic() + self._read_timeout

    def next_request(self) -> None:
        """A request was answered: the next one has its own time, from its first bytes on."""
        self._until = None

    def settimeout(self, seconds: float | None) -> None:
        """Bounds reading, and writing instead of the settings' bound."""
        self._timeout = seconds
        if seconds is not None:
            self._write_timeout = seconds

    def gettimeout(self) -> float | None:
        """As it was set."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - as sockets have it
        """It always waits."""

    def fileno(self) -> int:
        """The descriptor."""
        return int(self._sock.fileno())

    def getpeername(self) -> Any:
        """The client's address."""
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        """Our address."""
        return self._sock.getsockname()

    def shutdown(self, how: int) -> None:
        """End it; the other side is told first if that goes at once."""
        with suppress(OSError, ValueError):
            self._sock.unwrap()
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the descriptor; the other side is told first if that goes at once."""
        with suppress(OSError, ValueError):
            self._sock.unwrap()
        self._sock.close()

    def _step(self, step: Callable[[], T], seconds: float | None, why: str) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                wait(self._sock._read_event, seconds, slow(why))  # noqa: SLF001 - closing the socket wakes it
            except ssl.SSLWantWriteError:
                wait(self._sock._write_event, seconds, slow(why))  # noqa: SLF001
            except (ssl.SSLError, ValueError) as error:
                # What is broken inside TLS is a broken connection, and no fault of ours.
                raise ConnectionResetError(errno.ECONNRESET, "the connection has ended") from error


def slow(why: str) -> TimeoutError:
    """With the number of a connection that was reset: to gunicorn that is no fault of ours, and no line in the log."""
    return TimeoutError(errno.ECONNRESET, why)
