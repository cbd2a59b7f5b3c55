"""What is said of metrics; each setting and each variable changes something."""

from __future__ import annotations

from typing import Any

import pytest

from common.settings.telemetry import TelemetrySettings
from common.telemetry.metrics_plan import INTERVAL, MetricsPlan, metrics_plan_of


def plan(environ: dict[str, str] | None = None, **settings: Any) -> MetricsPlan | None:
    return metrics_plan_of(TelemetrySettings(**settings), environ or {}, "web")


def on(environ: dict[str, str] | None = None, **settings: Any) -> MetricsPlan:
    found = plan(environ, **{"metrics_exporter": "otlp_http", **settings})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        ({}, {}),
        ({}, {"exporter": "otlp_http", "endpoint": "http://c"}),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, {}),
        ({"OTEL_METRICS_EXPORTER": "none"}, {}),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, {}),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, {"metrics_exporter": "none"}),
        ({"OTEL_SDK_DISABLED": "true"}, {"metrics_exporter": "otlp_http"}),
    ],
)
def test_nothing_is_pushed_unless_it_is_asked_for(environ: dict[str, str], settings: dict[str, Any]) -> None:
    """Traces alone are no wish for metrics."""
    assert plan(environ, **settings) is None


@pytest.mark.parametrize(
    ("environ", "exporter"),
    [
        ({"OTEL_METRICS_EXPORTER": "otlp"}, "otlp_http"),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_grpc"),
        (
            {
                "OTEL_METRICS_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
            },
            "otlp_grpc",
        ),
    ],
)
def test_the_variable_names_the_exporter(environ: dict[str, str], exporter: str) -> None:
    """Where the setting does not."""
    found = plan(environ)
    assert found is not None
    assert found.exporter == exporter


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/metrics"),
        ("http://c/otlp/v1/traces", "http://c/otlp/v1/metrics"),
        ("http://c/otlp/v1/metrics", "http://c/otlp/v1/metrics"),
        (None, None),
    ],
)
def test_the_endpoint_is_that_of_the_collector(endpoint: str | None, url: str | None) -> None:
    """The same as for traces."""
    assert on(endpoint=endpoint).url == url


def test_headers_are_those_of_traces_and_not_shown() -> None:
    """They hold a secret."""
    found = on(headers="authorization=Bearer hunter2")
    assert found.headers == {"authorization": "Bearer hunter2"}
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("environ", "settings", "interval"),
    [
        ({}, {}, INTERVAL),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "2500"}, {}, 2.5),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "often"}, {}, INTERVAL),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "2500"}, {"metrics_interval": 7}, 7),
    ],
)
def test_the_interval(environ: dict[str, str], settings: dict[str, Any], interval: float) -> None:
    """The setting is in seconds, the variable in milliseconds."""
    assert on(environ, **settings).interval == interval


def test_the_name_of_the_service_is_that_of_traces() -> None:
    """So both are found together."""
    assert on().resource == {"service.name": "canalgate-web", "canalgate.program": "web"}
    assert on(service_name="ours").resource["service.name"] == "ours"
