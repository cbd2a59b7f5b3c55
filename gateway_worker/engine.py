"""The worker's data plane: one asyncio loop in a thread of its own, beside Celery's stock consumer.

Celery keeps the command line, remote control, inspection, events and every queue that is no tool's. The engine
fetches the tool queues, runs the calls on the loop that also holds the sessions, and answers.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

import structlog

from common.calls.contract import INVOKE_TASK, ORIGIN, notification_frame, result_frame
from common.domain.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    InvocationCancelled,
    StoreUnavailable,
    ToolUnavailable,
    WorkerLost,
)
from common.domain.ids import NodeId, ToolId, tool_of
from common.domain.invocation import ExecutionResult, Invocation, failed, invocation_from_wire
from common.mcp.revisions import LATEST_LEGACY
from common.processes.guard import ProcessGuard
from common.registry.catalogue import Catalogue
from common.settings import Settings
from common.store.client import StoreAddress, connect, connect_async
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.discovery import Discovery
from gateway_worker.execute import Executor
from gateway_worker.fetcher import Fetcher, Tag
from gateway_worker.listener import Listener
from gateway_worker.message import TaskMessage, read_message
from gateway_worker.nodes import Nodes, end_of_call
from gateway_worker.outbox import Outbox
from gateway_worker.requests import RunningRequest
from gateway_worker.sessions import Sessions

log = structlog.get_logger(__name__)

FOLLOW_INTERVAL = 1.0
FLUSH_TIMEOUT = 5.0
DRAIN_LOOK = 0.05
CANCEL_AGAIN = 0.5


class Host(Protocol):
    """What the engine needs of the Celery worker it lives in. Called from the engine's thread."""

    def reserved(self, request: RunningRequest) -> None:
        """A call was fetched."""

    def accepted(self, request: RunningRequest) -> None:
        """A call begins."""

    def ready(self, request: RunningRequest, result: ExecutionResult) -> None:
        """A call ended."""

    def revoked(self, task_id: str) -> bool:
        """Whether a call was taken back before it began."""

    def revoke(self, task_id: str) -> None:
        """Remember that a call was taken back."""

    def deliver(self, envelope: dict[str, Any], queue: str, taken: Callable[[], None]) -> None:
        """Hand a message to Celery's own path; ``taken`` is called, in any thread, once it has it."""

    def tools_changed(self) -> None:
        """The catalogue changed: queues may have to be taken up or dropped."""


