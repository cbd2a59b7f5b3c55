"""One worker's parts, put together: what fetches, what runs, what holds sessions, and the node they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from common.audit.journal import audit_command
from common.calls.head import parts_of
from common.control.reload import Commit, commit_all
from common.domain.audit import AuditEvent, EventKind
from common.domain.ids import InvocationId, NodeId, ToolId, queue_of, tool_of
from common.metrics.figures import Figures, Sample
from common.processes.guard import ProcessGuard, ProcessGuardError
from common.registry.catalogue import Catalogue
from common.settings import Settings
from common.settings.changes import SettingsChanges
from common.store.client import StoreAddress, connect, connect_async, store_errors
from common.store.clock import RedisClock
from common.store.key_ring import keys_of
from common.store.last_words import last_words_of
from common.store.pipelined import PipelinedConnection
from common.store.scripts import script
from common.telemetry.spans import Tracer
from common.tenants.view import Tenants
from gateway_worker.aftermath import Aftermath
from gateway_worker.asking import Asking
from gateway_worker.call_host import CallHost
from gateway_worker.calls import Calls, Place
from gateway_worker.circuits import CircuitReports
from gateway_worker.claims import Claims
from gateway_worker.credentials.service import CredentialService
from gateway_worker.dead_letters import DeadLetterBox
from gateway_worker.delivery import Taken
from gateway_worker.discovery import Discovery
from gateway_worker.egress.backend import make_link
from gateway_worker.execute import Executor
from gateway_worker.fetcher import Fetcher
from gateway_worker.figures import tell_for_ever
from gateway_worker.health import Prober
from gateway_worker.heartbeat import Heartbeat
from gateway_worker.journal_keeping import JournalKeeping
from gateway_worker.journey import Journey
from gateway_worker.listener import Listener
from gateway_worker.message import largest_message
from gateway_worker.node import Node
from gateway_worker.nodes import Nodes
from gateway_worker.outbox import Outbox
from gateway_worker.removed import RemovedQueues
from gateway_worker.roots import RootsNews
from gateway_worker.session_desk import SessionDesk
from gateway_worker.sessions import Keeping, Sessions
from gateway_worker.sweep import GOODBYE, PROCESS_GONE, Sweeper, fence_script
from gateway_worker.telemetry import TaskSignals
from gateway_worker.tool_session import ToolSession
from gateway_worker.watches import WatchStore

log = structlog.get_logger(__name__)

GUARD_GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL for the children of a worker that died."""
GUARD_LOOK = 1.0
"""Seconds between two looks whether the reapers live."""


