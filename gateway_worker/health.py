"""Asking the tools how they are: one probe of a tool per interval in the whole cluster, in the background.

A probe takes nothing from callers: no circuit permit, no session slot, no place in a queue, and it keeps no session
from growing idle. It grades and changes nothing else; a session whose backend is silent stays open, for a server that
does one thing at a time is silent while it works.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from common.domain.audit import AuditEvent, EventKind, event_fields
from common.domain.errors import StoreUnavailable
from common.domain.health import (
    Health,
    HealthTransition,
    health_from_wire,
    health_to_wire,
    observed,
    transition,
)
from common.domain.ids import NodeId, ToolId
from common.domain.tool import StdioTransport, ToolState
from common.registry.catalogue import CatalogueReader
from common.registry.records import Entry
from common.store.client import AsyncClient, store_errors
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.scripts import run_async
from common.telemetry.about import About
from gateway_worker.credentials.identity import GivenTo, nothing_given
from gateway_worker.egress.backend import MakeLink
from gateway_worker.probe import Finding, OpenSessions, Probe

log = structlog.get_logger(__name__)

LOOK_INTERVAL = 0.5
TIDY_INTERVAL = 5.0
MAX_AT_ONCE = 8
CLOSE_MARGIN = 3.0
"""Seconds in which a connection made for a probe is closed again, its session at the backend ended."""
CLOSE_GRACE = 0.5


@dataclass(slots=True)
class _Plan:
    """When a tool is to be asked next (monotonic seconds), under which definition.

    ``lease`` is the name under which the last lease was taken, ``outdated`` that of one which lasts too long: for the
    definition before, whose interval may have been another, or not cut because Redis was away.
    """

    version: int
    at: float
    lease: str = ""
    outdated: str = ""


class Prober:
    """Grades the tools that this worker serves. Belongs to the worker's event loop."""

    def __init__(
        self,
        *,
        node: Callable[[], NodeId],
        client: AsyncClient,
        keys: Keys,
        clock: RedisClock,
        catalogue: CatalogueReader,
        serves: Callable[[ToolId], bool],
        links: MakeLink,
        sessions: OpenSessions,
        given_to: GivenTo = nothing_given,
    ) -> None:
        """``node`` tells the worker's present name.

        ``given_to`` says which credentials the gateway's own connections with a tool get.
        """
        self._node = node
        self._client = client
        self._keys = keys
        self._clock = clock
        self._catalogue = catalogue
        self._serves = serves
        self._probing = Probe(links, sessions, given_to)
        self._plans: dict[ToolId, _Plan] = {}
        self._running: dict[ToolId, asyncio.Task[None]] = {}
        self._turns = itertools.count()
        self._tidied = float("-inf")
        self._closed = False

    async def run(self) -> None:
        """Probe what is due, for ever. Redis away: the grades stay as they are; look again later."""
        while True:
            try:
                self._look()
                await self._tidy()
            except StoreUnavailable as error:
                log.debug("health_paused", error=str(error))
            except Exception:
                log.exception("health_broke")
            await asyncio.sleep(LOOK_INTERVAL)

    async def close(self) -> None:
        """Stop what runs, and begin nothing more.

        A probe has a moment to end by itself: one that is cut off while a backend opens a session leaves it there.
        """
        self._closed = True
        if not self._running:
            return
        _, late = await asyncio.wait(list(self._running.values()), timeout=CLOSE_GRACE)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    # -- when -------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Begin what is due, the longest due first: tools that take their time must not keep others from their turn."""
        now = time.monotonic()
        entries = [entry for entry in self._catalogue.entries() if watched(entry) and self._serves(entry.id)]
        self._plans = {entry.id: self._plan(entry, now) for entry in entries}
        due = [
            entry for entry in entries if self._plans[entry.id].at <= now and entry.id not in self._running
        ]
        for entry in sorted(due, key=lambda entry: self._plans[entry.id].at):
            if self._closed or len(self._running) >= MAX_AT_ONCE:
                return
            plan = self._plans[entry.id]
            plan.at = now + entry.tool.health.interval
            task = asyncio.create_task(self._contained(entry, plan), name=f"probe-{entry.id}")
            self._running[entry.id] = task
            task.add_done_callback(lambda _, tool=entry.id: self._running.pop(tool, None))  # type: ignore[misc]

    def _plan(self, entry: Entry, now: float) -> _Plan:
        """The tool's plan. The first probe is somewhere in the first interval: not all tools are asked at once."""
        plan, version = self._plans.get(entry.id), entry.registered.version
        if plan is not None and plan.version == version:
            return plan
        first = now + random.uniform(0, entry.tool.health.interval)  # noqa: S311 - jitter
        return _Plan(version=version, at=first, outdated=plan.lease if plan is not None else "")

    async def _contained(self, entry: Entry, plan: _Plan) -> None:
        """One probe. A fault of ours is no sign of the tool's health: its grade stays as it is."""
        About(tool=entry.id, node=self._node()).enter()
        try:
            if not await self._left_to_others(entry):
                await self._elected(entry, plan)
        except StoreUnavailable as error:
            log.debug("probe_interrupted", tool=entry.id, error=str(error))
        except Exception:
            log.exception("probe_broke", tool=entry.id)

    async def _left_to_others(self, entry: Entry) -> bool:
        """Whether this worker has nothing to say: no session with a stdio tool that lives elsewhere or is unknown."""
        if (
            not isinstance(entry.tool.transport, StdioTransport)
            or self._probing.open_backend(entry.id) is not None
        ):
            return False
        if entry.known is None:
            return True
        with store_errors("counting a tool's sessions"):
            # Also while a session of this worker's still starts: its end says more than a grade for nothing.
            return bool(await self._client.hlen(self._keys.sessions(entry.id)))

    async def _elected(self, entry: Entry, plan: _Plan) -> None:
        """Probe if no worker of the cluster has done so within the interval.

        The lease is never given back early: it says that the tool was asked. A connection may take longer than the
        interval, so the lease then lasts as long as that may take, and is cut to the interval afterwards: workers
        must not pile up connections to a server that hangs.
        """
        interval, tool = entry.tool.health.interval, entry.tool
        life = interval
        if not isinstance(tool.transport, StdioTransport):
            life = max(interval, tool.startup_timeout + tool.health.timeout + CLOSE_MARGIN)
        if plan.outdated:
            await self._release(entry.id, plan.outdated)
            plan.outdated = ""
        # A name of its own for each: a worker that comes back early finds its own last probe as anybody's.
        owner = f"{self._node()}:{next(self._turns)}"
        # Should the answer be lost, the lease may be held without a probe: the next turn gives it back.
        plan.outdated = owner
        mine = await self._take(entry.id, owner, life)
        plan.outdated = ""
        if not mine:
            return
        plan.lease, taken = owner, time.monotonic()
        # Not before the lease has ended: that would wait for one more interval.
        plan.at = taken + interval
        try:
            await self._probe(entry)
        finally:
            if life > interval:
                await self._cut(entry.id, plan, taken + interval)

    async def _cut(self, tool: ToolId, plan: _Plan, end: float) -> None:
        """Let the plan's lease last until ``end`` (monotonic seconds), and no longer."""
        plan.outdated = plan.lease
        left = end - time.monotonic()
        if left > 0:
            await self._take(tool, plan.lease, left)
        else:
            await self._release(tool, plan.lease)
        plan.outdated, plan.at = "", time.monotonic() + max(left, 0.0)

    async def _take(self, tool: ToolId, owner: str, seconds: float) -> bool:
        with store_errors("taking a probe's lease"):
            milliseconds = max(1, int(seconds * 1000))
            lease = self._keys.probe_lease(tool)
            return bool(await run_async(self._client, "lease_take", [lease], [owner, milliseconds]))

    async def _release(self, tool: ToolId, owner: str) -> None:
        with store_errors("releasing a probe's lease"):
            await run_async(self._client, "lease_release", [self._keys.probe_lease(tool)], [owner])

    # -- asking -----------------------------------------------------------------------------------------

    async def _probe(self, entry: Entry) -> None:
        with store_errors("reading a tool's health"):
            before: Any = await self._client.hget(self._keys.health, entry.id)
        # A cancellation that comes with Redis' answer may be lost (python/cpython#86296).
        if self._closed:
            return
        found = await self._probing.find(entry)
        if found is not None:
            await self._store(entry, before, found)

    # -- telling ----------------------------------------------------------------------------------------

    async def _store(self, entry: Entry, before: bytes | None, found: Finding) -> None:
        """Keep what was found; announce and audit it if the grade became another. Redis away: it is lost."""
        keys, old = self._keys, recorded(before)
        new = observed(old, found.latency, entry.tool.health, found.error, at=self._clock.now())
        change = transition(old, new)
        told = [] if change is None else self._told(entry.id, change)
        record = orjson.dumps(health_to_wire(new))
        with store_errors("storing a tool's health"):
            stored = await run_async(
                self._client,
                "health_put",
                [
                    keys.registry_versions,
                    keys.health,
                    keys.registry_version,
                    keys.registry_changes,
                    keys.audit,
                ],
                [
                    entry.id,
                    entry.registered.version,
                    before or b"",
                    record,
                    keys.registry_channel,
                    *told,
                ],
            )
        if stored and change is not None:
            say = log.info if new.grade is ToolState.ENABLED else log.warning
            say("health_transition", tool=entry.id, change=str(change), reason=change.reason)

    def _told(self, tool: ToolId, change: HealthTransition) -> list[str]:
        node = self._node()
        return event_fields(
            AuditEvent(
                kind=EventKind.HEALTH_TRANSITION,
                actor=node,
                tool=tool,
                node=node,
                reason=change.reason,
                detail=str(change),
            )
        )

    async def _tidy(self) -> None:
        """Take away the grades of tools that nobody probes: a stale grade must not pass for a present one."""
        if time.monotonic() - self._tidied < TIDY_INTERVAL:
            return
        keys = self._keys
        with store_errors("looking for outdated grades"):
            names: Any = await self._client.hkeys(keys.health)
            for name in names:
                entry = self._catalogue.get(ToolId(name.decode()))
                if entry is None or not watched(entry):
                    await run_async(
                        self._client,
                        "health_forget",
                        [keys.registry_versions, keys.health, keys.registry_version, keys.registry_changes],
                        [name, entry.registered.version if entry else 0, keys.registry_channel],
                    )
        self._tidied = time.monotonic()


def watched(entry: Entry) -> bool:
    """Whether the tool is to be probed at all."""
    return entry.enabled and entry.tool.health.interval > 0


def recorded(raw: bytes | None) -> Health | None:
    """The record in ``health``; None if there is none, or none that can be read."""
    try:
        return None if raw is None else health_from_wire(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return None
