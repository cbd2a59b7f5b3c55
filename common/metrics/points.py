"""Figures in the form that OpenTelemetry's exporters take: names and labels are those of ``/metrics``.

The SDK's meters are not used: what a process counts is counted once (:mod:`common.metrics.figures`) for all readers,
and the SDK has no instrument for a histogram whose buckets are counted elsewhere. Sums and histograms are cumulative.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from common import __version__
from common.metrics.figures import Labels, Sample, known
from common.metrics.names import METRICS, OF_PROCESSES, PROCESS, SECONDS

SCOPE = InstrumentationScope("canalgate", __version__)
_CUMULATIVE = AggregationTemporality.CUMULATIVE
_SUFFIX = "_seconds"


def of_process(resource: Resource, wire: dict[str, Any], *, since: int, now: int) -> ResourceMetrics:
    """What a process counted (:meth:`Figures.wire`), from ``since`` to ``now``, both in ns of the wall clock."""
    own = {PROCESS: str(wire["process"])}
    return _resource_metrics(resource, _metrics(known(wire["counts"]), known(wire["times"]), own, since, now))


def of_cluster(resource: Resource, samples: Iterable[Sample], *, now: int) -> ResourceMetrics:
    """What Redis says of all processes together: gauges."""
    return _resource_metrics(resource, _metrics(samples, (), {}, now, now))


def _resource_metrics(resource: Resource, metrics: Iterator[Metric]) -> ResourceMetrics:
    return ResourceMetrics(
        resource=resource, scope_metrics=[ScopeMetrics(SCOPE, list(metrics), "")], schema_url=""
    )


def _metrics(
    counts: Iterable[Sample],
    times: Iterable[tuple[str, Labels, Any]],
    own: dict[str, str],
    since: int,
    now: int,
) -> Iterator[Metric]:
    """One metric for each name, with a point for each of its label sets."""
    points: dict[str, list[Any]] = {}
    for name, values, value in counts:
        started = since if METRICS[name].kind == "counter" else 0
        points.setdefault(name, []).append(
            NumberDataPoint(_attributes(name, values, own), started, now, float(value))
        )
    for name, values, kept in times:
        points.setdefault(name, []).append(_histogram(_attributes(name, values, own), kept, since, now))
    for name, found in points.items():
        unit = "s" if name.endswith(_SUFFIX) else ""
        yield Metric(name, METRICS[name].help, unit, _data(METRICS[name].kind, found))


def _data(kind: str, points: list[Any]) -> Sum | Gauge | Histogram:
    if kind == "counter":
        return Sum(points, _CUMULATIVE, is_monotonic=True)
    return Gauge(points) if kind == "gauge" else Histogram(points, _CUMULATIVE)


def _attributes(name: str, values: Labels, own: dict[str, str]) -> dict[str, str]:
    return {**(own if name in OF_PROCESSES else {}), **dict(zip(METRICS[name].labels, values, strict=True))}


def _histogram(attributes: dict[str, str], kept: list[float], since: int, now: int) -> HistogramDataPoint:
    buckets = [int(number) for number in kept[:-1]]
    unknown: Any = None  # the least and the most are not kept; both are optional in OTLP
    return HistogramDataPoint(
        attributes, since, now, sum(buckets), kept[-1], buckets, SECONDS, unknown, unknown
    )
