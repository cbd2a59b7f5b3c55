"""What the settings and OpenTelemetry's environment variables say together of metrics, as ``plan`` has it of traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from common.settings.telemetry import TelemetrySettings, pairs
from common.telemetry.plan import (
    METRICS_PATH,
    Program,
    number,
    otlp_named,
    resource_of,
    signal_url,
    switched_off,
)

INTERVAL = 15.0
"""Seconds between two pushes: as often as Prometheus asks in ``deploy/monitoring``, for which the alerts are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPlan:
    """Where metrics go, and how often. ``endpoint`` None leaves it to the exporter and its variables."""

    exporter: Literal["otlp_http", "otlp_grpc"]
    endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    resource: Mapping[str, str] = field(default_factory=dict)
    interval: float = INTERVAL

    @property
    def url(self) -> str | None:
        """The endpoint as the HTTP exporter wants it: the whole way."""
        return signal_url(self.endpoint, METRICS_PATH)


def metrics_plan_of(
    settings: TelemetrySettings, environ: Mapping[str, str], program: Program
) -> MetricsPlan | None:
    """The plan; None if no metrics are pushed."""
    exporter = settings.metrics_exporter or otlp_named(environ, "METRICS")
    if exporter == "none" or switched_off(environ):
        return None
    headers, interval = settings.headers, settings.metrics_interval
    return MetricsPlan(
        exporter=exporter,
        endpoint=settings.endpoint,
        headers={} if headers is None else pairs(headers.get_secret_value()),
        resource=resource_of(settings, environ, program),
        interval=number(environ, "OTEL_METRIC_EXPORT_INTERVAL", INTERVAL * 1000) / 1000
        if interval is None
        else interval,
    )
