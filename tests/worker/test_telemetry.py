"""OpenTelemetry's Celery instrumentation on the engine's path: a span for each call, and nothing if nobody listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, signals
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from redis import Redis

from common.calls.contract import INVOKE_TASK
from common.domain.errors import ErrorCode
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker import tasks
from gateway_worker.telemetry import TaskSignals
from tests.support.backends import invocation, stdio_tool
from tests.support.wait import wait_until
from tests.worker.engine_bench import QUEUE, Bench, running

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "a-secret-argument"


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with our tasks and no broker."""
    app = Celery("test", broker="memory://", set_as_current=False)
    tasks.register(app)
    yield app
    app.close()


@pytest.fixture
def bench(client: Client, keys: Keys, raw: Redis, address: StoreAddress, app: Celery) -> Iterator[Bench]:
    """With the app's signals."""
    sender = TaskSignals(app.tasks[INVOKE_TASK], hostname="w1@here")
    with running(client, keys, raw, address, signals=sender) as bench:
        bench.register(stdio_tool())
        yield bench


@pytest.fixture
def finished() -> Iterator[Callable[[int], list[ReadableSpan]]]:
    """Waits for so many ended spans, while the instrumentation is on."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    CeleryInstrumentor().instrument(tracer_provider=provider)

    def wait(count: int) -> list[ReadableSpan]:
        wait_until(lambda: len(exporter.get_finished_spans()) >= count, description=f"{count} spans")
        spans = list(exporter.get_finished_spans())
        assert len(spans) == count
        return spans

    yield wait
    CeleryInstrumentor().uninstrument()
    provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes."""
    return dict(span.attributes or {})


def test_a_span_for_a_call(bench: Bench, finished: Callable[[int], list[ReadableSpan]]) -> None:
    """Named, marked and placed as for a stock worker; its parent is the producer's span."""
    call = bench.send(invocation("echo", {"text": SECRET}), traceparent=f"00-{TRACE}-{PARENT}-01")
    assert bench.ended(call) == SECRET
    (span,) = finished(1)
    assert span.name == "run/gateway.invoke"
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is not None
    assert (f"{span.parent.trace_id:x}".zfill(32), f"{span.parent.span_id:x}".zfill(16)) == (TRACE, PARENT)
    assert span.status.status_code is StatusCode.UNSET
    found = attributes(span)
    assert found["celery.action"] == "run"
    assert found["celery.task_name"] == INVOKE_TASK
    assert found["celery.state"] == "SUCCESS"
    assert found["messaging.message.id"] == call.id
    assert found["messaging.destination"] == QUEUE
    assert found["celery.hostname"] == "canalgate:test"
    assert SECRET not in span.to_json()


def test_a_failure(bench: Bench, finished: Callable[[int], list[ReadableSpan]]) -> None:
    """What never became an answer is an error with the exception of our tree; a tool's own error is none."""
    late = bench.send(invocation("sleep", {"seconds": 5}, seconds=0.3))
    assert bench.ended(late) is ErrorCode.INVOCATION_TIMEOUT
    (span,) = finished(1)
    assert span.status.status_code is StatusCode.ERROR
    (event,) = span.events
    assert (event.attributes or {})["exception.type"] == "common.domain.errors.InvocationTimeout"
    assert attributes(span)["celery.state"] == "FAILURE"
    bench.ended(bench.send(invocation("fail")))
    assert finished(2)[1].status.status_code is StatusCode.UNSET


