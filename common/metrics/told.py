"""How processes tell one another their figures: each under a key of its own, every few seconds.

So whichever web process is asked shows those of all, each with its name: figures of several processes are never mixed
up, and a process that ended is gone from the page within :data:`KEPT` seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from common.metrics.figures import Figures
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import Arg, run

EVERY = 5.0
"""Seconds between two accounts: so old are the figures of other processes."""
KEPT = 30.0
"""Seconds for which an account is kept."""
TELL = "figures_tell"
"""The script; :func:`account` has its keys and arguments."""


def account(keys: Keys, figures: Figures) -> tuple[list[str], list[Arg]]:
    """What is told now."""
    names = [keys.told_figures, keys.figures(figures.process)]
    return names, [figures.process, orjson.dumps(figures.wire()), int(KEPT * 1000)]


def told(client: Client, keys: Keys) -> list[dict[str, Any]]:
    """The figures of all processes that told lately. Raises :class:`StoreUnavailable`."""
    with store_errors("reading the figures of the processes"):
        listed: Any = client.zrange(keys.told_figures, 0, -1)
        names = [name.decode() for name in listed]
        texts: Any = client.mget([keys.figures(name) for name in names]) if names else []
    return [orjson.loads(text) for text in texts if text is not None]


class Teller:
    """Tells the figures of a process that has a blocking client. One thread calls :meth:`tick`, often."""

    def __init__(
        self, client: Client, keys: Keys, figures: Figures, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._keys = keys
        self._figures = figures
        self._clock = clock
        self._next = float("-inf")

    def tick(self) -> None:
        """Tell them if it is time. Raises :class:`StoreUnavailable`; then others do not see them for a while."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + EVERY
        with store_errors("telling figures"):
            run(self._client, TELL, *account(self._keys, self._figures))
