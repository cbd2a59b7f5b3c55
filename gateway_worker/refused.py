"""Refused calls of stock Celery producers in the journal, as the web processes write those that they refuse."""

from __future__ import annotations

import asyncio

from common.audit.refusals import SPAN, Refusals, refusal_event
from common.domain.errors import GatewayError
from common.domain.invocation import Invocation
from common.store.keys import Keys
from gateway_worker.outbox import Outbox


class RefusedCalls:
    """Belongs to the engine's loop. While Redis is away the outbox keeps them; what the worker dies with is gone."""

    def __init__(self, keys: Keys, outbox: Outbox) -> None:
        self._private = keys.seals is not None
        self._refusals = Refusals(outbox.put, keys)

    def note(self, invocation: Invocation, error: GatewayError) -> None:
        """A call was refused before it was on its queue."""
        event = refusal_event(
            invocation.caller,
            invocation.tool,
            invocation.method,
            invocation.params,
            error,
            request_id=invocation.request_id,
            private=self._private,
        )
        self._refusals.note(event)

    async def run(self) -> None:
        """Write what was counted, for ever; and at the end."""
        try:
            while True:
                await asyncio.sleep(SPAN)
                self._refusals.tick()
        finally:
            self._refusals.tick(at_once=True)
