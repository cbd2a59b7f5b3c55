"""The keeper of the journal: it seals the records in their order, has them delivered, and trims behind the sinks.

One process of the cluster is the keeper, by a lease. Another that takes over, for this one died or was cut off, goes on
exactly where the chain in Redis ends: what this one sealed afterwards is refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import structlog

from common.audit.chain_store import ChainState, ChainStore, NotKeeper
from common.audit.delivery import Delivery
from common.audit.journal import Journal
from common.audit.recent import Recent
from common.audit.rules import Rules
from common.audit.spill import Spill
from common.audit.spilling import Spilling, least_of
from common.domain.audit import AuditEvent, EventKind
from common.domain.audit_chain import Position, SealedRecord, digest, seal_all
from common.domain.errors import StoreUnavailable
from common.ports import AuditSink
from common.store.client import Client
from common.store.keys import Keys

log = structlog.get_logger(__name__)

T = TypeVar("T")
BATCH = 1000
RENEW = 1.5
"""Seconds between two renewals of the lease."""
PAUSE = 0.2
"""Seconds between two batches that were not full: so many records share what a batch costs."""
TIDY = 1.0
"""Seconds between two looks at the length, and at whether records are gone."""
AWAY = 0.5
CLOSING = 3.0
"""Seconds for the sinks to end."""


class _Stopped(Exception):
    """Told to stop while it waited."""


class Keeper:
    """Of one process; :meth:`run` blocks."""

    def __init__(
        self,
        connect: Callable[[], Client],
        keys: Keys,
        sinks: Mapping[str, AuditSink],
        rules: Rules,
        *,
        owner: str,
        spill: Spill | None = None,
    ) -> None:
        """``connect`` makes a client for one thread; ``owner`` names this process among those that may keep."""
        self._connect = connect
        self._keys = keys
        self._sinks = sinks
        self._rules = rules
        self._owner = owner
        self._spill = spill
        self._client = connect()
        self._store = ChainStore(self._client, keys, owner)
        self._journal = Journal(self._client, keys)
        self._recent = Recent()
        self._spilling = None if spill is None else Spilling(spill, self._store, list(sinks), rules)
        self._stop = threading.Event()
        self._sinks_stop = threading.Event()
        self._renew_at = self._tidy_at = 0.0
        self.deliveries: dict[str, Delivery] = {}

    def stop(self) -> None:
        """End :meth:`run`, from another thread."""
        self._stop.set()

    def run(self) -> bool:
        """Keep the journal until :meth:`stop`; False as soon as another process keeps it.

        Redis away: it waits, and goes on if the chain is where it left it.
        """
        threads: list[threading.Thread] = []
        try:
            self._patiently(self._renew)
            state = self._patiently(self._take_up)
            threads = self._start_sinks(state)
            head = state.head
            while not self._stop.is_set():
                head = self._patiently(partial(self._step, head))
            self._last_step(head)
        except NotKeeper as error:
            log.warning("journal_given_up", reason=error.message)
            return False
        except (_Stopped, StoreUnavailable):
            return True
        finally:
            self._end(threads)
        return True

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do it, as soon as Redis lets it be done."""
        while not self._stop.is_set():
            try:
                return work()
            except StoreUnavailable as error:
                log.warning("journal_waits", cause=repr(error.__cause__))
                self._stop.wait(AWAY)
        raise _Stopped

    def _renew(self) -> None:
        if not self._store.keep():
            raise NotKeeper("another process keeps the journal")
        self._renew_at = time.monotonic() + RENEW

    # -- the beginning ----------------------------------------------------------------------------------

    def _take_up(self) -> ChainState:
        """Where the chain ends. A sink that is further than Redis knows better: Redis forgot its last writes."""
        state = self._store.state()
        furthest = state.head
        for name in self._sinks:
            last = self._last_of(name)
            if last is not None and last.seq > furthest.seq:
                furthest = last
        if furthest.seq > state.head.seq:
            self._remember_for_redis(state, furthest)
            state = self._store.state()
        for name in self._sinks:
            if name not in state.sinks:
                # From now on nothing is trimmed that it has not got, whoever keeps the journal.
                self._store.move_sink(name, None, state.anchor)
        state = self._store.state()
        self._look_for_spill(state)
        self._recent.begin(state.head)
        log.info("journal_kept", seq=state.head.seq, sinks=sorted(self._sinks))
        return state

    def _look_for_spill(self, state: ChainState) -> None:
        """What was spilled elsewhere only that one's keeper can deliver. Raises :class:`NotKeeper`."""
        spilled = state.spill
        if spilled is None or least_of(state, self._sinks) >= spilled.place.seq:
            return
        if self._spill is None or self._spill.name != spilled.directory:
            log.error("journal_spill_elsewhere", directory=spilled.directory, upto=spilled.place.seq)
            raise NotKeeper("records wait in a spill directory that this process does not have")

    def _remember_for_redis(self, state: ChainState, furthest: Position) -> None:
        log.warning("journal_forgotten", first=state.head.seq + 1, last=furthest.seq)
        self._store.move_head(state.head, furthest)
        self._tell_gap(
            "Redis forgot records that a sink has",
            f"{state.head.seq + 1} to {furthest.seq}; what they tell of may be told again",
        )

    def _last_of(self, name: str) -> Position | None:
        """The place of the last record that a sink has, if it knows. A record that was edited is not believed."""
        last = getattr(self._sinks[name], "last", None)
        if not isinstance(last, SealedRecord):
            return None
        if digest(last.seq, last.id, last.event, last.prev, self._rules.key) != last.hash:
            log.error("audit_sink_not_believed", sink=name, seq=last.seq)
            return None
        return last.position

    def _start_sinks(self, state: ChainState) -> list[threading.Thread]:
        threads = []
        for name, sink in self._sinks.items():
            client = self._connect()
            delivery = Delivery(
                name,
                sink,
                ChainStore(client, self._keys, self._owner),
                Journal(client, self._keys),
                self._recent,
                key=self._rules.key,
                stop=self._sinks_stop,
                spill=self._spill,
            )
            self.deliveries[name] = delivery
            thread = threading.Thread(
                target=delivery.run,
                args=(state.sinks[name], self._last_of(name)),
                name=f"audit-{name}",
                daemon=True,
            )
            thread.start()
            threads.append(thread)
        return threads

    # -- sealing ----------------------------------------------------------------------------------------

    def _step(self, head: Position) -> Position:
        """Seal what has come, tidy up, wait for more; where the chain ends now. Raises :class:`NotKeeper`."""
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew()
        entries = self._store.entries(head.id, BATCH)
        if entries:
            records = seal_all(head, entries, self._rules.key)
            every = self._rules.mark_every
            self._store.move_head(
                head, records[-1].position, [record for record in records if record.seq % every == 0]
            )
            head = records[-1].position
            self._recent.add(records)
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY
            self._tidy(head)
        if not entries:
            self._store.wait(head.id, min(TIDY, RENEW))
        if len(entries) < BATCH:
            self._stop.wait(PAUSE)
        return head

    # -- tidying ----------------------------------------------------------------------------------------

    def _tidy(self, head: Position) -> None:
        state = self._store.state()
        self._look_for_gaps(state, head)
        if self._spilling is not None:
            state = self._spilling.tidy(state, head)
        self._trim(state, head)

    def _look_for_gaps(self, state: ChainState, head: Position) -> None:
        """Redis counts what it took: what was taken out before it was sealed shows in that count."""
        stream = self._store.stream()
        if stream.last != head.id:
            return  # something came meanwhile: the next look tells
        base = stream.added - head.seq
        if state.added == base:
            return
        self._store.set_added(state.added, base)
        if state.added is not None:
            missing = base - state.added
            log.error("journal_records_gone", missing=missing)
            self._tell_gap(
                "records were taken out of Redis before they were sealed"
                if missing > 0
                else "the journal in Redis was removed and begun anew",
                f"{missing} records" if missing > 0 else f"behind record {head.seq}",
            )

    def _trim(self, state: ChainState, head: Position) -> None:
        """Take out what is too much and what every sink has, at most up to a mark."""
        spilled = 0 if state.spill is None else state.spill.place.seq
        upto = head.seq - self._rules.keep(bool(self._sinks))
        upto = min(upto, max(spilled, least_of(state, self._sinks)))
        if upto <= state.anchor.seq:
            return
        marks = self._store.marks(state.anchor.seq + 1, upto)
        if marks:
            have = [
                name for name in self._sinks if name in state.sinks and state.sinks[name].seq >= marks[-1].seq
            ]
            gone = self._store.trim(marks[-1], have, spilled=len(have) < len(self._sinks))
            log.debug("journal_trimmed", records=gone, upto=marks[-1].seq)

    def _tell_gap(self, reason: str, detail: str) -> None:
        self._journal.record(
            AuditEvent(kind=EventKind.JOURNAL_GAP, actor=self._owner, reason=reason, detail=detail)
        )

    # -- the end ----------------------------------------------------------------------------------------

    def _last_step(self, head: Position) -> None:
        """Seal what has come since, and let the sinks have it, as far as they take it now."""
        entries = self._store.entries(head.id, BATCH)
        if entries:
            records = seal_all(head, entries, self._rules.key)
            self._store.move_head(head, records[-1].position)
            head = records[-1].position
            self._recent.add(records)
        until = time.monotonic() + CLOSING
        while time.monotonic() < until and any(
            delivery.standing.safe < head.seq for delivery in self.deliveries.values()
        ):
            self._sinks_stop.wait(PAUSE)

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        """Let the sinks end what they are at, and the lease go. One that hangs is left behind."""
        self._stop.set()
        self._sinks_stop.set()
        self._recent.end()
        until = time.monotonic() + CLOSING
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        for name, thread in zip(self._sinks, threads, strict=False):
            if not thread.is_alive():
                self._close(name)
        try:
            self._store.let_go()
        except StoreUnavailable as error:
            log.debug("journal_lease_left", cause=repr(error.__cause__))

    def _close(self, name: str) -> None:
        try:
            self._sinks[name].close()
        except Exception as error:  # noqa: BLE001 - whatever a sink raises, the others end and the lease goes
            log.error("audit_sink_not_closed", sink=name, error=repr(error))
