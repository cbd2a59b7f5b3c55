"""Which sessions this node owns, and under which fencing tokens; giving them back, and asking for them again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from functools import partial
from typing import Literal, NamedTuple

import structlog

from common.calls.admission import session_limit
from common.domain.errors import GatewayError, StoreUnavailable
from common.domain.ids import NodeId, ToolId, encode_part, queue_of
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.about import session_context
from gateway_worker.node import Node

log = structlog.get_logger(__name__)

ASK_AGAIN, ASK_AGAIN_MAX, RELEASE_AGAIN = 0.1, 1.0, 0.5
RETURN_STEP = 200
_LIMITS: Mapping[bytes, Literal["tool", "tenant"]] = {b"tool_limit": "tool", b"tenant_limit": "tenant"}


class NotOwner(GatewayError):
    """The session is another node's: the call goes back to its queue. Callers never see it."""

    def __init__(self) -> None:
        super().__init__("the session belongs to another worker")


class Caps(NamedTuple):
    """How many sessions there may be before one more is created: of the tool, and of the tenant. 0: any number."""

    tool: int = 0
    tenant: int = 0


_NO_CAPS = Caps()


class Claim:
    """One session that this node owns. ``users`` are the local tool sessions that live under it."""

    __slots__ = ("left", "lost", "releasing", "session", "token", "tool", "users")

    def __init__(self, tool: ToolId, session: str, token: int) -> None:
        self.tool = tool
        self.session = session
        self.token = token
        self.users = 0
        self.left = asyncio.Event()
        """Set while no local session lives under it."""
        self.left.set()
        self.releasing: asyncio.Task[None] | None = None
        self.lost = False
        """True once it is another's, or may be."""


