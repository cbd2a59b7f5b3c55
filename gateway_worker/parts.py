"""How the parts of a worker are made: what all of them stand on, and each of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from common.audit.journal import audit_command
from common.domain.audit import EventKind
from common.domain.ids import ToolId, queue_of
from common.metrics.figures import Figures
from common.metrics.start import figures_of
from common.processes.guard import ProcessGuard
from common.registry.catalogue import Catalogue
from common.settings import Settings
from common.store.client import AsyncClient, Client, StoreAddress, connect, connect_async
from common.store.clock import RedisClock
from common.store.key_ring import keys_of
from common.store.keys import Keys
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
from gateway_worker.egress.backend import MakeLink, make_link
from gateway_worker.egress.factories import Factories
from gateway_worker.execute import Executor
from gateway_worker.fetcher import Fetcher
from gateway_worker.figures import count_session
from gateway_worker.guarding import GUARD_GRACE
from gateway_worker.health import Prober
from gateway_worker.journey import Journey
from gateway_worker.message import largest_message
from gateway_worker.node import Node
from gateway_worker.nodes import Nodes
from gateway_worker.outbox import Outbox
from gateway_worker.refused import RefusedCalls
from gateway_worker.session_news import session_event
from gateway_worker.sessions import Keeping, Sessions
from gateway_worker.sweep import OnHeadless, Sweeper
from gateway_worker.telemetry import TaskSignals
from gateway_worker.tool_session import ToolSession
from gateway_worker.watches import WatchStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all parts of one worker share. Belongs to the engine's loop."""

    settings: Settings
    address: StoreAddress
    hostname: str
    queues: Callable[[], Collection[str]]
    node: Node
    guard: ProcessGuard
    keys: Keys
    client: AsyncClient
    blocking_client: Client
    redis: PipelinedConnection
    clock: RedisClock
    catalogue: Catalogue
    tenants: Tenants
    outbox: Outbox
    factories: Factories
    links: MakeLink
    figures: Figures | None

    def serves(self, tool: ToolId) -> bool:
        """Whether the tool's queue is among those served now."""
        return queue_of(tool) in self.queues()

    def digest_of(self, tool: ToolId) -> str | None:
        """Which definition of the tool holds now; None: none is known."""
        entry = self.catalogue.get(tool)
        return None if entry is None else entry.registered.digest

    def tell_of_session(self, kind: EventKind, session: ToolSession) -> None:
        """Put into the audit journal that a session was opened or closed, and count it."""
        if self.figures is not None:
            count_session(self.figures, kind, session)
        self.outbox.put(audit_command(self.keys, session_event(kind, session, self.node.id)))

    async def close(self) -> None:
        """Close the connections."""
        self.factories.close()
        await self.redis.aclose()
        await self.client.aclose()
        self.blocking_client.close()


def make_ground(
    settings: Settings, address: StoreAddress, hostname: str, queues: Callable[[], Collection[str]]
) -> Ground:
    """Nothing is connected yet. ``queues`` are the tools' queues served now."""
    keys, blocking_client = keys_of(settings.redis), connect(address, size=4)
    guard, factories = ProcessGuard(grace=GUARD_GRACE), Factories()
    redis = PipelinedConnection(address)
    links = partial(
        make_link,
        guard=guard,
        max_bytes=settings.runtime.max_result_bytes,
        rules=settings.egress.rules,
        factories=factories,
    )
    return Ground(
        settings=settings,
        address=address,
        hostname=hostname,
        queues=queues,
        node=Node(hostname),
        guard=guard,
        keys=keys,
        client=connect_async(address),
        blocking_client=blocking_client,
        redis=redis,
        clock=RedisClock(),
        catalogue=Catalogue(blocking_client, keys),
        tenants=Tenants(blocking_client, keys, settings),
        outbox=Outbox(redis, keys, result_ttl=settings.runtime.result_ttl),
        factories=factories,
        links=links,
        figures=figures_of(settings, hostname, "worker"),
    )


