"""Nodes: this worker's lease, and what becomes of the calls of one that died."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from common.calls.contract import encoded_result, result_frame, result_record
from common.domain.errors import StoreUnavailable, WorkerLost
from common.domain.ids import InvocationId, NodeId
from common.domain.invocation import ExecutionResult, failed
from common.store.client import store_errors
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.message import PoisonMessage, TaskMessage, read_message
from gateway_worker.outbox import Command, Outbox

log = structlog.get_logger(__name__)

LEASE_MS = 8000
BEAT = 1.0
SWEEP_LEASE_MS = 3000
GAP = 3 * BEAT


def end_of_call(message: TaskMessage, result: ExecutionResult, keys: Keys, *, ttl: float) -> list[Command]:
    """The commands that give a call its end: the result for whoever asks, the frame for whoever waits."""
    encoded = encoded_result(result)
    record = result_record(message.id, result, done_at=datetime.now(UTC).isoformat(), encoded=encoded)
    key = keys.result(InvocationId(message.id))
    commands: list[Command] = [("SET", key, record, "PX", int(ttl * 1000))]
    if message.reply_to.startswith(keys.reply_prefix):
        commands.append(("PUBLISH", message.reply_to, result_frame(message.id, result, encoded=encoded)))
    else:
        commands.append(("PUBLISH", key, record))
    return commands


class Nodes:
    """Renews the lease once a second and buries the dead, one worker of the cluster at a time."""

    def __init__(
        self,
        node: NodeId,
        redis: PipelinedConnection,
        keys: Keys,
        clock: RedisClock,
        outbox: Outbox,
        *,
        result_ttl: float,
        unreadable: Callable[[bytes, PoisonMessage], None],
    ) -> None:
        """``unreadable`` takes what a dead node held and nobody can read."""
        self._node = node
        self._redis = redis
        self._keys = keys
        self._clock = clock
        self._outbox = outbox
        self._result_ttl = result_ttl
        self._unreadable = unreadable
        self._left = False
        self.beating = asyncio.Event()
        self._last_beat = float("-inf")
        self._beating_since = float("-inf")

    async def run(self) -> None:
        """Beat and sweep until :meth:`leave`. Redis away: the lease runs out, and is taken again afterwards."""
        while not self._left:
            try:
                await self._beat()
                await self._sweep()
            except StoreUnavailable as error:
                log.warning("node_not_renewed", node=self._node, cause=repr(error.__cause__))
            await asyncio.sleep(BEAT)

    async def leave(self) -> None:
        """Say goodbye: whatever is still recorded as begun here is answered now."""
        # The worker goes on closing for a while: a beat behind the goodbye would list it again.
        self._left = True
        with store_errors("leaving"):
            await self._bury(self._node, force=True)

    async def _beat(self) -> None:
        with store_errors("renewing the node's lease"):
            _, now = await self._redis.run("node_beat", [self._keys.nodes], [self._node, LEASE_MS])
        self._clock.correct(now)
        moment = time.monotonic()
        if self.beating.is_set() and moment - self._last_beat > GAP:
            self._beating_since = moment
        self._last_beat = moment
        self.beating.set()

    async def _sweep(self) -> None:
        """Bury who is dead; but not right after Redis was away, when every lease has run out.

        After a gap of our own, and after a restart of Redis, the living get the time of one lease to come back.
        """
        if time.monotonic() - self._beating_since < LEASE_MS / 1000:
            return
        with store_errors("looking for dead nodes"):
            mine = await self._redis.run("lease_take", [self._keys.sweep_lease], [self._node, SWEEP_LEASE_MS])
            if not mine:
                return
            dead: list[Any] = await self._redis.command(
                "ZRANGEBYSCORE", self._keys.nodes, "-inf", self._clock.now()
            )
            if not dead or _uptime(await self._redis.command("INFO", "server")) < LEASE_MS / 1000 + BEAT:
                return
            for raw in dead:
                await self._bury(NodeId(raw.decode()), force=False)

    async def _bury(self, node: NodeId, *, force: bool) -> None:
        """Answer what a node had begun: nobody can know whether the backend acted."""
        held = await self._redis.run(
            "node_bury", [self._keys.nodes, self._keys.unacked(node)], [node, int(force)]
        )
        if held is None:
            return
        if not force:
            log.warning("node_lost", node=node, calls=len(held))
        lost = failed(WorkerLost("the worker died while it held the call; whether the tool acted is unknown"))
        for raw in held:
            try:
                message = read_message(raw, "")
            except PoisonMessage as poison:
                self._unreadable(raw, poison)
                continue
            self._outbox.put(*end_of_call(message, lost, self._keys, ttl=self._result_ttl))


def _uptime(info: bytes) -> int:
    """Seconds since the server started, from its own INFO."""
    for line in info.splitlines():
        name, _, value = line.partition(b":")
        if name == b"uptime_in_seconds":
            return int(value)
    return 0
