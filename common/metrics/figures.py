"""What one process counts. Plain numbers in dictionaries: counting a call costs about a microsecond.

Under threads two counts at one moment may become one; under gevent and on an event loop they cannot. Metrics are no
account of calls: that is the audit journal.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from common.domain.errors import GatewayError
from common.domain.invocation import ExecutionResult
from common.metrics.names import OF_PROCESSES, SECONDS

Labels = tuple[str, ...]
Sample = tuple[str, Labels, float]
"""Name, values of its labels, value."""
Source = Callable[[], Iterable[Sample]]
OK, TOOL_ERROR, RPC_ERROR, OTHER = "ok", "tool_error", "rpc_error", "other"
MOST_SERIES = 5000
"""Label sets of one metric that a process keeps; what is more is counted as ``other``."""
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def outcome_of(result: ExecutionResult) -> str:
    """A call's outcome as a word of a bounded set: a backend's own error codes are not told apart."""
    failure = result.failure
    if failure is None:
        return TOOL_ERROR if (result.result or {}).get("isError") is True else OK
    return failure.code.value if failure.rpc is None else RPC_ERROR


class Figures:
    """Of one process. ``process`` is its name in the figures."""

    def __init__(self, process: str) -> None:
        self.process = process
        self._counts: dict[str, dict[Labels, float]] = {}
        self._times: dict[str, dict[Labels, list[float]]] = {}
        self._sources: list[Source] = []

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """One more, or ``by``: negative only for a gauge."""
        series = self._counts.setdefault(name, {})
        if labels in series:
            series[labels] += by
        else:
            series[_bounded(series, labels)] = series.get(_bounded(series, labels), 0) + by

    def time(self, name: str, seconds: float, *labels: str) -> None:
        """Something took so long."""
        series = self._times.setdefault(name, {})
        kept = series.get(labels)
        if kept is None:
            kept = series.setdefault(_bounded(series, labels), [0.0] * (len(SECONDS) + 2))
        kept[bisect_left(SECONDS, seconds)] += 1
        kept[-1] += seconds

    def watch(self, source: Source) -> None:
        """Have a source asked at each reading: for what is counted elsewhere, or is true only now."""
        self._sources.append(source)

    def call(
        self, tool: str, result: ExecutionResult, *, seconds: float, waited: float, repeated: bool
    ) -> None:
        """A worker has ended a call."""
        self.count("canalgate_calls", tool, outcome_of(result))
        self.time("canalgate_call_duration_seconds", seconds, tool)
        self.time("canalgate_call_wait_seconds", waited, tool)
        if repeated:
            self.count("canalgate_repeated_calls", tool)

    def request(self, method: str, outcome: str, seconds: float) -> None:
        """A client's request was answered. Both words are of bounded sets."""
        self.count("canalgate_requests", method, outcome)
        self.time("canalgate_request_duration_seconds", seconds, method)

    def refused(self, tool: str, error: GatewayError) -> None:
        """A call was refused. ``tool`` is empty for one that is not registered."""
        reason = str(error.data.get("reason", ""))
        self.count("canalgate_refusals", tool, error.code.value, reason if _WORD.fullmatch(reason) else "")

    def wire(self) -> dict[str, Any]:
        """Everything as plain JSON; :func:`known` reads it."""
        # Copies: it is read by threads that do not count.
        counts = [
            [name, labels, value]
            for name, series in self._counts.copy().items()
            for labels, value in series.copy().items()
        ]
        counts += [[name, labels, value] for source in self._sources for name, labels, value in source()]
        times = [
            [name, labels, kept]
            for name, series in self._times.copy().items()
            for labels, kept in series.copy().items()
        ]
        return {"process": self.process, "counts": counts, "times": times}


def _bounded(series: Mapping[Labels, Any], labels: Labels) -> Labels:
    return labels if len(series) < MOST_SERIES else (OTHER,) * len(labels)


def known(entries: Iterable[Any]) -> list[tuple[str, Labels, Any]]:
    """Entries of :meth:`Figures.wire` whose metric this process knows: another version may have others."""
    found = []
    for name, labels, value in entries:
        metric = OF_PROCESSES.get(name)
        if metric is not None and len(metric.labels) == len(labels):
            found.append((name, tuple(str(label) for label in labels), value))
    return found
