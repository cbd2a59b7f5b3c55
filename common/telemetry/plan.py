"""What the settings and OpenTelemetry's environment variables say together.

Each of ours that is given goes before the variable, and the variable before the default. A variable that cannot be
read is ignored and logged, as OpenTelemetry wants it; ``OTEL_SDK_DISABLED`` switches off whatever the settings say.
What only the exporter knows of (certificates, compression) it reads itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import structlog

from common.settings.telemetry import TelemetrySettings, pairs

log = structlog.get_logger(__name__)

Program = Literal["web", "worker"]
TRACES_PATH, METRICS_PATH = "/v1/traces", "/v1/metrics"
MOST_WAITING, BATCH, INTERVAL = 8192, 512, 1.0
"""Spans that may wait to be sent, that are sent together, and seconds between two times."""
TELL_EVERY = 60.0
"""Seconds between two lines about what was lost."""
CLOSE_TIMEOUT = 3.0
"""Seconds that a process that ends takes to send what is left."""
_RATIO = "OTEL_TRACES_SAMPLER_ARG"
_OTLP = {"grpc": "otlp_grpc", "http/protobuf": "otlp_http"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where spans go and which there are. ``endpoint`` None leaves it to the exporter and its variables."""

    exporter: Literal["otlp_http", "otlp_grpc", "console"]
    endpoint: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ratio: float = 1.0
    trust_client: bool = True
    baggage: bool = False
    resource: Mapping[str, str] = field(default_factory=dict)
    most_waiting: int = MOST_WAITING
    batch: int = BATCH
    interval: float = INTERVAL

    @property
    def traces_url(self) -> str | None:
        """The endpoint as the HTTP exporter wants it: the whole way."""
        return signal_url(self.endpoint, TRACES_PATH)


def plan_of(settings: TelemetrySettings, environ: Mapping[str, str], program: Program) -> Plan | None:
    """The plan; None if tracing is off."""
    exporter = settings.exporter or _exporter(environ)
    if exporter == "none" or switched_off(environ):
        return None
    ratio, parent_decides = _sampler(environ)
    headers = settings.headers
    return Plan(
        exporter=exporter,
        endpoint=settings.endpoint,
        headers={} if headers is None else pairs(headers.get_secret_value()),
        ratio=ratio if settings.sampling_ratio is None else settings.sampling_ratio,
        trust_client=settings.trust_client_sampling
        and (parent_decides or settings.sampling_ratio is not None),
        baggage=settings.forward_baggage,
        resource=resource_of(settings, environ, program),
        most_waiting=int(number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", MOST_WAITING)),
        batch=int(number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH)),
        interval=number(environ, "OTEL_BSP_SCHEDULE_DELAY", INTERVAL * 1000) / 1000,
    )


def switched_off(environ: Mapping[str, str]) -> bool:
    """Whether the SDK's own switch says that nothing is sent, whatever the settings say."""
    return environ.get("OTEL_SDK_DISABLED", "").lower() == "true"


def signal_url(endpoint: str | None, path: str) -> str | None:
    """The collector's URL as the HTTP exporter of a signal wants it: the whole way. None stays None."""
    if endpoint is None:
        return None
    return endpoint.rstrip("/").removesuffix(TRACES_PATH).removesuffix(METRICS_PATH) + path


def _exporter(environ: Mapping[str, str]) -> Literal["none", "otlp_http", "otlp_grpc", "console"]:
    """What ``OTEL_TRACES_EXPORTER`` says; off without it."""
    if environ.get("OTEL_TRACES_EXPORTER", "").strip() == "console":
        return "console"
    return otlp_named(environ, "TRACES")


def otlp_named(
    environ: Mapping[str, str], signal: Literal["TRACES", "METRICS"]
) -> Literal["none", "otlp_http", "otlp_grpc"]:
    """The OTLP exporter that the variables name for a signal; off without them."""
    named = environ.get(f"OTEL_{signal}_EXPORTER", "").strip() or "none"
    if named == "otlp":
        protocol = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL"
        )
        found = _OTLP.get(protocol or "http/protobuf")
        if found is None:
            _ignored("OTEL_EXPORTER_OTLP_PROTOCOL")
        return "otlp_grpc" if found == "otlp_grpc" else "otlp_http"
    if named != "none":
        _ignored(f"OTEL_{signal}_EXPORTER")
    return "none"


def _sampler(environ: Mapping[str, str]) -> tuple[float, bool]:
    """The ratio, and whether a parent goes before it, by ``OTEL_TRACES_SAMPLER`` and its argument."""
    named = environ.get("OTEL_TRACES_SAMPLER", "").strip() or "parentbased_always_on"
    kind = named.removeprefix("parentbased_")
    if kind == "traceidratio":
        ratio = number(environ, _RATIO, 1.0)
        if ratio > 1:
            _ignored(_RATIO)
            ratio = 1.0
    elif kind in ("always_on", "always_off"):
        ratio = float(kind == "always_on")
    else:
        _ignored("OTEL_TRACES_SAMPLER")
        return 1.0, True
    return ratio, named != kind


def resource_of(settings: TelemetrySettings, environ: Mapping[str, str], program: Program) -> dict[str, str]:
    """Ours go before ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME``, which the SDK adds itself."""
    found = dict(attribute.split("=", 1) for attribute in settings.resource_attributes)
    if settings.service_name is not None:
        found["service.name"] = settings.service_name
    elif not environ.get("OTEL_SERVICE_NAME") and "service.name" not in _given(environ):
        found.setdefault("service.name", f"canalgate-{program}")
    found["canalgate.program"] = program
    return found


def _given(environ: Mapping[str, str]) -> list[str]:
    parts = environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    return [part.partition("=")[0].strip() for part in parts]


def number(environ: Mapping[str, str], name: str, default: float) -> float:
    """The number that a variable says. It must not be negative; 0 is one for a ratio alone."""
    text = environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (not value and name != _RATIO):
        _ignored(name)
        return default
    return value


def _ignored(name: str) -> None:
    log.warning("telemetry_variable_ignored", variable=name)
