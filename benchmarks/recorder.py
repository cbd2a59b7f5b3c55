"""What all lanes of one window write down together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.figures import Window
from benchmarks.http1 import BadHttpError
from benchmarks.wire import BadAnswerError, check_echo


class Recorder:
    """Hands out call ids until the deadline, and keeps the outcome of every call that was handed out."""

    def __init__(self, ids: Iterator[int], seconds: float) -> None:
        self._ids = ids
        self._latencies: list[float] = []
        self._errors: Counter[str] = Counter()
        self._cpu_started = time.process_time()
        self._started = time.perf_counter()
        self._deadline = self._started + seconds
        self._last = self._started

    def seconds_until(self, moment: float) -> float:
        """Return how long it is until ``moment`` seconds after the start; 0 if that has passed."""
        return max(0.0, self._started + moment - time.perf_counter())

    def next_call(self) -> int | None:
        """Return the id of a call to make now; None once the time is up."""
        return next(self._ids) if time.perf_counter() < self._deadline else None

    def answer(self, call_id: int, message: Any, sent_at: float) -> None:
        """Judge and record the response to a call that was sent at ``sent_at`` (`time.perf_counter`)."""
        self._last = time.perf_counter()
        try:
            check_echo(message, call_id)
        except BadAnswerError as error:
            self._errors[str(error)] += 1
        else:
            self._latencies.append(self._last - sent_at)

    def failure(self, error: BadHttpError | str) -> None:
        """Record a call that got no usable response."""
        self._last = time.perf_counter()
        self._errors[str(error)] += 1

    def window(self) -> Window:
        """Return the finished window."""
        return Window(
            seconds=self._last - self._started,
            latencies=self._latencies,
            errors=self._errors,
            client_cpu_seconds=time.process_time() - self._cpu_started,
        )
