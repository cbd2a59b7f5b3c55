"""Settings and OpenTelemetry's variables together; each setting and each variable changes something."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from common.settings.telemetry import TelemetrySettings
from common.telemetry.plan import Plan, plan_of


def plan(environ: dict[str, str] | None = None, **settings: Any) -> Plan | None:
    return plan_of(TelemetrySettings(**settings), environ or {}, "web")


def on(environ: dict[str, str] | None = None, **settings: Any) -> Plan:
    found = plan(environ, **{"exporter": "otlp_http", **settings})
    assert found is not None
    return found


@pytest.mark.parametrize(
    "environ", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, {"OTEL_TRACES_EXPORTER": "none"}]
)
def test_tracing_is_off_unless_it_is_asked_for(environ: dict[str, str]) -> None:
    """An endpoint alone, which may be there for others, is no wish."""
    assert plan(environ) is None


@pytest.mark.parametrize(
    ("environ", "exporter"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp_http"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "otlp_http"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
    ],
)
def test_the_variable_names_the_exporter(environ: dict[str, str], exporter: str) -> None:
    """Where the setting does not."""
    found = plan(environ)
    assert found is not None
    assert found.exporter == exporter
    assert plan(environ, exporter="none") is None


def test_the_sdk_s_switch_goes_before_everything() -> None:
    """For an emergency."""
    assert plan({"OTEL_SDK_DISABLED": "true"}, exporter="otlp_http") is None


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("http://c:4318/", "http://c:4318/v1/traces"),
        ("http://c/otlp/v1/traces", "http://c/otlp/v1/traces"),
        (None, None),
    ],
)
def test_the_endpoint_is_that_of_the_collector(endpoint: str | None, url: str | None) -> None:
    """Without one the exporter reads its own variables."""
    assert on(endpoint=endpoint).traces_url == url


def test_headers_are_read_and_not_shown() -> None:
    """They hold a secret."""
    found = on(headers="Authorization=Bearer hunter2=, x-org=a")
    assert found.headers == {"authorization": "Bearer hunter2=", "x-org": "a"}
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("environ", "settings", "ratio", "trusted"),
    [
        ({}, {}, 1.0, True),
        ({}, {"sampling_ratio": 0.1}, 0.1, True),
        ({}, {"trust_client_sampling": False}, 1.0, False),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.2"},
            {},
            0.2,
            True,
        ),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.2"}, {}, 0.2, False),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.2"},
            {"sampling_ratio": 0.5},
            0.5,
            True,
        ),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, {}, 0.0, True),
        ({"OTEL_TRACES_SAMPLER": "nonsense"}, {}, 1.0, True),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"}, {}, 1.0, False),
    ],
)
def test_sampling(environ: dict[str, str], settings: dict[str, Any], ratio: float, trusted: bool) -> None:
    """The setting goes before the variable, with its own word on clients."""
    found = on(environ, **settings)
    assert (found.ratio, found.trust_client) == (ratio, trusted)


def test_a_variable_that_cannot_be_read_is_ignored_and_told_of() -> None:
    """By its name, without its value."""
    with structlog.testing.capture_logs() as lines:
        found = on(
            {"OTEL_BSP_MAX_QUEUE_SIZE": "many", "OTEL_BSP_SCHEDULE_DELAY": "-1", "OTEL_TRACES_SAMPLER": "x"}
        )
    assert found == on()
    names = {line["variable"] for line in lines}
    assert names == {"OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_TRACES_SAMPLER"}


def test_the_queue_s_variables() -> None:
    """As OpenTelemetry's own batches have them."""
    found = on(
        {
            "OTEL_BSP_MAX_QUEUE_SIZE": "9",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "3",
            "OTEL_BSP_SCHEDULE_DELAY": "250",
        }
    )
    assert (found.most_waiting, found.batch, found.interval) == (9, 3, 0.25)


@pytest.mark.parametrize(
    ("environ", "settings", "name"),
    [
        ({}, {}, "canalgate-web"),
        ({}, {"service_name": "ours"}, "ours"),
        ({"OTEL_SERVICE_NAME": "theirs"}, {}, None),
        ({"OTEL_SERVICE_NAME": "theirs"}, {"service_name": "ours"}, "ours"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs"}, {}, None),
    ],
)
def test_the_name_of_the_service(environ: dict[str, str], settings: dict[str, Any], name: str | None) -> None:
    """None: it is left to the variable."""
    assert on(environ, **settings).resource.get("service.name") == name


def test_more_of_the_deployment() -> None:
    """Ours, beside which program it is."""
    found = on(resource_attributes=("team=a", "deployment.environment.name=x=y"))
    assert found.resource["team"] == "a"
    assert found.resource["deployment.environment.name"] == "x=y"
    assert found.resource["canalgate.program"] == "web"


def test_baggage() -> None:
    """Off unless it is wanted."""
    assert not on().baggage
    assert on(forward_baggage=True).baggage
