"""What a process that sends calls holds, and what it does beside them: it listens, follows the registry, tidies up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

import orjson
import structlog

from common.audit.refusals import Refusals
from common.calls.call import CallPlace
from common.calls.call_stream import CallStreams
from common.calls.cancellation import Cancellations
from common.calls.client_answers import ClientAnswers
from common.calls.queueing import Queueing
from common.calls.replies import ReplyHub
from common.calls.request_state import RequestStates
from common.control.reload import Commit, Prepare, commit_all
from common.domain.errors import StoreUnavailable
from common.identity.api_keys import IssuedKeys
from common.metrics.figures import Figures
from common.policy.counters import CounterReader
from common.policy.policy import Policy
from common.readiness import Readiness
from common.registry.catalogue import Catalogue
from common.registry.lifecycle import Lifecycle
from common.registry.registry import Registry
from common.registry.retirement import Retirement
from common.sessions.connections import Connections
from common.sessions.mcp import McpSessions
from common.sessions.stream import Listeners, SessionStreams
from common.settings import Settings
from common.settings.changes import SettingsChanges
from common.store.client import Client, StoreAddress, connect, store_errors
from common.store.clock import RedisClock
from common.store.key_ring import keys_of
from common.store.shared import SharedConnection
from common.telemetry.spans import Tracer
from common.tenants.rates import FullBuckets, RequestRates
from common.tenants.view import Tenants

log = structlog.get_logger(__name__)


class Process:
    """The parts of one process's door to the tools, and their upkeep. A context manager, or ``start`` and ``close``."""

    figures: Figures | None = None
    """What this process counts; None where nobody may read it. Set before the first call."""
    tracer: Tracer | None = None
    """For whoever takes requests in, who sets it before the first; None where tracing is off."""

    def __init__(self, settings: Settings, address: StoreAddress, *, publish_tools: bool = False) -> None:
        """``publish_tools`` makes the registry hold the settings' tools, now and after Redis lost them."""
        self.settings = settings
        self.keys = keys_of(settings.redis)
        self.client: Client = connect(address)
        self._hot = SharedConnection(address)
        self.clock = RedisClock()
        self.registry = Registry(self.client, self.keys, settings.egress.rules)
        self.catalogue = Catalogue(self.client, self.keys)
        self.issued_keys = IssuedKeys(self._hot, self.keys)
        self._read_counters = CounterReader(self._hot, self.keys).read
        self.policy = Policy(settings.policy, settings.egress.rules, self.catalogue, self._read_counters)
        self.tenants = Tenants(self.client, self.keys, settings)
        self.mcp_sessions = McpSessions(
            self._hot,
            self.keys,
            idle_timeout=settings.web.session_idle_timeout,
            bound=lambda tenant: self.tenants.quota_of(tenant).max_mcp_sessions,
        )
        self.cancellations = Cancellations(self._hot, self.keys)
        self.listeners = Listeners()
        self.session_streams = SessionStreams(
            self._hot, self.keys, idle_timeout=settings.web.session_idle_timeout
        )
        self.connections = Connections(self._hot, self.keys)
        self.client_answers = ClientAnswers(self._hot, self.keys)
        self.request_states = RequestStates(self._hot, self.keys)
        self.refusals = Refusals(lambda command: self._hot.command(*command), self.keys)
        self.hub = ReplyHub(
            self._hot,
            self.keys,
            on_message={
                self.keys.registry_channel: lambda _: self._hint(),
                self.keys.cancel_request_channel: self._session_notice,
                self.keys.session_stream_channel: self.listeners.hear,
            },
            on_tick=self._tick,
            on_subscribed=self.listeners.call_all,
        )
        full = FullBuckets()
        self._rates = RequestRates(self._hot, self.keys, full)
        self._queueing = Queueing(
            self._hot,
            self.keys,
            settings,
            self.clock,
            self.mcp_sessions,
            self.tenants,
            full,
            reply=self.hub.channel,
        )
        self._streams = CallStreams(self._hot, self.keys)
        self._place = CallPlace(self.clock, self.hub, self.cancellations, self.request_states, self._streams)
        self.published = not publish_tools
        self._publish_tools = self._to_publish = publish_tools
        self._retirement = Retirement(self.registry, Lifecycle(self.client, self.keys))
        self._prepares: list[Prepare] = [self._prepare]
        self._first_reading = threading.Event()
        self._followers: list[Callable[[], object]] = []

    def start(self) -> None:
        """Begin to listen and to follow the registry. Redis may still be away."""
        self.hub.start()

    def close(self) -> None:
        """Let go of everything."""
        self.hub.close()
        self.refusals.tick(at_once=True)
        self.policy.close()
        self._hot.close()
        self.client.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def readiness(self) -> Readiness:
        """Whether this process can serve calls now."""
        try:
            with store_errors("counting workers"):
                workers = self.client.zcount(self.keys.nodes, self.clock.now(), "+inf")
        except StoreUnavailable:
            return Readiness(redis=False, replies=False, tools=False, workers=0)
        known = self.published and self.catalogue.version >= 0
        return Readiness(redis=True, replies=self.hub.listening, tools=known, workers=int(workers))

    def follow(self, look: Callable[[], object]) -> None:
        """Have ``look`` called about once a second, and whenever something in Redis is said to have changed.

        It may raise :class:`StoreUnavailable`, and is called again then.
        """
        self._followers.append(look)

    def reloading(self, prepare: Prepare) -> None:
        """Have ``prepare`` called when other settings are taken over."""
        self._prepares.append(prepare)

    def take_over(self, changes: SettingsChanges) -> None:
        """Let what is live of other settings hold. Calls under way end as they began.

        Raises :class:`ConfigurationError` for what cannot be made; nothing is changed then. The tools are published
        within a second, later if Redis is away.
        """
        commit_all(self._prepares, changes)

    def _prepare(self, changes: SettingsChanges) -> Commit:
        settings = changes.settings
        policy = None
        if "policy" in changes.sections:
            egress, counts = settings.egress.rules, self.policy.counts
            policy = Policy(settings.policy, egress, self.catalogue, self._read_counters, counts)

        def commit() -> None:
            self.settings = settings
            if "tenants" in changes.sections or "identity" in changes.sections:
                self.tenants.take_over(settings)
            if policy is not None:
                replaced, self.policy = self.policy, policy
                replaced.retire()
                self.listeners.call_all()
            if changes.tools:
                self._to_publish = self._publish_tools

        return commit

    def _hint(self) -> None:
        self._each(*self._followers, self._refresh_catalogue)

    def _tick(self) -> None:
        """About once a second: keep connections, catch up with the registry, take back what may be queued in vain."""
        self._each(
            self.connections.keep,
            self._hint,
            self._retire,
            lambda: self.cancellations.expire(lambda deadline: self.clock.left(deadline) <= 0),
            self._queueing.take_back,
            self.refusals.tick,
        )

    @staticmethod
    def _each(*steps: Callable[[], object]) -> None:
        """What one of them breaks over must not keep the others from being done. A Redis that is away ends it."""
        for step in steps:
            try:
                step()
            except StoreUnavailable:
                raise
            except Exception:
                log.exception("upkeep_broke", step=getattr(step, "__qualname__", ""))

    def _retire(self) -> None:
        if self._publish_tools:
            self._retirement.look(self.catalogue.entries(), self.clock.now())

    def _refresh_catalogue(self) -> None:
        if not self.clock.synchronised:
            with store_errors("reading the time"):
                seconds, micros = self.client.time()
            self.clock.correct(seconds * 1000 + micros // 1000)
        before = self.catalogue.version
        if self.catalogue.refresh():
            self.listeners.call_all()
        self.tenants.refresh()
        if self.catalogue.version < before:
            self.published, self._to_publish = not self._publish_tools, self._publish_tools
        if self._to_publish:
            self._publish()
        self._first_reading.set()

    def _publish(self) -> None:
        """Publish the file's tools: at the start, when they are others, and again when a Redis comes back empty."""
        tools = self.settings.tools
        changed = self.registry.publish_file(tools, self._retirement)
        log.info("tools_published", tools=len(tools), changed=len(changed))
        self.catalogue.refresh()
        self._to_publish = self.settings.tools is not tools  # read anew meanwhile: once more
        self.published = True

    def _session_notice(self, notice: bytes) -> None:
        self.cancellations.hear(notice)
        # If the session has ended, its standing stream has as well.
        self.listeners.hear(str(orjson.loads(notice).get("session", "")).encode())
