"""Names to addresses, in threads of their own.

A look-up whose name server is silent stays in its thread for tens of seconds, whether anybody waits or not: in the
loop's own threads it would keep from work whoever reads files, the registry or the trust store there.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

MOST_THREADS = 32
"""Names that are looked up at a time."""


class Resolver:
    """One look-up at a time for each name, which all share who want it meanwhile. Nothing is kept beyond it.

    By the name alone, without the port: one that hangs takes one thread, however many tools live there. Thread safe,
    and bound to no loop.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="names")
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[list[Any]]] = {}

    async def addresses(self, host: str, port: int) -> list[Any]:
        """As ``getaddrinfo`` for streams has them, and raises it (OSError, and UnicodeError for what is no name)."""
        # Whoever leaves ends its own wait: the look-up is not only its own.
        answer = asyncio.wrap_future(self._looked_up(host))
        answer.add_done_callback(_seen)
        found = await asyncio.shield(answer)
        return [(*kind, (where[0], port, *where[2:])) for *kind, where in found]

    def _looked_up(self, host: str) -> Future[list[Any]]:
        with self._lock:
            shared = self._under_way.get(host)
            if shared is None:
                shared = self._under_way[host] = self._threads.submit(self._look_up, host)
            return shared

    def _look_up(self, host: str) -> list[Any]:
        try:
            return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        finally:
            # Before the answer is known: nobody is given one that was there before it asked.
            with self._lock:
                self._under_way.pop(host, None)


def _seen(answer: asyncio.Future[list[Any]]) -> None:
    """An error for somebody who has left is no news to the loop."""
    if not answer.cancelled():
        answer.exception()


resolver = Resolver()
"""The process's own. Its threads begin with the first look-up, behind any fork."""
