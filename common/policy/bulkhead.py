"""Runs work of others under a deadline, in a bounded number of threads.

What hangs keeps its thread, since no thread can be stopped from outside; but never more than the bound, and never more
than half of it for one tenant. Whoever finds no room is told at once.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class NoRoom(Exception):
    """As much is under way as may be."""


def patched() -> bool:
    """Whether gevent has put greenlets in the place of this process's threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


class _Errand(Generic[T]):
    """One piece of work, and how it came out."""

    def __init__(self, work: Callable[[], T], ended: Callable[[], None]) -> None:
        self._work = work
        self._ended = ended
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it; never raises."""
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
            self._error = error
        finally:
            self._ended()

    def result(self) -> T:
        """What came of it. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


class Bulkhead:
    """``native`` gives each piece of work a thread of the operating system, also where threads are greenlets else: one
    that never waits for gevent would stop the whole process.
    """

    def __init__(self, most: int, *, native: bool) -> None:
        """``most`` pieces of work at a time, half of them of one tenant."""
        self._most = most
        self._most_of_one = max(1, most // 2)
        self._native = native
        self._lock = _native_lock()
        self._running: Counter[str] = Counter()
        self._pool: Any = None

    @property
    def running(self) -> int:
        """How much is under way, also of what nobody waits for any more."""
        return self._running.total()

    def run(self, work: Callable[[], T], *, timeout: float, tenant: str) -> T:
        """The result of the work, or what it raised.

        Raises :class:`NoRoom`, and TimeoutError after ``timeout`` seconds.
        """
        with self._lock:
            if self._running.total() >= self._most or self._running[tenant] >= self._most_of_one:
                raise NoRoom
            self._running[tenant] += 1
        errand: _Errand[T] = _Errand(work, lambda: self._ended(tenant))
        try:
            wait = self._start_native(errand) if self._native and patched() else _start(errand)
        except BaseException:
            self._ended(tenant)
            raise
        if not wait(timeout):
            raise TimeoutError
        return errand.result()

    def _ended(self, tenant: str) -> None:
        with self._lock:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]

    def _start_native(self, errand: _Errand[Any]) -> Callable[[float], bool]:
        import gevent
        from gevent.threadpool import ThreadPool

        if self._pool is None:
            self._pool = ThreadPool(self._most)
        ended = self._pool.spawn(errand.run)

        def wait(seconds: float) -> bool:
            try:
                ended.get(timeout=seconds)
            except gevent.Timeout:
                return False
            return True

        return wait


def _start(errand: _Errand[Any]) -> Callable[[float], bool]:
    """In a thread, or a greenlet if they are patched."""
    ended = threading.Event()

    def run() -> None:
        errand.run()
        ended.set()

    threading.Thread(target=run, name="policy", daemon=True).start()
    return ended.wait


def _native_lock() -> Any:
    """A lock that threads of both sorts can take; it is held for a moment only."""
    if patched():
        from gevent import monkey

        return monkey.get_original("threading", "Lock")()
    return threading.Lock()
