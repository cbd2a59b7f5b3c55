"""The queues that a worker serves: its tools', and for a while those of tools that were removed."""

from __future__ import annotations

from collections.abc import Callable, Collection

from common.domain.ids import tool_of
from common.registry.catalogue import Definitions
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.removed import RemovedQueues


class Served:
    """Belongs to the engine's loop."""

    def __init__(
        self,
        redis: PipelinedConnection,
        keys: Keys,
        catalogue: Definitions,
        *,
        on_changed: Callable[[Collection[str]], None],
    ) -> None:
        """``on_changed`` is given all of them whenever they may have become others."""
        self._catalogue = catalogue
        self._on_changed = on_changed
        self._followed: set[str] = set()
        self._removed = RemovedQueues(redis, keys, on_forgotten=self._tell)

    def follow(self, queues: Collection[str]) -> None:
        """Serve these queues from now on.

        Those of tools that were removed are served until they are empty, so that what waits there is told so.
        """
        gone = self._followed - set(queues)
        self._followed = set(queues)
        self._removed.discard(self._followed)
        self._removed.add([queue for queue in gone if not self._registered(queue)])
        self._tell()

    async def run(self) -> None:
        """Forget removed ones that are empty, for ever."""
        await self._removed.run()

    def _tell(self) -> None:
        self._on_changed(self._followed | self._removed.names)

    def _registered(self, queue: str) -> bool:
        tool = tool_of(queue)
        if tool is None:
            return False
        # One that only a newer release can read is not gone: what waits there waits for a worker of that.
        return self._catalogue.get(tool) is not None or tool in self._catalogue.unreadable
