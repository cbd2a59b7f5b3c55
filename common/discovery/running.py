"""All sources of one gateway at work: each watches in a thread of its own, one thread tells the registry.

Whatever a source raises, answers or waits for, it does to itself: its tools stay as they are, it is told to the log,
the journal and the figures, and asked again after a pause.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from common.audit.journal import Journal
from common.discovery.loading import make_source
from common.discovery.partial import Partial
from common.discovery.tools import DiscoveredTools, actor_of
from common.discovery.unfit import MOST_TOOLS, Unfit
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import ConfigurationError, StoreUnavailable
from common.ports import Discovery
from common.settings.sources import SourceSettings
from common.store.client import Client, store_errors

log = structlog.get_logger(__name__)

AGAIN_FIRST, AGAIN_MAX = 1.0, 10.0
"""Seconds before a source that failed is asked again."""
LOOK = 2.0
"""Seconds between two looks whether the registry holds what is named: somebody may have let go of a name."""
CLOSING = 3.0
Entries = Mapping[str, Mapping[str, Any]]


class Watcher:
    """One source, and what it named last."""

    def __init__(
        self,
        settings: SourceSettings,
        wanted: Callable[[], bool],
        changed: threading.Event,
        make: Callable[[SourceSettings], Discovery] = make_source,
    ) -> None:
        self.name = settings.name
        self.named: Entries | None = None
        """None until it has named something."""
        self.fault = ""
        """Why it is to be asked again; empty: it works."""
        self._settings = settings
        self._wanted = wanted
        self._changed = changed
        self._make = make
        self._due = time.monotonic() + settings.timeout
        self.thread = threading.Thread(target=self._run, name=f"source-{self.name}", daemon=True)

    @property
    def problem(self) -> str:
        """What is wrong with it now, in words for operators; empty: nothing."""
        if not self.fault and self.named is None and time.monotonic() > self._due:
            return f"it has named nothing within {self._settings.timeout:g} s"
        return self.fault

    def _run(self) -> None:
        delay = AGAIN_FIRST
        while self._wanted():
            try:
                for found in self._make(self._settings).watch(self._wanted):
                    self.named = _checked(found)
                    self.fault, delay = found.fault if isinstance(found, Partial) else "", AGAIN_FIRST
                    self._changed.set()
                    if not self._wanted():
                        return
                self.fault = "it ended"
            except ConfigurationError as error:
                self.fault = error.message
            except BaseException as error:  # noqa: BLE001 - whatever a source does, it does to itself
                # Not its words: they may hold a secret.
                self.fault = type(error).__name__
            self._changed.set()
            end = time.monotonic() + delay
            while self._wanted() and time.monotonic() < end:
                time.sleep(0.1)
            delay = min(delay * 2, AGAIN_MAX)


def _checked(found: object) -> Entries:
    """Raises :class:`ConfigurationError` for what is no answer."""
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"it named {type(found).__name__}, not a mapping of ids to entries")
    if len(found) > MOST_TOOLS:
        raise ConfigurationError(f"it named more than {MOST_TOOLS} tools")
    for name, entry in found.items():
        if not isinstance(name, str) or not isinstance(entry, Mapping):
            raise ConfigurationError("it named something that is no mapping of ids to entries")
    entries = {name: entry if isinstance(entry, Unfit) else dict(entry) for name, entry in found.items()}
    return Partial(entries, found.fault, found.kept) if isinstance(found, Partial) else entries


class Discoverer:
    """:meth:`run` blocks until it is no longer wanted."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        tools: DiscoveredTools,
        sources: Sequence[SourceSettings],
        wanted: Callable[[], bool],
        *,
        count: Callable[[str, str], None] = lambda _source, _outcome: None,
        make: Callable[[SourceSettings], Discovery] = make_source,
    ) -> None:
        """``wanted`` is asked before each change: it says whether this process still holds the lease."""
        self._client = client
        self._journal = journal
        self._tools = tools
        self._wanted = wanted
        self._count = count
        self._changed = threading.Event()
        self.watchers = [Watcher(source, wanted, self._changed, make) for source in sources]
        self._told: dict[tuple[str, str], str] = {}

    def run(self) -> None:
        """Keep the registry as the sources say. Redis away: again in a moment."""
        for watcher in self.watchers:
            watcher.thread.start()
        log.info("discovery_begun", sources=[watcher.name for watcher in self.watchers])
        while self._wanted():
            self._changed.clear()
            try:
                self._step()
            except StoreUnavailable as error:
                log.warning("discovery_waits", cause=repr(error.__cause__))
            self._changed.wait(LOOK)
        end = time.monotonic() + CLOSING
        for watcher in self.watchers:
            watcher.thread.join(max(0.0, end - time.monotonic()))

    def _step(self) -> None:
        self._tools.leave_all_but([watcher.name for watcher in self.watchers])
        for watcher in self.watchers:
            self._tell(watcher.name, "", watcher.problem)
            if watcher.named is None or not self._wanted():
                continue
            refused = self._tools.hold(watcher.name, watcher.named)
            for tool in {*refused, *(name for source, name in self._told if source == watcher.name and name)}:
                self._tell(watcher.name, tool, refused.get(tool, ""))
        with store_errors("reading the time"):
            seconds, micros = self._client.time()
        self._tools.end(seconds * 1000 + micros // 1000)

    def _tell(self, source: str, tool: str, fault: str) -> None:
        """Say it once, until it is another one."""
        if self._told.get((source, tool), "") == fault:
            return
        if fault:
            self._journal.record(
                AuditEvent(
                    kind=EventKind.DISCOVERY_REFUSED,
                    actor=actor_of(source),
                    tool=tool,
                    detail=fault[:500],
                )
            )
            log.warning("discovery_refused", source=source, tool=tool, reason=fault)
            self._count(source, "tool_refused" if tool else "source_failed")
            self._told[source, tool] = fault
        else:
            del self._told[source, tool]
