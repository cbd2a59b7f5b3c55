"""Children that speak MCP on their standard streams: the only place of the worker that starts processes."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Collection, Mapping

import structlog

from common.domain.errors import TransportFailure
from common.domain.rules import ProcessLimits
from common.domain.tool import StdioTransport
from common.processes.family import MARK_NAME, Family
from common.processes.guard import ProcessGuard, ProcessGuardError
from common.processes.limits import NO_LIMITS, LimitsUnsupported, limit_started, limited
from common.processes.tree import family_of, terminate_tree
from gateway_worker.egress.child_input import ChildInput
from gateway_worker.egress.child_watcher import watch_by_descriptor
from gateway_worker.egress.link import LinkLost
from gateway_worker.egress.stderr import Stderr

log = structlog.get_logger(__name__)

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""All that a child gets of our environment; the gateway's own secrets are not among it."""
STOP_GRACE = 2.0
HASTY_GRACE = 0.4
"""Seconds instead of ``STOP_GRACE`` for a child that is known to hang."""
LAST_WORDS = 0.5
"""Seconds for reading what a child wrote before its end; a daemon it left behind may hold the pipes for ever."""
HALF_STARTED = 0.2
"""Seconds in which a child shows itself that asyncio started and then gave up."""
EXHAUSTED = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def child_environment(declared: Mapping[str, str]) -> dict[str, str]:
    """The minimal environment of a child, and what its definition declares."""
    base = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**base, **declared}


OnOutput = Callable[[bytes], None]
"""Called on the event loop with what a child wrote to its standard output, and with nothing at its end."""

