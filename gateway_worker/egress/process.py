"""Children that speak MCP on their standard streams: the only place of the worker that starts processes."""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Callable, Mapping

import structlog

from common.domain.errors import TransportFailure
from common.domain.tool import MASK, StdioTransport
from common.processes.guard import ProcessGuard, ProcessGuardError
from common.processes.tree import terminate_tree

log = structlog.get_logger(__name__)

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""All that a child gets of our environment; the gateway's own secrets are not among it."""
STDERR_LINES = 50
STDERR_LINE_LENGTH = 500
STOP_GRACE = 2.0
LAST_WORDS = 0.5
"""Seconds for reading what a child wrote before its end; a daemon it left behind may hold the pipes for ever."""


def child_environment(declared: Mapping[str, str]) -> dict[str, str]:
    """The minimal environment of a child, and what its definition declares."""
    base = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**base, **declared}


OnOutput = Callable[[bytes], None]
"""Called on the event loop with what a child wrote to its standard output, and with nothing at its end."""

_STDOUT = 1


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """asyncio's own, that also tells of the child's end while somebody else still holds its pipes.

    With ``on_output`` the child's output goes there at once, in the turn in which it comes, instead of to a stream.
    """

    def __init__(self, limit: int, exited: asyncio.Event, on_output: OnOutput | None) -> None:
        super().__init__(limit=limit, loop=asyncio.get_running_loop())
        self._exited_event = exited
        self._on_output = on_output

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        if fd == _STDOUT and self._on_output is not None:
            self._on_output(data)  # type: ignore[arg-type]
        else:
            super().pipe_data_received(fd, data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == _STDOUT and self._on_output is not None:
            self._on_output(b"")
        super().pipe_connection_lost(fd, exc)

    def process_exited(self) -> None:
        super().process_exited()
        self._exited_event.set()


class Child:
    """One child in a process group of its own, known to the reaper from its first moment.

    ``exited`` is set at its end, whoever still holds its pipes.
    """

    def __init__(self, transport: StdioTransport, guard: ProcessGuard, *, line_limit: int) -> None:
        """``line_limit`` is the most bytes one line of the child's output may have."""
        self._transport = transport
        self._guard = guard
        self.line_limit = line_limit
        self._stderr = _Tail(transport.env)
        self._process: asyncio.subprocess.Process | None = None
        self._pipes: asyncio.SubprocessTransport | None = None
        self._stderr_task: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.exited = asyncio.Event()

    async def start(self, on_output: OnOutput | None = None) -> None:
        """Start it. Raises :class:`TransportFailure` naming the command if that cannot be done.

        With ``on_output`` nothing comes to ``stdout``, and ``line_limit`` is its business.
        """
        transport = self._transport
        loop = asyncio.get_running_loop()
        try:
            self._pipes, protocol = await loop.subprocess_exec(
                lambda: _Protocol(self.line_limit, self.exited, on_output),
                transport.command,
                *transport.args,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=child_environment(transport.env),
                cwd=transport.cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise TransportFailure(_refusal(transport, error)) from error
        self._process = process = asyncio.subprocess.Process(self._pipes, protocol, loop)
        self._stderr_task = asyncio.create_task(self._drain_stderr(process), name=f"stderr-{process.pid}")
        try:
            self._guard.add(process.pid)
        except ProcessGuardError as error:
            await self.stop()
            raise TransportFailure("the tool's process cannot be guarded, so it was ended again") from error

    @property
    def process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise TransportFailure("the tool's process has not been started")
        return self._process

    @property
    def stdin(self) -> asyncio.StreamWriter:
        if self.process.stdin is None:
            raise TransportFailure("the tool's process has no standard input")
        return self.process.stdin

    @property
    def stdout(self) -> asyncio.StreamReader:
        if self.process.stdout is None:
            raise TransportFailure("the tool's process has no standard output")
        return self.process.stdout

    def stderr_tail(self) -> list[str]:
        """The last lines of standard error, with the declared environment's values masked."""
        return self._stderr.lines()

    async def end_words(self) -> str:
        """How the process ended, in words."""
        try:
            async with asyncio.timeout(1.0):
                await self.exited.wait()
        except TimeoutError:
            return "the tool's process closed its output"
        status = self.process.returncode or 0
        if status < 0:
            return f"the tool's process was ended by signal {-status}"
        return f"the tool's process ended with exit status {status}"

    async def stop(self) -> None:
        """Close its input, then end the whole group; safe to call again and from several tasks."""
        if self._process is None:
            return
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self._process))
        await asyncio.shield(self._stopping)

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is not None:
            process.stdin.close()
        try:
            # A well-behaved server ends by itself when its input does; the group is ended in any case.
            async with asyncio.timeout(STOP_GRACE):
                await self.exited.wait()
        except TimeoutError:
            log.info("tool_process_outlives_input", pid=process.pid)
        try:
            if not await terminate_tree(process.pid, grace=STOP_GRACE):
                log.error("tool_process_not_ended", pid=process.pid)
                return
            await self.exited.wait()
            self._guard.discard(process.pid)
            if self._stderr_task is not None:
                await asyncio.wait([self._stderr_task], timeout=LAST_WORDS)
        finally:
            self._let_go(process)

    def _let_go(self, process: asyncio.subprocess.Process) -> None:
        """Close our ends of the pipes: their readers get an end of file, even if a daemon holds the other ends."""
        if process.stdin is not None and process.stdin.transport.get_write_buffer_size():
            # What it never read would keep the pipe open: its closing waits for the buffer to empty.
            process.stdin.transport.abort()
        if self._pipes is not None:
            self._pipes.close()
        if self._stderr_task is not None:
            self._stderr_task.cancel()

    async def _drain_stderr(self, process: asyncio.subprocess.Process) -> None:
        """Keep reading, or a talkative child blocks."""
        if process.stderr is None:
            return
        while chunk := await process.stderr.read(65536):
            self._stderr.feed(chunk)
        self._stderr.end()


