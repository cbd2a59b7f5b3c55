"""Switching tracing on: in each web process when it makes its application, in a worker when its pool starts."""

from __future__ import annotations

import atexit
import logging
import os
from typing import TYPE_CHECKING

import structlog

from common.domain.egress import EgressRules
from common.settings.telemetry import TelemetrySettings
from common.telemetry.plan import Plan, Program, plan_of
from common.telemetry.spans import Tracer

if TYPE_CHECKING:
    from common.telemetry.export import SpanQueue

log = structlog.get_logger(__name__)

EXPORTER_LOGGER = "opentelemetry.exporter.otlp"
"""Would write a line for each batch that is not taken; ``spans_lost`` and ``metrics_not_pushed`` say so rarely."""


def start_tracing(settings: TelemetrySettings, egress: EgressRules, program: Program) -> Tracer | None:
    """This process's tracer; None if tracing is off. What is left is sent when the process ends.

    ``egress`` is held against where the collector's URL leads, as for the tools of the settings file; not with
    ``otlp_grpc``, which resolves and dials inside its own library.

    Raises what keeps it from starting: spans must not be missing without a word. A collector that is away does not.
    """
    plan = plan_of(settings, os.environ, program)
    if plan is None:
        return None
    from common.telemetry.export import span_queue

    quiet_exporters()
    queue = span_queue(plan, egress)
    atexit.register(queue.close)
    log.info("tracing_started", exporter=plan.exporter, ratio=plan.ratio)
    return tracer_of(plan, queue)


def quiet_exporters() -> None:
    """Have what a collector does not take told by us alone, unless ``logging.levels`` says otherwise."""
    exporters = logging.getLogger(EXPORTER_LOGGER)
    if exporters.level == logging.NOTSET:
        exporters.setLevel(logging.CRITICAL)


def tracer_of(plan: Plan, queue: SpanQueue) -> Tracer:
    """A plan's tracer into a queue."""
    return Tracer(queue.put, ratio=plan.ratio, trust_client=plan.trust_client, baggage=plan.baggage)
