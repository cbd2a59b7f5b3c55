"""A TCP door to a server, for faults between a client and its server."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trap:
    """What happens to the first connection on which ``pattern`` passes."""

    pattern: bytes
    in_answers: bool
    keep: int | None
    """Bytes from the pattern's beginning that still pass before the connection is cut; None: the answer is lost."""
    silent: bool = False


class TcpProxy:
    """Forwards bytes both ways until told otherwise. Listens on loopback; one thread, one loop.

    ``delay`` holds back every piece of an answer for so many seconds. ``written``, once it is a list, collects every
    piece that clients wrote: one for each of their writes, unless the next one came before it was read.
    """

    def __init__(self, target: Path | int, *, tls: ssl.SSLContext | None = None) -> None:
        """``target`` is a Unix socket or a port of loopback. With ``tls`` clients have to speak that to the proxy."""
        self._target = target
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy")
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._deaf: set[asyncio.Task[None]] = set()
        self._swallow = 0
        self._refusing = False
        self._traps: list[_Trap] = []
        self._losing: dict[asyncio.Task[None], bool] = {}
        self.sprung = 0
        self.delay = 0.0
        self.written: list[bytes] | None = None
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
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

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

    def cut_at(self, pattern: bytes, *, answers: bool = False, keep: int = 0, times: int = 1) -> None:
        """Cut the next connection on which ``pattern`` passes, ``keep`` bytes behind the pattern's beginning.

        ``sprung`` counts the cuts, and the losses of :meth:`lose_answer_to`.
        """
        trap = _Trap(pattern=pattern, in_answers=answers, keep=keep)
        self._call(lambda: self._traps.extend([trap] * times))

    def lose_answer_to(self, pattern: bytes, *, silent: bool = False) -> None:
        """Let the next request with ``pattern`` through and lose its answer.

        Its connection is cut then, or with ``silent`` stays open without another word.
        """
        trap = _Trap(pattern=pattern, in_answers=False, keep=None, silent=silent)
        self._call(lambda: self._traps.append(trap))

    def lose(self, pattern: bytes) -> None:
        """Lose the next piece of an answer that holds ``pattern``; its connection stays open without another word."""
        trap = _Trap(pattern=pattern, in_answers=True, keep=None, silent=True)
        self._call(lambda: self._traps.append(trap))

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
        return await asyncio.start_server(self._link, "127.0.0.1", 0, ssl=self._tls)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.close()
            return
        try:
            up_reader, up_writer = await (
                asyncio.open_connection("127.0.0.1", self._target)
                if isinstance(self._target, int)
                else asyncio.open_unix_connection(str(self._target))
            )
        except OSError:  # the server is away
            writer.transport.abort()
            return
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
            self._losing.pop(me, None)
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
            if not answers and self.written is not None:
                self.written.append(data)
            if link in self._deaf:
                continue
            if answers and self._swallow:
                self._swallow -= 1
                self.swallowed += 1
                self._deaf.add(link)
                continue
            if answers and link in self._losing:
                self._lose(link)
                continue
            if answers and self.delay:
                await asyncio.sleep(self.delay)
            passed = self._watched(link, data, answers=answers)
            sink.write(passed)
            await sink.drain()
            if len(passed) < len(data):
                self._lose(link)
        raise ConnectionResetError  # one side closed: end the other direction too

    def _watched(self, link: asyncio.Task[None], data: bytes, *, answers: bool) -> bytes:
        """What of a piece may pass; springs a trap that waits for it."""
        for trap in self._traps:
            at = data.find(trap.pattern) if trap.in_answers is answers else -1
            if at < 0:
                continue
            self._traps.remove(trap)
            self.sprung += 1
            self._losing[link] = trap.silent
            if trap.keep is not None:
                return data[: at + trap.keep]
            return b"" if trap.in_answers else data
        return data

    def _lose(self, link: asyncio.Task[None]) -> None:
        """A connection loses what comes next: without a word, or by being cut."""
        if not self._losing.pop(link, False):
            raise ConnectionResetError
        self._deaf.add(link)

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
