"""What other processes call out to the workers: a queue got a message, the registry changed, a call is off."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from common.store.client import StoreAddress
from common.store.subscription import Subscription

log = structlog.get_logger(__name__)

Hearer = Callable[[bytes], None]


class Listener:
    """One subscription. Its messages are hints: each hearer also looks by itself from time to time."""

    def __init__(
        self,
        address: StoreAddress,
        hearers: Mapping[str, Hearer],
        *,
        on_subscribed: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_subscribed`` is called whenever hints may have been missed."""
        self._hearers = {channel.encode(): hearer for channel, hearer in hearers.items()}
        self._subscription = Subscription(
            address, list(hearers), on_publication=self._hear, on_subscribed=on_subscribed
        )

    async def run(self) -> None:
        """Listen, for ever; after a lost connection, again."""
        await self._subscription.run()

    def _hear(self, channel: bytes, data: bytes) -> None:
        """A message that nobody can read is anybody's: it must not end the listening."""
        try:
            self._hearers[channel](data)
        except (ValueError, KeyError) as error:
            log.error("message_unreadable", channel=channel, error=repr(error))
