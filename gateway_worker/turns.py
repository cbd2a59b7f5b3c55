"""Who is at a backend at the same time, where nothing tells whose a request of the backend is.

Over stdio, and on the stream of an HTTP session that belongs to no request, a backend's request carries no hint of the
call it belongs to. It is certain only while all calls there are of one group, and none of another group was given up
that the backend may still be at: a group are the calls of one MCP session, or a single call without one. What is not
certain is refused. The first request shows that the backend asks; from then on the groups take turns.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
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
        self._given_up: set[str] = set()
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def turn(self, group: str) -> AsyncIterator[None]:
        """Be at the backend for a call of this group.

        A call that leaves without the backend's word, cancelled or at its deadline, may be at work there for ever.
        """
        await self._enter(group)
        try:
            yield
        except RpcError:
            raise
        except BaseException:
            self._given_up.add(group)
            raise
        finally:
            self._present[group] -= 1
            if not self._present[group]:
                del self._present[group]
            self._let_in()

    def asker(self) -> str:
        """The group that a request of the backend is for.

        Raises :class:`RpcError`, for the backend, if that is not certain.
        """
        self.one_at_a_time = True
        groups = self._present.keys() | self._given_up
        if len(groups) != 1 or not self._present:
            raise RpcError({"code": INTERNAL_ERROR, "message": AMBIGUOUS})
        return next(iter(groups))

    async def _enter(self, group: str) -> None:
        if self._free_for(group) and not (self.one_at_a_time and self._waiting):
            self._present[group] += 1
            return
        place: tuple[str, asyncio.Future[None]] = group, asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place[1]
        except BaseException:
            if place in self._waiting:
                self._waiting.remove(place)
            else:
                self._present[group] -= 1
                self._present += Counter()
            self._let_in()
            raise

    def _free_for(self, group: str) -> bool:
        return not self.one_at_a_time or not self._present.keys() - {group}

    def _let_in(self) -> None:
        """Whoever waits, in order, as far as they may be there together."""
        while self._waiting and self._free_for(self._waiting[0][0]):
            group, place = self._waiting.popleft()
            if not place.done():
                self._present[group] += 1
                place.set_result(None)
