"""One sink's thread against a keeper that trims meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from common.audit.chain_store import ChainStore, Spilled
from common.audit.delivery import Delivery
from common.audit.journal import Journal
from common.audit.recent import Recent
from common.audit.spill import Spill
from common.domain.audit_chain import START, seal_all
from common.store.client import Client
from common.store.keys import Keys
from tests.common.audit.chains import Collector, write_events


class Racing(ChainStore):
    """Something happens just before the records are read."""

    before: Callable[[], object] | None = None

    def entries(self, after: str, most: int) -> list[tuple[str, dict[str, str]]]:
        race, self.before = self.before, None
        if race is not None:
            race()
        return super().entries(after, most)


@pytest.mark.parametrize("upto", [10, 20])
def test_what_is_trimmed_while_it_is_read_comes_from_the_spill(
    client: Client, keys: Keys, tmp_path: Path, upto: int
) -> None:
    """What Redis holds by then is further on, or nothing: it is neither numbered anew nor told as gone."""
    write_events(client, keys, 20)
    store = Racing(client, keys, "me")
    store.keep()
    sealed = seal_all(START, store.entries("0", 20))
    store.move_head(START, sealed[-1].position)
    store.move_sink("a", None, START)
    spill, place = Spill(tmp_path), sealed[upto - 1].position

    def trim() -> None:
        spill.append(sealed[:upto])
        store.set_spill(None, Spilled(place, spill.name))
        store.trim(place, [], spilled=True)

    store.before = trim
    recent = Recent()
    recent.begin(sealed[-1].position)
    sink = Collector()
    delivery = Delivery(
        "a", sink, store, Journal(client, keys), recent, key=b"", stop=threading.Event(), spill=spill
    )
    handed = delivery._step(START)
    assert (handed, sink.got) == (START, [])
    while handed != sealed[-1].position:
        handed = delivery._step(handed)
    assert sink.got == sealed
    assert client.xlen(keys.audit) == 20 - upto
    spill.close()
