"""Moving records from Redis to the keeper's disk while a sink is behind, so that calls go on."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from common.audit.chain_store import ChainState, ChainStore, Spilled
from common.audit.rules import Rules
from common.audit.spill import Spill
from common.domain.audit_chain import Position, seal_all
from common.domain.errors import ConfigurationError

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
        try:
            self._set_other_aside(state)
            self._spill.forget(least)
        except (OSError, ConfigurationError) as error:
            log.error("journal_spill_not_tidied", error=_told(error))
            return state
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
        except (OSError, ConfigurationError) as error:
            log.error("journal_not_spilled", error=_told(error))
        return self._store.state()

    def _set_other_aside(self, state: ChainState) -> None:
        """Set aside what is here of another chain, or Redis would be trimmed for it. Raises :class:`OSError`."""
        last = self._spill.last
        if last is None or (state.spill is not None and state.spill.directory == self._spill.name):
            return
        # A keeper that ended before it put on record what it spilled leaves what is of this chain.
        if not self._fits(last, state):
            log.error("journal_spill_of_another_chain", last=last.seq, aside=self._spill.set_aside().name)

    def _fits(self, place: Position, state: ChainState) -> bool:
        """Whether the chain goes through a place, as far as Redis holds it."""
        if not state.anchor.seq <= place.seq <= state.head.seq:
            return False
        known = [state.anchor, *self._store.marks(state.anchor.seq + 1, place.seq)][-1]
        while known.seq < place.seq:
            entries = self._store.entries(known.id, min(BATCH, place.seq - known.seq))
            if not entries:
                return False
            known = seal_all(known, entries, self._rules.key)[-1].position
        return known == place

    def _spill_upto(self, state: ChainState, mark: Position) -> None:
        """Put the records up to a mark on the disk, and then on record.

        Raises :class:`OSError`, and :class:`ConfigurationError` if the file is found to be something else.
        """
        place = self._spill.last or self._first_missing(state)
        if not state.anchor.seq <= place.seq <= state.head.seq:
            # Redis forgot, or the disk did: what Redis holds does not follow, and stays there until sinks have it.
            log.error(
                "journal_not_spilled", error=f"the spill ends at {place.seq}, which Redis does not hold"
            )
            return
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


def _told(error: OSError | ConfigurationError) -> str | None:
    return error.strerror if isinstance(error, OSError) else error.message


def least_of(state: ChainState, sinks: Collection[str]) -> int:
    """The number up to which every one of these sinks has everything; without sinks that of the head."""
    places = (state.sinks.get(name) for name in sinks)
    return min((0 if place is None else place.seq for place in places), default=state.head.seq)
