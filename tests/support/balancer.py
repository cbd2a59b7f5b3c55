"""A TCP balancer before several servers: each connection goes to the next one in turn, whoever opens it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypeVar

T = TypeVar("T")
PIECE = 65536
LAST = b"Connection: close\r\n"
"""Stands in front of all other headers, so whatever the client says of the connection comes too late."""


class Balancer:
    """Listens on loopback; one thread, one loop. ``taken`` counts the connections that each server got."""

    def __init__(self, ports: Sequence[int], *, one_request: bool = False) -> None:
        """``ports`` are the servers' on 127.0.0.1.

        With ``one_request`` each HTTP request is told to be the last of its connection, so that the next one goes to
        another server.
        """
        self.taken: Counter[int] = Counter()
        self.port = 0
        self._one_request = one_request
        self._turn = itertools.cycle(ports)
        self._links: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="balancer")

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._link, "127.0.0.1", 0, backlog=512))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._links.add(me)
        port = next(self._turn)
        self.taken[port] += 1
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                if self._one_request and (line := await reader.readline()):
                    up_writer.write(line + LAST)
                await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))
            finally:
                up_writer.close()
        except (OSError, asyncio.CancelledError):  # a side that went takes the other along
            pass
        finally:
            self._links.discard(me)
            writer.close()

    async def _close(self) -> None:
        self._server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        if links:
            await asyncio.wait(links)
        await asyncio.sleep(0)  # closed transports say goodbye one turn later


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(PIECE):
        sink.write(data)
        await sink.drain()
    # One side has said all it had to; a client that waits for its answer still reads.
    with contextlib.suppress(OSError):
        sink.write_eof()
