"""Lengths of queues as they are: those of tools with what waits for the owners of sessions, worker or none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from common.control.cluster import queues
from common.domain.ids import tool_of
from common.registry.registry import Registry
from common.store.client import Client, store_errors
from common.store.keys import Keys


class Lengths:
    """Stands where Flower has its reader of a broker. Raises :class:`StoreUnavailable`."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """All tools' queues, and of the ``names`` those that are no tool's."""
        return await asyncio.to_thread(self._read, [name for name in names if tool_of(name) is None])

    def _read(self, others: list[str]) -> list[dict[str, Any]]:
        tools = [entry.id for entry in Registry(self._client, self._keys).entries()]
        found = [
            {"name": queue.queue, "messages": queue.waiting + queue.waiting_direct}
            for queue in queues(self._client, self._keys, tools)
        ]
        with store_errors("reading queues"):
            found += [{"name": name, "messages": int(self._client.llen(name))} for name in others]
        return sorted(found, key=lambda queue: str(queue["name"]))
