"""What ``canalgate up`` waits for before it says ``ready``: that each tool was asked once what it offers."""

from __future__ import annotations

import time
from collections.abc import Callable

from common.domain.errors import StoreUnavailable
from common.registry.records import Entry
from common.registry.registry import Registry

DISCOVERY_PATIENCE = 10.0
"""Seconds; a slow tool does not hold up the others longer."""


class FirstAnswers:
    """A question to ask again and again, and what is to be said when it is answered.

    ``serving`` says whether calls can be served, by then the file's tools are registered. The time runs from the first
    question. Degrades: while Redis is away nothing is known of any tool, and the time runs on.
    """

    def __init__(
        self, registry: Registry, serving: Callable[[], bool], *, patience: float = DISCOVERY_PATIENCE
    ) -> None:
        self._registry = registry
        self._serving = serving
        self._patience = patience
        self._end: float | None = None
        self._entries: list[Entry] = []

    def complete(self) -> bool:
        """Whether every enabled tool has answered or failed to; also true when the patience is at its end."""
        now = time.monotonic()
        self._end = now + self._patience if self._end is None else self._end
        serving = self._serving()
        try:
            self._entries = [entry for entry in self._registry.entries() if entry.enabled]
        except StoreUnavailable:
            serving = False
        return (serving and all(entry.known is not None for entry in self._entries)) or now >= self._end

    def lines(self) -> list[str]:
        """How each enabled tool stands, for a person."""
        return [f"tool {entry.id}: {_standing(entry)}" for entry in self._entries]

    def summary(self) -> str:
        """Which tools are not ready, for the line that scripts read; empty if all are."""
        asked = [str(entry.id) for entry in self._entries if entry.known is None]
        failed = [str(entry.id) for entry in self._entries if entry.known and entry.known.error is not None]
        parts = {"not ready": failed, "still asking": asked}
        told = [f"{word}: {', '.join(names)}" for word, names in parts.items() if names]
        return f" ({'; '.join(told)})" if told else ""


def _standing(entry: Entry) -> str:
    if entry.known is None:
        return "not ready, it has not answered yet; `canalgate tools` shows when it has"
    if entry.known.error is not None:
        return f"not ready, {' '.join(entry.known.error.split())}; it is asked again"
    return f"ready, offers {len(entry.known.tools)}"
