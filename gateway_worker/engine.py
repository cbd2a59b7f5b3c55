"""The worker's data plane: one asyncio loop in a thread of its own, beside Celery's stock consumer.

Celery keeps the command line, remote control, inspection, events and every queue that is no tool's. The engine
fetches the tool queues, runs the calls on the loop that also holds the sessions, and answers.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Collection, Iterable
from typing import Any, Protocol
from uuid import uuid4

import structlog

from common.domain.errors import InvocationCancelled, StoreUnavailable
from common.domain.ids import NodeId, ToolId, queue_of
from common.domain.invocation import ExecutionResult, failed
from common.processes.guard import ProcessGuard
from common.registry.catalogue import Catalogue
from common.settings import Settings
from common.store.client import StoreAddress, connect, connect_async, store_errors
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.calls import CallHost, Calls, Place
from gateway_worker.dead_letters import DeadLetterBox
from gateway_worker.discovery import Discovery
from gateway_worker.execute import Executor
from gateway_worker.fetcher import Fetcher
from gateway_worker.listener import Listener
from gateway_worker.message import largest_message
from gateway_worker.nodes import Nodes
from gateway_worker.outbox import Command, Outbox
from gateway_worker.sessions import Sessions
from gateway_worker.telemetry import TaskSignals

log = structlog.get_logger(__name__)

FOLLOW_INTERVAL = 1.0
FLUSH_TIMEOUT = 5.0
DRAIN_LOOK = 0.05
CANCEL_AGAIN = 0.5
EVENTS_INTERVAL = 0.25
"""Seconds between two messages with task events."""


class Host(CallHost, Protocol):
    """What the engine needs of the Celery worker it lives in. Called from the engine's thread."""

    def events(self) -> Iterable[Command]:
        """Commands that publish what happened since the last time; losing one is no fault."""

    def tools_changed(self) -> None:
        """The catalogue changed: queues may have to be taken up or dropped."""


