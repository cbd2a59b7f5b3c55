"""How processes tell one another their figures: each under a key of its own, every few seconds.

So whichever web process is asked shows those of all, each with its name: figures of several processes are never mixed
up, and a process that ended is gone from the page within :data:`KEPT` seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog

from common.metrics.figures import Figures
from common.metrics.names import OF_PROCESSES, SECONDS
from common.store.client import Client, store_errors
from common.store.keys import Keys
from common.store.scripts import Arg, run

log = structlog.get_logger(__name__)

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
    """The figures of all processes that told lately, as far as they can be read. Raises :class:`StoreUnavailable`."""
    with store_errors("reading the figures of the processes"):
        listed: Any = client.zrange(keys.told_figures, 0, -1)
        names = [name.decode(errors="replace") for name in listed]
        texts: Any = client.mget([keys.figures(name) for name in names]) if names else []
    found = [readable(name, text) for name, text in zip(names, texts, strict=True) if text is not None]
    return [wire for wire in found if wire is not None]


def readable(process: str, text: bytes) -> dict[str, Any] | None:
    """What a process told (:meth:`Figures.wire`), or None for what cannot be read: it must not hide the others.

    Histograms of other bounds, which another release may have, are left out.
    """
    try:
        wire = orjson.loads(text)
        counts = [(str(name), list(labels), float(value)) for name, labels, value in wire["counts"]]
        times = [(str(name), list(labels), list(map(float, kept))) for name, labels, kept in wire["times"]]
    except (LookupError, TypeError, ValueError) as error:
        log.warning("figures_unreadable", process=process, error=repr(error))
        return None
    shown = [entry for entry in counts if _kind(entry[0]) != "histogram"]
    timed = [entry for entry in times if _can_be_shown(entry[0], entry[2])]
    if left := len(counts) + len(times) - len(shown) - len(timed):
        log.warning("figures_left_out", process=process, count=left)
    return {"process": process, "counts": shown, "times": timed}


def _can_be_shown(name: str, kept: list[float]) -> bool:
    """Whether the page can show these times, or leaves them out by itself since it does not know the metric."""
    kind = _kind(name)
    return not kind or (kind == "histogram" and len(kept) == len(SECONDS) + 2)


def _kind(name: str) -> str:
    """Of a metric; empty for one that only another release has."""
    metric = OF_PROCESSES.get(name)
    return "" if metric is None else metric.kind


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
