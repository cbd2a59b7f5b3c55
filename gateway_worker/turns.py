"""Who is at a backend at the same time, where nothing tells whose a request of the backend is.

Over stdio, and on the stream of an HTTP session that belongs to no request, a backend's request carries no hint of the
call it belongs to. It is certain only while all calls there are of one group, and none of another group was given up
that the backend may still be at: a group are the calls of one MCP session, or a single call without one. What is not
certain is refused. The first request shows that the backend asks; from then on the groups take turns.

A call that was given up is over once the backend answers it after all. Many backends never do ("should not send a
response", 2025-11-25, "Cancellation"). So a tool session where one of them cost a question is :attr:`Turns.in_doubt`,
and another one takes its place.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from common.mcp.jsonrpc import INTERNAL_ERROR
from gateway_worker.egress.link import AnswerTooLarge, LinkLost, OnSettled, RpcError

AMBIGUOUS = "several clients have calls here, and nothing tells whose this is (affinity: mcp_session keeps them apart)"
MOST_GIVEN_UP = 100
"""Groups with calls that were given up which are told apart; those of all others are one."""
_OTHERS = ""
"""The group of what is not told apart. No call comes under it."""


class Stay:
    """A call's time at a backend, and behind its end whether the backend may still be at it."""

    def __init__(self) -> None:
        self._requests: set[object] = set()
        self.on_settled: Callable[[], None] = _nothing
        """Called when the last request of a call that was given up is settled."""

    @property
    def at_work(self) -> bool:
        """Whether the backend may be at a request of the call."""
        return bool(self._requests)

    @contextmanager
    def sending(self) -> Iterator[OnSettled]:
        """Send one request within it; everything that a call sends is sent so.

        The backend counts as being at it until it is certainly not any more: it answered, in whatever form, or never
        had it. What else tells of that calls what is yielded, as often as it likes, also behind the end.
        """
        request = object()
        settled = partial(self._settled, request)
        self._requests.add(request)
        try:
            yield settled
        except (RpcError, AnswerTooLarge):
            settled()
            raise
        except LinkLost as error:
            if error.unsent or error.answered:
                settled()
            raise
        else:
            settled()

    def _settled(self, request: object) -> None:
        if request in self._requests:
            self._requests.remove(request)
            if not self._requests:
                self.on_settled()


class Turns:
    """Of one tool session. Belongs to the event loop."""

    def __init__(self, *, one_at_a_time: bool = False) -> None:
        self.one_at_a_time = one_at_a_time
        """Whether calls of different groups are never there together: it is known that the backend asks."""
        self._present: Counter[str] = Counter()
        self._given_up: Counter[str] = Counter()
        self._cost_a_question = False
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @property
    def in_doubt(self) -> bool:
        """Whether a question was refused for nothing but a call that was given up, and one may be there still."""
        return self._cost_a_question and bool(self._given_up)

    @asynccontextmanager
    async def turn(self, group: str) -> AsyncIterator[Stay]:
        """Be at the backend for a call of this group.

        A call that leaves, in whatever way, with a request that is not settled is given up: it may be at work there
        until it is settled, for ever if it never is.
        """
        await self._enter(group)
        stay = Stay()
        try:
            yield stay
        finally:
            if stay.at_work:
                self._give_up(group, stay)
            self._leave(group)

    def asker(self) -> str:
        """The group that a request of the backend is for.

        Raises :class:`RpcError`, for the backend, if that is not certain.
        """
        self.one_at_a_time = True
        groups = self._present.keys() | self._given_up.keys()
        if len(groups) != 1 or not self._present:
            self._cost_a_question = self._cost_a_question or len(self._present) == 1
            raise RpcError({"code": INTERNAL_ERROR, "message": AMBIGUOUS})
        return next(iter(groups))

    async def _enter(self, group: str) -> None:
        if self._free_for(group) and not (self.one_at_a_time and self._waiting):
            self._present[group] += 1
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = group, granted
        self._waiting.append(place)
        try:
            await granted
        except BaseException:
            # Cancelled before its turn, in the queue or just dropped from it, it was never counted. Cancelled behind
            # it, in the same turn of the loop, it was.
            if granted.done() and not granted.cancelled():
                self._leave(group)
            else:
                if place in self._waiting:
                    self._waiting.remove(place)
                self._let_in()
            raise

    def _leave(self, group: str) -> None:
        self._present[group] -= 1
        if not self._present[group]:
            del self._present[group]
        self._let_in()

    def _free_for(self, group: str) -> bool:
        return not self.one_at_a_time or not self._present.keys() - {group}

    def _let_in(self) -> None:
        """Whoever waits, in order, as far as they may be there together."""
        while self._waiting and self._free_for(self._waiting[0][0]):
            group, granted = self._waiting.popleft()
            if not granted.done():
                self._present[group] += 1
                granted.set_result(None)

    def _give_up(self, group: str, stay: Stay) -> None:
        known = group in self._given_up or len(self._given_up) < MOST_GIVEN_UP
        name = group if known else _OTHERS
        self._given_up[name] += 1
        stay.on_settled = partial(self._settled, name)

    def _settled(self, name: str) -> None:
        self._given_up[name] -= 1
        if not self._given_up[name]:
            del self._given_up[name]
        if not self._given_up:
            self._cost_a_question = False


def _nothing() -> None:
    """The call is still there, or the backend has answered it."""
