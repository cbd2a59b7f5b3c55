"""Open streams, each with the credential behind it: one that is no longer good ends its stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from common.domain.errors import GatewayError, StoreUnavailable
from common.domain.invocation import Caller
from common.ports import RequestFacts

log = structlog.get_logger(__name__)

Recognise = Callable[[RequestFacts], Caller]


class Watch:
    """One stream."""

    __slots__ = ("end", "facts", "principal")

    def __init__(self, facts: RequestFacts, principal: str, end: Callable[[], None]) -> None:
        self.facts = facts
        self.principal = principal
        self.end = end


class Watches:
    """Looks again at all of them, every ``interval`` seconds and when it is called.

    Fails closed, but for a Redis that does not answer: without it nothing comes on a stream, and it is asked again.
    """

    def __init__(self, recognise: Recognise, interval: float) -> None:
        self._recognise = recognise
        self.interval = interval
        self._lock = threading.Lock()
        self._all: set[Watch] = set()
        self._called = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._all)

    def add(self, facts: RequestFacts, caller: Caller, end: Callable[[], None]) -> Callable[[], None]:
        """Watch a stream, whose ``end`` may be called from another thread; returns what ends the watch.

        Where there is no thread to be had, the stream ends and RuntimeError is raised (fails closed).
        """
        watch = Watch(facts, caller.principal, end)
        try:
            with self._lock:
                if self._thread is None:
                    # Noted when it runs: after one that the system did not give, the next stream asks again.
                    thread = threading.Thread(target=self._run, name="credentials", daemon=True)
                    thread.start()
                    self._thread = thread
                self._all.add(watch)
        except RuntimeError:
            end()
            raise
        return lambda: self._forget(watch)

    def call(self) -> None:
        """Look now: something has changed."""
        self._called.set()

    def look(self) -> None:
        """Look at each stream once, and end those whose credential is good no more, or another principal's."""
        for watch in list(self._all):
            try:
                good = self._recognise(watch.facts).principal == watch.principal
            except StoreUnavailable:
                continue
            except GatewayError:
                good = False
            if not good and watch in self._all:
                self._forget(watch)
                try:
                    watch.end()
                except Exception:
                    log.exception("stream_not_ended")
            time.sleep(0)  # thousands of signatures are checked in between, not instead of requests

    def _forget(self, watch: Watch) -> None:
        with self._lock:
            self._all.discard(watch)

    def _run(self) -> None:
        while True:
            self._called.wait(self.interval)
            self._called.clear()
            with self._lock:
                if not self._all:
                    self._thread = None
                    return
            self.look()
