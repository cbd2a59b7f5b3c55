"""A worker's credentials: whose each session is, that they stay right while it lives, and what operators are told."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog

from common.audit.journal import audit_command
from common.control.reload import Commit
from common.credentials.orders import MOST_ORDERS, Order, Verb, order_of
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import StoreUnavailable
from common.settings import Settings
from common.settings.changes import PROVIDER_SECTIONS, SettingsChanges
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.credentials.asking import Outcome, Providers, Wanted
from gateway_worker.credentials.cache import CredentialCache
from gateway_worker.credentials.identity import Identities, SessionIdentity
from gateway_worker.credentials.providers import load_providers
from gateway_worker.node import Node
from gateway_worker.outbox import Outbox

log = structlog.get_logger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks for orders, and for credentials in use that are to be asked for again."""
AT_ONCE = 16
"""Sessions whose credentials are asked for again at a time."""
TOLD_TWICE = 2
"""So many times as many outcomes are remembered as answers are kept: those that did not change are not told again."""


NO_VALUES = ("failed ", "refused ")


class HasIdentity(Protocol):
    """What the service needs of a session."""

    identity: SessionIdentity | None


class CredentialService:
    """One a worker; belongs to its event loop.

    Degrades without Redis: an order is heard when it is back; what is in use is still asked for again in its time.
    """

    def __init__(
        self,
        settings: Settings,
        node: Node,
        redis: PipelinedConnection,
        keys: Keys,
        outbox: Outbox,
    ) -> None:
        """Raises :class:`ConfigurationError` for a provider that cannot be made."""
        self.sessions: Callable[[], Iterable[HasIdentity]] = list
        """The worker's tool sessions now."""
        self._node = node
        self._redis = redis
        self._keys = keys
        self._outbox = outbox
        self._providers = Providers(load_providers(settings), timeout=settings.credentials.timeout)
        self.cache = CredentialCache(self._providers.ask, settings.credentials, on_answer=self._answered)
        self.identities = Identities(self._providers, self.cache, settings.credentials)
        self.look_now = asyncio.Event()
        """Set when an order may be there."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """How often each provider's answers had each outcome."""
        self._told: OrderedDict[Wanted, str] = OrderedDict()
        self._most_told = TOLD_TWICE * settings.credentials.cache_size
        self._last_order = b""
        self._looks: dict[SessionIdentity, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Keep what is in use right, for ever; without providers there is nothing to keep."""
        while self._providers.names:
            self.look_now.clear()
            try:
                await self._take_orders()
            except StoreUnavailable as error:
                log.debug("credential_orders_not_read", cause=repr(error.__cause__))
            self._look_again()
            try:
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self.look_now.wait()
            except TimeoutError:
                pass
        await asyncio.Event().wait()

    def prepare(self, changes: SettingsChanges) -> Commit | None:
        """What lets other settings hold: sessions whose credentials are others then are built anew.

        Raises :class:`ConfigurationError` for a provider that cannot be made.
        """
        if changes.sections.isdisjoint(PROVIDER_SECTIONS):
            return None
        settings = changes.settings.credentials
        providers = Providers(load_providers(changes.settings), timeout=settings.timeout)

        def commit() -> None:
            self._retire(self._providers)
            self._providers = providers
            self.cache.take_over(providers.ask, settings)
            self.identities.take_over(providers, settings)
            self._most_told = TOLD_TWICE * settings.cache_size
            for identity in self._in_use():
                identity.reconsider(providers)

        return commit

    def _retire(self, providers: Providers) -> None:
        """Close them when whoever asks them now has had its answer. To close them may block."""
        thread = threading.Thread(target=providers.close, name="credentials-close", daemon=True)
        asyncio.get_running_loop().call_later(providers.longest, thread.start)

    def close(self) -> None:
        """Ask nobody any more."""
        for task in self._looks.values():
            task.cancel()
        self._providers.close()

    # -- orders -----------------------------------------------------------------------------------------

    async def _take_orders(self) -> None:
        """Read what was ordered since the last look. Of before the first one nothing is known, so all is forgotten."""
        key = self._keys.credential_orders
        with store_errors("reading orders about credentials"):
            if not self._last_order:
                newest = await self._redis.command("XREVRANGE", key, "+", "-", "COUNT", 1)
                self._last_order = newest[0][0] if newest else b"0-0"
                self.cache.drop()
                return
            found: list[Any] = await self._redis.command(
                "XRANGE", key, b"(" + self._last_order, "+", "COUNT", MOST_ORDERS
            )
        for entry, fields in found:
            self._last_order = entry
            order = order_of(fields)
            if order is not None:
                self.obey(order)

    def obey(self, order: Order) -> None:
        """Do what an order says: what is kept is forgotten, sessions ask again, or are built anew."""
        self.cache.drop(tool=order.tool, tenant=order.tenant)
        for identity in self._in_use():
            request = identity.wanted.request
            if order.tool in (None, request.tool) and order.tenant in (None, request.tenant):
                if order.verb is Verb.ROTATE:
                    identity.outdated = True
                else:
                    identity.ask_again()

    # -- what is in use ---------------------------------------------------------------------------------

    def _in_use(self) -> list[SessionIdentity]:
        return [session.identity for session in self.sessions() if session.identity is not None]

    def _look_again(self) -> None:
        for identity in self._in_use():
            if identity.due and not identity.outdated and identity not in self._looks:
                task = asyncio.create_task(self._look(identity), name="credentials-again")
                self._looks[identity] = task
                task.add_done_callback(lambda _, identity=identity: self._looks.pop(identity, None))  # type: ignore[misc]

    async def _look(self, identity: SessionIdentity) -> None:
        async with self._slots:
            await identity.look()

    # -- what operators are told ------------------------------------------------------------------------

    def _answered(self, wanted: Wanted, outcome: Outcome) -> None:
        """Count an answer, and tell of it if it is another one than before."""
        found, before = outcome.credentials, self._told.pop(wanted, None)
        if outcome.failure:
            word = "refused" if outcome.refused else "failed"
            known = f"{word} {outcome.provider} {outcome.failure}"
        else:
            word, known = ("missing", "missing") if found is None else ("found", found.fingerprint)
        self._told[wanted] = known
        if len(self._told) > self._most_told:
            self._told.popitem(last=False)
        self.counts[outcome.provider, word] += 1
        if known == before:
            return
        if word == "found" and before not in (None, "missing") and not str(before).startswith(NO_VALUES):
            word = "rotated"
        request = wanted.request
        say = log.info if found is not None else log.warning
        detail = _detail(outcome)
        say("credential_resolution", tool=request.tool, tenant=request.tenant, outcome=word, detail=detail)
        event = AuditEvent(
            kind=EventKind.CREDENTIAL_RESOLUTION,
            actor=self._node.id,
            tool=request.tool,
            tenant=request.tenant or "",
            client=request.client or "",
            node=self._node.id,
            reason=word,
            detail=detail,
        )
        self._outbox.put(audit_command(self._keys, event))


def _detail(outcome: Outcome) -> str:
    """Which provider, and which version of the values; of the values a digest that means something here alone."""
    parts = [f"provider {outcome.provider}"] if outcome.provider else []
    if outcome.failure:
        parts.append(outcome.failure)
    if outcome.credentials is not None:
        parts += [f"version {outcome.credentials.version}"] if outcome.credentials.version else []
        parts.append(f"digest {outcome.credentials.fingerprint}")
    return ", ".join(parts)
