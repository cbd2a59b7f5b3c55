"""Moving records from Redis to the keeper's disk while a sink is behind, so that calls go on."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from common.audit.chain_store import ChainState, ChainStore, Spilled
from common.audit.rules import Rules
from common.audit.spill import Spill
from common.domain.audit_chain import Position, seal_all

log = structlog.get_logger(__name__)

BATCH = 1000


class Spilling:
    """Belongs to the keeper's thread."""

    def __init__(self, spill: Spill, store: ChainStore, sinks: Collection[str], rules: Rules) -> None:
        self._spill = spill
        self._store = store
        self._sinks = sinks
        self._rules = rules

    def tidy(self, state: ChainState, head: Position) -> ChainState:
        """Spill what makes the journal too long, and forget what every sink has by now; the state afterwards.

        A disk that takes nothing is logged, and nothing is trimmed then: the journal fills, and calls are refused.
        """
        least = least_of(state, self._sinks)
        self._spill.forget(least)
        if self._spill.last is None and state.spill is not None:
            self._store.set_spill(state.spill, None)
            state = self._store.state()
        if head.seq - state.anchor.seq < self._rules.spill_at:
            return state
        marks = self._store.marks(
            max(least, state.anchor.seq) + 1, head.seq - self._rules.keep(sinks=bool(self._sinks))
        )
        if not marks:
            return state
        try:
            self._spill_upto(state, marks[-1])
        except OSError as error:
            log.error("journal_not_spilled", error=error.strerror)
        return self._store.state()

    def _spill_upto(self, state: ChainState, mark: Position) -> None:
        """Put the records up to a mark on the disk, and then on record. Raises :class:`OSError`."""
        place = self._spill.last or self._first_missing(state)
        while place.seq < mark.seq:
            entries = self._store.entries(place.id, min(BATCH, mark.seq - place.seq))
            if not entries:
                return
            records = seal_all(place, entries, self._rules.key)
            self._spill.append(records)
            place = records[-1].position
        spilled = Spilled(place, self._spill.name)
        if spilled != state.spill:
            self._store.set_spill(state.spill, spilled)
            log.warning("journal_spilled", upto=place.seq)

    def _first_missing(self, state: ChainState) -> Position:
        """The place behind which a sink has nothing, as far as Redis holds what follows it."""
        places = [state.sinks.get(name) or state.anchor for name in self._sinks]
        least = min(places, key=lambda place: place.seq)
        return least if least.seq >= state.anchor.seq else state.anchor


def least_of(state: ChainState, sinks: Collection[str]) -> int:
    """The number up to which every one of these sinks has everything; without sinks that of the head."""
    places = (state.sinks.get(name) for name in sinks)
    return min((0 if place is None else place.seq for place in places), default=state.head.seq)
