"""Where transports of one's own run: each tool's on an event loop and a thread of its own.

What one of them does, it does to itself: one that blocks holds up the sessions of its tool alone. A thread that does
not come back is given up, and the tool's next session has another; of those given up there are only so many.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

import structlog

from common.domain.custom import CustomTransport
from common.domain.errors import ConfigurationError, GatewayError
from common.domain.ids import ToolId
from common.executors import make_factory
from common.ports import ExecutorFactory
from gateway_worker.egress.link import LinkLost, RpcError

log = structlog.get_logger(__name__)

T = TypeVar("T")
MOST_STUCK = 4
"""Threads of one tool that were given up and have not ended; while there are so many it has no new session."""
KEPT_IDLE = 300.0
"""Seconds that a thread without sessions is kept, and the factory on it."""
LOOK_FOR_IDLE = 30.0
"""Seconds between two looks for such threads."""
STOP_GRACE = 1.0
BLOCKS = "the tool's transport blocks"
ENDED = "the thread of the tool's transport has ended"


class ExecutorBroke(LinkLost):
    """Code of the transport raised what it should not have."""

    def __init__(self, error: BaseException) -> None:
        # Not its words: they may hold a secret.
        super().__init__(f"the tool's transport failed ({type(error).__name__[:100]})")


class Job(Generic[T]):
    """One coroutine on a thread, and who waits for it on the loop where this is made."""

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        there: asyncio.AbstractEventLoop,
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        """``on_end`` hears on this loop that it has really ended, behind a wait that was given up as well."""
        self._here = asyncio.get_running_loop()
        self._there = there
        self._work = work
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._begun = False
        self._unwanted = False
        self.answer: asyncio.Future[T] = self._here.create_future()

    def start(self) -> None:
        """Have it begun as soon as the thread comes to it."""
        self._call(self._begin)

    def give_up(self, message: str) -> None:
        """Whoever waits is told so, with leave to send again if it never begins; the coroutine is cancelled."""
        self._fail(LinkLost(message, unsent=self._taken_back()))
        self.cancel()

    def cancel(self) -> None:
        """Cancel the coroutine."""
        self._call(self._cancel)

    def _call(self, what: Callable[[], None]) -> None:
        try:
            self._there.call_soon_threadsafe(what)
        except RuntimeError:  # the loop is closed
            self._fail(LinkLost(ENDED, unsent=self._taken_back()))

    def _taken_back(self) -> bool:
        """Whether it has not begun, nor ever will. It may be about to: that is what the lock is for."""
        with self._lock:
            self._unwanted = self._unwanted or not self._begun
            return not self._begun

    # -- on the thread ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        with self._lock:
            if self._unwanted:
                return
            self._begun = True
        self._task = self._there.create_task(self._run())

    def _cancel(self) -> None:
        self._unwanted = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        value: T | None = None
        fault: BaseException | None = None
        try:
            value = await self._work()
        except (GatewayError, RpcError) as error:
            fault = error
        except asyncio.CancelledError as error:
            fault = error if self._unwanted else ExecutorBroke(error)
        except BaseException as error:  # noqa: BLE001 - whatever it does, it does it to itself
            fault = ExecutorBroke(error)
        with suppress(RuntimeError):  # the worker's own loop has ended
            self._here.call_soon_threadsafe(self._ended, value, fault)

    # -- back here ----------------------------------------------------------------------------------------

    def _ended(self, value: Any, fault: BaseException | None) -> None:
        if isinstance(fault, asyncio.CancelledError):
            self.answer.cancel()
        elif fault is not None:
            self._fail(fault)
        elif not self.answer.done():
            self.answer.set_result(value)
        self._on_end(fault)

    def _fail(self, fault: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(fault)
            # Whoever waited may have given up: the error is not "never retrieved".
            self.answer.exception()


class Tenant(Protocol):
    """Who uses a thread: a link."""

    def given_up(self, message: str) -> None:
        """The thread does nothing more for it. Called on the worker's loop."""