class Engine:
    """Start and stop it from Celery's main thread; everything else happens on its loop."""

    def __init__(
        self, settings: Settings, address: StoreAddress, *, hostname: str, limit: int, host: Host
    ) -> None:
        """``limit`` is the most calls in flight; ``hostname`` Celery's node name."""
        self.node = NodeId(f"{hostname}:{uuid4().hex[:8]}")
        self.limit = limit
        self._settings = settings
        self._address = address
        self._hostname = hostname
        self._host = host
        self._queues: frozenset[str] = frozenset()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cut_off: set[str] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="engine")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._drain_timeout = settings.worker.drain_timeout
        self._failure: BaseException | None = None

    # -- from Celery's main thread ----------------------------------------------------------------------

    def start(self) -> None:
        """Start the loop; returns once it runs. Raises what kept it from starting."""
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self, drain_timeout: float | None = None) -> None:
        """Fetch no more, let the calls in flight end within ``drain_timeout`` seconds, leave the cluster."""
        if drain_timeout is not None:
            self._drain_timeout = drain_timeout
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def follow(self, queues: Collection[str]) -> None:
        """Serve these tool queues from now on."""
        self._queues = frozenset(queues)
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._fetcher.follow, self._queues)

    def run_blocking(self, payload: object, task_id: str) -> ExecutionResult:
        """Run an invocation that came by Celery's own path (a delayed task); blocks a pool thread."""
        if self._loop is None:
            return failed(InvocationCancelled("the worker is stopping"))
        return asyncio.run_coroutine_threadsafe(self._by_hand(payload, task_id), self._loop).result()

    def tools(self) -> list[ToolId]:
        """The tools registered now, as this worker knows them."""
        return [entry.id for entry in self._catalogue.entries()]

    @property
    def in_flight(self) -> int:
        return len(self._running)

    # -- the loop ---------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            log.exception("engine_stopped")
            self._failure = error
            self._started.set()
            if self._loop is not None:
                # A worker without its engine takes no calls: better none than one that looks alive.
                os._exit(70)

    async def _live(self) -> None:
        self._assemble()
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with self._guard:
            services = [
                asyncio.create_task(work, name=name)
                for name, work in (
                    ("outbox", self._outbox.run()),
                    ("nodes", self._nodes.run()),
                    ("follow", self._follow_registry()),
                    ("listener", self._listener.run()),
                    ("fetcher", self._fetch()),
                    ("sessions", self._sessions.sweep(self._version_of)),
                    ("discovery", self._discovery.run()),
                )
            ]
            self._fetcher.follow(self._queues)
            self._started.set()
            stopping = asyncio.create_task(self._stop.wait())
            done, _ = await asyncio.wait([stopping, *services], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # a service never ends by itself: this raises what ended it
            await self._leave(services)

    async def _fetch(self) -> None:
        """Fetch, but not before the first beat: who is not listed as a node is never missed when it dies."""
        await self._nodes.beating.wait()
        await self._fetcher.run()

    def _assemble(self) -> None:
        settings, keys = self._settings, Keys(self._settings.redis.key_prefix)
        self._keys = keys
        self._client = connect_async(self._address)
        self._blocking_client = connect(self._address, size=4)
        self._clock = RedisClock()
        self._guard = ProcessGuard()
        self._catalogue = Catalogue(self._blocking_client, keys)
        self._redis = PipelinedConnection(self._address)
        self._outbox = Outbox(self._redis)
        max_bytes = settings.runtime.max_result_bytes
        self._nodes = Nodes(
            self.node, self._redis, keys, self._clock, self._outbox, result_ttl=settings.runtime.result_ttl
        )
        self._discovery = Discovery(
            node=self.node,
            client=self._client,
            keys=keys,
            clock=self._clock,
            catalogue=self._catalogue,
            serves=self._serves,
            guard=self._guard,
            settings=settings.discovery,
            max_bytes=max_bytes,
        )
        self._sessions = Sessions(self._guard, max_bytes=max_bytes, on_list_changed=self._discovery.announce)
        self._executor = Executor(self._catalogue, self._sessions, self._clock)
        self._fetcher = Fetcher(self.node, self._redis, keys, free=self._free, start=self._begin)
        self._look_at_registry = asyncio.Event()
        self._listener = Listener(
            self._client,
            {
                keys.wake_channel: self._fetcher.wake,
                keys.registry_channel: lambda _: self._look_at_registry.set(),
                keys.cancel_channel: self._cancel,
            },
        )

    async def _leave(self, services: list[asyncio.Task[Any]]) -> None:
        """Drain, answer what is left, say goodbye."""
        self._fetcher.pause()
        log.info("draining", in_flight=len(self._running), timeout=self._drain_timeout)
        await self._drain(next(task for task in services if task.get_name() == "fetcher"))
        self._cut_off.update(self._running)
        for task in list(self._running.values()):
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=FLUSH_TIMEOUT)
        try:
            if await self._outbox.flushed(FLUSH_TIMEOUT):
                await self._nodes.leave()
                await self._outbox.flushed(FLUSH_TIMEOUT)
            else:
                log.error("replies_not_written", in_flight=len(self._running))
        except StoreUnavailable as error:
            log.warning("left_without_goodbye", error=error.message)
        await self._discovery.close()
        await self._sessions.close()
        await _end(services)
        await self._redis.aclose()
        await self._client.aclose()
        self._blocking_client.close()

    async def _drain(self, fetcher: asyncio.Task[Any]) -> None:
        """Let the calls in flight end, those included that a fetch under way still brings.

        The time may be cut short meanwhile: a cold shutdown follows a warm one.
        """
        begun = time.monotonic()
        while (self._running or not fetcher.done()) and time.monotonic() - begun < self._drain_timeout:
            await asyncio.wait([fetcher, *self._running.values()], timeout=DRAIN_LOOK)

    async def _follow_registry(self) -> None:
        """Keep the catalogue fresh: by version once a second, at once when told to."""
        while True:
            self._look_at_registry.clear()
            try:
                if await asyncio.to_thread(self._catalogue.refresh):
                    self._host.tools_changed()
            except StoreUnavailable as error:
                log.debug("registry_not_read", cause=repr(error.__cause__))
            try:
                async with asyncio.timeout(FOLLOW_INTERVAL):
                    await self._look_at_registry.wait()
            except TimeoutError:
                pass

    def _version_of(self, tool: ToolId) -> int | None:
        entry = self._catalogue.get(tool)
        return None if entry is None else entry.registered.version

    def _serves(self, tool: ToolId) -> bool:
        return any(tool_of(queue) == tool for queue in self._queues)

    # -- one call ---------------------------------------------------------------------------------------

    def _free(self) -> int:
        return self.limit - len(self._running)

    def _begin(self, tag: Tag, raw: bytes, queue: str) -> None:
        """Start what was fetched. Called on the loop, right after the message was recorded as ours."""
        try:
            message = read_message(raw, queue)
        except InvalidRequest as error:
            log.error("message_unreadable", queue=queue, error=error.message)
            self._acknowledge(tag)
            return
        if self._foreign(message):
            self._refuse_foreign(tag, message)
        elif message.task != INVOKE_TASK or message.delayed:
            self._hand_over(tag, message)
        elif message.expired(datetime.now(UTC)) or self._host.revoked(message.id):
            self._finish_unstarted(tag, message)
        elif message.id in self._running:
            log.warning("duplicate_call", invocation=message.id)
            self._acknowledge(tag)
        else:
            task = asyncio.create_task(self._serve(tag, message), name=f"call-{message.id}")
            self._running[message.id] = task
            task.add_done_callback(partial(self._ensure_end, tag, message))

    def _foreign(self, message: TaskMessage) -> bool:
        """Whether another gateway sent it: queues have no prefix, so two must not share a Redis."""
        origin = str(message.headers.get("origin") or "")
        return origin.startswith(ORIGIN) and origin != ORIGIN + self._keys.prefix

    def _refuse_foreign(self, tag: Tag, message: TaskMessage) -> None:
        log.error("foreign_call", origin=message.headers.get("origin"), queue=message.queue)
        refusal = failed(
            ToolUnavailable("another gateway takes calls from the same Redis; give each its own")
        )
        self._outbox.put(("PUBLISH", message.reply_to, result_frame(message.id, refusal)))
        self._acknowledge(tag)

    def _hand_over(self, tag: Tag, message: TaskMessage) -> None:
        """Celery's own path for what is none of ours; it stays recorded here until Celery has it."""
        loop = asyncio.get_running_loop()
        self._host.deliver(
            dict(message.envelope),
            message.queue,
            lambda: loop.call_soon_threadsafe(self._acknowledge, tag),  # type: ignore[arg-type]
        )

    def _ensure_end(self, tag: Tag, message: TaskMessage, task: asyncio.Task[None]) -> None:
        """A task cancelled before its first step ran nothing at all, so nothing has answered for it."""
        if self._running.get(message.id) is not task:
            return
        del self._running[message.id]
        if not task.cancelled() and task.exception() is not None:
            log.error("call_broke", invocation=message.id, error=repr(task.exception()))
        self._finish_unstarted(tag, message)
        self._fetcher.wake()

    async def _serve(self, tag: Tag, message: TaskMessage) -> None:
        task = self._running[message.id]
        request = RunningRequest(message, hostname=self._hostname, cancel=self._canceller(task))
        self._host.reserved(request)
        request.started(os.getpid())
        self._host.accepted(request)
        try:
            result = await self._execute(message)
        except asyncio.CancelledError:
            result = failed(InvocationCancelled("the caller cancelled the request"))
        except Exception:
            log.exception("call_broke", invocation=message.id)
            result = failed(InternalError("the worker failed; its log names the invocation"))
        if message.id in self._cut_off and not result.answered:
            result = self._stopped_result()
        self._outbox.put(*self._end(message, result), ("HDEL", self._keys.unacked(self.node), tag))
        del self._running[message.id]
        self._host.ready(request, result)
        self._fetcher.wake()

    @staticmethod
    def _stopped_result() -> ExecutionResult:
        return failed(
            WorkerLost("the worker was stopped while it held the call; whether the tool acted is unknown")
        )

    async def _execute(self, message: TaskMessage) -> ExecutionResult:
        try:
            invocation = self._invocation(message.first_argument(), message.id)
        except GatewayError as error:
            return failed(error)

        def notify(method: str, params: dict[str, Any]) -> None:
            frame = notification_frame(message.id, method, params)
            self._outbox.put_notification(("PUBLISH", message.reply_to, frame))

        def ignore(_method: str, _params: dict[str, Any]) -> None:
            """A stock producer has no channel for notifications."""

        listens = message.reply_to.startswith(self._keys.reply_prefix)
        return await self._executor.run(invocation, notify if listens else ignore)

    async def _by_hand(self, payload: object, task_id: str) -> ExecutionResult:
        try:
            invocation = self._invocation(payload, task_id)
        except GatewayError as error:
            return failed(error)
        return await self._executor.run(invocation, lambda _method, _params: None)

    def _invocation(self, payload: object, task_id: str) -> Invocation:
        timeout_ms = int(self._settings.runtime.request_timeout * 1000)
        return invocation_from_wire(
            payload,
            task_id=task_id,
            default_version=LATEST_LEGACY,
            default_deadline=self._clock.now() + timeout_ms,
        )

    def _end(self, message: TaskMessage, result: ExecutionResult) -> list[Any]:
        return end_of_call(message, result, self._keys, ttl=self._settings.runtime.result_ttl)

    def _finish_unstarted(self, tag: Tag, message: TaskMessage) -> None:
        reason = failed(InvocationCancelled("the call was taken back or expired before it began"))
        result = self._stopped_result() if message.id in self._cut_off else reason
        self._outbox.put(*self._end(message, result), ("HDEL", self._keys.unacked(self.node), tag))

    def _acknowledge(self, tag: Tag) -> None:
        self._outbox.put(("HDEL", self._keys.unacked(self.node), tag))

    def _canceller(self, task: asyncio.Task[None]) -> Any:
        loop = asyncio.get_running_loop()
        return lambda: loop.call_soon_threadsafe(task.cancel)

    def _cancel(self, data: bytes) -> None:
        """A caller took a call back: stop it here, or remember that it must not begin."""
        invocation_id = data.decode()
        task = self._running.get(invocation_id)
        if task is not None:
            task.cancel()
        else:
            self._host.revoke(invocation_id)


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once may be too little: on Python 3.11 ``asyncio.wait_for``, with which redis-py waits, loses a cancellation
    that comes in the same moment as the answer (python/cpython#86296).
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)
