"""What becomes of a node that died: one worker of the cluster looks for them, and works off what they left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from common.calls.contract import result_frame, result_record
from common.domain.errors import StoreUnavailable, WorkerLost
from common.domain.ids import InvocationId, NodeId
from common.domain.invocation import failed
from common.store.client import store_errors
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.node import LEASE, Node
from gateway_worker.nodes import BEAT, Nodes

log = structlog.get_logger(__name__)

SWEEP_LEASE_MS = 3000
STEP = 50
"""Most messages and sessions worked off in one step: each step blocks Redis for a few milliseconds at most."""
MOST_ATTEMPTS = 3
"""A call that has leave is given to so many workers, then it is answered: it may be what kills them."""
TOMBSTONE = 24 * 3600
LEASE_ENDED, GOODBYE, PROCESS_GONE = 0, 1, 2
"""Why a node is declared dead."""
_PLACEHOLDER = "<id>"

OnHeadless = Callable[[NodeId, str, bytes], Awaitable[bool]]


class Sweeper:
    """Looks once a second, if it holds the lease for that."""

    def __init__(
        self,
        node: Node,
        nodes: Nodes,
        redis: PipelinedConnection,
        keys: Keys,
        clock: RedisClock,
        *,
        result_ttl: float,
        headless: OnHeadless,
    ) -> None:
        """``headless`` takes over a message of a dead node that has no head (node, tag, message); False: it did not."""
        self._node = node
        self._nodes = nodes
        self._redis = redis
        self._keys = keys
        self._clock = clock
        self._result_ttl_ms = int(result_ttl * 1000)
        self._headless = headless

    async def run(self) -> None:
        """Sweep, for ever. Redis away: again later."""
        await self._nodes.beating.wait()
        while True:
            try:
                await self._sweep()
            except StoreUnavailable as error:
                log.warning("sweep_interrupted", cause=repr(error.__cause__))
            await asyncio.sleep(BEAT)

    async def _sweep(self) -> None:
        with store_errors("looking for dead nodes"):
            ended: list[Any] = await self._redis.command(
                "ZRANGEBYSCORE", self._keys.nodes, "-inf", self._clock.now()
            )
        for raw in ended:
            node = NodeId(raw.decode())
            if node != self._node.id and await self._dead(node):
                await self.rescue(node)

    async def _dead(self, node: NodeId) -> bool:
        """Whether a node is declared dead, by now or by us.

        What is left of one that is declared dead is worked off by whoever sees it: each step is atomic. To declare one
        so is for one worker at a time. Leases that merely ran out prove nothing while Redis itself was away.
        """
        with store_errors("looking at a node"):
            if await self._redis.command("EXISTS", self._keys.fenced(node)):
                return True
            if not self._nodes.steady or not await self._server_is_steady():
                return False
            lease = [self._keys.sweep_lease]
            if not await self._redis.run("lease_take", lease, [self._node.id, SWEEP_LEASE_MS]):
                return False
        return await self.fence(node, LEASE_ENDED)

    async def _server_is_steady(self) -> bool:
        with store_errors("looking at the server"):
            info: bytes = await self._redis.command("INFO", "server")
        found = [line for line in info.splitlines() if line.startswith(b"uptime_in_seconds:")]
        return bool(found) and int(found[0].partition(b":")[2]) >= LEASE + BEAT

    async def fence(self, node: NodeId, why: int) -> bool:
        """Declare a node dead; False if its lease runs after all. Raises :class:`StoreUnavailable`."""
        keys, args = fence_script(self._keys, node, why, actor=self._node.id)
        with store_errors("declaring a node dead"):
            return bool(await self._redis.run("node_fence", keys, args))

    async def rescue(self, node: NodeId) -> None:
        """Work off what a node left that was declared dead. Raises :class:`StoreUnavailable`; the rest stays."""
        returned = lost = freed = 0
        done = False
        while not done:
            with store_errors("working off a dead node's calls"):
                step = await self._redis.run("node_rescue", self._rescue_keys(node), self._rescue_args(node))
            finished, back, answered, sessions, headless = step
            done = bool(finished)
            returned, lost, freed = returned + back, lost + answered, freed + sessions
            moved = bool(back or answered or sessions)
            for tag, message in zip(headless[::2], headless[1::2], strict=True):
                moved = await self._headless(node, tag.decode(), message) or moved
            if not done and not moved:
                return  # nobody could take over what is left: the next sweep looks again
        if node != self._node.id:
            log.warning("node_lost", node=node, returned=returned, lost=lost, sessions=freed)

    def _rescue_keys(self, node: NodeId) -> list[str]:
        keys = self._keys
        return [
            keys.nodes,
            keys.fenced(node),
            keys.unacked(node),
            keys.unsent(node),
            keys.direct_queues(node),
            keys.node_sessions(node),
            keys.audit,
        ]

    def _rescue_args(self, node: NodeId) -> list[str | bytes | int]:
        before, behind, frame = lost_answer()
        return [
            self._keys.begin,
            node,
            STEP,
            MOST_ATTEMPTS,
            self._result_ttl_ms,
            before,
            behind,
            frame,
        ]


def fence_script(keys: Keys, node: NodeId, why: int, *, actor: str) -> tuple[list[str], list[str | int]]:
    """Keys and arguments of ``node_fence.lua``."""
    return [keys.nodes, keys.fenced(node), keys.audit], [node, why, TOMBSTONE, actor]


def lost_answer() -> tuple[bytes, bytes, bytes]:
    """What stands before and behind the id in the record of a lost call, and its frame without the id."""
    lost = failed(WorkerLost("the worker died while it held the call; whether the tool acted is unknown"))
    record = result_record(_PLACEHOLDER, lost, done_at=datetime.now(UTC).isoformat())
    before, behind = record.split(orjson.dumps(_PLACEHOLDER))
    return before, behind, result_frame(InvocationId(""), lost).lstrip()
