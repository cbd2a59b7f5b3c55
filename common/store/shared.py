"""One blocking connection shared by all threads (or greenlets) of a process.

Commands of several threads share writes and reads: whoever has something to send while another is writing leaves it
to that one, and one reader hands out the answers in order. Nothing is repeated; a command whose answer does not come
fails with :class:`StoreUnavailable`, and whether it ran is not known.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hiredis

from common.domain.errors import StoreUnavailable
from common.sockets import send_whole
from common.store.blocking_subscription import BlockingSubscription
from common.store.client import StoreAddress
from common.store.dial import StoreSocket, connected
from common.store.endpoint import Endpoint, endpoint_of, pack
from common.store.pipelined import CommandRefused
from common.store.scripts import Arg, script

READ_SIZE = 65536
UNKNOWN = "unknown"
"""``outcome`` in the data of an error after which nobody knows whether the command ran."""


class _Answer:
    """Where one thread waits. A lock is the cheapest thing to wait on, under threads and under gevent."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._value: Any = None

    def set(self, value: Any) -> None:
        self._value = value
        self._lock.release()

    def get(self, timeout: float) -> Any:
        if not self._lock.acquire(timeout=timeout):
            raise StoreUnavailable("Redis did not answer in time", outcome=UNKNOWN)
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class _Wire:
    """One connection, its reader, and who waits on it."""

    def __init__(self, sock: StoreSocket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._out: list[bytes] = []
        self._writing = False
        self._waiting: deque[_Answer] = deque()
        self.broken = False
        threading.Thread(target=self._read, name="redis-answers", daemon=True).start()

    def send(self, packed: bytes) -> _Answer:
        """Send a command, or leave it to the thread that is sending."""
        answer = _Answer()
        with self._lock:
            if self.broken:
                raise StoreUnavailable("the connection to Redis broke")
            self._waiting.append(answer)
            self._out.append(packed)
            if self._writing:
                return answer
            self._writing = True
        try:
            # Whoever else is ready runs first and leaves what it has to this write: one a turn, not one a command.
            time.sleep(0)
            self._write()
        except BaseException:
            # This thread or greenlet was told to end: others have left their commands to it, and would wait in vain.
            self.close()
            raise
        return answer

    def _write(self) -> None:
        while True:
            with self._lock:
                if not self._out:
                    self._writing = False
                    return
                data = b"".join(self._out)
                self._out.clear()
            try:
                send_whole(self._sock, data)
            except OSError:
                self.close()
                return

    def _read(self) -> None:
        reader = hiredis.Reader(protocolError=ConnectionError, replyError=CommandRefused)
        try:
            while data := self._receive():
                reader.feed(data)
                while (reply := reader.gets()) is not False:
                    with self._lock:
                        answer = self._waiting.popleft()
                    answer.set(reply)
        except (OSError, IndexError):
            pass  # told to everybody who waits, below
        self.close()

    def _receive(self) -> bytes:
        """The next bytes; silence is no fault, whoever waits for an answer has a deadline of his own."""
        while True:
            try:
                return self._sock.recv(READ_SIZE)
            except TimeoutError:
                continue

    def close(self) -> None:
        """Tell everybody who waits, once."""
        with self._lock:
            if self.broken:
                return
            self.broken = True
            waiting, self._waiting = list(self._waiting), deque()
        with suppress(OSError):  # the other side was first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for answer in waiting:
            answer.set(StoreUnavailable("the connection to Redis broke", outcome=UNKNOWN))


class SharedConnection:
    """Connects on first use, and again after a loss."""

    def __init__(self, address: StoreAddress) -> None:
        self._endpoint: Endpoint = endpoint_of(address)
        self._connect_timeout = address.connect_timeout
        self._answer_timeout = address.socket_timeout
        self._wire: _Wire | None = None
        self._failed_at = float("-inf")
        self._lock = threading.Lock()

    def command(self, *args: Arg) -> Any:
        """Run one command and return Redis' answer, strings as bytes.

        Raises :class:`StoreUnavailable` if no answer came (its data says ``outcome: unknown`` if the command had
        left), :class:`CommandRefused` for Redis' own error.
        """
        wire = self._ready()
        answer = wire.send(pack(args))
        try:
            return answer.get(self._answer_timeout)
        except StoreUnavailable:
            # Answers come in order: behind one that does not come, none will.
            wire.close()
            raise

    def listen(self, *channels: str) -> BlockingSubscription:
        """Subscribe to channels of the same Redis on a connection of its own. Raises :class:`StoreUnavailable`."""
        return BlockingSubscription(connected(self._endpoint, self._connect_timeout), channels)

    def run(self, name: str, keys: Sequence[str], args: Sequence[Arg] = ()) -> Any:
        """Run a script by name; see :mod:`common.store.scripts`."""
        wanted = script(name)
        try:
            return self.command("EVALSHA", wanted.sha, len(keys), *keys, *args)
        except CommandRefused as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            return self.command("EVAL", wanted.source, len(keys), *keys, *args)

    def close(self) -> None:
        """Close; commands under way fail."""
        with self._lock:
            if self._wire is not None:
                self._wire.close()

    def _ready(self) -> _Wire:
        wire = self._wire
        if wire is not None and not wire.broken:
            return wire
        asked = time.monotonic()
        with self._lock:
            if self._wire is None or self._wire.broken:
                if self._failed_at >= asked:
                    # Who waited while another one tried in vain has waited long enough.
                    raise StoreUnavailable("Redis cannot be reached")
                try:
                    self._wire = _Wire(self._connect())
                except StoreUnavailable:
                    self._failed_at = time.monotonic()
                    raise
            return self._wire

    def _connect(self) -> StoreSocket:
        sock = connected(self._endpoint, self._connect_timeout)
        # Bounds a write to a peer that no longer reads; reading goes on over it.
        sock.settimeout(self._answer_timeout)
        return sock
