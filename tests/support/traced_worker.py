"""Our worker's app as somebody runs it who traces his Celery: OpenTelemetry's instrumentation, and nothing of ours.

``celery -A tests.support.traced_worker worker``; ended spans are appended to the file ``SPANS`` as lines of JSON.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from gateway_worker.app import app

__all__ = ["app"]


class FileExporter(SpanExporter):
    """One line a span."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append them."""
        with self._path.open("a") as file:
            file.writelines(span.to_json(indent=None) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


provider = TracerProvider(resource=Resource.create({"service.name": "worker"}))
provider.add_span_processor(SimpleSpanProcessor(FileExporter(Path(os.environ["SPANS"]))))
trace.set_tracer_provider(provider)
CeleryInstrumentor().instrument()
