"""Whether records of the journal are whole and unchanged: what an auditor asks of files, of sinks, of Redis."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import StrEnum

from common.domain.audit_chain import Position, SealedRecord, digest, id_key

MOST_PROBLEMS = 1000
"""So many are kept in words; the others are counted."""


class Flaw(StrEnum):
    """What is wrong at one place."""

    EDITED = "edited"
    """What the record says does not fit its digest (or the key is another one)."""
    MISSING = "missing"
    """Records between two others are not there."""
    UNLINKED = "unlinked"
    """The record does not follow the one before it: that one was replaced, or this one is of another chain."""
    ORDER = "order"
    """A record stands behind one that has a higher number, or an earlier one has a later id."""
    UNREADABLE = "unreadable"
    """A line that is no record."""
    START_CUT = "start_cut"
    """Records before the first one are not there although they should be."""
    END_CUT = "end_cut"
    """Records behind the last one are not there although they should be."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One flaw. ``seq`` is the number of the record at which it is seen."""

    flaw: Flaw
    seq: int
    text: str


@dataclass(slots=True)
class Verifier:
    """Takes records in the order in which they stand, and remembers only the last one.

    A record that comes again just as it was (delivery is at least once) is no flaw; ``repeated`` counts them.
    """

    key: bytes = b""
    problems: list[Problem] = field(default_factory=list)
    count: int = 0
    repeated: int = 0
    found: int = 0
    """Flaws in all, also those beyond :data:`MOST_PROBLEMS`."""
    first: SealedRecord | None = None
    last: SealedRecord | None = None

    def feed(self, record: SealedRecord) -> None:
        """The next record."""
        last = self.last
        if last is not None and record.seq == last.seq and record == last:
            self.repeated += 1
            return
        self.count += 1
        self._check_content(record)
        if last is None:
            self.first = record
        else:
            self._check_link(last, record)
        if last is None or record.seq > last.seq:
            self.last = record

    def unreadable(self, place: str) -> None:
        """A line that is no record."""
        self._note(Flaw.UNREADABLE, self._seq, f"{place} is no record of a journal")

    def begins_at(self, anchor: Position) -> None:
        """All was to be fed: what stands behind ``anchor`` must be the first record."""
        first = self.first
        if first is None:
            return
        if first.seq > anchor.seq + 1:
            self._note(
                Flaw.START_CUT, first.seq, f"records {anchor.seq + 1} to {first.seq - 1} are not there"
            )
        elif first.seq == anchor.seq + 1 and first.prev != anchor.hash:
            self._note(
                Flaw.UNLINKED, first.seq, f"record {first.seq} does not follow what was before the first one"
            )

    def ends_at(self, head: Position) -> None:
        """All was to be fed: ``head`` must be the last record, or one before it."""
        last = self.last
        seq, hash_ = (0, "") if last is None else (last.seq, last.hash)
        if seq < head.seq:
            self._note(Flaw.END_CUT, seq, f"records {seq + 1} to {head.seq} are not there")
        elif seq == head.seq and seq and hash_ != head.hash:
            self._note(Flaw.UNLINKED, seq, f"record {seq} is not the one that the gateway's head names")

    @property
    def _seq(self) -> int:
        return 0 if self.last is None else self.last.seq

    def _check_content(self, record: SealedRecord) -> None:
        expected = digest(record.seq, record.id, record.event, record.prev, self.key)
        if not hmac.compare_digest(expected, record.hash):
            self._note(Flaw.EDITED, record.seq, f"record {record.seq} does not fit its digest")

    def _check_link(self, last: SealedRecord, record: SealedRecord) -> None:
        if record.seq <= last.seq:
            self._note(Flaw.ORDER, record.seq, f"record {record.seq} stands behind record {last.seq}")
            return
        if record.seq > last.seq + 1:
            self._note(Flaw.MISSING, record.seq, f"records {last.seq + 1} to {record.seq - 1} are not there")
        elif record.prev != last.hash:
            self._note(Flaw.UNLINKED, record.seq, f"record {record.seq} does not follow record {last.seq}")
        if id_key(record.id) <= id_key(last.id):
            self._note(
                Flaw.ORDER, record.seq, f"record {record.seq} has an id before that of record {last.seq}"
            )

    def _note(self, flaw: Flaw, seq: int, text: str) -> None:
        self.found += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(flaw, seq, text))
