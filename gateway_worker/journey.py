"""What is on record of a call on its way: whether it was sent, that it began again, that it goes back."""

from __future__ import annotations

import asyncio

import structlog

from common.audit.journal import audit_command
from common.calls.admission import Order, Refused, Verdict, admit_script, refused_of, verdict_of
from common.calls.head import parts_of
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import StoreUnavailable
from common.domain.ids import TenantId, ToolId, tool_of
from common.domain.policy import Counters
from common.policy.counters import counters_of, counters_script
from common.registry.records import Entry
from common.store.client import store_errors
from common.store.keys import UNSENT_TTL, Keys
from common.store.pipelined import PipelinedConnection
from common.tenants.rates import Buckets, rate_args
from gateway_worker.delivery import Held, Taken
from gateway_worker.egress.link import LinkLost
from gateway_worker.outbox import Outbox

log = structlog.get_logger(__name__)

AGAIN = 0.2
"""Seconds between two tries to put something on record."""


class Journey:
    """Belongs to the engine's loop."""

    def __init__(
        self, redis: PipelinedConnection, keys: Keys, outbox: Outbox, *, most_events: int = 0
    ) -> None:
        """``most_events`` is how many the journal may hold before calls are refused (0: any number)."""
        self._outbox = outbox
        self._redis = redis
        self._keys = keys
        self._most_events = most_events

    async def unsent(self, held: Held) -> None:
        """Note that nothing of the call is sent yet: should this worker die now, it goes back to its queue.

        What was fetched together with its session is noted so already. Degrades: without the note it counts as sent.
        """
        if held.taken.verdict == b"claimed":
            return
        held.cold = True
        key = self._keys.unsent(held.node)
        try:
            with store_errors("noting that a call is unsent"):
                await self._redis.commands([("HSETNX", key, held.tag, 1), ("EXPIRE", key, UNSENT_TTL)])
        except StoreUnavailable as error:
            log.debug("call_not_noted", invocation=held.head.id, cause=repr(error.__cause__))

    async def sent(self, held: Held) -> None:
        """Note that it is going to be sent, and wait until that is on record: otherwise it might run twice.

        Written as a value and not as a removal, so that a note that Redis takes late cannot undo it.
        """
        held.sent = True
        while True:
            try:
                with store_errors("noting that a call is sent"):
                    await self._redis.command("HSET", self._keys.unsent(held.node), held.tag, 0)
            except StoreUnavailable:
                await asyncio.sleep(AGAIN)
            else:
                # A rescue may have removed the hash meanwhile.
                self._outbox.put(("EXPIRE", self._keys.unsent(held.node), UNSENT_TTL))
                return

    async def counters(self, tenant: TenantId, tool: ToolId) -> Counters:
        """How much is going on, for a policy that asks. Raises :class:`StoreUnavailable`."""
        with store_errors("reading how much is going on"):
            return counters_of(await self._redis.run(*counters_script(self._keys, tenant, tool), ()))

    async def admitted(self, order: Order) -> Verdict:
        """Put a call on its queue that came by Celery's own path. Raises :class:`StoreUnavailable`."""
        keys, args = admit_script(self._keys, order)
        with store_errors("queueing a call"):
            return verdict_of(await self._redis.run("admit", keys, args))

    async def adopted(
        self, taken: Taken, queue: str, entry: Entry, message: bytes, buckets: Buckets = ()
    ) -> Refused | None:
        """Put a message back with its head; the refusal if its call may not run now. It waits for Redis."""
        keys = self._keys
        args = (
            taken.tag,
            message,
            keys.begin,
            int(not entry.draining),
            entry.tool.circuit.probes,
            self._most_events,
            *rate_args(buckets),
        )
        while True:
            try:
                with store_errors("adopting a message"):
                    kind, *rest = await self._redis.run("call_adopt", [keys.unacked(taken.node), queue], args)
            except StoreUnavailable:
                await asyncio.sleep(AGAIN)
            else:
                return None if kind in (b"adopted", b"gone") else refused_of([kind, *rest])

    def recovered(self, held: Held, error: LinkLost) -> None:
        """Its link broke, and it is sent again over a new one."""
        log.info("session_recovered", invocation=held.head.id, queue=held.head.queue, reason=error.message)
        tenant, client, _ = parts_of(held.head.session)
        event = AuditEvent(
            kind=EventKind.SESSION_RECOVERED,
            actor=held.node,
            tool=tool_of(held.head.queue) or "",
            tenant=tenant,
            client=client,
            session=held.head.session,
            node=held.node,
            reason=error.message,
            detail=held.head.id,
        )
        self._outbox.put(audit_command(self._keys, event))

    async def back(self, held: Held) -> None:
        """Put it back in front of its queue; nothing of it was sent. Redis away: the sweep does so in the end."""
        keys = self._keys
        while True:
            try:
                with store_errors("putting a call back"):
                    await self._redis.run(
                        "call_return", [keys.unacked(held.node)], [keys.begin, held.node, held.tag]
                    )
            except StoreUnavailable:
                await asyncio.sleep(AGAIN)
            else:
                log.info("call_returned", invocation=held.head.id, queue=held.head.queue)
                return
