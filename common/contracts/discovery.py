"""What every source of tools must do.

class TestMine(DiscoveryContract):
    def source(self): return Mine({"url": self.server.url})
    def name(self, entries): self.server.hold(entries)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from common.contracts import require
from common.ports import Discovery

Entries = Mapping[str, Mapping[str, Any]]
ONE: Entries = {"one": {"url": "https://one.example.com/mcp"}}
TWO: Entries = {**ONE, "two": {"url": "https://two.example.com/mcp"}}


class DiscoveryContract:
    """The tests. Give :meth:`source` and :meth:`name`."""

    __test__ = False
    patience = 10.0
    """Seconds within which a change must be seen."""

    def __init_subclass__(cls) -> None:
        """A subclass is a test."""
        cls.__test__ = True

    def source(self) -> Discovery:
        """A new source on the same place as those before it in this test."""
        raise NotImplementedError

    def name(self, entries: Entries) -> None:
        """Make that place name exactly these tools: each an ``url``, whose entry may say more in the end."""
        raise NotImplementedError

    def expected(self, url: str) -> str:
        """What the source makes of an ``url``; most take it as it is."""
        return url

    def test_it_names_what_there_is_at_once(self) -> None:
        """All of it, as entries of the settings file."""
        self.name(TWO)
        with _Watching(self.source()) as watching:
            watching.wait(lambda found: set(found) == {"one", "two"}, self.patience)
            for name, entry in watching.last.items():
                require(entry.get("url") == self.expected(TWO[name]["url"]), f"{name}: the entry is {entry}")

    def test_it_names_everything_again_when_something_changes(self) -> None:
        """What came, what changed, what went."""
        self.name(ONE)
        with _Watching(self.source()) as watching:
            watching.wait(lambda found: set(found) == {"one"}, self.patience)
            self.name(TWO)
            watching.wait(lambda found: set(found) == {"one", "two"}, self.patience)
            moved = {"two": {"url": "https://moved.example.com/mcp"}}
            self.name(moved)
            watching.wait(
                lambda found: (
                    [entry.get("url") for entry in found.values()] == [self.expected(moved["two"]["url"])]
                ),
                self.patience,
            )
            self.name({})
            watching.wait(lambda found: not found, self.patience)

    def test_it_ends_when_it_is_not_wanted(self) -> None:
        """Within a few seconds, though nothing changes."""
        self.name(ONE)
        watching = _Watching(self.source())
        with watching:
            watching.wait(bool, self.patience)
        require(not watching.thread.is_alive(), "it goes on although it is not wanted")
        require(watching.fault is None, f"it raised {watching.fault!r}")


class _Watching:
    """What a source names, in a thread as at run time."""

    def __init__(self, source: Discovery) -> None:
        self._wanted = True
        self._source = source
        self.last: Entries = {}
        self.named = 0
        self.fault: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            found: Iterator[Entries] = self._source.watch(lambda: self._wanted)
            for entries in found:
                require(isinstance(entries, Mapping), f"{type(entries).__name__} is no mapping")
                self.last = entries
                self.named += 1
        except BaseException as error:  # noqa: BLE001 - told by whoever waits
            self.fault = error

    def wait(self, holds: Callable[[Entries], bool], patience: float) -> None:
        end = time.monotonic() + patience
        while not (self.named and holds(self.last)):
            require(self.fault is None, f"it raised {self.fault!r}")
            require(time.monotonic() < end, f"not within {patience:g} s; it names {dict(self.last)}")
            time.sleep(0.02)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wanted = False
        self.thread.join(5)
