"""Children that speak MCP on their standard streams: the only place of the worker that starts processes."""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Mapping

import structlog

from common.domain.errors import TransportFailure
from common.domain.tool import MASK, StdioTransport
from common.processes.guard import ProcessGuard
from common.processes.tree import terminate_tree

log = structlog.get_logger(__name__)

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""All that a child gets of our environment; the gateway's own secrets are not among it."""
STDERR_LINES = 50
STDERR_LINE_LENGTH = 500
STOP_GRACE = 2.0


def child_environment(declared: Mapping[str, str]) -> dict[str, str]:
    """The minimal environment of a child, and what its definition declares."""
    base = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**base, **declared}


class Child:
    """One child in a process group of its own, known to the reaper from its first moment."""

    def __init__(self, transport: StdioTransport, guard: ProcessGuard, *, line_limit: int) -> None:
        """``line_limit`` is the most bytes one line of the child's output may have."""
        self._transport = transport
        self._guard = guard
        self._line_limit = line_limit
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._stderr_task: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it. Raises :class:`TransportFailure` naming the command if that cannot be done."""
        transport = self._transport
        try:
            process = await asyncio.create_subprocess_exec(
                transport.command,
                *transport.args,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=child_environment(transport.env),
                cwd=transport.cwd,
                start_new_session=True,
                limit=self._line_limit,
            )
        except FileNotFoundError as error:
            what = "cwd" if error.filename and error.filename == transport.cwd else "command"
            raise TransportFailure(f"the tool's {what} was not found: {error.filename}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TransportFailure(f"the tool's command cannot be started: {reason}") from error
        self._process = process
        self._guard.add(process.pid)
        self._stderr_task = asyncio.create_task(self._drain_stderr(process), name=f"stderr-{process.pid}")

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
        return list(self._stderr)

    async def end_words(self) -> str:
        """How the process ended, in words."""
        try:
            async with asyncio.timeout(1.0):
                status = await self.process.wait()
        except TimeoutError:
            return "the tool's process closed its output"
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
        if process.returncode is None:
            # A well-behaved server ends by itself when its input does; the group is ended in any case.
            try:
                async with asyncio.timeout(STOP_GRACE):
                    await process.wait()
            except TimeoutError:
                log.info("tool_process_outlives_input", pid=process.pid)
        if not await terminate_tree(process.pid, grace=STOP_GRACE):
            log.error("tool_process_not_ended", pid=process.pid)
            return
        await process.wait()
        self._guard.discard(process.pid)
        if self._stderr_task is not None:
            self._stderr_task.cancel()

    async def _drain_stderr(self, process: asyncio.subprocess.Process) -> None:
        """Keep reading, or a talkative child blocks; keep the last lines only."""
        if process.stderr is None:
            return
        secrets = [re.escape(value) for value in self._transport.env.values() if len(value) >= 4]
        pattern = re.compile("|".join(secrets)) if secrets else None
        rest = b""
        while chunk := await process.stderr.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-STDERR_LINE_LENGTH:]
            for raw in lines[-STDERR_LINES:]:
                line = raw.decode("utf-8", "replace")
                self._stderr.append((pattern.sub(MASK, line) if pattern else line)[:STDERR_LINE_LENGTH])
