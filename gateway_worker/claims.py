"""Which sessions this node owns, and under which fencing tokens; giving them back, and asking for them again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import structlog

from common.domain.errors import GatewayError, StoreUnavailable
from common.domain.ids import ToolId, encode_part, queue_of
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.node import Node

log = structlog.get_logger(__name__)

RELEASE_AGAIN = 0.5
RETURN_STEP = 200


class NotOwner(GatewayError):
    """The session is another node's: the call goes back to its queue. Callers never see it."""

    def __init__(self) -> None:
        super().__init__("the session belongs to another worker")


class Claim:
    """One session that this node owns. ``users`` are the local tool sessions that live under it."""

    __slots__ = ("lost", "releasing", "session", "token", "tool", "users")

    def __init__(self, tool: ToolId, session: str, token: int) -> None:
        self.tool = tool
        self.session = session
        self.token = token
        self.users = 0
        self.releasing: asyncio.Task[None] | None = None
        self.lost = False
        """True once it is another's, or may be."""


class Claims:
    """The node's claims. Belongs to the engine's loop; what ``fetch.lua`` decided is told to :meth:`find`."""

    def __init__(self, node: Node, redis: PipelinedConnection, keys: Keys) -> None:
        self.handing_over: Callable[[ToolId], bool] = lambda _: False
        """Whether a tool's sessions are handed over, so that what waits for them goes back to its queue."""
        self._node = node
        self._redis = redis
        self._keys = keys
        self._claims: dict[tuple[ToolId, str], Claim] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self._last_freed = 0
        """The greatest token that was given back: who comes with it or an older one may come too late."""

    def __iter__(self) -> Iterator[Claim]:
        return iter(list(self._claims.values()))

    def owns_any_of(self, tool: ToolId) -> bool:
        """Whether a session of this tool is the node's."""
        return any(claim.tool == tool for claim in self._claims.values())

    def find(self, tool: ToolId, session: str, token: int | None) -> Claim | None:
        """The claim under which a call with this token runs; None if Redis has to be asked first (:meth:`confirm`)."""
        claim = self._claims.get((tool, session))
        if claim is not None and claim.releasing is None and token is not None and token <= claim.token:
            return claim
        if token is None or token <= self._last_freed or (claim is not None and token <= claim.token):
            return None
        return self._put(tool, session, token)

    async def confirm(self, tool: ToolId, session: str) -> Claim:
        """Ask Redis for the session again, behind a release that is under way.

        Raises :class:`NotOwner` if a living other has it by now, :class:`StoreUnavailable` without an answer.
        """
        claim = self._claims.get((tool, session))
        while True:
            if claim is not None and claim.releasing is not None:
                await asyncio.wait([claim.releasing])
            token = await self._reclaim(tool, session)
            if token is None:
                raise NotOwner
            claim = self._claims.get((tool, session))
            if claim is None or claim.releasing is None:
                break
            # A claim that came meanwhile goes already, and its release may free what was just given.
        if claim is not None and claim.token == token:
            return claim
        return self._put(tool, session, token)

    def enter(self, claim: Claim) -> None:
        """A local tool session begins under the claim."""
        claim.users += 1

    def leave(self, claim: Claim) -> None:
        """A local tool session under it has ended, its link included; the last one frees the claim."""
        claim.users -= 1
        if claim.users > 0 or claim.lost or self._claims.get((claim.tool, claim.session)) is not claim:
            return
        claim.releasing = task = asyncio.create_task(self._release(claim), name="session-release")
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    def free_unused(self, claim: Claim) -> None:
        """Free a claim under which no local session ever began."""
        self.enter(claim)
        self.leave(claim)

    def drop_all(self) -> None:
        """The node was declared dead: nothing is its own any more."""
        for claim in self:
            claim.lost = True
        self._claims.clear()

    async def reclaim_all(self) -> None:
        """Redis lost its data: ask for everything again. What a living other has claimed meanwhile is lost."""
        for claim in self:
            if claim.releasing is not None:
                continue
            try:
                token = await self._reclaim(claim.tool, claim.session)
            except StoreUnavailable:
                token = None
            if token is None:
                log.warning("session_lost", tool=claim.tool, node=self._node.id)
                claim.lost = True
                self._claims.pop((claim.tool, claim.session), None)
            else:
                claim.token = token

    async def released(self, timeout: float) -> bool:
        """Wait for the releases under way; False if some still are after ``timeout`` seconds."""
        if not self._releases:
            return True
        _, pending = await asyncio.wait(self._releases, timeout=timeout)
        return not pending

    def _put(self, tool: ToolId, session: str, token: int) -> Claim:
        old = self._claims.get((tool, session))
        if old is not None:
            old.lost = True
        claim = self._claims[(tool, session)] = Claim(tool, session, token)
        return claim

    async def _reclaim(self, tool: ToolId, session: str) -> int | None:
        with store_errors("asking for a session again"):
            token = await self._redis.run(
                "session_reclaim",
                [self._keys.sessions(tool)],
                [self._keys.begin, self._node.id, encode_part(tool), session],
            )
        return None if token is None else int(token)

    async def _release(self, claim: Claim) -> None:
        """Free it in Redis, whatever it takes; a node that was declared dead meanwhile has nothing to free."""
        node, key = self._node.id, (claim.tool, claim.session)
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
                others = any(other is not claim and other.tool == claim.tool for other in self)
                if not others or self.handing_over(claim.tool):
                    # Nobody looks into the direct list of a tool of which this node owns no session.
                    await self.return_direct(claim.tool)
                break
            except StoreUnavailable:
                await asyncio.sleep(RELEASE_AGAIN)
        claim.lost = True
        if self._claims.get(key) is claim:
            del self._claims[key]

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
