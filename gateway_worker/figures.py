"""A worker tells its figures to the web processes, which show them, or pushes them to a collector."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import structlog

from common.domain.audit import EventKind
from common.domain.errors import StoreUnavailable
from common.metrics.figures import Figures, Sample, Source
from common.metrics.start import pusher_of
from common.metrics.told import EVERY, TELL, account
from common.settings import Settings
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.calls import Calls
from gateway_worker.credentials.service import CredentialService
from gateway_worker.node import Node
from gateway_worker.sessions import Sessions
from gateway_worker.tool_session import LOST, ToolSession

if TYPE_CHECKING:
    from common.metrics.push import Pusher

log = structlog.get_logger(__name__)


def telling(
    figures: Figures, looked_at: Source, settings: Settings, redis: PipelinedConnection, keys: Keys
) -> dict[str, Coroutine[Any, Any, None]]:
    """What tells them, and what is ``looked_at`` then, as long as the worker lives, by name."""
    figures.watch(looked_at)
    found: dict[str, Coroutine[Any, Any, None]] = {}
    if settings.metrics.wanted:
        found["figures"] = tell_for_ever(figures, redis, keys)
    pusher = pusher_of(settings, figures, "worker")
    if pusher is not None:
        found["push"] = _pushing(pusher)
    return found


async def _pushing(pusher: Pusher) -> None:
    """On a thread of its own; its last push is waited for when the process ends, not here."""
    pusher.start()
    try:
        await asyncio.Event().wait()
    finally:
        pusher.stop()


async def tell_for_ever(figures: Figures, redis: PipelinedConnection, keys: Keys) -> None:
    """Tell them every few seconds. Degrades: without Redis nobody sees them until it is back; nothing is lost."""
    while True:
        try:
            with store_errors("telling figures"):
                await redis.run(TELL, *account(keys, figures))
        except StoreUnavailable as error:
            log.debug("figures_not_told", cause=repr(error.__cause__))
        await asyncio.sleep(EVERY)


def samples(node: Node, calls: Calls, sessions: Sessions, credentials: CredentialService) -> Iterator[Sample]:
    """What is looked at when the figures are told, not counted."""
    yield "canalgate_worker_calls", (), len(calls)
    yield "canalgate_worker_sessions", (), len(sessions.all())
    yield "canalgate_worker_may_act", (), node.may_act
    for (provider, outcome), number in credentials.counts.copy().items():
        yield "canalgate_credential_answers", (provider, outcome), number
    yield "canalgate_credential_cache", ("hit",), credentials.cache.hits
    yield "canalgate_credential_cache", ("miss",), credentials.cache.misses


def count_session(figures: Figures, kind: EventKind, session: ToolSession) -> None:
    """A session was opened, or closed: then it counts if its link broke or its process died."""
    if kind is EventKind.SESSION_CREATED:
        figures.count("canalgate_tool_sessions_begun", session.key.tool)
    elif session.why == LOST:
        figures.count("canalgate_tool_sessions_lost", session.key.tool)
