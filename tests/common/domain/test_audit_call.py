"""What the journal says of calls: short texts on the way, fields for readers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.audit import CALL_ENDS, EventKind
from common.domain.audit_call import (
    CALL,
    MAX_PART,
    call_text,
    capability_of,
    end_text,
    packed,
    trace_of,
    unpacked,
)
from common.domain.errors import InvocationCancelled, InvocationTimeout, TransportFailure, WorkerLost
from common.domain.ids import ClientId, InvocationId, TenantId, ToolId
from common.domain.invocation import Caller, ExecutionResult, Invocation, answer, failed, rpc_failure

TRACE = "0af7651916cd43dd8448eb211c80319c"


def invocation(**params: Any) -> Invocation:
    return Invocation(
        id=InvocationId("i"),
        caller=Caller(tenant=TenantId("a|b"), client=ClientId("c d"), subject="ann@x"),
        tool=ToolId("t"),
        method="tools/call",
        params=params,
        version="2025-11-25",
        deadline=1,
        request_id=7,
    )


def test_a_call_is_told_whole_and_without_its_arguments() -> None:
    """Whoever called, what for; a reader sees fields."""
    meta = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    text = call_text(invocation(name="echo", arguments={"password": "hunter2"}, _meta=meta))
    assert "hunter2" not in text
    assert unpacked({"kind": "invocation_start", "call": text}) == {
        "kind": "invocation_start",
        "tenant": "a|b",
        "client": "c d",
        "actor": "ann@x",
        "method": "tools/call",
        "capability": "echo",
        "request_id": "7",
        "trace_id": TRACE,
    }


@given(st.lists(st.text(max_size=MAX_PART), max_size=len(CALL)))
def test_any_parts_come_back(parts: list[str]) -> None:
    """Whatever characters they hold; no text can end another, or the message around it."""
    text = packed(parts)
    assert text.isascii()
    assert not set(text) & set(' "\\')
    seen = unpacked({"call": text})
    told = [part.encode("utf-8", errors="replace").decode() for part in parts]
    assert [seen.get(name, "") for name in CALL[: len(parts)]] == told


def test_a_long_part_is_cut() -> None:
    """The journal holds events, not names of any length."""
    assert len(unpacked({"call": packed(["x" * 10_000])})["tenant"]) == MAX_PART


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "echo"}, "echo"),
        ("prompts/get", {"name": "greet"}, "greet"),
        ("resources/read", {"uri": "file:///x"}, "file:///x"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "greet"}}, "greet"),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "a://{x}"}}, "a://{x}"),
        ("completion/complete", {"ref": "greet"}, ""),
        ("tools/call", {"name": 5}, ""),
        ("tools/list", {"name": "echo"}, ""),
    ],
)
def test_what_a_request_is_for(method: str, params: dict[str, Any], name: str) -> None:
    """By its method."""
    assert capability_of(method, params) == name


@pytest.mark.parametrize(
    "meta", [None, 5, {}, {"traceparent": 5}, {"traceparent": "00-x-y-01"}, {"traceparent": f"00-{TRACE}"}]
)
def test_what_is_no_trace_is_none(meta: Any) -> None:
    """A client may send anything."""
    assert trace_of({"_meta": meta}) == ""


@pytest.mark.parametrize(
    ("result", "kind", "fields"),
    [
        (answer({}), "invocation_complete", {"outcome": "success"}),
        (answer({"isError": True}), "invocation_complete", {"outcome": "failure"}),
        (
            rpc_failure({"code": -32602, "message": "password hunter2"}),
            "invocation_complete",
            {"outcome": "failure", "error_code": "-32602"},
        ),
        (
            failed(InvocationTimeout("too late")),
            "invocation_failed",
            {"outcome": "timeout", "error_code": "INVOCATION_TIMEOUT", "reason": "too late"},
        ),
        (
            failed(InvocationCancelled("taken back")),
            "invocation_failed",
            {"outcome": "cancelled", "error_code": "INVOCATION_CANCELLED", "reason": "taken back"},
        ),
        (
            failed(TransportFailure("broke")),
            "invocation_failed",
            {"outcome": "failure", "error_code": "TRANSPORT_FAILURE", "reason": "broke"},
        ),
        (
            failed(WorkerLost("gone")),
            "invocation_lost",
            {"outcome": "failure", "error_code": "WORKER_LOST", "reason": "gone"},
        ),
    ],
)
def test_how_a_call_ended(result: ExecutionResult, kind: str, fields: dict[str, str]) -> None:
    """One kind for answers, one for what never became one, one for what nobody knows."""
    told, call, end = end_text("a|b", result, attempt=2).split(" ")
    assert (told, call) == (kind, "a|b")
    assert EventKind(told) in CALL_ENDS
    assert unpacked({"end": end}) == {**fields, "duration_ms": "0.0", "attempt": "2"}


def test_a_call_that_is_not_audited_has_no_end_in_the_journal() -> None:
    """An empty text is no text."""
    assert end_text("", answer({}), attempt=0) == ""


def test_the_worker_is_told_by_its_node() -> None:
    """A node is one incarnation of it."""
    assert unpacked({"node": "celery@host:0a1b2c3d"})["worker"] == "celery@host"
    assert "worker" not in unpacked({"node": "n1"})


def test_texts_of_other_writers_are_read_as_far_as_they_go() -> None:
    """A shorter one, a longer one, one that is nonsense; and what stands beside it counts."""
    assert unpacked({"call": "a", "tenant": "b"}) == {"tenant": "b"}
    assert unpacked({"call": "a|b|c|d|e|f|g|h|i"})["trace_id"] == "g"
    assert unpacked({"call": "%zz|%ff"}) == {"tenant": "%zz", "client": "\N{REPLACEMENT CHARACTER}"}
