"""What a worker puts right after Redis was restarted and may have forgotten the last of what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from common.calls.contract import INVOKE_TASK
from common.calls.head import Head
from common.domain.errors import StoreUnavailable
from common.domain.ids import InvocationId, NodeId, ToolId, decode_part
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.calls import Calls
from gateway_worker.claims import Claims
from gateway_worker.delivery import Taken, lost_end
from gateway_worker.message import PoisonMessage, TaskMessage, head_in, read_message
from gateway_worker.node import Node
from gateway_worker.outbox import Outbox
from gateway_worker.sweep import MOST_ATTEMPTS

log = structlog.get_logger(__name__)

LOOK_AGAIN = 0.2
"""Seconds between two looks whether the strays may be dealt with."""


class Aftermath:
    """Belongs to the engine's loop.

    A *stray* is a record of this node of which the worker knows nothing: its end was forgotten by Redis, and it is too
    old to be repeated; or it went back to its queue, and that was forgotten.
    """

    def __init__(
        self,
        node: Node,
        redis: PipelinedConnection,
        keys: Keys,
        outbox: Outbox,
        calls: Calls,
        claims: Claims,
        *,
        uncertain: Callable[[NodeId], set[str]],
        fetch_epoch: Callable[[], int | None],
    ) -> None:
        """``uncertain`` are the tags of fetches without an answer; ``fetch_epoch`` the connection to fetch over."""
        self._node = node
        self._redis = redis
        self._keys = keys
        self._outbox = outbox
        self._calls = calls
        self._claims = claims
        self._uncertain = uncertain
        self._fetch_epoch = fetch_epoch
        self._strays: list[tuple[NodeId, str]] = []
        self._found = asyncio.Event()

    async def put_right(self) -> None:
        """Repeat the last ends, ask for the sessions again, and look for strays, before anything is fetched.

        Raises :class:`StoreUnavailable`; doing it again does no harm.
        """
        self._outbox.repeat_ends()
        await self._claims.reclaim_all()
        node = self._node.id
        with store_errors("looking for strays"):
            recorded: list[bytes] = await self._redis.command("HKEYS", self._keys.unacked(node))
        known = self._outbox.tags(node) | self._uncertain(node)
        tags = {tag.decode() for tag in recorded if tag.isdigit()} - known
        await self._record_again(node, {tag.decode() for tag in recorded})
        await self._settle_sessions(node)
        # The newest first: one that goes back stands in front of those before it.
        self._strays = [
            (node, tag)
            for tag in sorted(tags, key=int, reverse=True)
            if not self._calls.begun.runs((node, tag))
        ]
        self._found.set()

    async def _record_again(self, node: NodeId, recorded: set[str]) -> None:
        """What runs here is recorded, or nobody would answer it if this worker died, or gave it back."""
        with store_errors("recording calls again"):
            for taken in self._calls.begun.held(node):
                if taken.tag not in recorded:
                    args = (self._keys.begin, node, taken.tag, taken.raw)
                    await self._redis.run("call_record", [self._keys.unacked(node)], args)

    async def _settle_sessions(self, node: NodeId) -> None:
        """Sessions that were given back, which Redis forgot: they are this node's again, and it would not know."""
        with store_errors("looking for forgotten sessions"):
            found: list[bytes] = await self._redis.command("SMEMBERS", self._keys.node_sessions(node))
        for member in found:
            tool, _, session = member.decode().partition("|")
            self._claims.settle(ToolId(decode_part(tool)), session)

    async def run(self) -> None:
        """Deal with strays, for ever; not before every worker has declared what it has begun. Redis away: later."""
        while True:
            await self._found.wait()
            epoch = self._fetch_epoch()
            try:
                if epoch is not None:
                    await self._settle(epoch)
            except StoreUnavailable as error:
                log.warning("strays_wait", waiting=len(self._strays), cause=repr(error.__cause__))
            if self._strays:
                await asyncio.sleep(LOOK_AGAIN)
            else:
                self._found.clear()

    async def _settle(self, epoch: int) -> None:
        """Deal with all strays, over this connection. Raises :class:`StoreUnavailable`; the rest stays."""
        strays, kept = self._strays, []
        while strays and strays is self._strays:
            node, tag = strays[0]
            # Those of a former incarnation are worked off by whoever declared it dead.
            if node == self._node.id and not await self._settle_one(epoch, node, tag):
                kept.append((node, tag))
            strays.pop(0)
        if strays is self._strays:
            strays.extend(kept)

    async def _settle_one(self, epoch: int, node: NodeId, tag: str) -> bool:
        """Deal with one; False if its call runs under another record: it is looked at again when that has ended."""
        with store_errors("reading a stray"):
            raw: bytes | None = await self._redis.command("HGET", self._keys.unacked(node), tag)
        if raw is None:
            return True
        try:
            message = read_message(raw, "")
        except PoisonMessage:
            self._begin_again(node, tag, raw)
            return True
        if message.task != INVOKE_TASK or message.delayed:
            return True  # Celery may still have it
        head = head_in(raw)
        if head is None:
            await self._settle_headless(node, tag, raw, InvocationId(message.id))
        elif self._calls.begun.running(head.id):
            return False
        else:
            await self._decide(epoch, node, tag, head, message)
        return True

    async def _settle_headless(self, node: NodeId, tag: str, raw: bytes, call: InvocationId) -> None:
        """A stock producer's message: it has no head and was not run, but may have been put back with one, and run."""
        with store_errors("looking for the end of a stray"):
            begun = await self._redis.command("EXISTS", self._keys.result(call), self._keys.began(call))
        if begun:
            self._outbox.put(("HDEL", self._keys.unacked(node), tag))
        else:
            self._begin_again(node, tag, raw)

    def _begin_again(self, node: NodeId, tag: str, raw: bytes) -> None:
        """What no backend has seen: whatever is done with it removes the record in the same step, so only once."""
        self._calls.begin(Taken(node=node, tag=tag, raw=raw, queue="", verdict=b"headless", token=None))

    async def _decide(self, epoch: int, node: NodeId, tag: str, head: Head, message: TaskMessage) -> None:
        maybe_sent = int(not self._calls.begun.never((node, tag)))
        with store_errors("deciding on a stray"):
            fate: bytes = await self._redis.run(
                "call_stray",
                [self._keys.unacked(node)],
                [self._keys.begin, node, tag, maybe_sent, MOST_ATTEMPTS],
                epoch=epoch,
            )
        if fate == b"lost":
            self._outbox.put(lost_end(node, tag, head, message))
        log.warning("stray_call", invocation=head.id, queue=head.queue, tag=tag, fate=fate.decode())
