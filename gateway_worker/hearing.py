"""A worker's listening, for each incarnation of its node anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from common.domain.ids import NodeId
from common.store.client import StoreAddress
from gateway_worker.listener import Hearer, Listener
from gateway_worker.node import Node


class Hearing:
    """Belongs to the engine's loop."""

    def __init__(
        self,
        address: StoreAddress,
        node: Node,
        hearers: Callable[[NodeId], Mapping[str, Hearer]],
        on_subscribed: Callable[[], None],
    ) -> None:
        """``hearers`` are those of an incarnation, by channel; ``on_subscribed`` as for :class:`Listener`."""
        self._address = address
        self._node = node
        self._hearers = hearers
        self._on_subscribed = on_subscribed
        self._ears: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Listen, for ever: the node's own channel has its name, so a new name needs a new subscription."""
        while True:
            node = self._node.id
            listener = Listener(self._address, self._hearers(node), on_subscribed=self._on_subscribed)
            self._ears = asyncio.create_task(listener.run(), name="ears")
            try:
                await self._ears
            except asyncio.CancelledError:
                if self._node.id == node:
                    self._ears.cancel()
                    raise

    def anew(self) -> None:
        """The node has another name."""
        if self._ears is not None:
            self._ears.cancel()
