"""A worker's sessions as the executor uses them, with claims as ``fetch.lua`` would have given them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from common.calls.head import session_of
from common.domain.ids import ToolId
from common.domain.invocation import Invocation
from common.processes import ProcessGuard
from common.registry.records import Entry
from common.store.client import StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.claims import Claims
from gateway_worker.egress.backend import make_link
from gateway_worker.node import Node
from gateway_worker.outbox import Outbox
from gateway_worker.sessions import Keeping, Sessions
from gateway_worker.tool_session import ToolSession, usable
from gateway_worker.watches import WatchStore
from tests.support.backends import MAX_BYTES, text_of


class SessionDesk:
    """Sessions, their claims, and the calls that use them.

    ``serves`` says whether the worker serves a tool, ``present`` are the digests of the tools' present definitions:
    those of the entries that were used last.
    """

    def __init__(
        self,
        guard: ProcessGuard,
        address: StoreAddress,
        keys: Keys,
        announced: list[tuple[ToolId, str]],
        max_sessions: int,
    ) -> None:
        self.node = Node("test")
        self.node.confirm(float("inf"))
        self.redis = PipelinedConnection(address)
        self.claims = Claims(self.node, self.redis, keys)
        self.serves = True
        self.settled = True
        self.present: dict[ToolId, str] = {}
        self.sessions = Sessions(
            partial(make_link, guard=guard, max_bytes=MAX_BYTES),
            self.claims,
            Keeping(digest_of=self.present.get, settled=lambda: self.settled, serves=lambda _: self.serves),
            max_sessions=max_sessions,
            watch_store=WatchStore(
                self.redis, keys, Outbox(self.redis, keys, result_ttl=60), session_idle=60
            ),
            on_list_changed=lambda tool, kind: announced.append((tool, kind)),
        )
        self._tokens = itertools.count(1)

    def __len__(self) -> int:
        return len(self.sessions)

    def all(self) -> list[ToolSession]:
        """The sessions now."""
        return self.sessions.all()

    def token(self, tool: ToolId, session: str) -> int:
        """Under which the session is held; a new one if it is not."""
        mine = (claim for claim in self.claims if (claim.tool, claim.session) == (tool, session))
        held = next((claim for claim in mine if claim.releasing is None), None)
        return held.token if held is not None else next(self._tokens)

    def take(self, call: Invocation, entry: Entry, profile: str = "") -> ToolSession:
        """The session for a call; with a ``profile``, of one whose client can be asked."""
        name = session_of(entry.tool, call.caller, call.mcp_session)
        self.present[entry.id] = entry.registered.digest
        token = self.token(entry.id, name)
        claim = self.claims.find(entry.id, name, token) or self.claims.find(
            entry.id, name, next(self._tokens)
        )
        assert claim is not None
        return self.sessions.take(claim, entry, call.version, profile)

    async def ask(self, entry: Entry, call: Invocation) -> str:
        """Make a call and return its text."""
        session = self.take(call, entry)
        try:
            backend = await usable(session, 20.0)
            return text_of(await backend.call(call.method, call.params))
        finally:
            self.sessions.give(session)

    async def close(self) -> None:
        """Close all of them."""
        await self.sessions.close()


@asynccontextmanager
async def session_desk(
    guard: ProcessGuard,
    address: StoreAddress,
    keys: Keys,
    *,
    announced: list[tuple[ToolId, str]] | None = None,
    max_sessions: int = 1000,
) -> AsyncIterator[SessionDesk]:
    """Closed at the end."""
    desk = SessionDesk(
        guard,
        address,
        keys,
        announced if announced is not None else [],
        max_sessions,
    )
    try:
        yield desk
    finally:
        await desk.close()
        await desk.claims.released(5)
        await desk.redis.aclose()


@asynccontextmanager
async def swept(desk: SessionDesk) -> AsyncIterator[None]:
    """The sweep running."""
    sweep = asyncio.create_task(desk.sessions.sweep())
    try:
        yield
    finally:
        sweep.cancel()
        await asyncio.wait([sweep])