def make_asking(ground: Ground) -> Asking:
    """What passes a backend's questions on to the client that called."""
    idle = ground.settings.web.session_idle_timeout
    return Asking(ground.node, ground.redis, ground.keys, ground.outbox, session_idle=idle)


def make_discovery(ground: Ground, credentials: CredentialService) -> Discovery:
    """What asks tools what they offer. One worker's, under the name that its node has now."""
    return Discovery(
        node=ground.node.id,
        client=ground.client,
        keys=ground.keys,
        clock=ground.clock,
        catalogue=ground.catalogue,
        serves=ground.serves,
        links=ground.links,
        settings=ground.settings.discovery,
        given_to=credentials.identities.of_gateway,
    )


def make_sessions(
    ground: Ground, claims: Claims, discovery: Discovery, credentials: CredentialService
) -> Sessions:
    """The sessions with backends that this worker holds."""
    idle = ground.settings.web.session_idle_timeout
    return Sessions(
        ground.links,
        claims,
        Keeping(
            digest_of=ground.digest_of,
            settled=lambda: ground.catalogue.settled,
            serves=ground.serves,
        ),
        max_sessions=ground.settings.worker.max_sessions,
        watch_store=WatchStore(ground.redis, ground.keys, ground.outbox, session_idle=idle),
        on_list_changed=discovery.announce,
        tell=ground.tell_of_session,
        identity_of=credentials.identities.of_session,
    )


def make_prober(ground: Ground, sessions: Sessions, credentials: CredentialService) -> Prober:
    """What asks tools how they are, while the node may act."""
    return Prober(
        node=lambda: ground.node.id,
        client=ground.client,
        keys=ground.keys,
        clock=ground.clock,
        catalogue=ground.catalogue,
        serves=lambda tool: ground.node.may_act and ground.serves(tool),
        links=ground.links,
        sessions=sessions,
        given_to=credentials.identities.of_gateway,
    )


def make_calls(
    ground: Ground,
    sessions: Sessions,
    claims: Claims,
    asking: Asking,
    refused: RefusedCalls,
    *,
    host: CallHost,
    signals: TaskSignals | None,
    tracer: Tracer | None,
) -> Calls:
    """The calls in flight, and what runs them. No ``tracer``: tracing is off."""
    keys, outbox, settings = ground.keys, ground.outbox, ground.settings
    entry = ground.catalogue.get
    journey = Journey(ground.redis, keys, outbox, most_events=settings.audit.bound)
    place = Place(
        hostname=ground.hostname,
        keys=keys,
        clock=ground.clock,
        outbox=outbox,
        journey=journey,
        circuits=CircuitReports(ground.node, ground.redis, keys, outbox, entry),
        entry=entry,
        dead_letters=DeadLetterBox(keys, outbox, result_ttl=settings.runtime.result_ttl),
        tenants=ground.tenants,
        refused=refused,
        signals=signals,
        tracer=tracer,
        figures=ground.figures,
    )
    executor = Executor(ground.catalogue, sessions, claims, ground.node, journey, ground.clock, asking)
    return Calls(place, executor, host, settings)


def make_fetcher(ground: Ground, desk: CallDesk) -> Fetcher:
    """What brings messages to the desk."""
    largest = largest_message(ground.settings.web.max_body_bytes)
    return Fetcher(ground.node, ground.redis, ground.keys, desk, largest=largest)


def make_aftermath(
    ground: Ground, calls: Calls, claims: Claims, fetcher: Fetcher, desk: CallDesk
) -> Aftermath:
    """What puts right what Redis forgot."""
    return Aftermath(
        ground.node,
        ground.redis,
        ground.keys,
        ground.outbox,
        calls,
        claims,
        uncertain=fetcher.uncertain,
        fetch_epoch=desk.fetch_epoch,
    )


def make_sweeper(ground: Ground, nodes: Nodes, *, headless: OnHeadless) -> Sweeper:
    """What works off dead nodes. ``headless`` takes messages over of which nothing was begun."""
    return Sweeper(
        ground.node,
        nodes,
        ground.redis,
        ground.keys,
        ground.clock,
        result_ttl=ground.settings.runtime.result_ttl,
        headless=headless,
    )
