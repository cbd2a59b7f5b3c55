"""A stock producer and our worker, both traced by OpenTelemetry's Celery instrumentation: one trace, unbroken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.e2e.celery_bench import Bench, serves, stop
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def sent() -> Iterator[InMemorySpanExporter]:
    """The spans of this process, whose Celery is instrumented."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    CeleryInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    CeleryInstrumentor().uninstrument()
    provider.shutdown()


def test_the_worker_s_spans_continue_the_producer_s_trace(bench: Bench, sent: InMemorySpanExporter) -> None:
    """Calls at the same time, a failing one among them: each has its span, below that of its own sending."""
    spans = bench.home / "spans.jsonl"
    words = ["worker", "-n", "w1@here", "--without-mingle"]
    process = bench.celery(words, bench.env | {"SPANS": str(spans)}, "w1", app="tests.support.traced_worker")
    try:
        wait_until(lambda: serves(bench, "tool.a"), timeout=30, description="the worker")
        results = [bench.send("sleep", {"seconds": 0.5 - number / 20}) for number in range(10)]
        lost = bench.send("echo", {"text": "x"}, tool="unheard-of", queue="tool.a")
        assert {result.get(timeout=10)["status"] for result in results} == {"success"}
        with pytest.raises(Exception, match="unheard-of"):
            lost.get(timeout=10)

        def ended() -> list[dict[str, Any]]:
            found = [orjson.loads(line) for line in spans.read_bytes().splitlines()] if spans.exists() else []
            return found if len(found) == 11 else []

        run = {
            span["attributes"]["messaging.message.id"]: span
            for span in wait_until(ended, description="spans")
        }
    finally:
        stop(process)
    publish = {
        str((span.attributes or {})["messaging.message.id"]): span for span in sent.get_finished_spans()
    }
    assert run.keys() == publish.keys() == {result.id for result in (*results, lost)}
    for task_id, span in run.items():
        sending = publish[task_id].context
        assert sending is not None
        assert span["name"] == "run/gateway.invoke"
        assert span["parent_id"] == f"0x{sending.span_id:016x}"
        assert span["context"]["trace_id"] == f"0x{sending.trace_id:032x}"
        assert span["status"]["status_code"] == ("ERROR" if task_id == lost.id else "UNSET")
    log = (bench.home / "w1.log").read_text()
    assert "detach" not in log
    assert "Traceback" not in log