class Worker:
    """Made on the engine's loop, and belongs to it.

    It is the fetcher's :class:`~gateway_worker.fetcher.Desk` and the node's
    :class:`~gateway_worker.nodes.Cluster` as well.
    """

    def __init__(
        self,
        settings: Settings,
        address: StoreAddress,
        *,
        hostname: str,
        host: CallHost,
        signals: TaskSignals | None,
        tracer: Tracer | None,
        limit: Callable[[], int],
        queues: Callable[[], Collection[str]],
    ) -> None:
        """``limit`` is the most calls in flight, ``queues`` the tools' queues served now; both may change."""
        self._settings = settings
        self._address = address
        self._limit = limit
        self._hostname = hostname
        self._queues = queues
        self.node = Node(hostname)
        self._keys = keys = keys_of(settings.redis)
        self._client = connect_async(address)
        self._blocking_client = connect(address, size=4)
        self._clock = RedisClock()
        self.guard = ProcessGuard(grace=GUARD_GRACE)
        self._links = partial(
            make_link,
            guard=self.guard,
            max_bytes=settings.runtime.max_result_bytes,
            rules=settings.egress.rules,
        )
        self.catalogue = Catalogue(self._blocking_client, keys)
        self._tenants = Tenants(self._blocking_client, keys, settings)
        self._redis = PipelinedConnection(address)
        self.outbox = Outbox(self._redis, keys, result_ttl=settings.runtime.result_ttl)
        self.outbox.bounded = self.most_in_flight
        self._dead_letters = DeadLetterBox(keys, self.outbox, result_ttl=settings.runtime.result_ttl)
        self._nodes = Nodes(self.node, self._redis, keys, self._clock, self)
        self.claims = Claims(self.node, self._redis, keys)
        self.asking = Asking(
            self.node, self._redis, keys, self.outbox, session_idle=settings.web.session_idle_timeout
        )
        self.look_at_registry = asyncio.Event()
        self.credentials = CredentialService(settings, self.node, self._redis, keys, self.outbox)
        self.discovery = self._discovery()
        self.sessions = self._make_sessions()
        self.credentials.sessions = self.sessions.all
        self._roots = RootsNews(self.sessions.all, self.asking, self._redis, keys)
        self._session_desk = SessionDesk(self.node, self.sessions, self._redis, keys)
        self.prober = self._make_prober()
        self._figures = Figures(hostname) if settings.metrics.wanted else None
        self.calls = self._make_calls(hostname, host, signals, tracer)
        self.fetcher = Fetcher(
            self.node, self._redis, keys, self, largest=largest_message(settings.web.max_body_bytes)
        )
        self.calls.on_freed = self.fetcher.freed
        self._aftermath = Aftermath(
            self.node,
            self._redis,
            keys,
            self.outbox,
            self.calls,
            self.claims,
            uncertain=self.fetcher.uncertain,
            fetch_epoch=self.fetch_epoch,
        )
        self._sweeper = Sweeper(
            self.node,
            self._nodes,
            self._redis,
            keys,
            self._clock,
            result_ttl=settings.runtime.result_ttl,
            headless=self._take_over,
        )
        self._journal = JournalKeeping(settings, address, self._redis, keys)
        self._ears: asyncio.Task[None] | None = None
        self._followed: set[str] = set()
        self._removed = RemovedQueues(self._redis, keys, on_forgotten=self._follow)

    def guard_node(self) -> None:
        """Have the reaper end the node's lease if this process dies: it is certain then, and known at once."""
        keys, args = fence_script(self._keys, self.node.id, PROCESS_GONE, actor="reaper")
        command = ("EVAL", script("node_fence").source, len(keys), *keys, *args)
        self.guard.last_words(last_words_of(self._address, command))

    def services(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What runs as long as the worker lives, by name."""
        return {
            **self._heartbeat(),
            **self._telling(),
            "outbox": self.outbox.run(),
            "nodes": self._nodes.run(),
            "sweep": self._sweeper.run(),
            "listener": self._listen(),
            "fetcher": self._fetch(),
            "aftermath": self._aftermath.run(),
            "asking": self.asking.run(),
            "sessions": self.sessions.sweep(),
            "watches": self.sessions.prune_watches(),
            "session-desk": self._session_desk.run(),
            "cut-off": self.sessions.end_when_cut_off(self.node),
            "removed": self._removed.run(),
            "discovery": self.discovery.run(),
            "health": self.prober.run(),
            "credentials": self.credentials.run(),
            "guard": self._keep_guarded(),
            "journal": self._journal.run(),
        }

    def follow(self, queues: Collection[str]) -> None:
        """Serve these queues from now on.

        Those of tools that were removed are served until they are empty, so that what waits there is told so.
        """
        gone = self._followed - set(queues)
        self._followed = set(queues)
        self._removed.discard(self._followed)
        self._removed.add([queue for queue in gone if not self._registered(queue)])
        self._follow()

    def _follow(self) -> None:
        self.fetcher.follow(self._followed | self._removed.names)

    def _registered(self, queue: str) -> bool:
        tool = tool_of(queue)
        return tool is not None and self.catalogue.get(tool) is not None

    async def goodbye(self, seconds: float) -> None:
        """Leave the cluster: nothing is this node's any more, and what it still holds is worked off now.

        Raises :class:`StoreUnavailable`, :class:`TimeoutError`: the sweep of another does it then.
        """
        self._nodes.stop()
        # Whatever still runs here must not be sent behind the goodbye, when others have it.
        self.claims.drop_all()
        async with asyncio.timeout(seconds):
            await self._sweeper.fence(self.node.id, GOODBYE)
            await self._sweeper.rescue(self.node.id)

    async def close(self) -> None:
        """Close the connections."""
        self.credentials.close()
        await self._redis.aclose()
        await self._client.aclose()
        self._blocking_client.close()

    def take_over(self, changes: SettingsChanges) -> None:
        """Let what is live of other settings hold; calls under way end as they began.

        Raises :class:`ConfigurationError` for what cannot be made, and changes nothing then.
        """
        commit_all([self.credentials.prepare, self.calls.prepare, self._prepare_tenants], changes)

    def _prepare_tenants(self, changes: SettingsChanges) -> Commit:
        return lambda: self._tenants.take_over(changes.settings)

    def tell_of_reload(self, event: AuditEvent) -> None:
        """Put into the journal how a reload came out."""
        self.outbox.put(audit_command(self._keys, event))

    def count_reload(self, outcome: str) -> None:
        """Count it."""
        if self._figures is not None:
            self._figures.count("canalgate_reloads", outcome)

    async def registry_changed(self) -> bool:
        """Whether the registry or the tenants are others than were read. Raises :class:`StoreUnavailable`."""
        names = self._keys.registry_version, self._keys.tenants_version
        with store_errors("reading the registry's version"):
            versions = await self._redis.command("MGET", *names)
        seen = [int(version or 0) for version in versions]
        return self.catalogue.doubted or seen != [self.catalogue.version, self._tenants.version]

    def read_registry(self) -> bool:
        """Catch up with both; whether the catalogue changed. It blocks. Raises :class:`StoreUnavailable`."""
        self._tenants.refresh()
        return self.catalogue.refresh()

    def _heartbeat(self) -> dict[str, Coroutine[Any, Any, None]]:
        file = self._settings.worker.heartbeat_file
        if file is None:
            return {}
        return {"heartbeat": Heartbeat(Path(file.replace("%n", self._hostname)), self.node).run()}

    def _telling(self) -> dict[str, Coroutine[Any, Any, None]]:
        if self._figures is None:
            return {}
        self._figures.watch(self._figures_now)
        return {"figures": tell_for_ever(self._figures, self._redis, self._keys)}

    def _figures_now(self) -> Iterator[Sample]:
        yield "canalgate_worker_calls", (), len(self.calls)
        yield "canalgate_worker_sessions", (), len(self.sessions.all())
        yield "canalgate_worker_may_act", (), self.node.may_act
        for (provider, outcome), number in self.credentials.counts.items():
            yield "canalgate_credential_answers", (provider, outcome), number

    # -- putting together -------------------------------------------------------------------------------

    def _discovery(self) -> Discovery:
        return Discovery(
            node=self.node.id,
            client=self._client,
            keys=self._keys,
            clock=self._clock,
            catalogue=self.catalogue,
            serves=self._serves,
            links=self._links,
            settings=self._settings.discovery,
            given_to=self.credentials.identities.of_gateway,
        )

    def _make_sessions(self) -> Sessions:
        return Sessions(
            self._links,
            self.claims,
            Keeping(
                digest_of=self._digest_of,
                settled=lambda: self.catalogue.settled,
                serves=self._serves,
            ),
            max_sessions=self._settings.worker.max_sessions,
            watch_store=WatchStore(
                self._redis, self._keys, self.outbox, session_idle=self._settings.web.session_idle_timeout
            ),
            on_list_changed=self.discovery.announce,
            tell=self._tell_of_session,
            identity_of=self.credentials.identities.of_session,
        )

    def _tell_of_session(self, kind: EventKind, session: ToolSession) -> None:
        """Put into the audit journal that a session was opened or closed."""
        tenant, client, _ = parts_of(session.key.session)
        event = AuditEvent(
            kind=kind,
            actor=self.node.id,
            tool=session.key.tool,
            tenant=tenant,
            client=client,
            session=session.key.session,
            node=self.node.id,
            reason=session.why,
            detail=session.last_words() or f"fence {session.claim.token}",
        )
        self.outbox.put(audit_command(self._keys, event))

    def _make_prober(self) -> Prober:
        return Prober(
            node=lambda: self.node.id,
            client=self._client,
            keys=self._keys,
            clock=self._clock,
            catalogue=self.catalogue,
            serves=lambda tool: self.node.may_act and self._serves(tool),
            links=self._links,
            sessions=self.sessions,
            given_to=self.credentials.identities.of_gateway,
        )

    def _make_calls(
        self, hostname: str, host: CallHost, signals: TaskSignals | None, tracer: Tracer | None
    ) -> Calls:
        journey = Journey(self._redis, self._keys, self.outbox, most_events=self._settings.audit.bound)
        place = Place(
            hostname=hostname,
            keys=self._keys,
            clock=self._clock,
            outbox=self.outbox,
            journey=journey,
            circuits=CircuitReports(self.node, self._redis, self._keys, self.outbox, self.catalogue.get),
            entry=self.catalogue.get,
            dead_letters=self._dead_letters,
            tenants=self._tenants,
            signals=signals,
            tracer=tracer,
            figures=self._figures,
        )
        executor = Executor(
            self.catalogue, self.sessions, self.claims, self.node, journey, self._clock, self.asking
        )
        return Calls(place, executor, host, self._settings)

    def _digest_of(self, tool: ToolId) -> str | None:
        entry = self.catalogue.get(tool)
        return None if entry is None else entry.registered.digest

    def _serves(self, tool: ToolId) -> bool:
        return queue_of(tool) in self._queues()

    # -- hearing ----------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Listen, for each incarnation of the node anew: its own channel has its name."""
        while True:
            keys, node = self._keys, self.node.id
            listener = Listener(
                self._address,
                {
                    keys.wake_channel: self.fetcher.wake,
                    keys.node_wake_channel(node): self.fetcher.wake_direct,
                    keys.registry_channel: self._registry_called,
                    keys.cancel_channel: self.calls.cancel,
                    keys.answer_channel(node): self.asking.hear,
                    keys.roots_channel: self._roots.hear,
                    keys.close_session_channel: self._session_desk.hear,
                },
                on_subscribed=self._look_at_everything,
            )
            self._ears = asyncio.create_task(listener.run(), name="ears")
            try:
                await self._ears
            except asyncio.CancelledError:
                if self.node.id == node:
                    self._ears.cancel()
                    raise

    async def _keep_guarded(self) -> None:
        """Replace a reaper that died, for ever. Degrades: until it can be, children of a dead worker may be left."""
        while True:
            await asyncio.sleep(GUARD_LOOK)
            try:
                self.guard.ensure()
            except ProcessGuardError as error:
                log.error("children_unguarded", error=str(error))

    def _registry_called(self, _data: bytes = b"") -> None:
        self.look_at_registry.set()
        self.credentials.look_now.set()

    def _look_at_everything(self) -> None:
        """What was called out while nobody listened is lost."""
        self.fetcher.look_everywhere()
        self._registry_called()

    async def _fetch(self) -> None:
        """Fetch, but not before the first beat: who is not listed as a node is never missed when it dies."""
        await self._nodes.beating.wait()
        await self.fetcher.run()

    # -- the fetcher's desk -----------------------------------------------------------------------------

    def free(self) -> int:
        """Free slots now."""
        return self._limit() - len(self.calls)

    def start(self, taken: Taken) -> None:
        """Begin with a message; one that was fetched for a former incarnation is another's by now."""
        if taken.node == self.node.id:
            self.calls.begin(taken)

    def most_in_flight(self, queue: str) -> int:
        """The most calls of a queue's tool in flight in the whole cluster; 0: any number."""
        tool = tool_of(queue)
        entry = None if tool is None else self.catalogue.get(tool)
        return 0 if entry is None else entry.tool.max_in_flight or 0

    def owns_sessions(self, queue: str) -> bool:
        """Whether this node owns a session of the queue's tool."""
        tool = tool_of(queue)
        return tool is not None and self.claims.owns_any_of(tool)

    def fetch_epoch(self) -> int | None:
        """The connection to fetch over; None while nothing may be fetched."""
        return self._nodes.fetch_epoch

    # -- the node's standing in the cluster ---------------------------------------------------------------

    def fenced(self) -> None:
        """The node was declared dead: its sessions end, its calls are others' business, it begins anew."""
        self.claims.drop_all()
        self.calls.abandon()
        self.sessions.drop_all()
        self.node.renew()
        self.guard_node()
        self.fetcher.reset()
        if self._ears is not None:
            self._ears.cancel()

    async def forgotten(self) -> None:
        """Redis was restarted or lost its data. Raises :class:`StoreUnavailable`."""
        self.catalogue.doubt()
        self.look_at_registry.set()
        await self._aftermath.put_right()

    def begun_lately(self) -> Collection[InvocationId]:
        """The calls that run, and those begun in the last seconds."""
        return self.calls.begun.lately()

    def confirmed(self, moment: float) -> None:
        """Redis was not restarted before then: what it took long before is safe."""
        self.calls.begun.confirmed(moment)
        self.outbox.confirmed(moment)

    def may_fetch(self) -> None:
        """What kept the node from fetching is over."""
        self.fetcher.allow()

    async def _take_over(self, node: NodeId, tag: str, message: bytes) -> bool:
        """A message without a head that a dead node held: nothing of it was begun, so it begins here.

        Raises :class:`StoreUnavailable`; whether it was taken is seen as with a fetch whose answer was lost.
        """
        return await self.fetcher.take_over(node, tag, message)
