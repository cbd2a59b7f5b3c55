"""A subscription on a blocking socket, for threads and greenlets; :mod:`common.store.subscription` is asyncio's."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import hiredis

from common.domain.errors import StoreUnavailable
from common.store.dial import READ_SIZE, StoreSocket
from common.store.endpoint import pack
from common.store.pipelined import CommandRefused


@dataclass(frozen=True, slots=True)
class Subscribed:
    """From here on nothing that is published on the channel is missed."""

    channel: str


@dataclass(frozen=True, slots=True)
class Published:
    """Somebody published this."""

    channel: str
    data: bytes


class BlockingSubscription:
    """Belongs to one thread. Any fault is :class:`StoreUnavailable`, and ends it."""

    def __init__(self, sock: StoreSocket, channels: Sequence[str]) -> None:
        """Subscribe on a connected socket, which is closed with the subscription."""
        self._sock = sock
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=CommandRefused)
        # Names come back as bytes: they are decoded once, not with every message.
        self._names = {channel.encode(): channel for channel in channels}
        try:
            self._send("SUBSCRIBE", *channels)
        except StoreUnavailable:
            sock.close()
            raise

    def ping(self) -> None:
        """Ask for a sign of life; the next :meth:`read` finds it."""
        self._send("PING")

    def read(self, timeout: float) -> list[Published | Subscribed] | None:
        """What has come since the last look, waited for up to ``timeout`` seconds; None if nothing did.

        An answer to a ping is an empty list.
        """
        try:
            self._sock.settimeout(timeout)
            data = self._sock.recv(READ_SIZE)
        except TimeoutError:
            return None
        except OSError as error:
            raise StoreUnavailable("the subscription broke") from error
        if not data:
            raise StoreUnavailable("Redis closed the subscription")
        self._reader.feed(data)
        found: list[Published | Subscribed] = []
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply, found)
        except (ConnectionError, CommandRefused) as error:
            raise StoreUnavailable("Redis does not speak as expected") from error
        return found

    def _take(self, reply: object, found: list[Published | Subscribed]) -> None:
        match reply:
            case [b"message", bytes(channel), bytes(data)]:
                found.append(Published(self._names[channel], data))
            case [b"subscribe", bytes(channel), _]:
                found.append(Subscribed(self._names[channel]))
            case CommandRefused():
                raise reply

    def _send(self, *command: str) -> None:
        try:
            self._sock.sendall(pack(command))
        except OSError as error:
            raise StoreUnavailable("the subscription broke") from error

    def close(self) -> None:
        """Close the connection; once is enough."""
        with suppress(OSError):  # the other side was first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