_STDOUT, _STDERR = 1, 2


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """asyncio's own, that also tells of the child's end while somebody else still holds its pipes.

    What the child says goes to the callbacks at once, in the turn of the loop in which it comes; its output goes to
    a stream if there is no callback for it.
    """

    def __init__(self, limit: int, on_output: OnOutput | None, on_stderr: OnOutput) -> None:
        super().__init__(limit=limit, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()
        self.made: asyncio.Future[asyncio.SubprocessTransport] = asyncio.get_running_loop().create_future()
        """The transport, once there is a process; nothing is heard from it before."""
        self._hearers = {_STDERR: on_stderr}
        if on_output is not None:
            self._hearers[_STDOUT] = on_output

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(transport, asyncio.SubprocessTransport) and not self.made.done():
            self.made.set_result(transport)

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        hearer = self._hearers.get(fd)
        if hearer is None:
            super().pipe_data_received(fd, data)
        else:
            hearer(data)  # type: ignore[arg-type]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd in self._hearers:
            self._hearers[fd](b"")
        super().pipe_connection_lost(fd, exc)

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class Child:
    """One child in a process group of its own, guarded from its first moment by a mark in its environment.

    ``exited`` is set at its end, whoever still holds its pipes.
    """

    def __init__(
        self,
        transport: StdioTransport,
        guard: ProcessGuard,
        *,
        line_limit: int,
        limits: ProcessLimits = NO_LIMITS,
        secrets: Collection[str] = (),
    ) -> None:
        """``line_limit`` is the most bytes one line of the child's output may have.

        ``secrets`` are masked in its standard error, as are the values of its environment.
        """
        self._transport = transport
        self._guard = guard
        self._limits = limits
        self.line_limit = line_limit
        self._stderr = Stderr([*transport.env.values(), *secrets])
        self._stderr_ended = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._input: ChildInput | None = None
        self._family: Family | None = None
        self._pipes: asyncio.SubprocessTransport | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.exited = asyncio.Event()

    async def start(self, on_output: OnOutput | None = None) -> None:
        """Start it. Raises :class:`LinkLost` naming what is at fault if that cannot be done: nothing was sent then.

        A failure is this start's alone; nothing of it is left. With ``on_output`` nothing comes to ``stdout``, and
        ``line_limit`` is its business.
        """
        mark = self._guard.new_mark()
        process = await self._spawn(mark, on_output)
        self._process, self._family = process, family_of(process.pid, mark)
        try:
            self._guard.add(process.pid)
            limit_started(process.pid, self._limits)
        except ProcessGuardError as error:
            await self.stop(hasty=True)
            words = "the tool's process cannot be guarded, so it was ended again"
            raise LinkLost(words, unsent=True) from error
        except LimitsUnsupported as error:
            await self.stop(hasty=True)
            words = f"the tool's limits (limit_...) cannot be kept: {error}; leave them out"
            raise LinkLost(words, unsent=True) from error

    async def _spawn(self, mark: str, on_output: OnOutput | None) -> asyncio.subprocess.Process:
        transport = self._transport
        watch_by_descriptor()
        loop = asyncio.get_running_loop()
        protocol = _Protocol(
            self.line_limit, on_output, lambda data: self._heard_stderr(data, protocol.made.result())
        )
        self.exited = protocol.exited
        environment = {**child_environment(transport.env), MARK_NAME: mark}
        given: ChildInput | None = None
        try:
            command = self._command_line(environment)
            # Not asyncio's own pipe, in whose buffer nobody could hold back what is not written yet.
            given = ChildInput()
            self._pipes, _ = await loop.subprocess_exec(
                lambda: protocol,
                *command,
                stdin=given.child_end,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                cwd=transport.cwd,
                start_new_session=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            await _end_half_started(protocol, error)
            raise LinkLost(_refusal(transport, error), unsent=True) from error
        finally:
            if given is not None:
                given.let_go_of_child_end()
                if self._pipes is None:
                    given.close()
        self._input = given
        return asyncio.subprocess.Process(self._pipes, protocol, loop)

    def _command_line(self, environment: Mapping[str, str]) -> tuple[str, ...]:
        transport = self._transport
        command = (transport.command, *transport.args)
        wrapped = limited(command, self._limits)
        if wrapped != command:
            # What the wrapper would only print, and long after the start.
            _require_program(transport, environment)
        return wrapped

    @property
    def process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise TransportFailure("the tool's process has not been started")
        return self._process

    @property
    def stdin(self) -> ChildInput:
        if self._input is None:
            raise TransportFailure("the tool's process has not been started")
        return self._input

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

    async def stop(self, *, hasty: bool = False) -> None:
        """Close its input, then end the whole family; safe to call again and from several tasks.

        ``hasty``: it is known to hang, so it gets less time to end by itself, one second in all.
        """
        if self._process is None or self._family is None:
            return
        if self._stopping is None:
            grace = min(STOP_GRACE, HASTY_GRACE) if hasty else STOP_GRACE
            self._stopping = asyncio.create_task(self._stop(self._process, self._family, grace))
        await asyncio.shield(self._stopping)

    async def _stop(self, process: asyncio.subprocess.Process, family: Family, grace: float) -> None:
        self.stdin.close()
        try:
            # A well-behaved server ends by itself when its input does; the family is ended in any case.
            async with asyncio.timeout(grace):
                await self.exited.wait()
        except TimeoutError:
            log.info("tool_process_outlives_input", pid=process.pid)
        try:
            if not await terminate_tree(family, grace=grace):
                log.error("tool_process_not_ended", pid=process.pid)
                return
            await self.exited.wait()
            self._guard.discard(process.pid)
            try:
                async with asyncio.timeout(LAST_WORDS):
                    await self._stderr_ended.wait()
            except TimeoutError:
                log.debug("tool_stderr_held_open", pid=process.pid)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Close our ends of the pipes: their readers get an end of file, even if a daemon holds the other ends."""
        if self._pipes is not None:
            self._pipes.close()

    def _heard_stderr(self, data: bytes, process: asyncio.SubprocessTransport) -> None:
        """Keep reading, or a talkative child blocks."""
        pid = process.get_pid()
        if data:
            self._stderr.feed(data, pid=pid)
        else:
            self._stderr.end(pid=pid)
            self._stderr_ended.set()


async def _end_half_started(protocol: _Protocol, error: Exception) -> None:
    """End a child that was started although its start failed.

    asyncio starts the process first and then arranges to learn of its end. If only that fails, for want of a
    descriptor or a thread, it forgets the process.
    """
    if isinstance(error, RuntimeError) or getattr(error, "errno", None) in EXHAUSTED:
        await asyncio.wait([protocol.made], timeout=HALF_STARTED)
        if protocol.made.done():
            protocol.made.result().close()
    protocol.made.cancel()


def _require_program(transport: StdioTransport, environment: Mapping[str, str]) -> None:
    """Raise what starting the command itself would raise if there is no such program."""
    command = transport.command
    if "/" in command:
        candidates = [os.path.join(transport.cwd or "", command)]
    else:
        candidates = [os.path.join(place, command) for place in os.get_exec_path(environment)]
    found = [path for path in candidates if os.path.exists(path)]
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command)
    if not any(os.path.isfile(path) and os.access(path, os.X_OK) for path in found):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), command)


def _refusal(transport: StdioTransport, error: Exception) -> str:
    """Why a command could not be started, in words that name what is at fault."""
    reason = getattr(error, "strerror", None) or str(error)
    at_fault = getattr(error, "filename", None)
    if at_fault is not None and at_fault == transport.cwd:
        return f"the tool's cwd {transport.cwd!r} cannot be used: {reason}"
    if isinstance(error, FileNotFoundError):
        return f"the tool's command was not found: {at_fault}"
    return f"the tool's command {transport.command!r} cannot be started: {reason}"
