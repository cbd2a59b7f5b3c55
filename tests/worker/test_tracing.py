"""The spans of calls in a worker, and what its log lines say: each of its own call, whoever sent it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from redis import Redis

from common.domain.errors import ErrorCode
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.telemetry.about import add_facts
from common.telemetry.spans import Kind, Span, Tracer
from tests.support.backends import invocation, misbehaving, stdio_tool
from tests.support.wait import wait_until
from tests.worker.engine_bench import Bench, running

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
STOCK = {"origin": "gen1@elsewhere"}


class Spans:
    """Those that have ended."""

    def __init__(self) -> None:
        self.all: list[Span] = []

    def of(self, kind: Kind, count: int = 1) -> list[Span]:
        """So many of a kind, and no more."""

        def found() -> list[Span]:
            return [span for span in self.all if span.kind is kind]

        wait_until(lambda: len(found()) >= count, description=f"{count} spans of {kind}")
        assert len(found()) == count
        return found()


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def bench(client: Client, keys: Keys, raw: Redis, address: StoreAddress, spans: Spans) -> Iterator[Bench]:
    """A worker that is traced, at a ratio of nothing: only what a caller began is recorded."""
    with running(client, keys, raw, address, tracer=Tracer(spans.all.append, ratio=0.0)) as bench:
        bench.register(stdio_tool())
        yield bench


def test_a_call_goes_on_with_the_trace_of_its_message(bench: Bench, spans: Spans) -> None:
    """Whoever wrote the headers; the exchange is below it."""
    call = bench.send(invocation("echo", {"text": "x"}), traceparent=SAMPLED, tracestate="a=1")
    assert bench.ended(call) == "x"
    (consumer,), (client,), (start,) = (
        spans.of(kind) for kind in (Kind.CONSUMER, Kind.CLIENT, Kind.INTERNAL)
    )
    assert consumer.parent is not None
    assert f"{consumer.parent.trace_id:032x}-{consumer.parent.span_id:016x}" == f"{TRACE}-{PARENT}"
    assert client.parent == start.parent == consumer.context
    assert client.context.state == "a=1"
    assert consumer.attributes["messaging.message.id"] == call.id
    assert consumer.attributes["canalgate.node"] == bench.engine.node
    assert consumer.attributes["canalgate.attempt"] == 0
    assert client.attributes["network.transport"] == "pipe"
    assert client.attributes["mcp.protocol.version"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": f"00-{TRACE}-{PARENT}-00"},
        {"traceparent": "nonsense", "tracestate": 5},
        {"traceparent": ["x"], "baggage": {}},
        STOCK,
    ],
)
def test_what_is_not_sampled_or_not_readable_has_no_span(
    headers: dict[str, Any], bench: Bench, spans: Spans
) -> None:
    """And runs all the same."""
    assert bench.ended(bench.send(invocation("echo", {"text": "x"}), **headers)) == "x"
    assert bench.ended(bench.send(invocation("echo", {"text": "y"}), traceparent=SAMPLED)) == "y"
    spans.of(Kind.CONSUMER)


def test_who_begins_a_trace(
    client: Client, keys: Keys, raw: Redis, address: StoreAddress, spans: Spans
) -> None:
    """A worker, for a stock producer's call. A web process has decided on its own calls, and said so by silence."""
    with running(client, keys, raw, address, tracer=Tracer(spans.all.append)) as bench:
        bench.register(stdio_tool())
        bench.ended(bench.send(invocation("echo"), origin=f"canalgate:{keys.prefix}"))
        bench.ended(bench.send(invocation("echo"), **STOCK))
        (consumer,) = spans.of(Kind.CONSUMER)
        assert consumer.parent is None


def test_calls_at_the_same_time_do_not_mix(bench: Bench, spans: Spans) -> None:
    """Twenty on one loop that end in another order than they began: each exchange is below its own call."""
    calls = {}
    for number in range(20):
        call = invocation("sleep", {"seconds": 0.4 - number / 100})
        calls[call.id] = number + 1
        bench.send(call, traceparent=f"00-{number + 1:032x}-{PARENT}-01")
    consumers = {span.context.trace_id: span for span in spans.of(Kind.CONSUMER, 20)}
    assert {span.attributes["messaging.message.id"]: trace for trace, span in consumers.items()} == calls
    for client in spans.of(Kind.CLIENT, 20):
        assert client.parent == consumers[client.context.trace_id].context


