"""One sink, in a thread of its own: it is handed the records in order, and its place moves on behind what is safe.

A sink that hangs or fails stops only itself: its records stay in Redis, and others go on.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import structlog

from common.audit.chain_store import ChainStore, NotKeeper
from common.audit.journal import Journal
from common.audit.recent import Recent
from common.audit.spill import Spill
from common.domain.audit import AuditEvent, EventKind
from common.domain.audit_chain import START, Position, SealedRecord, seal_all
from common.domain.errors import StoreUnavailable
from common.ports import AuditSink

log = structlog.get_logger(__name__)

BATCH = 500
IDLE = 1.0
"""Seconds between two calls of a sink that gets nothing, so that it can make safe what it holds."""
RETRY_FIRST, RETRY_MAX = 0.2, 10.0


@dataclass(slots=True, kw_only=True)
class Standing:
    """How a sink stands. ``failing`` is what it last raised, empty while it takes what it is given."""

    safe: int = 0
    handed: int = 0
    failing: str = ""


class Delivery:
    """Made for one sink by the keeper; :meth:`run` is its thread's."""

    def __init__(
        self,
        name: str,
        sink: AuditSink,
        store: ChainStore,
        journal: Journal,
        recent: Recent,
        *,
        key: bytes,
        stop: threading.Event,
        spill: Spill | None = None,
    ) -> None:
        """``key`` is that of the chain, empty for none; ``spill`` has what Redis has no more."""
        self.standing = Standing()
        self._name = name
        self._sink = sink
        self._store = store
        self._journal = journal
        self._recent = recent
        self._key = key
        self._stop = stop
        self._spill = spill
        self._kept = START
        """The place as Redis has it."""
        self._unsafe: deque[Position] = deque()
        """The ends of batches that the sink has and does not call safe yet."""

    def run(self, place: Position, last: Position | None = None) -> None:
        """Deliver until told to stop, from the sink's place on.

        ``last`` is where the sink itself says that it is: it may be further than its place, if a keeper died between.
        """
        delay = RETRY_FIRST
        self._kept = place
        handed = place
        if last is not None and last.seq > handed.seq:
            handed = last
        self.standing.safe = self.standing.handed = handed.seq
        while not self._stop.is_set():
            try:
                handed = self._step(handed)
                delay, self.standing.failing = RETRY_FIRST, ""
            except NotKeeper:
                return
            except StoreUnavailable as error:
                log.warning("audit_delivery_waits", sink=self._name, cause=repr(error.__cause__))
                self._stop.wait(delay)
                delay = min(delay * 2, RETRY_MAX)
            except Exception as error:  # noqa: BLE001 - whatever a sink raises, its records come again
                # What was handed over and is not safe is handed over again.
                self._unsafe.clear()
                handed = self._kept
                if not self.standing.failing:
                    log.error("audit_sink_fails", sink=self._name, error=repr(error))
                self.standing.failing = type(error).__name__
                self._stop.wait(delay)
                delay = min(delay * 2, RETRY_MAX)

    def _step(self, handed: Position) -> Position:
        """Hand over the next records, if there are any; the place behind them."""
        records: list[SealedRecord] = []
        if self._recent.wait(handed, IDLE):
            records, handed = self._next(handed)
        safe = self._sink.write(records)
        if records:
            handed = records[-1].position
            self._unsafe.append(handed)
            self.standing.handed = handed.seq
        self._remember(safe)
        return handed

    def _remember(self, safe: int) -> None:
        """Move the place on behind all batches that are safe."""
        reached: Position | None = None
        while self._unsafe and self._unsafe[0].seq <= safe:
            reached = self._unsafe.popleft()
        if reached is None:
            return
        self._store.move_sink(self._name, self._kept, reached)
        self._kept = reached
        self.standing.safe = reached.seq

    def _next(self, handed: Position) -> tuple[list[SealedRecord], Position]:
        """The next records, and the place before them."""
        head = self._recent.head
        found = self._recent.after(handed, BATCH)
        if found is not None or head is None:
            return found or [], handed
        return self._read(handed, head)

    def _read(self, handed: Position, head: Position) -> tuple[list[SealedRecord], Position]:
        """Read and seal again what is held no more; it must come out as the keeper sealed it."""
        anchor = self._store.state().anchor
        if handed.seq < anchor.seq:
            spilled = None if self._spill is None else self._spill.after(handed)
            return (spilled, handed) if spilled else self._behind(handed, anchor)
        records = seal_all(
            handed, self._store.entries(handed.id, min(BATCH, head.seq - handed.seq)), self._key
        )
        last = records[-1].seq if records else handed.seq
        marks = {mark.seq: mark for mark in self._store.marks(handed.seq, last)} | {head.seq: head}
        if self._store.state().anchor.seq > handed.seq:
            # Race: the keeper spilled and trimmed meanwhile, so what was read is not what follows. The spill has it.
            return [], handed
        if not records:
            return self._behind(handed, head)
        for index, record in enumerate(records):
            mark = marks.get(record.seq)
            if mark is not None and mark != record.position:
                return (records[:index], handed) if index else self._behind(handed, mark)
        return records, handed

    def _behind(self, handed: Position, place: Position) -> tuple[list[SealedRecord], Position]:
        """Go on behind a place: what was before it is there no more, or no more as it was. It is told."""
        log.error("audit_records_gone", sink=self._name, first=handed.seq + 1, last=place.seq)
        self._journal.record(
            AuditEvent(
                kind=EventKind.JOURNAL_GAP,
                reason="records were taken out of Redis, or changed there, before a sink had them",
                detail=f"sink {self._name}: {handed.seq + 1} to {place.seq}",
            )
        )
        return [], place
