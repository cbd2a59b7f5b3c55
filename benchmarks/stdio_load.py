"""The load client over stdio, without any gateway: what the backend itself does behind a pipe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson

from benchmarks.figures import Window
from benchmarks.lane import CALL_TIMEOUT
from benchmarks.load import Runner
from benchmarks.recorder import Recorder
from benchmarks.wire import Era, call_ids, initialize_message, initialized_message, line_calls

_STOP_TIMEOUT = 5.0


class _Pipes(asyncio.SubprocessProtocol):
    """The backend child. Lines that arrive together are answered with one write of next calls."""

    def __init__(self, era: Era, concurrency: int) -> None:
        self._calls = line_calls("echo", era)
        self._concurrency = concurrency
        self._pending = b""
        self._in_flight: dict[int, float] = {}
        self._recorder: Recorder | None = None
        self._done: asyncio.Future[None] | None = None
        self._input: asyncio.WriteTransport | None = None
        self.opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.exited = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        pipe = cast(asyncio.SubprocessTransport, transport).get_pipe_transport(0)
        self._input = cast(asyncio.WriteTransport, pipe)

    def write(self, data: bytes) -> None:
        assert self._input is not None
        self._input.write(data)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != 1:
            return
        *lines, self._pending = (self._pending + data).split(b"\n")
        self._refill(sum(self._take(orjson.loads(line)) for line in lines if line.strip()))

    def process_exited(self) -> None:
        self.exited.set()
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("the backend ended before it answered"))
        self.give_up("the backend ended")

    def begin(self, recorder: Recorder) -> asyncio.Future[None]:
        """Start calling; the future is done when the time is up and the last call has ended."""
        self._recorder = recorder
        self._done = asyncio.get_running_loop().create_future()
        self._refill(self._concurrency)
        return self._done

    def give_up(self, reason: str) -> None:
        """Record every call in flight as failed."""
        if self._recorder is not None:
            for _ in self._in_flight:
                self._recorder.failure(reason)
        self._in_flight.clear()
        self._finish_if_idle()

    def _take(self, message: dict[str, Any]) -> bool:
        """Take one message; return whether it ended a call."""
        if not self.opened.done():
            self.opened.set_result(message)
            return False
        sent_at = self._in_flight.pop(message.get("id", 0), None)
        if sent_at is None or self._recorder is None:
            return False
        self._recorder.answer(message["id"], message, sent_at)
        return True

    def _refill(self, free: int) -> None:
        if self._recorder is None:
            return
        out = []
        now = time.perf_counter()
        for _ in range(free):
            if (call_id := self._recorder.next_call()) is None:
                break
            self._in_flight[call_id] = now
            out.append(self._calls.render(call_id))
        if out:
            self.write(b"".join(out))
        self._finish_if_idle()

    def _finish_if_idle(self) -> None:
        if not self._in_flight and self._done is not None and not self._done.done():
            self._done.set_result(None)


class _StdioRunner:
    def __init__(self, load: StdioLoad, pipes: _Pipes) -> None:
        self._load = load
        self._pipes = pipes

    async def run(self, seconds: float) -> Window:
        recorder = Recorder(self._load.ids, seconds)
        done = self._pipes.begin(recorder)
        _, late = await asyncio.wait([done], timeout=seconds + CALL_TIMEOUT)
        if late:
            self._pipes.give_up(f"no answer within {CALL_TIMEOUT:g} s")
        return recorder.window()


class StdioLoad:
    """Load on a child process of its own, with all calls of a window on the one pipe."""

    def __init__(self, command: Sequence[str], *, era: Era) -> None:
        self._command = command
        self._era = era
        self.ids = call_ids()

    @asynccontextmanager
    async def open(self, concurrency: int) -> AsyncIterator[Runner]:
        """Start the child and do the opening of its era.

        Raises:
            OSError: it cannot be started, or ended at once. TimeoutError: it does not answer.
        """
        loop = asyncio.get_running_loop()
        transport, pipes = await loop.subprocess_exec(
            lambda: _Pipes(self._era, concurrency), *self._command, stderr=None, start_new_session=True
        )
        try:
            if self._era is Era.LEGACY:
                pipes.write(initialize_message() + b"\n")
                await asyncio.wait_for(asyncio.shield(pipes.opened), CALL_TIMEOUT)
                pipes.write(initialized_message() + b"\n")
            else:
                pipes.opened.set_result(None)
            yield _StdioRunner(self, pipes)
        finally:
            transport.kill()
            await asyncio.wait_for(pipes.exited.wait(), _STOP_TIMEOUT)
            transport.close()
