"""The workers there are, and how the tools' queues stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.domain.ids import NodeId, ToolId, queue_of
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import run


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One node. ``lease`` is how many seconds its lease still runs; at 0 it has ended, and the sweep will see to it."""

    node: str
    host: str
    lease: float
    sessions: int
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """A tool's queue. ``age`` is that of its oldest call in seconds, None if nothing waits or it is not known.

    ``waiting`` counts what any worker may take, ``waiting_direct`` what waits for the owner of its session;
    ``drained`` is how many calls a second were taken from the queue, lately.
    """

    queue: str
    tool: str
    waiting: int
    waiting_direct: int
    in_flight: int
    age: float | None
    drained: float


def workers(client: Client, keys: Keys) -> list[WorkerStatus]:
    """All nodes that are listed, sorted. Fails closed: raises ``StoreUnavailable``."""
    with store_errors("reading the workers"):
        seconds, micros = client.time()
        listed: Any = client.zrange(keys.nodes, 0, -1, withscores=True)
        names: list[tuple[str, float]] = sorted((name.decode(), ends) for name, ends in listed)
        pipe = client.pipeline(transaction=False)
        for name, _ in names:
            pipe.scard(keys.node_sessions(NodeId(name)))
            pipe.hlen(keys.unacked(NodeId(name)))
        counts: list[int] = pipe.execute()
    now = seconds * 1000 + micros // 1000
    return [
        WorkerStatus(
            node=name,
            host=name.rpartition("@")[2].rpartition(":")[0],
            lease=max(0.0, ends - now) / 1000,
            sessions=counts[2 * index],
            calls=counts[2 * index + 1],
        )
        for index, (name, ends) in enumerate(names)
    ]


def queues(client: Client, keys: Keys, tools: Sequence[ToolId]) -> list[QueueStatus]:
    """The queues of these tools. Fails closed: raises ``StoreUnavailable``."""
    return [_queue(client, keys, tool) for tool in tools]


def _queue(client: Client, keys: Keys, tool: ToolId) -> QueueStatus:
    queue = queue_of(tool)
    with store_errors("reading a queue"):
        found: Any = run(
            client,
            "queue_status",
            [queue, keys.nodes, keys.calls(queue), keys.drain(queue)],
            [keys.begin, queue],
        )
    waiting, direct, in_flight, age, drained = found
    return QueueStatus(
        queue=queue,
        tool=tool,
        waiting=waiting,
        waiting_direct=direct,
        in_flight=in_flight,
        age=None if age < 0 else age / 1000,
        drained=float(drained),
    )
