"""Which calls have spans, and what a span says of how a call ended."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.errors import InvocationTimeout
from common.domain.invocation import answer, failed, rpc_failure
from common.telemetry.context import TraceContext, read_context
from common.telemetry.conventions import request_attributes
from common.telemetry.spans import Kind, Span, Tracer

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SAMPLED, NOT_SAMPLED = (
    TraceContext(TRACE, 7, sampled=True, state="a=1"),
    TraceContext(TRACE, 7, sampled=False),
)

CALL = {"gen_ai.operation.name": "execute_tool"}


def tracer(**options: Any) -> Tracer:
    return Tracer(lambda _: None, **options)


def span(tracer: Tracer | None = None, **given: Any) -> Span:
    owner = tracer or Tracer(given.pop("sink", lambda _: None))
    context = owner.sampled(SAMPLED)
    assert context is not None
    return owner.span("x", Kind.SERVER, context, SAMPLED, {}, **given)


@pytest.mark.parametrize(("ratio", "least", "most"), [(0.0, 0, 0), (1.0, 1000, 1000), (0.1, 40, 170)])
def test_a_part_of_the_traces_begun_here_is_recorded(ratio: float, least: int, most: int) -> None:
    """The ratio's."""
    count = sum(tracer(ratio=ratio).sampled(None) is not None for _ in range(1000))
    assert least <= count <= most


def test_a_parent_decides_where_it_is_trusted() -> None:
    """Also against the ratio, both ways; what follows keeps trace and state, and has an id of its own."""
    found = tracer(ratio=0.0).sampled(SAMPLED)
    assert found is not None
    assert (found.trace_id, found.state, found.sampled) == (TRACE, "a=1", True)
    assert found.span_id != SAMPLED.span_id
    assert tracer(ratio=1.0).sampled(NOT_SAMPLED) is None


def test_a_client_that_is_not_trusted_decides_nothing() -> None:
    """The id of the trace does, so that every process decides alike."""
    assert tracer(ratio=0.0, trust_client=False).sampled(SAMPLED) is None
    assert tracer(ratio=1.0, trust_client=False).sampled(NOT_SAMPLED) is not None
    below, above = (TraceContext(part << 60, 1, sampled=False) for part in (3, 9))
    half = tracer(ratio=0.5, trust_client=False)
    assert half.sampled(below) is not None
    assert half.sampled(above) is None
    assert half.sampled(SAMPLED, trusted=True) is not None


def test_a_child_is_below_its_parent() -> None:
    """In the same trace."""
    parent = span()
    child = parent.child("y", Kind.CLIENT, {})
    assert child.parent == parent.context
    assert (child.context.trace_id, child.context.state) == (TRACE, "a=1")


@pytest.mark.parametrize(
    ("result", "error", "more"),
    [
        (answer({"content": []}), None, {}),
        (answer({"isError": True}), "tool_error", {}),
        (
            rpc_failure({"code": -32602, "message": "secret"}),
            "-32602",
            {"rpc.response.status_code": "-32602"},
        ),
        (
            failed(InvocationTimeout("secret", stage="queue")),
            "INVOCATION_TIMEOUT",
            {"canalgate.stage": "queue"},
        ),
    ],
)
def test_how_a_call_ended(result: Any, error: str | None, more: dict[str, str]) -> None:
    """By a code and never by a text, which might quote an argument."""
    found = span()
    found.result(result)
    expected = more if error is None else {**more, "error.type": error}
    assert found.attributes == expected
    assert found.error == (error or "")


def test_it_ends_once() -> None:
    """Whoever ends it again changes nothing."""
    ended: list[Span] = []
    found = span(sink=ended.append)
    found.end()
    at = found.end_ns
    found.end()
    assert (ended, found.end_ns) == ([found], at)


def test_what_a_backend_is_sent_replaces_what_the_client_sent() -> None:
    """And leaves the rest as it is; the client's params are not changed themselves."""
    found = span()
    given = {"name": "x", "_meta": {"traceparent": "theirs", "tracestate": "theirs=1", "progressToken": 5}}
    carried = found.carried(given)
    assert read_context(carried["_meta"]) == found.context
    assert carried["_meta"]["progressToken"] == 5
    assert carried["name"] == "x"
    assert given["_meta"]["traceparent"] == "theirs"
    assert found.carried({})["_meta"] == found.headers()


def test_a_state_of_the_client_s_does_not_stay_beside_another_trace() -> None:
    """It belongs to its traceparent."""
    owner = tracer()
    context = owner.sampled(None)
    assert context is not None
    found = owner.span("x", Kind.SERVER, context, None, {})
    assert "tracestate" not in found.carried({"_meta": {"tracestate": "theirs=1"}})["_meta"]


def test_baggage_of_headers_goes_on_only_if_it_is_wanted() -> None:
    """What stands in ``_meta`` is the client's message and stays, within bounds."""
    carrier = {"baggage": "user=me"}
    assert "baggage" not in span(tracer(), carrier=carrier).headers()
    wanted = span(tracer(baggage=True), carrier=carrier)
    assert wanted.headers()["baggage"] == wanted.child("y", Kind.CLIENT, {}).headers()["baggage"] == "user=me"
    assert wanted.carried({"_meta": {"baggage": "own=1"}})["_meta"]["baggage"] == "own=1"
    assert "baggage" not in span().carried({"_meta": {"baggage": "x" * 9000}})["_meta"]


@pytest.mark.parametrize(
    ("method", "params", "name", "attributes"),
    [
        (
            "tools/call",
            {"name": "add"},
            "tools/call add",
            {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "add"},
        ),
        ("prompts/get", {"name": "p"}, "prompts/get p", {"gen_ai.prompt.name": "p"}),
        ("resources/read", {"uri": "a://secret"}, "resources/read", {}),
        ("tools/call", {"name": 5}, "tools/call", CALL),
    ],
)
def test_the_name_of_a_request_s_span(
    method: str, params: dict[str, Any], name: str, attributes: dict[str, str]
) -> None:
    """Never a URI, which may hold an argument."""
    assert request_attributes(method, params) == (name, {"mcp.method.name": method, **attributes})


def test_names_of_clients_are_bounded() -> None:
    """They may send megabytes."""
    name, attributes = request_attributes("tools/call", {"name": "x" * 10_000})
    assert len(name) < 200
    assert len(attributes["gen_ai.tool.name"]) == 128
    assert len(request_attributes("y" * 10_000, {})[0]) == 128
