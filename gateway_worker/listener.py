"""What other processes call out to the workers: a queue got a message, the registry changed, a call is off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from common.domain.errors import StoreUnavailable
from common.store.client import AsyncClient, store_errors

log = structlog.get_logger(__name__)

QUIET = 5.0
RETRY = 0.1


class Listener:
    """One subscription. Its messages are hints: each hearer also looks by itself from time to time."""

    def __init__(self, client: AsyncClient, hearers: Mapping[str, Callable[[bytes], None]]) -> None:
        self._client = client
        self._hearers = dict(hearers)

    async def run(self) -> None:
        """Listen, for ever; after a lost connection, again."""
        while True:
            try:
                await self._listen()
            except StoreUnavailable as error:
                log.debug("listener_disconnected", cause=repr(error.__cause__))
            await asyncio.sleep(RETRY)

    async def _listen(self) -> None:
        with store_errors("listening"):
            async with self._client.pubsub(ignore_subscribe_messages=True) as subscription:
                await subscription.subscribe(*self._hearers)
                while True:
                    message = await subscription.get_message(timeout=QUIET)
                    if message is None:
                        # A connection that died silently fails here instead of never.
                        await subscription.ping()
                    elif message["type"] == "message":
                        self._hear(message["channel"], message["data"])

    def _hear(self, channel: bytes, data: bytes) -> None:
        """A message that nobody can read is anybody's: it must not end the listening."""
        try:
            self._hearers[channel.decode()](data)
        except (ValueError, KeyError) as error:
            log.error("message_unreadable", channel=channel, error=repr(error))
