"""What operators see of this worker's sessions, and order: the worker's side of ``common.control.sessions``."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import structlog

from common.control.sessions import FACTS_TTL, CloseOrder, SessionFacts, close_order_from_json, facts_to_json
from common.domain.errors import StoreUnavailable
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.egress.stdio import StdioLink
from gateway_worker.node import Node
from gateway_worker.sessions import Sessions
from gateway_worker.tool_session import ToolSession

log = structlog.get_logger(__name__)

TOLD_EVERY = 5.0
"""Seconds between two accounts of the sessions: so old are calls in flight and idle times that operators see."""


class SessionDesk:
    """Gives account of the sessions, and closes those that an operator wants closed. Belongs to the engine's loop."""

    def __init__(self, node: Node, sessions: Sessions, redis: PipelinedConnection, keys: Keys) -> None:
        self._node = node
        self._sessions = sessions
        self._redis = redis
        self._keys = keys
        self._told: list[dict[str, Any]] = []

    async def run(self) -> None:
        """Give account, for ever. Degrades: without Redis nothing is told until it is back."""
        while True:
            await asyncio.sleep(TOLD_EVERY)
            try:
                await self.tell()
            except StoreUnavailable as error:
                log.debug("sessions_not_told", cause=repr(error.__cause__))

    async def tell(self) -> None:
        """Write what there is to say now, if there are sessions, or were. Raises :class:`StoreUnavailable`."""
        facts = [facts_to_json(_facts(session)) for session in self._sessions.all()]
        if not facts and not self._told:
            return
        with store_errors("telling of sessions"):
            await self._redis.command(
                "SET",
                self._keys.session_facts(self._node.id),
                orjson.dumps(facts),
                "PX",
                int(FACTS_TTL * 1000),
            )
        self._told = facts

    def hear(self, data: bytes) -> None:
        """An operator wants a session closed. Raises ValueError or KeyError for an order that cannot be read."""
        order: CloseOrder = close_order_from_json(data)
        for session in self._sessions.all():
            if (session.key.tool, session.key.session) == (order.tool, order.session):
                log.info("session_closed_by_operator", tool=order.tool, actor=order.actor, force=order.force)
                self._sessions.close_by_order(session, f"closed by {order.actor}", at_once=order.force)


def _facts(session: ToolSession) -> SessionFacts:
    backend = session.opened
    link = None if backend is None else backend.link
    return SessionFacts(
        tool=session.key.tool,
        session=session.key.session,
        fence=int(session.claim.token),
        in_flight=session.in_flight,
        age=round(time.monotonic() - session.begun, 3),
        idle=round(session.idle_for, 3),
        version="" if backend is None else backend.negotiated.version,
        pid=link.child.process.pid if isinstance(link, StdioLink) else None,
    )
