"""A TCP door to a server on a Unix socket, for faults between a client and its server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self


class TcpProxy:
    """Forwards bytes both ways until told otherwise. Listens on loopback; one thread, one loop.

    ``delay`` holds back every piece of an answer for so many seconds.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy")
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._deaf: set[asyncio.Task[None]] = set()
        self._swallow = 0
        self._refusing = False
        self.delay = 0.0
        self.port = 0
        self.swallowed = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The server's address through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def links(self) -> int:
        """Connections that stand."""
        return len(self._links)

    def cut(self) -> None:
        """Close every connection."""
        self._do(self._cut())

    def black_hole(self) -> None:
        """Let nothing more through on the connections that stand, and close none; new ones work."""
        self._call(lambda: self._deaf.update(self._links))

    def swallow_next_reply(self) -> None:
        """Lose the next piece of an answer, and all behind it (TCP leaves no holes); its connection stays open."""
        self._swallow += 1

    def refuse(self, refusing: bool = True) -> None:
        """Close every new connection at once."""
        self._refusing = refusing

    # -- the loop ---------------------------------------------------------------------------------------

    def _do(self, work: object) -> object:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    def _call(self, work: Callable[[], None]) -> None:
        async def run() -> None:
            work()

        self._do(run())

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._link, "127.0.0.1", 0)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.close()
            return
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(str(self._target))
        except BaseException:
            writer.transport.abort()
            raise
        me = asyncio.current_task()
        assert me is not None
        self._links[me] = [writer, up_writer]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, up_writer, me, answers=False))
                group.create_task(self._pump(up_reader, writer, me, answers=True))
        except* OSError:
            pass
        finally:
            del self._links[me]
            self._deaf.discard(me)
            for end in (writer, up_writer):
                end.close()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        link: asyncio.Task[None],
        *,
        answers: bool,
    ) -> None:
        while data := await source.read(65536):
            if link in self._deaf:
                continue
            if answers and self._swallow:
                self._swallow -= 1
                self.swallowed += 1
                self._deaf.add(link)
                continue
            if answers and self.delay:
                await asyncio.sleep(self.delay)
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError  # one side closed: end the other direction too

    async def _cut(self) -> None:
        links = list(self._links)
        for link in links:
            for end in self._links[link]:
                end.transport.abort()
        if links:
            await asyncio.wait(links)

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        await self._server.wait_closed()
        # A connection accepted a moment ago may still be on its way to the server, and is no link yet.
        late = asyncio.all_tasks() - {asyncio.current_task()}
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        await asyncio.sleep(0)  # closed transports say goodbye one turn later
