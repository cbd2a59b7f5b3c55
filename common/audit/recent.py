"""The records that were sealed last, so that sinks that keep up need not read Redis a second time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from common.domain.audit_chain import Position, SealedRecord

MOST = 5000
"""Records that are held; of a sink further behind Redis is read again."""


class Recent:
    """Filled by one thread, read by those of the sinks, which wait here for more. Bounded."""

    def __init__(self) -> None:
        self._batches: deque[Sequence[SealedRecord]] = deque()
        self._count = 0
        self._news = threading.Condition()
        self.head: Position | None = None
        """The last record that is sealed; None until somebody keeps the journal."""

    def begin(self, head: Position) -> None:
        """A keeper begins here."""
        with self._news:
            self._batches.clear()
            self._count = 0
            self.head = head
            self._news.notify_all()

    def add(self, records: Sequence[SealedRecord]) -> None:
        """These were sealed."""
        with self._news:
            self._batches.append(records)
            self._count += len(records)
            while self._count > MOST and len(self._batches) > 1:
                self._count -= len(self._batches.popleft())
            self.head = records[-1].position
            self._news.notify_all()

    def end(self) -> None:
        """Nobody keeps the journal here any more: nothing is handed out."""
        with self._news:
            self.head = None
            self._news.notify_all()

    def after(self, place: Position, most: int) -> list[SealedRecord] | None:
        """The records behind a place; None if they are not all held here."""
        with self._news:
            batches = tuple(self._batches)
        if not batches or batches[0][0].seq > place.seq + 1:
            return None
        found: list[SealedRecord] = []
        for batch in batches:
            if batch[-1].seq > place.seq:
                found += batch[max(0, place.seq + 1 - batch[0].seq) :]
            if len(found) >= most:
                break
        if not found or found[0].prev != place.hash:
            return None
        return found[:most]

    def wait(self, place: Position, seconds: float) -> bool:
        """Wait until something is sealed behind a place; False after so long."""
        with self._news:
            return self._news.wait_for(lambda: self.head is not None and self.head.seq > place.seq, seconds)
