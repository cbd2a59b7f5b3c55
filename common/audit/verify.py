"""Asking whether the journal is whole and unchanged: in what sinks have, and in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.audit.chain_store import ChainState, ChainStore
from common.audit.sinks.file import begin_of, rotated
from common.audit.sinks.postgres import stored
from common.domain.audit_chain import START, Position, SealedRecord, seal_all
from common.domain.audit_verify import Flaw, Problem, Verifier
from common.domain.errors import ConfigurationError, InvalidRequest
from common.settings.audit_sinks import PostgresOptions

PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What an examination of one place found."""

    place: str
    records: int
    first: int
    last: int
    repeated: int
    problems: Sequence[Problem]
    flaws: int

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.flaws


def verify_file(path: Path, key: bytes = b"", *, safe: Position | None = None) -> Finding:
    """A file of a sink, with the rotated ones beside it. ``safe`` is how far Redis says that the sink has the records.

    Reads line by line, whatever the size. Raises :class:`OSError` if it cannot be read.
    """
    verifier = Verifier(key)
    files = [*rotated(path), path] if path.exists() else rotated(path)
    if not files:
        raise FileNotFoundError(2, "there is no such file", str(path))
    for file in files:
        _feed(verifier, file)
    try:
        begin = begin_of(path)
    except InvalidRequest:
        begin = None
        verifier.unreadable(f"{path.name}.begin")
    if begin is not None:
        verifier.begins_at(begin)
    if safe is not None:
        verifier.ends_at(safe)
    return _finding(str(path), verifier)


def verify_table(options: PostgresOptions, key: bytes = b"", *, safe: Position | None = None) -> Finding:
    """The table of a postgres sink; ``safe`` as for files. Raises :class:`ConfigurationError` if it cannot be read.

    Where it begins is not known: who removes the oldest rows, as retention does, does not show.
    """
    verifier = Verifier(key)
    try:
        for record in stored(options):
            verifier.feed(record)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"the table {options.table} cannot be read: {type(error).__name__}", field="sink"
        ) from error
    if verifier.first is not None and verifier.first.seq == 1:
        verifier.begins_at(START)
    if safe is not None:
        verifier.ends_at(safe)
    return _finding(options.table, verifier)


def verify_redis(store: ChainStore, key: bytes = b"") -> Finding:
    """What Redis holds and has sealed: sealed once more, it must come out as the marks and the head say.

    Raises ``StoreUnavailable``. What is between two marks is known to be changed, but not which of it.
    """
    verifier = Verifier(key)
    state = store.state()
    place, broken = state.anchor, 0
    for records in _pages(store, state, key):
        marks = {mark.seq: mark for mark in store.marks(records[0].seq, records[-1].seq)}
        for record in records:
            verifier.feed(record)
            mark = marks.get(record.seq)
            if mark is not None and mark != record.position and not broken:
                broken = record.seq
        place = records[-1].position
    problems = list(verifier.problems)
    if broken:
        problems.append(Problem(Flaw.EDITED, broken, f"records up to {broken} are not as they were sealed"))
    if place.seq < state.head.seq:
        missing = state.head.seq - place.seq
        problems.append(Problem(Flaw.MISSING, place.seq, f"{missing} of the sealed records are not there"))
    elif place != state.head and not broken:
        problems.append(
            Problem(Flaw.EDITED, place.seq, f"records up to {place.seq} are not as they were sealed")
        )
    return Finding(
        place="redis",
        records=verifier.count,
        first=0 if verifier.first is None else verifier.first.seq,
        last=place.seq,
        repeated=0,
        problems=problems,
        flaws=len(problems),
    )


def _pages(store: ChainStore, state: ChainState, key: bytes) -> Iterator[list[SealedRecord]]:
    """What is sealed, sealed again from the anchor on."""
    place = state.anchor
    while place.seq < state.head.seq:
        records = seal_all(place, store.entries(place.id, min(PAGE, state.head.seq - place.seq)), key)
        if not records:
            return
        yield records
        place = records[-1].position


def _feed(verifier: Verifier, file: Path) -> None:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = SealedRecord.from_line(line)
            except InvalidRequest:
                verifier.unreadable(f"{file.name}:{number}")
            else:
                verifier.feed(record)


def _finding(place: str, verifier: Verifier) -> Finding:
    return Finding(
        place=place,
        records=verifier.count,
        first=0 if verifier.first is None else verifier.first.seq,
        last=0 if verifier.last is None else verifier.last.seq,
        repeated=verifier.repeated,
        problems=tuple(verifier.problems),
        flaws=verifier.found,
    )
