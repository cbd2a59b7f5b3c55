"""The node's lease: it beats once a second, and learns whether it was declared dead or forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any, Protocol

import structlog

from common.domain.errors import StoreUnavailable
from common.domain.ids import InvocationId
from common.store.client import store_errors
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.node import LEASE, Node, lease_time

log = structlog.get_logger(__name__)

BEAT = 1.0
AWAY = 0.25
"""Seconds between two beats while Redis does not answer."""
GAP = 3 * BEAT
QUARANTINE = 3.0
"""Seconds after a restart of Redis in which nobody fetches: the workers declare first what they have begun."""
DECLARED_FOR_MS = 60_000
AT_ONCE = 500


class Cluster(Protocol):
    """What the node's standing means to the rest of the worker. Called on the engine's loop."""

    def fenced(self) -> None:
        """The node was declared dead: its calls and sessions are no longer its own. It has another id afterwards."""

    async def forgotten(self) -> None:
        """Redis was restarted, or does not know the node any more; nobody declared it dead.

        It may have forgotten the last of what it was told. Raises :class:`StoreUnavailable`; then it is told again.
        """

    def begun_lately(self) -> Collection[InvocationId]:
        """The calls that run, and those begun since a while before the last :meth:`confirmed`, ended or not."""

    def confirmed(self, moment: float) -> None:
        """A beat sent at that moment (monotonic seconds) counts: Redis was not restarted before it."""

    def may_fetch(self) -> None:
        """Messages may be fetched again; said once behind each time in which they might not."""


class Nodes:
    """Renews the lease once a second. Redis away: the lease runs out; whether it was taken is seen afterwards."""

    def __init__(
        self, node: Node, redis: PipelinedConnection, keys: Keys, clock: RedisClock, cluster: Cluster
    ) -> None:
        self._node = node
        self._redis = redis
        self._keys = keys
        self._clock = clock
        self._cluster = cluster
        self._left = False
        self._known = False
        self._forgot = False
        """Whether Redis may have forgotten something that is not put right yet."""
        self._run_id: bytes | None = None
        self._epoch = -1
        self._served_from = float("-inf")
        self._kept_away = True
        """Whether nothing may have been fetched since the cluster was last told that it may."""
        self.beating = asyncio.Event()
        self._last_beat = float("-inf")
        self._beating_since = float("-inf")

    async def run(self) -> None:
        """Beat until :meth:`stop`."""
        while not self._left:
            pause = BEAT
            try:
                await self.beat()
            except StoreUnavailable as error:
                log.warning("node_not_renewed", node=self._node.id, cause=repr(error.__cause__))
                self._node.doubt()
                self._kept_away = True
                # The sooner it is back, the sooner calls go on.
                pause = AWAY
            await asyncio.sleep(pause)

    def stop(self) -> None:
        """Beat no more: the worker goes on closing for a while, and a beat behind its goodbye would list it again."""
        self._left = True

    @property
    def steady(self) -> bool:
        """Whether beats have come through for the time of a lease.

        Right after Redis was away every lease has run out, and the living get that time to come back.
        """
        return time.monotonic() - self._beating_since >= LEASE

    @property
    def fetch_epoch(self) -> int | None:
        """The connection over which messages may be fetched at this moment; None: over none."""
        ready = self._epoch == self._redis.epoch and time.monotonic() >= self._served_from
        return self._epoch if ready and not self._forgot else None

    async def beat(self) -> None:
        """Renew the lease once. Fails closed: without every answer the node is not confirmed.

        Raises :class:`StoreUnavailable`.
        """
        sent, by_lease = time.monotonic(), lease_time()
        with store_errors("renewing the node's lease"):
            state, now = await self._redis.run(
                "node_beat",
                [self._keys.nodes, self._keys.fenced(self._node.id)],
                [self._node.id, int(LEASE * 1000)],
            )
        self._clock.correct(now)
        if state == b"fenced":
            log.warning("node_fenced", node=self._node.id)
            self._known = False
            self._cluster.fenced()
            return
        self._forgot |= state == b"unknown" and self._known
        self._known = True
        if self._redis.epoch != self._epoch:
            await self._look_at_server(self._redis.epoch)
        if self._forgot:
            # Before the node may act again: a call must not go out under a claim that another has by now.
            await self._cluster.forgotten()
            self._forgot = False
        if sent - self._last_beat > GAP:
            self._beating_since = sent
        self._last_beat = sent
        self._cluster.confirmed(sent)
        self._node.confirm(by_lease)
        self.beating.set()
        if self._kept_away:
            self._kept_away = False
            wait = max(0.0, self._served_from - time.monotonic())
            asyncio.get_running_loop().call_later(wait, self._cluster.may_fetch)

    async def _look_at_server(self, epoch: int) -> None:
        """Find out whether this is still the server as it was, or one that was restarted.

        A restarted one may have forgotten that messages were taken: what this worker has begun lately is declared, and
        fetched is only when every worker had the time to do so.
        """
        with store_errors("looking at the server"):
            info = _facts(await self._redis.command("INFO", "server"))
            others = int(await self._redis.command("ZCARD", self._keys.nodes)) > 1
            restarted = self._run_id is not None and info[b"run_id"] != self._run_id
            if restarted:
                await self._declare()
                self._forgot = True
        young = QUARANTINE - int(info[b"uptime_in_seconds"])
        # Uptime tells nothing of a restart: loading data counts as such, and a replica has been up for long.
        wait = QUARANTINE if restarted else max(0.0, young if others else 0.0)
        if restarted:
            log.warning("redis_restarted", node=self._node.id, fetching_in=wait)
        self._run_id = info[b"run_id"]
        # One more connection within the wait must not cut it short.
        self._served_from = max(self._served_from, time.monotonic() + wait)
        self._kept_away = True
        self._epoch = epoch

    async def _declare(self) -> None:
        """Say what Redis may give out again although it runs, or ran, here; in steps, so that others get a turn."""
        began = [self._keys.began(call) for call in self._cluster.begun_lately()]
        for first in range(0, len(began), AT_ONCE):
            step = began[first : first + AT_ONCE]
            await self._redis.run("call_declare", step, (self._node.id, DECLARED_FOR_MS))


def _facts(info: bytes) -> dict[bytes, bytes]:
    """What the server says of itself."""
    pairs: Any = (line.partition(b":") for line in info.splitlines())
    return {name: value for name, _, value in pairs}
