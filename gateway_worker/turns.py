"""Who is at a backend at the same time, where nothing tells whose a request of the backend is.

Over stdio, and on the stream of an HTTP session that belongs to no request, a backend's request carries no hint of the
call it belongs to. Its client must be asked and no other, so the request waits until one group of calls is left: those
of one MCP session, or a single call without one. From then on the groups take turns.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common.mcp.jsonrpc import INTERNAL_ERROR
from gateway_worker.egress.link import RpcError

AMBIGUOUS = "several clients have calls here, and nothing tells whose this is (affinity: mcp_session keeps them apart)"


class Turns:
    """Of one tool session. Belongs to the event loop."""

    def __init__(self, *, one_at_a_time: bool = False) -> None:
        self.one_at_a_time = one_at_a_time
        """Whether calls of different groups are never there together: it is known that the backend asks."""
        self._present: Counter[str] = Counter()
        self._asking = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def turn(self, group: str) -> AsyncIterator[None]:
        """Be at the backend for a call of this group."""
        while self.one_at_a_time and self._present.keys() - {group}:
            await self._change()
        self._present[group] += 1
        try:
            yield
        finally:
            self._present[group] -= 1
            if not self._present[group]:
                del self._present[group]
            self._changed()

    async def asker(self) -> str:
        """The group that the backend's request is for; waits until it is certain.

        Raises :class:`RpcError`, for the backend, if it cannot become so: each group that is left may have asked.
        """
        self.one_at_a_time = True
        self._asking += 1
        self._changed()
        try:
            while len(self._present) != 1:
                if self._asking >= len(self._present):
                    raise RpcError({"code": INTERNAL_ERROR, "message": AMBIGUOUS})
                await self._change()
            return next(iter(self._present))
        finally:
            self._asking -= 1

    async def _change(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def _changed(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
