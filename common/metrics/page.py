"""The page that Prometheus reads, of all processes and the cluster together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from common.domain.errors import StoreUnavailable
from common.domain.ids import TenantId
from common.domain.quota import Quota
from common.metrics.cluster import cluster_figures
from common.metrics.figures import Figures, Sample, known
from common.metrics.names import METRICS, OF_PROCESSES, PROCESS, SECONDS
from common.metrics.told import told
from common.store.client import Client
from common.store.keys import Keys

log = structlog.get_logger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST
FRESH = 2.0
"""Seconds for which what Redis said is shown again: scrapes of several readers cost it no more than one."""


class Page:
    """One a process. Safe from any thread."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        figures: Figures,
        *,
        quotas: Callable[[], Mapping[TenantId, Quota]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``quotas`` tells the bounds of the tenants whose use is shown."""
        self._client = client
        self._keys = keys
        self._figures = figures
        self._quotas = quotas
        self._clock = clock
        self._lock = threading.Lock()
        self._read: tuple[float, list[Sample], list[dict[str, Any]]] | None = None

    def text(self) -> bytes:
        """The page. Degrades: without Redis it has this process's own figures, and ``canalgate_redis_up`` 0."""
        cluster, others = self._from_redis()
        own = self._figures.wire()
        processes = [own, *(other for other in others if other["process"] != own["process"])]
        registry = CollectorRegistry()
        registry.register(_Families(list(_families(cluster, processes))))
        return generate_latest(registry)

    def _from_redis(self) -> tuple[list[Sample], list[dict[str, Any]]]:
        with self._lock:
            if self._read is None or self._clock() - self._read[0] > FRESH:
                try:
                    cluster = cluster_figures(self._client, self._keys, self._quotas())
                    others = told(self._client, self._keys)
                except StoreUnavailable as error:
                    log.warning("metrics_without_redis", cause=repr(error.__cause__))
                    cluster, others = [("canalgate_redis_up", (), 0.0)], []
                self._read = self._clock(), cluster, others
            return self._read[1:]


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(cluster: list[Sample], processes: list[dict[str, Any]]) -> Iterator[Metric]:
    families: dict[str, Any] = {}
    for name, metric in METRICS.items():
        kind = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        labels = (PROCESS, *metric.labels) if name in OF_PROCESSES else metric.labels
        families[name] = kind[metric.kind](name, metric.help, labels=labels)
    for name, values, value in cluster:
        families[name].add_metric(values, value)
    for process in processes:
        who = str(process["process"])
        for name, values, value in known(process["counts"]):
            families[name].add_metric((who, *values), value)
        for name, values, kept in known(process["times"]):
            families[name].add_metric((who, *values), _buckets(kept), sum_value=kept[-1])
    return iter(families.values())


def _buckets(kept: list[float]) -> list[tuple[str, float]]:
    """As the family wants them: each with all that are below."""
    found, total = [], 0.0
    for bound, number in zip((*map(str, SECONDS), "+Inf"), kept[:-1], strict=True):
        total += number
        found.append((bound, total))
    return found