class Engine:
    """Start and stop it from Celery's main thread; everything else happens on its loop."""

    def __init__(
        self,
        settings: Settings,
        address: StoreAddress,
        *,
        hostname: str,
        limit: int,
        host: Host,
        signals: TaskSignals | None = None,
    ) -> None:
        """``limit`` is the most calls in flight; ``hostname`` Celery's node name."""
        self.node = NodeId(f"{hostname}:{uuid4().hex[:8]}")
        self.limit = limit
        self._settings = settings
        self._address = address
        self._hostname = hostname
        self._host = host
        self._signals = signals
        self._queues: frozenset[str] = frozenset()
        self._calls: Calls | None = None
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
        if self._loop is None or self._calls is None:
            return failed(InvocationCancelled("the worker is stopping"))
        return asyncio.run_coroutine_threadsafe(
            self._calls.run_by_hand(payload, task_id), self._loop
        ).result()

    def tools(self) -> list[ToolId]:
        """The tools registered now, as this worker knows them."""
        return [entry.id for entry in self._catalogue.entries()]

    @property
    def in_flight(self) -> int:
        return 0 if self._calls is None else len(self._calls)

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
        calls = self._calls = self._assemble()
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
                    ("events", self._tell_events()),
                )
            ]
            self._fetcher.follow(self._queues)
            self._started.set()
            stopping = asyncio.create_task(self._stop.wait())
            done, _ = await asyncio.wait([stopping, *services], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # a service never ends by itself: this raises what ended it
            await self._leave(calls, services)

    def _assemble(self) -> Calls:
        settings, keys = self._settings, Keys(self._settings.redis.key_prefix)
        self._keys = keys
        self._client = connect_async(self._address)
        self._blocking_client = connect(self._address, size=4)
        self._clock = RedisClock()
        self._guard = ProcessGuard()
        self._catalogue = Catalogue(self._blocking_client, keys)
        self._redis = PipelinedConnection(self._address)
        self._outbox = Outbox(self._redis)
        result_ttl = settings.runtime.result_ttl
        self._dead_letters = DeadLetterBox(self.node, keys, self._outbox, result_ttl=result_ttl)
        self._nodes = Nodes(
            self.node,
            self._redis,
            keys,
            self._clock,
            self._outbox,
            result_ttl=result_ttl,
            unreadable=self._dead_letters.put_unrecorded,
        )
        max_bytes = settings.runtime.max_result_bytes
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
        return self._assemble_calls(settings)

    def _assemble_calls(self, settings: Settings) -> Calls:
        """The calls, what brings them, and what they are told from outside."""
        keys = self._keys
        place = Place(
            node=self.node,
            hostname=self._hostname,
            keys=keys,
            clock=self._clock,
            outbox=self._outbox,
            dead_letters=self._dead_letters,
            signals=self._signals,
        )
        executor = Executor(self._catalogue, self._sessions, self._clock)
        calls = Calls(place, executor, self._host, settings.runtime)
        self._fetcher = Fetcher(
            self.node,
            self._redis,
            keys,
            largest=largest_message(settings.web.max_body_bytes),
            free=lambda: self.limit - len(calls),
            start=calls.begin,
        )
        calls.on_freed = self._fetcher.freed
        self._look_at_registry = asyncio.Event()
        self._listener = Listener(
            self._address,
            {
                keys.wake_channel: self._fetcher.wake,
                keys.registry_channel: lambda _: self._look_at_registry.set(),
                keys.cancel_channel: calls.cancel,
            },
            on_subscribed=self._look_at_everything,
        )
        return calls

    def _look_at_everything(self) -> None:
        """What was called out while nobody listened is lost."""
        self._fetcher.wake()
        self._look_at_registry.set()

    async def _fetch(self) -> None:
        """Fetch, but not before the first beat: who is not listed as a node is never missed when it dies."""
        await self._nodes.beating.wait()
        await self._fetcher.run()

    # -- leaving ----------------------------------------------------------------------------------------

    async def _leave(self, calls: Calls, services: list[asyncio.Task[Any]]) -> None:
        """Drain, answer what is left, say goodbye."""
        self._fetcher.pause()
        log.info("draining", in_flight=len(calls), timeout=self._drain_timeout)
        await self._drain(calls, next(task for task in services if task.get_name() == "fetcher"))
        calls.cut_off()
        if calls:
            await asyncio.wait(calls.tasks(), timeout=FLUSH_TIMEOUT)
        await self._publish_events()
        try:
            if await self._outbox.flushed(FLUSH_TIMEOUT):
                await self._nodes.leave()
                await self._outbox.flushed(FLUSH_TIMEOUT)
            else:
                log.error("replies_not_written", in_flight=len(calls))
        except StoreUnavailable as error:
            log.warning("left_without_goodbye", error=error.message)
        await self._discovery.close()
        await self._sessions.close()
        await _end(services)
        await self._redis.aclose()
        await self._client.aclose()
        self._blocking_client.close()

    async def _drain(self, calls: Calls, fetcher: asyncio.Task[Any]) -> None:
        """Let the calls in flight end, those included that a fetch under way still brings.

        The time may be cut short meanwhile: a cold shutdown follows a warm one.
        """
        begun = time.monotonic()
        while (calls or not fetcher.done()) and time.monotonic() - begun < self._drain_timeout:
            await asyncio.wait([fetcher, *calls.tasks()], timeout=DRAIN_LOOK)

    # -- events and the registry ------------------------------------------------------------------------

    async def _tell_events(self) -> None:
        while True:
            await asyncio.sleep(EVENTS_INTERVAL)
            await self._publish_events()

    async def _publish_events(self) -> None:
        """Publish Celery's events of the calls; between two messages others get their turn."""
        for command in self._host.events():
            self._outbox.put_notification(command)
            await asyncio.sleep(0)

    async def _follow_registry(self) -> None:
        """Keep the catalogue fresh: by version once a second, at once when told to."""
        while True:
            self._look_at_registry.clear()
            try:
                if await self._registry_changed() and await asyncio.to_thread(self._catalogue.refresh):
                    self._host.tools_changed()
            except StoreUnavailable as error:
                log.debug("registry_not_read", cause=repr(error.__cause__))
            try:
                async with asyncio.timeout(FOLLOW_INTERVAL):
                    await self._look_at_registry.wait()
            except TimeoutError:
                pass

    async def _registry_changed(self) -> bool:
        with store_errors("reading the registry's version"):
            version = await self._redis.command("GET", self._keys.registry_version)
        return int(version or 0) != self._catalogue.version

    def _version_of(self, tool: ToolId) -> int | None:
        entry = self._catalogue.get(tool)
        return None if entry is None else entry.registered.version

    def _serves(self, tool: ToolId) -> bool:
        return queue_of(tool) in self._queues


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
