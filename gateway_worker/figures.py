"""A worker tells its figures: web processes show them (:mod:`common.metrics.told`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import structlog

from common.domain.audit import EventKind
from common.domain.errors import StoreUnavailable
from common.metrics.figures import Figures, Sample
from common.metrics.told import EVERY, TELL, account
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.calls import Calls
from gateway_worker.credentials.service import CredentialService
from gateway_worker.node import Node
from gateway_worker.sessions import Sessions
from gateway_worker.tool_session import LOST, ToolSession

log = structlog.get_logger(__name__)


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
    for (provider, outcome), number in credentials.counts.items():
        yield "canalgate_credential_answers", (provider, outcome), number
    yield "canalgate_credential_cache", ("hit",), credentials.cache.hits
    yield "canalgate_credential_cache", ("miss",), credentials.cache.misses


def count_session(figures: Figures, kind: EventKind, session: ToolSession) -> None:
    """A session was opened, or closed: then it counts if its link broke or its process died."""
    if kind is EventKind.SESSION_CREATED:
        figures.count("canalgate_tool_sessions_begun", session.key.tool)
    elif session.why == LOST:
        figures.count("canalgate_tool_sessions_lost", session.key.tool)
