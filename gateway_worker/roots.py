"""A legacy client's roots are others now: the backends that were given them are told, and may ask for them again.

Nobody calls them meanwhile, so nothing else would tell whose a request of theirs is: the session with the backend is
that client's for a moment, as during a call (:mod:`gateway_worker.turns`), and what is asked goes on the client's
standing stream (2025-11-25, "Roots", "Root List Changes", and "Transports", "Listening for messages").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from common.domain.errors import GatewayError, StoreUnavailable
from common.domain.ids import McpSessionId
from common.mcp.jsonrpc import INTERNAL_ERROR
from common.mcp.revisions import Era
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.asking import Asking
from gateway_worker.conversation import Conversation
from gateway_worker.egress.link import RpcError
from gateway_worker.tool_session import ToolSession
from gateway_worker.turns import Stay

log = structlog.get_logger(__name__)

CHANGED = "notifications/roots/list_changed"
ROOTS = "roots/list"
ASKED_WITHIN = 1.0
"""Seconds that a backend has to ask, once it was told. The calls of others wait for its session meanwhile."""
ANSWERED_WITHIN = 5.0
"""Seconds that the client has to answer."""
TOLD_WITHIN = ASKED_WITHIN + ANSWERED_WITHIN
"""Seconds that all of it may take, however often the backend asks."""


class RootsTalk(Conversation):
    """With a client outside its calls: it is asked for its roots alone."""

    only = ROOTS

    def __init__(self, asking: Asking, session: McpSessionId, principal: str) -> None:
        self._asking = asking
        self._session = session
        self._principal = principal
        self.stay = Stay()
        self._asked = asyncio.Event()
        self._open = 0
        self._all_answered = asyncio.Event()

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The client's roots. Raises :class:`RpcError` for anything else, and if there is no good answer in time."""
        if method != ROOTS:
            raise _refused("no call is here that this could belong to")
        self._asked.set()
        self._all_answered.clear()
        self._open += 1
        try:
            async with asyncio.timeout(ANSWERED_WITHIN):
                answer = await self._asking.ask_session(
                    self._session, self._principal, method, params, seconds=ANSWERED_WITHIN
                )
        except TimeoutError:
            raise _refused("the client did not answer") from None
        finally:
            self._open -= 1
            if not self._open:
                self._all_answered.set()
        error, result = answer.get("error"), answer.get("result")
        if isinstance(error, dict):
            raise RpcError(error)
        if not isinstance(result, dict):
            raise _refused("the client answered with neither a result nor an error")
        return result

    async def over(self) -> None:
        """Wait until the backend has what it asked for; not long if it does not ask."""
        try:
            async with asyncio.timeout(ASKED_WITHIN):
                await self._asked.wait()
        except TimeoutError:
            return
        await self._all_answered.wait()


class RootsNews:
    """One a worker. Belongs to its event loop. Degrades: what cannot be told, or asked, the backend does not hear."""

    def __init__(
        self,
        sessions: Callable[[], Iterable[ToolSession]],
        asking: Asking,
        redis: PipelinedConnection,
        keys: Keys,
    ) -> None:
        """``sessions`` are the worker's tool sessions now."""
        self._sessions = sessions
        self._asking = asking
        self._redis = redis
        self._keys = keys
        self._telling: dict[tuple[ToolSession, McpSessionId], asyncio.Task[None]] = {}
        self._again: set[tuple[ToolSession, McpSessionId]] = set()

    def hear(self, data: bytes) -> None:
        """The roots of this MCP session are others now. While a backend is told, further changes are one."""
        client = McpSessionId(data.decode())
        for session in self._sessions():
            # What it asks then names no call. Of a session that others use as well, it could be for one of them.
            if client not in session.rooted or not session.hears_roots or not session.of_one_client:
                continue
            if (session, client) in self._telling:
                self._again.add((session, client))
            else:
                self._begin(session, client)

    def _begin(self, session: ToolSession, client: McpSessionId) -> None:
        key = session, client
        self._telling[key] = task = asyncio.create_task(self._tell(session, client), name="roots-changed")
        task.add_done_callback(lambda task: self._told(session, client, task))

    def _told(self, session: ToolSession, client: McpSessionId, task: asyncio.Task[None]) -> None:
        key = session, client
        del self._telling[key]
        if key in self._again:
            self._again.discard(key)
            if not task.cancelled():
                self._begin(session, client)

    async def _tell(self, session: ToolSession, client: McpSessionId) -> None:
        backend, principal = session.opened, session.rooted.get(client)
        if backend is None or principal is None or session.ended or backend.negotiated.era is not Era.LEGACY:
            return
        try:
            async with asyncio.timeout(TOLD_WITHIN):
                if session.turns is None or not await self._is_heard(client):
                    await backend.link.notify(CHANGED, {})
                    return
                talk = RootsTalk(self._asking, client, principal)
                async with session.talking(client, talk):
                    await backend.link.notify(CHANGED, {})
                    await talk.over()
        except TimeoutError:
            log.debug("roots_not_told", tool=session.key.tool, error="it took too long")
        except GatewayError as error:
            log.debug("roots_not_told", tool=session.key.tool, error=error.message)

    async def _is_heard(self, client: McpSessionId) -> bool:
        """Whether some process hands out the client's standing stream, so that it can be asked at all."""
        try:
            with store_errors("looking whether a client listens"):
                return bool(await self._redis.command("EXISTS", self._keys.session_holder(client)))
        except StoreUnavailable:
            return False


def _refused(words: str) -> RpcError:
    return RpcError({"code": INTERNAL_ERROR, "message": words})