class _Asking:
    """One question to Redis whose a session is; ``waiting`` are the calls that want to know."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Claim]) -> None:
        self.task = task
        self.waiting = 0


class Claims:
    """The node's claims. Belongs to the engine's loop; what ``fetch.lua`` decided is told to :meth:`find`."""

    def __init__(self, node: Node, redis: PipelinedConnection, keys: Keys) -> None:
        self.handing_over: Callable[[ToolId], bool] = lambda _: False
        """Whether a tool's sessions are handed over, so that what waits for them goes back to its queue."""
        self._node = node
        self._redis = redis
        self._keys = keys
        self._claims: dict[tuple[ToolId, str], Claim] = {}
        self._of_tool: Counter[ToolId] = Counter()
        self._releases: set[asyncio.Task[None]] = set()
        self._asking: dict[tuple[ToolId, str], _Asking] = {}
        self._last_freed = 0
        """The greatest token that was given back: who comes with it or an older one may come too late."""

    def __iter__(self) -> Iterator[Claim]:
        return iter(list(self._claims.values()))

    def owns_any_of(self, tool: ToolId) -> bool:
        """Whether a session of this tool is the node's."""
        return self._of_tool[tool] > 0

    def find(self, tool: ToolId, session: str, token: int | None) -> Claim | None:
        """The claim under which a call with this token runs; None if Redis has to be asked first (:meth:`confirm`)."""
        claim = self._claims.get((tool, session))
        if claim is not None and _good(claim) and token is not None and token <= claim.token:
            return claim
        if token is None or token <= self._last_freed or (claim is not None and token <= claim.token):
            return None
        return self._put(tool, session, token)

    def may_use(self, claim: Claim) -> bool:
        """Whether anything may be sent on the claim's session at this moment: the gate of its links."""
        return not claim.lost and self._node.may_act

    async def confirm(self, tool: ToolId, session: str, caps: Caps = _NO_CAPS) -> Claim:
        """Ask Redis for the session again, behind a release that is under way; it waits for Redis.

        All who ask for a session at once get one answer, and who gives up waiting takes it from nobody; a claim that
        nobody waits for any more is freed. Raises :class:`NotOwner` if a living other has it by now, or the node was
        declared dead meanwhile, and :class:`SessionLimit` if it is nobody's and a cap keeps it from being created.
        """
        while True:
            asking = self._asking.get((tool, session)) or self._ask(tool, session, caps)
            asking.waiting += 1
            try:
                claim = await asyncio.shield(asking.task)
            except BaseException:
                asking.waiting -= 1
                self._free_unwanted(asking)
                raise
            asking.waiting -= 1
            if _good(claim):
                return claim
            # Another who waited for it has it freed already.

    def settle(self, tool: ToolId, session: str) -> None:
        """Redis may have made the node the owner without its knowledge: if nobody here wants it, free it again."""
        if (tool, session) not in self._claims and (tool, session) not in self._asking:
            self._ask(tool, session, _NO_CAPS)

    @property
    def node(self) -> NodeId:
        """The node whose claims they are."""
        return self._node.id

    def _context(self, tool: ToolId, session: str) -> Context:
        """For what is done once for all calls of a session."""
        return session_context(tool, session, self._node.id)

    def _ask(self, tool: ToolId, session: str, caps: Caps) -> _Asking:
        work = self._confirmed(tool, session, caps)
        task = asyncio.create_task(work, name="session-asked-for", context=self._context(tool, session))
        asking = self._asking[tool, session] = _Asking(task)
        asking.task.add_done_callback(partial(self._answered, tool, session, asking))
        return asking

    def _answered(self, tool: ToolId, session: str, asking: _Asking, _: asyncio.Task[Claim]) -> None:
        del self._asking[tool, session]
        self._free_unwanted(asking)

    def _free_unwanted(self, asking: _Asking) -> None:
        """Free what was given when nobody waits for it any more, and nobody has taken it."""
        task = asking.task
        if not asking.waiting and task.done() and not task.cancelled() and task.exception() is None:
            self.free_unused(task.result())

    async def _confirmed(self, tool: ToolId, session: str, caps: Caps) -> Claim:
        while True:
            claim = self._claims.get((tool, session))
            if claim is not None and claim.releasing is not None:
                await asyncio.wait([claim.releasing])
            token = await self._reclaimed(tool, session, caps)
            claim = self._claims.get((tool, session))
            if claim is None or claim.releasing is None:
                break
            # A claim that came meanwhile goes already, and its release may free what was just given.
        if claim is not None and claim.token == token and not claim.lost:
            return claim
        return self._put(tool, session, token)

    async def _reclaimed(self, tool: ToolId, session: str, caps: Caps) -> int:
        """Ask until Redis answers, since it may have heard a question whose answer was lost."""
        node, pause = self._node.id, ASK_AGAIN
        while node == self._node.id:
            try:
                token = await self._reclaim(tool, session, caps)
            except StoreUnavailable as error:
                log.warning("session_not_asked_for", tool=tool, cause=repr(error.__cause__))
                await asyncio.sleep(pause)
                pause = min(2 * pause, ASK_AGAIN_MAX)
                continue
            if token is not None and node == self._node.id:
                return token
            break
        # What was given to an incarnation that is dead by now, its rescue takes back.
        raise NotOwner

    def enter(self, claim: Claim) -> None:
        """A local tool session begins under the claim."""
        claim.users += 1
        claim.left.clear()

    def leave(self, claim: Claim) -> None:
        """A local tool session under it has ended, its link included; the last one frees the claim."""
        claim.users -= 1
        if claim.users > 0:
            return
        claim.left.set()
        if not claim.lost and self._claims.get((claim.tool, claim.session)) is claim:
            self._begin_release(claim)

    def free_unused(self, claim: Claim) -> None:
        """Free a claim under which no local session lives, unless that is under way or no business of ours."""
        if not claim.users and _good(claim):
            self.enter(claim)
            self.leave(claim)

    def give_up_all(self) -> None:
        """The lease may have ended: nothing is sent on any session any more, and each is freed when its link is closed.

        What another has claimed meanwhile stays his, by its token. Calls that come for such a session meanwhile wait
        until it is free, and ask for it again.
        """
        for claim in self:
            claim.lost = True
            if claim.releasing is None:
                self._begin_release(claim)

    def drop_all(self) -> None:
        """The node was declared dead: nothing is its own any more."""
        for claim in self:
            claim.lost = True
        self._claims.clear()
        self._of_tool.clear()

    async def reclaim_all(self) -> None:
        """Redis may have lost claims: ask for everything again. What a living other has claimed meanwhile is lost.

        Raises :class:`StoreUnavailable`. Whose the rest is is not known then: nothing may be sent before all is asked.
        """
        for claim in self:
            if claim.releasing is not None:
                continue
            token = await self._reclaim(claim.tool, claim.session)
            if token is None:
                log.warning("session_lost", tool=claim.tool, node=self._node.id)
                claim.lost = True
                self._forget(claim)
            else:
                claim.token = token

    async def released(self, timeout: float) -> bool:
        """Wait for the questions and releases under way; False if some still are after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while under_way := {*self._releases, *(asking.task for asking in self._asking.values())}:
            _, pending = await asyncio.wait(under_way, timeout=max(0.0, end - time.monotonic()))
            if pending:
                return False
            await asyncio.sleep(0)  # what was given to nobody is only freed now
        return True

    def _put(self, tool: ToolId, session: str, token: int) -> Claim:
        old = self._claims.get((tool, session))
        if old is not None:
            old.lost = True
            self._forget(old)
        claim = self._claims[(tool, session)] = Claim(tool, session, token)
        self._of_tool[tool] += 1
        return claim

    def _forget(self, claim: Claim) -> None:
        """It is not the node's any more; another that came in its place stays."""
        if self._claims.get((claim.tool, claim.session)) is claim:
            del self._claims[claim.tool, claim.session]
            self._of_tool[claim.tool] -= 1

    async def _reclaim(self, tool: ToolId, session: str, caps: Caps = _NO_CAPS) -> int | None:
        with store_errors("asking for a session again"):
            token = await self._redis.run(
                "session_reclaim",
                [self._keys.sessions(tool)],
                [self._keys.begin, self._node.id, encode_part(tool), session, *caps],
            )
        if token in _LIMITS:
            raise session_limit(tool, _LIMITS[token])
        return None if token is None else int(token)

    def _begin_release(self, claim: Claim) -> None:
        claim.releasing = task = asyncio.create_task(
            self._release(claim), name="session-release", context=self._context(claim.tool, claim.session)
        )
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, claim: Claim) -> None:
        """Free it in Redis, whatever it takes; a node that was declared dead meanwhile has nothing to free.

        Its local sessions are closed first: nobody else may own the session while a link of it is open.
        """
        await claim.left.wait()
        node = self._node.id
        while node == self._node.id:
            token = claim.token
            self._last_freed = max(self._last_freed, token)
            try:
                with store_errors("freeing a session"):
                    await self._redis.run(
                        "session_release",
                        [self._keys.sessions(claim.tool)],
                        [self._keys.begin, node, encode_part(claim.tool), claim.session, str(token)],
                    )
                if claim.token != token:
                    continue  # Redis had lost it, and was asked for it again right before
                mine = self._claims.get((claim.tool, claim.session)) is claim
                others = self._of_tool[claim.tool] - int(mine)
                if not others or self.handing_over(claim.tool):
                    # Nobody looks into the direct list of a tool of which this node owns no session.
                    await self.return_direct(claim.tool)
                break
            except StoreUnavailable:
                await asyncio.sleep(RELEASE_AGAIN)
        claim.lost = True
        self._forget(claim)

    async def return_direct(self, tool: ToolId) -> None:
        """Move what waits on this node's direct list of a tool back to its queue. Raises :class:`StoreUnavailable`."""
        queue, node = queue_of(tool), self._node.id
        moved = RETURN_STEP
        while moved == RETURN_STEP:
            with store_errors("handing calls over"):
                moved = await self._redis.run(
                    "direct_return",
                    [self._keys.direct(node, queue)],
                    [self._keys.begin, node, queue, RETURN_STEP],
                )


def _good(claim: Claim) -> bool:
    """Whether calls may begin under it."""
    return claim.releasing is None and not claim.lost