def test_calls_at_the_same_time_do_not_mix(
    bench: Bench, finished: Callable[[int], list[ReadableSpan]], caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty on one loop that end in another order than they began: each span has its own parent and duration."""
    calls = {}
    for number in range(20):
        parent = f"{number + 1:016x}"
        call = invocation("sleep", {"seconds": 0.4 - number / 100})
        calls[call.id] = parent
        bench.send(call, traceparent=f"00-{TRACE}-{parent}-01")
    spans = finished(20)
    parents = {
        attributes(span)["messaging.message.id"]: f"{span.parent.span_id:016x}"
        for span in spans
        if span.parent
    }
    assert parents == calls
    assert all(0.15 < (span.end_time - span.start_time) / 1e9 < 5 for span in spans)  # type: ignore[operator]
    assert "detach" not in caplog.text.lower()
    assert "no existing span" not in caplog.text


def test_calls_without_a_parent_are_roots(
    bench: Bench, finished: Callable[[int], list[ReadableSpan]]
) -> None:
    """Also after one that had a parent: nothing of it stays."""
    bench.ended(bench.send(invocation("echo"), traceparent=f"00-{TRACE}-{PARENT}-01"))
    for _ in range(2):
        bench.ended(bench.send(invocation("echo")))
    spans = finished(3)
    assert [span.parent is None for span in spans] == [False, True, True]
    assert len({span.context.trace_id for span in spans}) == 3  # type: ignore[union-attr]


def test_a_cancelled_call_ends_its_span(bench: Bench, finished: Callable[[int], list[ReadableSpan]]) -> None:
    """Taken back while it runs."""
    call = bench.send(invocation("cancel_log"))
    wait_until(lambda: bench.engine.in_flight, description="the call under way")
    bench.raw.publish(bench.keys.cancel_channel, call.id)
    assert bench.ended(call) is ErrorCode.INVOCATION_CANCELLED
    assert finished(1)[0].status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "nonsense"},
        {"traceparent": 5, "tracestate": []},
        {"get": 1, "update": "x", "clear": None, "__dict__": {}, "timelimit": "x", "origin": {}},
        {"retries": "many", "delivery_info": 7},
    ],
)
def test_headers_of_any_kind(
    headers: dict[str, Any], bench: Bench, finished: Callable[[int], list[ReadableSpan]]
) -> None:
    """They may cost attributes, never the call, nor the end of the span."""
    assert bench.ended(bench.send(invocation("echo", {"text": "x"}), **headers)) == "x"
    assert finished(1)[0].name == "run/gateway.invoke"


def test_what_receivers_are_given(bench: Bench, app: Celery) -> None:
    """As from Celery's own tracer, but the arguments: sender, task and request, in the call's own context."""
    task = app.tasks[INVOKE_TASK]
    heard: list[tuple[str, Any, Any]] = []

    def prerun(sender: Any, task_id: str, task: Any, args: Any, **_: Any) -> None:
        heard.append(("prerun", task.request.id == task_id, (args, task.request.argsrepr)))

    def postrun(sender: Any, task_id: str, task: Any, retval: Any, state: str, **_: Any) -> None:
        heard.append(("postrun", task.request.id == task_id, (state, retval)))

    # A receiver of one sender only hears it if the sender is the registered task itself.
    signals.task_prerun.connect(prerun, sender=task)
    signals.task_postrun.connect(postrun, sender=task)
    try:
        bench.ended(bench.send(invocation("echo", {"text": SECRET})))
        wait_until(lambda: len(heard) == 2, description="both signals")
    finally:
        signals.task_prerun.disconnect(prerun, sender=task)
        signals.task_postrun.disconnect(postrun, sender=task)
    assert [(kind, same) for kind, same, _ in heard] == [("prerun", True), ("postrun", True)]
    assert SECRET not in str(heard)
    assert task.request.id is None


def test_a_receiver_that_raises_harms_nobody(bench: Bench) -> None:
    """Celery logs it; the call is answered and its slot free."""

    def broken(**_: Any) -> None:
        raise RuntimeError("receiver")

    signals.task_prerun.connect(broken)
    signals.task_postrun.connect(broken)
    try:
        assert bench.works()
    finally:
        signals.task_prerun.disconnect(broken)
        signals.task_postrun.disconnect(broken)
    wait_until(lambda: bench.engine.in_flight == 0, description="the free slot")


def test_nothing_is_made_while_nobody_listens(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a request nor a signal."""
    for name in ("begin", "end"):
        monkeypatch.setattr(TaskSignals, name, lambda *_: pytest.fail("made for nobody"))
    assert bench.works()


def test_no_span_is_current_outside_a_call(
    bench: Bench, finished: Callable[[int], list[ReadableSpan]]
) -> None:
    """The loop's other work belongs to no call."""
    bench.ended(bench.send(invocation("echo"), traceparent=f"00-{TRACE}-{PARENT}-01"))
    finished(1)
    seen: list[bool] = []
    bench.engine._loop.call_soon_threadsafe(  # type: ignore[union-attr]
        lambda: seen.append(get_current_span().get_span_context().is_valid)
    )
    wait_until(lambda: seen, description="a look from the loop")
    assert seen == [False]