class PluginThread:
    """The factory of one definition, and its sessions. Begun with the first of them, on the worker's loop."""

    def __init__(self, tool: ToolId, transport: CustomTransport) -> None:
        self.tool = tool
        self.transport = transport
        self.users: set[Tenant] = set()
        """Links that use it."""
        self.left = time.monotonic()
        """When the last of them left."""
        self.stopped = False
        """Whether it takes nothing new: it is to end, when it can."""
        self._jobs: set[Job[Any]] = set()
        """Those that somebody waits for."""
        self._factory: ExecutorFactory | None = None
        self._stopping = False
        self._ending: asyncio.Task[None] | None = None
        self._here = asyncio.get_running_loop()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._unhandled)
        self._thread = threading.Thread(target=self._main, name=f"executor-{tool}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def factory(self) -> ExecutorFactory:
        """The factory; on this thread only. Raises :class:`LinkLost`."""
        if self._factory is None:
            try:
                self._factory = make_factory(self.transport)
            except ConfigurationError as error:
                raise LinkLost(f"the tool has no transport: {error.message}", unsent=True) from None
        return self._factory

    def begin(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        on_end: Callable[[BaseException | None], None] = lambda _fault: None,
        *,
        in_any_case: bool = False,
    ) -> Job[T]:
        """Have something done here; called on the worker's loop. ``in_any_case``: also when it was given up.

        Behind :meth:`stop` the job has failed already, and nothing of it was sent.
        """
        job = Job(work, self.loop, on_end)
        if in_any_case:
            job.start()
        elif self.stopped:
            job.give_up(ENDED)
        else:
            self._jobs.add(job)
            job.answer.add_done_callback(lambda _: self._jobs.discard(job))
            job.start()
        return job

    def give_up(self, message: str) -> None:
        """It does not come back: nobody waits for it any more. What is open here is closed if it does."""
        for job in list(self._jobs):
            job.give_up(message)
        for user in list(self.users):
            user.given_up(message)
        self.stop()

    async def answers(self, seconds: float) -> bool:
        """Whether code here gives way to others within that time."""
        job = self.begin(_nothing)
        await asyncio.wait([job.answer], timeout=seconds)
        return job.answer.done() and not job.answer.cancelled() and job.answer.exception() is None

    def stop(self) -> None:
        """End it when what runs on it has ended, or has been given a moment to. Does not wait."""
        self.stopped = True
        with suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self._begin_to_end)

    def join(self, seconds: float) -> None:
        """Wait for its end; one that is blocked is left to the end of the process."""
        self._thread.join(seconds)

    def _main(self) -> None:
        while not self._stopping and not self.loop.is_closed():
            try:
                self.loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - such as SystemExit of a task that the code began
                log.error("executor_broke", tool=self.tool, error=type(error).__name__)
        with suppress(RuntimeError):
            self.loop.close()
        # What was queued behind the end is dropped with the loop: whoever waits for it is told.
        with suppress(RuntimeError):  # the worker's own loop has ended
            self._here.call_soon_threadsafe(self.give_up, ENDED)

    def _begin_to_end(self) -> None:
        if self._ending is None:
            self._ending = self.loop.create_task(self._wind_up())

    async def _wind_up(self) -> None:
        for ask_to_end in (False, True):
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others if ask_to_end else ():
                task.cancel()
            if others:
                await asyncio.wait(others, timeout=STOP_GRACE / 2)
        self._stopping = True
        self.loop.stop()

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody waited for. Not its words, as above."""
        error = context.get("exception")
        log.warning("executor_broke", tool=self.tool, error="" if error is None else type(error).__name__)


async def _nothing() -> None:
    """To see that it is done."""


class Factories:
    """Of one worker. Belongs to the worker's loop."""

    def __init__(self) -> None:
        self._threads: dict[ToolId, PluginThread] = {}
        self._stuck: list[PluginThread] = []
        """All that are to end and have not, whatever they were stopped for."""

    def enter(self, tool: ToolId, transport: CustomTransport, user: Tenant) -> PluginThread:
        """The thread of that definition, for one more link. Raises :class:`LinkLost` if too many are stuck."""
        self.forget_idle()
        found = self._threads.get(tool)
        if found is None or found.transport != transport or not found.alive:
            if sum(thread.tool == tool for thread in self._stuck) >= MOST_STUCK:
                raise LinkLost(f"{BLOCKS}: {MOST_STUCK} threads of it are stuck", unsent=True)
            if found is not None and not found.users:
                self._stop(found)
            found = self._threads[tool] = PluginThread(tool, transport)
        found.users.add(user)
        return found

    def leave(self, thread: PluginThread, user: Tenant) -> None:
        """A link uses it no longer."""
        thread.users.discard(user)
        thread.left = time.monotonic()
        if not thread.users and self._threads.get(thread.tool) is not thread:
            self._stop(thread)

    def abandon(self, thread: PluginThread) -> None:
        """It does not come back: the tool's next session has another, and all links of this one are broken."""
        if thread.stopped:
            return
        log.error("executor_stuck", tool=thread.tool, factory=thread.transport.factory)
        if self._threads.get(thread.tool) is thread:
            del self._threads[thread.tool]
        # Its sessions are closed before it ends, if it comes back.
        thread.give_up(BLOCKS)
        self._stop(thread)

    def close(self) -> None:
        """Stop all of them. Blocks for two seconds at most, however many do not end."""
        for thread in self._threads.values():
            thread.stop()
        until = time.monotonic() + 2 * STOP_GRACE
        for thread in self._threads.values():
            thread.join(max(0.0, until - time.monotonic()))
        self._threads.clear()

    async def run(self) -> None:
        """For ever, let go of what nobody uses: options of a tool that was removed are not kept."""
        while True:
            await asyncio.sleep(LOOK_FOR_IDLE)
            self.forget_idle()

    def forget_idle(self) -> None:
        """Let go of threads that have had no session for :data:`KEPT_IDLE` seconds, and of those that have ended."""
        for tool, thread in list(self._threads.items()):
            if not thread.users and time.monotonic() - thread.left > KEPT_IDLE:
                del self._threads[tool]
                self._stop(thread)
        self._stuck = [thread for thread in self._stuck if thread.alive]

    def _stop(self, thread: PluginThread) -> None:
        thread.stop()
        if thread not in self._stuck:
            self._stuck.append(thread)
