"""What is written by hand is what the SDK writes of the same spans."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource

from common.telemetry.context import TraceContext
from common.telemetry.export import readable
from common.telemetry.otlp import request
from common.telemetry.spans import Kind, Span

RESOURCE = Resource({"service.name": "x"})
CONTEXT, PARENT = (
    TraceContext(2**127 + 5, 7, sampled=True, state="a=1,b=2"),
    TraceContext(2**127 + 5, 2**63, sampled=True),
)


def span(**changes: Any) -> Span:
    given_ = {
        "name": "x",
        "kind": Kind.SERVER,
        "context": CONTEXT,
        "parent": PARENT,
        "attributes": {"n": 1},
        **changes,
    }
    return Span(lambda _: None, **given_)


def both(*spans: Span) -> tuple[Any, Any]:
    """What is sent, read again; and the same by the SDK."""
    for one in spans:
        one.end()
    theirs = encode_spans([readable(one, RESOURCE) for one in spans])
    (of_resource,) = theirs.resource_spans
    resource, scope = of_resource.resource, of_resource.scope_spans[0].scope
    ours = request(resource.SerializeToString(), scope.SerializeToString(), spans)
    return ExportTraceServiceRequest.FromString(ours), theirs


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("parent", [PARENT, None])
@pytest.mark.parametrize("failed", [False, True])
def test_every_kind_of_span(kind: Kind, parent: TraceContext | None, failed: bool) -> None:
    """With and without a parent, good and failed, linked to another."""
    one = span(kind=kind, parent=parent)
    one.link(TraceContext(1, 2, sampled=True))
    if failed:
        one.fail("TIMEOUT")
    ours, theirs = both(one)
    assert ours == theirs


def test_many_at_once() -> None:
    """In one request, in order."""
    ours, theirs = both(
        *(span(name=f"{number}", context=CONTEXT._replace(state="")) for number in range(300))
    )
    assert ours == theirs


VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.integers(-(2**63), 2**63 - 1)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.dictionaries(st.text("abc.é", min_size=1), VALUES),
)
def test_any_name_and_attributes(name: str, attributes: dict[str, Any]) -> None:
    """Of any length, in any script."""
    ours, theirs = both(span(name=name, attributes=attributes))
    assert ours == theirs


def test_what_is_no_unicode_costs_a_character_and_not_the_batch() -> None:
    """A name of a client's may hold half a surrogate pair."""
    one = span(name="a\ud800b", attributes={"n": "\udfff"})
    one.end()
    read = ExportTraceServiceRequest.FromString(request(b"", b"", [one]))
    assert read.resource_spans[0].scope_spans[0].spans[0].name == "a?b"
