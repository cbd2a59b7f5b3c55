"""One worker's parts, put together: what fetches, what runs, what holds sessions, and the node they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from common.audit.journal import audit_command
from common.control.reload import Commit, commit_all
from common.domain.audit import AuditEvent, EventKind
from common.domain.ids import InvocationId, NodeId, ToolId, queue_of
from common.metrics.start import figures_of
from common.processes.guard import ProcessGuard
from common.registry.catalogue import Catalogue
from common.settings import Settings
from common.settings.changes import SettingsChanges
from common.store.client import StoreAddress, connect, connect_async, store_errors
from common.store.clock import RedisClock
from common.store.key_ring import keys_of
from common.store.pipelined import PipelinedConnection
from common.telemetry.spans import Tracer
from common.tenants.view import Tenants
from gateway_worker.aftermath import Aftermath
from gateway_worker.asking import Asking
from gateway_worker.call_desk import CallDesk
from gateway_worker.call_host import CallHost
from gateway_worker.call_place import Place
from gateway_worker.calls import Calls
from gateway_worker.circuits import CircuitReports
from gateway_worker.claims import Claims
from gateway_worker.credentials.service import CredentialService
from gateway_worker.dead_letters import DeadLetterBox
from gateway_worker.discovery import Discovery
from gateway_worker.egress.backend import make_link
from gateway_worker.egress.factories import Factories
from gateway_worker.execute import Executor
from gateway_worker.fetcher import Fetcher
from gateway_worker.figures import count_session, samples, telling
from gateway_worker.guarding import GUARD_GRACE, Guarding
from gateway_worker.health import Prober
from gateway_worker.hearing import Hearing
from gateway_worker.heartbeat import Heartbeat
from gateway_worker.journal_keeping import JournalKeeping
from gateway_worker.journey import Journey
from gateway_worker.listener import Hearer
from gateway_worker.message import largest_message
from gateway_worker.node import Node
from gateway_worker.nodes import Nodes
from gateway_worker.outbox import Outbox
from gateway_worker.refused import RefusedCalls
from gateway_worker.roots import RootsNews
from gateway_worker.served import Served
from gateway_worker.session_desk import SessionDesk
from gateway_worker.session_news import session_event
from gateway_worker.sessions import Keeping, Sessions
from gateway_worker.sourcing import Sourcing
from gateway_worker.sweep import GOODBYE, Sweeper
from gateway_worker.telemetry import TaskSignals
from gateway_worker.tool_session import ToolSession
from gateway_worker.watches import WatchStore


class Worker:
    """Made on the engine's loop, and belongs to it.

    It is the node's :class:`~gateway_worker.nodes.Cluster` as well.
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
        self._hostname = hostname
        self._queues = queues
        self.node = Node(hostname)
        self._keys = keys = keys_of(settings.redis)
        self._client = connect_async(address)
        self._blocking_client = connect(address, size=4)
        self._clock = RedisClock()
        self.guard = ProcessGuard(grace=GUARD_GRACE)
        self.guarding = Guarding(self.guard, address, keys, self.node)
        self._factories = Factories()
        self._links = partial(
            make_link,
            guard=self.guard,
            max_bytes=settings.runtime.max_result_bytes,
            rules=settings.egress.rules,
            factories=self._factories,
        )
        self.catalogue = Catalogue(self._blocking_client, keys)
        self._tenants = Tenants(self._blocking_client, keys, settings)
        self._redis = PipelinedConnection(address)
        self.outbox = Outbox(self._redis, keys, result_ttl=settings.runtime.result_ttl)
        self._dead_letters = DeadLetterBox(keys, self.outbox, result_ttl=settings.runtime.result_ttl)
        self._refused = RefusedCalls(keys, self.outbox)
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
        self._figures = figures_of(settings, hostname, "worker")
        self.calls = self._make_calls(hostname, host, signals, tracer)
        desk = CallDesk(self.node, self.calls, self.claims, self.catalogue, self._nodes, limit)
        self.outbox.bounded = desk.most_in_flight
        self.fetcher = Fetcher(
            self.node, self._redis, keys, desk, largest=largest_message(settings.web.max_body_bytes)
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
            fetch_epoch=desk.fetch_epoch,
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
        self._hearing = Hearing(address, self.node, self._hearers, self._look_at_everything)
        self._served = Served(self._redis, keys, self.catalogue, on_changed=self.fetcher.follow)

    def services(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What runs as long as the worker lives, by name."""
        return {
            **self._heartbeat(),
            **self._telling(),
            **self._sourcing(),
            "outbox": self.outbox.run(),
            "nodes": self._nodes.run(),
            "sweep": self._sweeper.run(),
            "listener": self._hearing.run(),
            "fetcher": self._fetch(),
            "aftermath": self._aftermath.run(),
            "asking": self.asking.run(),
            "sessions": self.sessions.sweep(),
            "watches": self.sessions.prune_watches(),
            "session-desk": self._session_desk.run(),
            "cut-off": self.sessions.end_when_cut_off(self.node),
            "removed": self._served.run(),
            "discovery": self.discovery.run(),
            "health": self.prober.run(),
            "credentials": self.credentials.run(),
            "guard": self.guarding.run(),
            "journal": self._journal.run(),
            "refused": self._refused.run(),
            "transports": self._factories.run(),
        }

    def follow(self, queues: Collection[str]) -> None:
        """Serve these queues from now on, and those of removed tools until they are empty."""
        self._served.follow(queues)

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
        self._factories.close()
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

    def _sourcing(self) -> dict[str, Coroutine[Any, Any, None]]:
        if not self._settings.sources.listed:
            return {}
        asking = Sourcing(self._settings, self._address, self.node, self._redis, self._keys, self._figures)
        return {"sources": asking.run()}

    def _telling(self) -> dict[str, Coroutine[Any, Any, None]]:
        if self._figures is None:
            return {}
        looked_at = partial(samples, self.node, self.calls, self.sessions, self.credentials)
        return telling(self._figures, looked_at, self._settings, self._redis, self._keys)

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
        """Put into the audit journal that a session was opened or closed, and count it."""
        if self._figures is not None:
            count_session(self._figures, kind, session)
        self.outbox.put(audit_command(self._keys, session_event(kind, session, self.node.id)))

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
            refused=self._refused,
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

    def _hearers(self, node: NodeId) -> Mapping[str, Hearer]:
        keys = self._keys
        return {
            keys.wake_channel: self.fetcher.wake,
            keys.node_wake_channel(node): self.fetcher.wake_direct,
            keys.registry_channel: self._registry_called,
            keys.cancel_channel: self.calls.cancel,
            keys.answer_channel(node): self.asking.hear,
            keys.roots_channel: self._roots.hear,
            keys.close_session_channel: self._session_desk.hear,
        }

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

    # -- the node's standing in the cluster ---------------------------------------------------------------

    def fenced(self) -> None:
        """The node was declared dead: its sessions end, its calls are others' business, it begins anew."""
        self.claims.drop_all()
        self.calls.abandon()
        self.sessions.drop_all()
        self.node.renew()
        self.guarding.guard_node()
        self.fetcher.reset()
        self._hearing.anew()

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
