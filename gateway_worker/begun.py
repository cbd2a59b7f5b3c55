"""Which calls this worker has begun: should Redis forget that they were taken, it must not give them out again."""

from __future__ import annotations

import time
from collections import OrderedDict

from common.domain.ids import InvocationId, NodeId
from gateway_worker.delivery import Taken

LATELY = 15.0
"""Seconds before the last confirmed beat for which begun calls are remembered: far more than Redis can lose."""
LATELY_MOST = 100_000

Record = tuple[NodeId, str]
"""Whose record of a call it is, and its delivery tag."""


class Begun:
    """Belongs to the engine's loop. Beyond :data:`LATELY_MOST` calls the oldest that do not run are forgotten."""

    def __init__(self) -> None:
        self._running: dict[Record, tuple[InvocationId, Taken]] = {}
        self._lately: OrderedDict[Record, tuple[float, InvocationId]] = OrderedDict()
        self._last_forgotten = 0
        """The greatest delivery tag that is not remembered any more; the fetcher's only grow."""

    def begin(self, taken: Taken, call: InvocationId) -> None:
        """The call begins."""
        record = (taken.node, taken.tag)
        self._running[record] = call, taken
        self._lately[record] = (time.monotonic(), call)
        if len(self._lately) > LATELY_MOST:
            self._forget_oldest()

    def end(self, taken: Taken) -> None:
        """It runs no more."""
        self._running.pop((taken.node, taken.tag), None)

    def undo(self, taken: Taken) -> None:
        """It goes back to its queue, and nothing of it was sent."""
        self._lately.pop((taken.node, taken.tag), None)

    def confirmed(self, moment: float) -> None:
        """Redis was not restarted before then (monotonic seconds): what is much older it cannot lose any more."""
        while self._lately and next(iter(self._lately.values()))[0] < moment - LATELY:
            self._forget_oldest()

    def lately(self) -> set[InvocationId]:
        """The calls that run, and those begun since a while before the last confirmed beat, ended or not."""
        return {call for _, call in self._lately.values()} | {call for call, _ in self._running.values()}

    def running(self, call: InvocationId) -> bool:
        """Whether a call of this id runs."""
        return any(call == other for other, _ in self._running.values())

    def held(self, node: NodeId) -> list[Taken]:
        """The messages of the calls that run under this incarnation."""
        return [taken for _, taken in self._running.values() if taken.node == node]

    def runs(self, record: Record) -> bool:
        """Whether the call of this record runs."""
        return record in self._running

    def never(self, record: Record) -> bool:
        """Whether it is certain that nothing was sent of the call of this record."""
        known = record in self._lately or record in self._running
        return not known and int(record[1]) > self._last_forgotten

    def abandon(self) -> None:
        """The incarnation was declared dead: its calls are others' by now, who may begin them again."""
        for _, tag in (*self._running, *self._lately):
            self._last_forgotten = max(self._last_forgotten, int(tag))
        self._running.clear()
        self._lately.clear()

    def _forget_oldest(self) -> None:
        (_, tag), _ = self._lately.popitem(last=False)
        self._last_forgotten = max(self._last_forgotten, int(tag))