def test_a_session_is_started_once_and_others_link_to_that(bench: Bench, spans: Spans) -> None:
    """A session outlives the call that began it, so its later calls are in other traces."""
    for number in (1, 2):
        bench.ended(bench.send(invocation("echo"), traceparent=f"00-{number:032x}-{PARENT}-01"))
    (start,) = spans.of(Kind.INTERNAL)
    first, second = spans.of(Kind.CLIENT, 2)
    assert start.context.trace_id == 1
    assert (first.links, second.links) == ([], [start.context])


@pytest.mark.parametrize(
    ("name", "seconds", "errors"),
    [
        ("fail", 5.0, ("", "tool_error")),
        ("sleep", 0.3, ("INVOCATION_TIMEOUT", "INVOCATION_TIMEOUT")),
        ("nothing", 5.0, ("", "-32602")),
        ("kill_me", 5.0, ("TRANSPORT_FAILURE", "TRANSPORT_FAILURE")),
    ],
)
def test_how_it_ended(name: str, seconds: float, errors: tuple[str, str], bench: Bench, spans: Spans) -> None:
    """The exchange as the backend left it; the call itself fails only where there is no answer."""
    given = {"seconds": 30} if name == "sleep" else {}
    bench.ended(bench.send(invocation(name, given, seconds=seconds), traceparent=SAMPLED))
    (consumer,), (client,) = spans.of(Kind.CONSUMER), spans.of(Kind.CLIENT)
    assert (consumer.error, client.error) == errors


def test_a_call_that_is_taken_back(bench: Bench, spans: Spans) -> None:
    """Is no timeout."""
    call = bench.send(invocation("cancel_log"), traceparent=SAMPLED)
    wait_until(lambda: bench.engine.in_flight, description="the call under way")
    bench.raw.publish(bench.keys.cancel_channel, call.id)
    assert bench.ended(call) is ErrorCode.INVOCATION_CANCELLED
    assert spans.of(Kind.CONSUMER)[0].error == "INVOCATION_CANCELLED"


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The log of this process, with what the processor adds."""
    capture = structlog.testing.LogCapture()
    processors = structlog.get_config()["processors"]
    kept = list(processors)
    # In place: loggers that were used before hold this very list.
    processors[:] = [add_facts, capture]
    yield capture.entries
    processors[:] = kept


def test_lines_of_a_call_and_of_its_session(
    lines: list[dict[str, Any]], bench: Bench, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """The call's name tenant, client and trace; the session's, which serves others later, only what is its own."""
    caplog.set_level(logging.DEBUG, "gateway_worker.calls")
    call = bench.send(invocation("echo"), traceparent=SAMPLED)
    bench.ended(call)
    spans.of(Kind.CONSUMER)
    begun = next(line for line in lines if line["event"] == "call_begun" and line["invocation"] == call.id)
    assert (begun["tenant"], begun["client"], begun["tool"]) == (
        call.caller.tenant,
        call.caller.client,
        call.tool,
    )
    assert begun["trace_id"] == TRACE
    assert begun["node"] == bench.engine.node
    opened = next(line for line in lines if line["event"] == "session_opened")
    assert (opened["tenant"], opened["tool"], opened["node"]) == (
        call.caller.tenant,
        call.tool,
        bench.engine.node,
    )
    assert opened.keys().isdisjoint({"trace_id", "span_id", "invocation", "request_id"})


def test_a_backend_s_own_lines_name_tool_session_and_node(
    lines: list[dict[str, Any]],
    client: Client,
    keys: Keys,
    raw: Redis,
    address: StoreAddress,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its standard error, beside the pid; not the call in whose course it was started."""
    caplog.set_level(logging.DEBUG, "gateway_worker.egress.stderr")
    with running(client, keys, raw, address, tracer=Tracer(lambda _: None)) as bench:
        bench.register(misbehaving("exit_at_start"))
        assert bench.ended(bench.send(invocation("echo"), traceparent=SAMPLED)) is ErrorCode.TRANSPORT_FAILURE
        node = bench.engine.node
    # A discovery's child says so as well; that is no session's.
    said = wait_until(
        lambda: [line for line in lines if line["event"] == "tool_stderr" and "session" in line],
        description="its word",
    )[0]
    assert "fatal" in said["line"]
    assert said["tool"] == "local"
    assert (said["node"], said["session"]) == (node, "acme:alice")
    assert said["pid"]
    assert said.keys().isdisjoint({"trace_id", "invocation"})