class _Tail:
    """The last lines of a stream, masked; of a long line its beginning."""

    def __init__(self, env: Mapping[str, str]) -> None:
        values = {line.encode() for value in env.values() for line in value.splitlines() if len(line) >= 4}
        # The longest first: one secret may begin like another.
        secrets = sorted(values, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, secrets))) if secrets else None
        self._longest = len(secrets[0]) if secrets else 0
        self._room = STDERR_LINE_LENGTH + self._longest
        self._line = b""
        self._lines: deque[str] = deque(maxlen=STDERR_LINES)

    def feed(self, chunk: bytes) -> None:
        """Take what was read."""
        *ended, rest = chunk.split(b"\n")
        if ended:
            ended[0] = self._line + ended[0]
            self._lines.extend(self._masked(line) for line in ended[-STDERR_LINES:])
            self._line = b""
        self._line = (self._line + rest)[: self._room + 1]

    def end(self) -> None:
        """The stream ended, maybe in the middle of a line."""
        if self._line:
            self._lines.append(self._masked(self._line))
            self._line = b""

    def lines(self) -> list[str]:
        """What is kept."""
        return list(self._lines)

    def _masked(self, line: bytes) -> str:
        kept = line[: self._room]
        if self._pattern is not None:
            kept = self._pattern.sub(MASK.encode(), kept)
            if len(line) > self._room:
                # The cut may have gone through a secret, whose first part is then at the end.
                kept = kept[: -self._longest]
        return kept[:STDERR_LINE_LENGTH].decode("utf-8", "replace")


def _refusal(transport: StdioTransport, error: Exception) -> str:
    """Why a command could not be started, in words that name what is at fault."""
    reason = getattr(error, "strerror", None) or str(error)
    at_fault = getattr(error, "filename", None)
    if at_fault is not None and at_fault == transport.cwd:
        return f"the tool's cwd {transport.cwd!r} cannot be used: {reason}"
    if isinstance(error, FileNotFoundError):
        return f"the tool's command was not found: {at_fault}"
    return f"the tool's command {transport.command!r} cannot be started: {reason}"
