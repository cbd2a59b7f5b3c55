"""Where the fetcher puts what it fetched, and asks how much more there may be."""

from __future__ import annotations

from collections.abc import Callable

from common.domain.ids import tool_of
from common.registry.catalogue import CatalogueReader
from gateway_worker.calls import Calls
from gateway_worker.claims import Claims
from gateway_worker.delivery import Taken
from gateway_worker.node import Node
from gateway_worker.nodes import Nodes


class CallDesk:
    """See :class:`~gateway_worker.fetcher.Desk`. Belongs to the engine's loop."""

    def __init__(
        self,
        node: Node,
        calls: Calls,
        claims: Claims,
        catalogue: CatalogueReader,
        nodes: Nodes,
        limit: Callable[[], int],
    ) -> None:
        """``limit`` is the most calls in flight; it may change."""
        self._node = node
        self._calls = calls
        self._claims = claims
        self._catalogue = catalogue
        self._nodes = nodes
        self._limit = limit

    def free(self) -> int:
        """Free slots now."""
        return self._limit() - len(self._calls) - self._calls.aside.adopting

    def start(self, taken: Taken) -> None:
        """Begin with a message; one that was fetched for a former incarnation is another's by now."""
        if taken.node == self._node.id:
            self._calls.begin(taken)

    def most_in_flight(self, queue: str) -> int:
        """The most calls of a queue's tool in flight in the whole cluster; 0: any number."""
        tool = tool_of(queue)
        entry = None if tool is None else self._catalogue.get(tool)
        return 0 if entry is None else entry.tool.max_in_flight or 0

    def owns_sessions(self, queue: str) -> bool:
        """Whether this node owns a session of the queue's tool."""
        tool = tool_of(queue)
        return tool is not None and self._claims.owns_any_of(tool)

    def fetch_epoch(self) -> int | None:
        """The connection to fetch over; None while nothing may be fetched."""
        return self._nodes.fetch_epoch
