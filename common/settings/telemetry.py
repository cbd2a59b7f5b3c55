"""The section ``telemetry``."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from common.settings.fields import AsList, LowerCase, Ratio, Seconds, checked_http_url
from common.settings.section import Section

Exporter = Literal["none", "otlp_http", "otlp_grpc", "console"]
MetricsExporter = Literal["none", "otlp_http", "otlp_grpc"]
_PAIR = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*=[\x20-\x2b\x2d-\x7e]*")
_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}=.{1,256}")


def pairs(text: str) -> dict[str, str]:
    """``a=b, c=d`` as OTEL_EXPORTER_OTLP_HEADERS has it. ValueError for anything else; it never shows a value."""
    found: dict[str, str] = {}
    for part in text.split(","):
        if not _PAIR.fullmatch(part.strip()):
            raise ValueError("must be headers as name=value, separated by commas")
        name, _, value = part.strip().partition("=")
        found[name.strip().lower()] = value.strip()
    return found


def _headers(value: SecretStr | None) -> SecretStr | None:
    if value is not None and value.get_secret_value():
        pairs(value.get_secret_value())
        return value
    return None


def _attributes(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_ATTRIBUTE.fullmatch(value) for value in values):
        raise ValueError("must hold attributes as name=value, such as deployment.environment.name=production")
    return values


class TelemetrySettings(Section):
    """What is told to an OpenTelemetry collector. What is absent here, OpenTelemetry's own variables may say."""

    exporter: Annotated[Exporter, LowerCase] | None = Field(
        default=None,
        description="Where spans go: none, otlp_http, otlp_grpc, or console (standard error). "
        "Absent: OTEL_TRACES_EXPORTER decides, else none.",
    )
    endpoint: Annotated[str, AfterValidator(checked_http_url)] | None = Field(
        default=None,
        description="The collector's URL, as http://collector:4318 for otlp_http (`/v1/traces` and `/v1/metrics` "
        "are added) or http://collector:4317 for otlp_grpc; https:// for TLS. "
        "Absent: OTEL_EXPORTER_OTLP_ENDPOINT, else this machine.",
    )
    headers: Annotated[SecretStr | None, AfterValidator(_headers)] = Field(
        default=None,
        description="Headers for the collector as name=value, separated by commas. Absent: OTEL_EXPORTER_OTLP_HEADERS.",
    )
    sampling_ratio: Ratio | None = Field(
        default=None,
        description="Part of the traces begun here that are recorded, 0 to 1. "
        "Absent: OTEL_TRACES_SAMPLER_ARG, else all.",
    )
    trust_client_sampling: bool = Field(
        default=True,
        description="Whether a trace that a client began is recorded as its context says; "
        "otherwise sampling_ratio decides on it too.",
    )
    forward_baggage: bool = Field(
        default=False,
        description="Whether the W3C baggage in a client's HTTP headers goes on to the tool, in traced calls.",
    )
    metrics_exporter: Annotated[MetricsExporter, LowerCase] | None = Field(
        default=None,
        description="Where each process pushes its metrics: none, otlp_http or otlp_grpc, to endpoint with headers. "
        "Absent: OTEL_METRICS_EXPORTER decides, else none.",
    )
    metrics_interval: Seconds | None = Field(
        default=None,
        description="Seconds between two times. Absent: OTEL_METRIC_EXPORT_INTERVAL (milliseconds), else 15.",
    )
    service_name: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None,
        description="The name of both programs. Absent: OTEL_SERVICE_NAME, else canalgate-web and canalgate-worker.",
    )
    resource_attributes: Annotated[tuple[str, ...], AsList, AfterValidator(_attributes)] = Field(
        default=(),
        description="More about this deployment as name=value; they go before OTEL_RESOURCE_ATTRIBUTES.",
    )
