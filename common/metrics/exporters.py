"""OpenTelemetry's exporters of metrics. Imported only where metrics are pushed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource

from common import __version__
from common.domain.egress import EgressRules
from common.metrics.push import Exporter
from common.telemetry.export import grpc_beside_gevent
from common.telemetry.metrics_plan import MetricsPlan

MOST_POINTS = 2000
"""Points of one request: a gRPC server takes 4 MB."""


class _Otlp:
    def __init__(self, exporter: MetricExporter) -> None:
        self._exporter = exporter

    def send(self, data: MetricsData) -> bool:
        return self._exporter.export(data) is MetricExportResult.SUCCESS

    def close(self) -> None:
        self._exporter.shutdown()


def resources(plan: MetricsPlan) -> Callable[[str], Resource]:
    """The resource of an instance, by its name."""

    def of(instance: str) -> Resource:
        attributes: dict[str, Any] = {"service.version": __version__, **plan.resource}
        return Resource.create({**attributes, "service.instance.id": instance})

    return of


def exporter_of(plan: MetricsPlan, egress: EgressRules) -> Callable[[], Exporter]:
    """What makes a plan's exporter, in the thread that uses it. Raises what a wrong plan raises, here and not there."""
    return _by_http(plan, egress) if plan.exporter == "otlp_http" else _by_grpc(plan)


def _by_http(plan: MetricsPlan, egress: EgressRules) -> Callable[[], Exporter]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    from common.egress.session import guarded_session

    def make() -> Exporter:
        return _Otlp(
            OTLPMetricExporter(
                endpoint=plan.url,
                headers=dict(plan.headers) or None,
                session=guarded_session(egress, local=True),
                max_export_batch_size=MOST_POINTS,
            )
        )

    # One is made here, for what is wrong with it, and for what it imports only then.
    make().close()
    return make


def _by_grpc(plan: MetricsPlan) -> Callable[[], Exporter]:
    grpc_beside_gevent()
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    def make() -> Exporter:
        return _Otlp(
            OTLPMetricExporter(
                endpoint=plan.endpoint,
                headers=dict(plan.headers) or None,
                max_export_batch_size=MOST_POINTS,
            )
        )

    return make
