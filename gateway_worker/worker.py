"""One worker's parts, put together: what fetches, what runs, what holds sessions, and the node they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from common.audit.journal import audit_command
from common.control.reload import Commit, commit_all
from common.domain.audit import AuditEvent
from common.domain.ids import InvocationId, NodeId
from common.settings import Settings
from common.settings.changes import SettingsChanges
from common.store.client import StoreAddress, store_errors
from common.telemetry.spans import Tracer
from gateway_worker.call_desk import CallDesk
from gateway_worker.call_host import CallHost
from gateway_worker.claims import Claims
from gateway_worker.credentials.service import CredentialService
from gateway_worker.figures import samples, telling
from gateway_worker.guarding import Guarding
from gateway_worker.hearing import Hearing
from gateway_worker.heartbeat import Heartbeat
from gateway_worker.journal_keeping import JournalKeeping
from gateway_worker.listener import Hearer
from gateway_worker.nodes import Nodes
from gateway_worker.parts import (
    make_aftermath,
    make_asking,
    make_calls,
    make_discovery,
    make_fetcher,
    make_ground,
    make_prober,
    make_sessions,
    make_sweeper,
)
from gateway_worker.refused import RefusedCalls
from gateway_worker.roots import RootsNews
from gateway_worker.served import Served
from gateway_worker.session_desk import SessionDesk
from gateway_worker.sourcing import Sourcing
from gateway_worker.sweep import GOODBYE
from gateway_worker.telemetry import TaskSignals


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
        self._ground = ground = make_ground(settings, address, hostname, queues)
        self._keys, self._redis = keys, redis = ground.keys, ground.redis
        self.node, self.guard, self.outbox = ground.node, ground.guard, ground.outbox
        self.catalogue, self._tenants = ground.catalogue, ground.tenants
        self.guarding = Guarding(ground.guard, address, keys, ground.node)
        self.look_at_registry = asyncio.Event()
        self._nodes = Nodes(ground.node, redis, keys, ground.clock, self)
        self.claims = Claims(ground.node, redis, keys)
        self.asking = make_asking(ground)
        self.credentials = CredentialService(settings, ground.node, redis, keys, ground.outbox)
        self.discovery = make_discovery(ground, self.credentials)
        self.sessions = make_sessions(ground, self.claims, self.discovery, self.credentials)
        self.credentials.sessions = self.sessions.all
        self._roots = RootsNews(self.sessions.all, self.asking, redis, keys)
        self._session_desk = SessionDesk(ground.node, self.sessions, redis, keys)
        self.prober = make_prober(ground, self.sessions, self.credentials)
        self._refused = RefusedCalls(keys, ground.outbox)
        self.calls = make_calls(
            *(ground, self.sessions, self.claims, self.asking, self._refused),
            host=host,
            signals=signals,
            tracer=tracer,
        )
        desk = CallDesk(ground.node, self.calls, self.claims, ground.catalogue, self._nodes, limit)
        ground.outbox.bounded = desk.most_in_flight
        self.fetcher = make_fetcher(ground, desk)
        self.calls.on_freed = self.fetcher.freed
        self._aftermath = make_aftermath(ground, self.calls, self.claims, self.fetcher, desk)
        self._sweeper = make_sweeper(ground, self._nodes, headless=self._take_over)
        self._journal = JournalKeeping(settings, address, redis, keys)
        self._hearing = Hearing(address, ground.node, self._hearers, self._look_at_everything)
        self._served = Served(redis, keys, ground.catalogue, on_changed=self.fetcher.follow)

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
            "transports": self._ground.factories.run(),
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
        await self._ground.close()

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
        if self._ground.figures is not None:
            self._ground.figures.count("canalgate_reloads", outcome)

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
        file = self._ground.settings.worker.heartbeat_file
        if file is None:
            return {}
        return {"heartbeat": Heartbeat(Path(file.replace("%n", self._ground.hostname)), self.node).run()}

    def _sourcing(self) -> dict[str, Coroutine[Any, Any, None]]:
        if not self._ground.settings.sources.listed:
            return {}
        ground = self._ground
        asking = Sourcing(ground.settings, ground.address, self.node, self._redis, self._keys, ground.figures)
        return {"sources": asking.run()}

    def _telling(self) -> dict[str, Coroutine[Any, Any, None]]:
        if self._ground.figures is None:
            return {}
        looked_at = partial(samples, self.node, self.calls, self.sessions, self.credentials)
        return telling(self._ground.figures, looked_at, self._ground.settings, self._redis, self._keys)

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
