"""The worker's data plane: one asyncio loop in a thread of its own, beside Celery's stock consumer.

Celery keeps the command line, remote control, inspection, events and every queue that is no tool's. The engine
fetches the tool queues, runs the calls on the loop that also holds the sessions, and answers.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import structlog

from common.domain.audit import AuditEvent
from common.domain.errors import ConfigurationError, InvocationCancelled, StoreUnavailable
from common.domain.ids import ToolId
from common.domain.invocation import ExecutionResult, failed
from common.registry.catalogue import Catalogue
from common.settings import Settings
from common.settings.changes import SettingsChanges
from common.store.client import StoreAddress
from common.telemetry.spans import Tracer
from gateway_worker.call_host import CallHost
from gateway_worker.calls import Calls
from gateway_worker.node import Node
from gateway_worker.outbox import Command
from gateway_worker.telemetry import TaskSignals
from gateway_worker.worker import Worker

log = structlog.get_logger(__name__)

FOLLOW_INTERVAL = 1.0
FLUSH_TIMEOUT, SHORT_PATIENCE = 5.0, 0.3
DRAIN_LOOK = 0.05
CANCEL_AGAIN = 0.5
TAKE_OVER_WITHIN = 30.0
EVENTS_INTERVAL = 0.25
"""Seconds between two messages with task events."""


class Host(CallHost, Protocol):
    """What the engine needs of the Celery worker it lives in. Called from the engine's thread."""

    def events(self) -> Iterator[Command]:
        """Commands that publish what happened since the last time, little with the first; losing one is no fault.

        What is not asked for need not be made.
        """

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
        tracer: Tracer | None = None,
    ) -> None:
        """``limit`` is the most calls in flight; ``hostname`` Celery's node name. No ``tracer``: tracing is off."""
        self.limit = limit
        self._node: Node | None = None
        self.settings = settings
        self._address = address
        self._hostname = hostname
        self._host = host
        self._signals = signals
        self._tracer = tracer
        self._queues: frozenset[str] = frozenset()
        self._calls: Calls | None = None
        self._catalogue: Catalogue | None = None
        self._worker: Worker | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="engine")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._telling = asyncio.Lock()
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
        if self._loop is not None and self._worker is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._worker.follow, self._queues)

    def enqueue(
        self, payload: object, task_id: str, trace: Mapping[str, str] | None = None
    ) -> ExecutionResult | None:
        """Put an invocation that came by Celery's own path (a delayed task) on its tool's queue; the refusal, if any.

        Blocks a pool thread for a moment. Raises :class:`StoreUnavailable`.
        """
        if self._loop is None or self._calls is None:
            return failed(InvocationCancelled("the worker is stopping"))
        work = self._calls.enqueue(payload, task_id, trace)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def take_over(self, changes: SettingsChanges) -> None:
        """Let what is live of other settings hold. Called by any thread but the loop's; waits until it is done.

        Raises :class:`ConfigurationError` for what cannot be made, and changes nothing then.
        """
        if self._loop is None or self._worker is None:
            raise ConfigurationError("this worker does not run yet, or no longer")
        worker = self._worker

        async def take() -> None:
            worker.take_over(changes)

        asyncio.run_coroutine_threadsafe(take(), self._loop).result(TAKE_OVER_WITHIN)
        self.settings = changes.settings

    def tell_of_reload(self, event: AuditEvent) -> None:
        """Put into the journal how a reload came out; it is written when Redis takes it."""
        if self._loop is not None and self._worker is not None:
            self._loop.call_soon_threadsafe(self._worker.tell_of_reload, event)

    def count_reload(self, outcome: str) -> None:
        """Count it."""
        if self._loop is not None and self._worker is not None:
            self._loop.call_soon_threadsafe(self._worker.count_reload, outcome)

    @property
    def node(self) -> str:
        """This process's present name in the cluster; empty before it has one."""
        return "" if self._node is None else self._node.id

    def tools(self) -> list[ToolId]:
        """The tools registered now, as this worker knows them."""
        return [] if self._catalogue is None else [entry.id for entry in self._catalogue.entries()]

    @property
    def in_flight(self) -> int:
        return 0 if self._calls is None else len(self._calls)

    # -- the loop ---------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the start raises it
            self._failure = error
            self._started.set()

    async def _run(self) -> None:
        """Live. What ends it ends the process at once: what it left behind may not let itself be cancelled."""
        try:
            await self._live()
        except BaseException:
            log.exception("engine_stopped")
            if self._loop is not None:
                # A worker without its engine takes no calls: better none than one that looks alive.
                os._exit(70)
            raise

    async def _live(self) -> None:
        worker = self._worker = Worker(
            self.settings,
            self._address,
            hostname=self._hostname,
            host=self._host,
            signals=self._signals,
            tracer=self._tracer,
            limit=lambda: self.limit,
            queues=lambda: self._queues,
        )
        self._calls, self._node, self._catalogue = worker.calls, worker.node, worker.catalogue
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with worker.guard:
            worker.guarding.guard_node()
            services = [
                asyncio.create_task(work, name=name)
                for name, work in (
                    *worker.services().items(),
                    ("follow", self._follow_registry(worker)),
                    ("events", self._tell_events(worker)),
                )
            ]
            worker.follow(self._queues)
            self._started.set()
            stopping = asyncio.create_task(self._stop.wait())
            done, _ = await asyncio.wait([stopping, *services], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # a service never ends by itself: this raises what ended it
            await self._leave(worker, services)

    # -- leaving ----------------------------------------------------------------------------------------

    async def _leave(self, worker: Worker, services: list[asyncio.Task[Any]]) -> None:
        """Drain and hand over, answer what is left, say goodbye."""
        calls, outbox = worker.calls, worker.outbox
        worker.fetcher.pause()
        worker.sessions.leave()
        log.info("draining", in_flight=len(calls), timeout=self._drain_timeout)
        fetcher = next(task for task in services if task.get_name() == "fetcher")
        await self._drain(calls, fetcher)
        calls.cut_off()
        await asyncio.wait([fetcher, *calls.tasks()], timeout=FLUSH_TIMEOUT)
        if not await calls.aside.settled(FLUSH_TIMEOUT):
            log.error("calls_not_returned")  # the record stays: whoever works off this node returns them
        await self._publish_events(worker)
        patience = FLUSH_TIMEOUT
        if not await outbox.flushed(FLUSH_TIMEOUT):
            log.error("replies_not_written", in_flight=len(calls))
            patience = SHORT_PATIENCE  # Redis has been waited for: what is left is worked off by others
        await worker.discovery.close()
        await worker.prober.close()
        await worker.sessions.close()
        if not await worker.claims.released(patience):
            patience = SHORT_PATIENCE
        try:
            await worker.goodbye(patience)
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("left_without_goodbye", cause=repr(error))
        await outbox.flushed(patience)
        await _end(services)
        await worker.close()

    async def _drain(self, calls: Calls, fetcher: asyncio.Task[Any]) -> None:
        """Let the calls in flight end, those included that a fetch under way still brings.

        The time may be cut short meanwhile: a cold shutdown follows a warm one.
        """
        begun = time.monotonic()
        while (calls or not fetcher.done()) and time.monotonic() - begun < self._drain_timeout:
            await asyncio.wait([fetcher, *calls.tasks()], timeout=DRAIN_LOOK)

    # -- events and the registry ------------------------------------------------------------------------

    async def _tell_events(self, worker: Worker) -> None:
        while True:
            await asyncio.sleep(EVENTS_INTERVAL)
            try:
                await self._publish_events(worker)
            except Exception:
                log.exception("events_not_told")  # monitors miss some; no call depends on them

    async def _publish_events(self, worker: Worker) -> None:
        """Publish Celery's events of the calls; between two messages others get their turn.

        Where nobody hears the first, the others are not even made: they are a twentieth of what a call costs here.
        """
        async with self._telling:  # the last are told while these may still wait for an answer
            commands = self._host.events()
            first = next(commands, None)
            if first is None or not await _heard(worker.outbox.put_question(first)):
                return
            for command in commands:
                worker.outbox.put_notification(command)
                await asyncio.sleep(0)

    async def _follow_registry(self, worker: Worker) -> None:
        """Keep the catalogue fresh: by version once a second, at once when told to."""
        while True:
            worker.look_at_registry.clear()
            try:
                if await worker.registry_changed() and await asyncio.to_thread(worker.read_registry):
                    self._host.tools_changed()
            except StoreUnavailable as error:
                log.debug("registry_not_read", cause=repr(error.__cause__))
            except Exception:
                # A record that nobody foresaw, or no thread to be had: the tools stay as they are known.
                log.exception("registry_not_read")
            try:
                async with asyncio.timeout(FOLLOW_INTERVAL):
                    await worker.look_at_registry.wait()
            except TimeoutError:
                pass


async def _heard(receivers: asyncio.Future[int | None]) -> bool:
    """Whether anybody may have heard a publication: Redis says so, or does not say in time that nobody did."""
    await asyncio.wait([receivers], timeout=EVENTS_INTERVAL)
    return not receivers.done() or receivers.result() != 0


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
