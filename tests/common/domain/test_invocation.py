"""Invocations and results keep their meaning on the way between the programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.errors import ERRORS_BY_CODE, ErrorCode, FormatTooNew, GatewayError, InvalidRequest, Status
from common.domain.ids import ClientId, InvocationId, McpSessionId, TenantId, ToolId
from common.domain.invocation import (
    WIRE_VERSION,
    Caller,
    ExecutionResult,
    Failure,
    Invocation,
    answer,
    error_of,
    failed,
    invocation_from_wire,
    invocation_to_wire,
    result_from_wire,
    result_to_wire,
    rpc_failure,
)

ID = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)

CALLERS = st.builds(Caller, tenant=ID, client=ID, subject=TEXT, scopes=st.frozensets(TEXT, max_size=3))
INVOCATIONS = st.builds(
    Invocation,
    id=ID,
    caller=CALLERS,
    tool=ID,
    method=ID,
    params=OBJECT,
    version=TEXT.filter(bool),
    deadline=st.integers(0, 2**53),
    request_id=st.none() | TEXT | st.integers(-(2**63), 2**63),
    mcp_session=st.none() | ID,
    resumable_until=st.none() | st.integers(0, 2**53),
)
FAILURES = st.builds(
    Failure, code=st.sampled_from(ErrorCode), message=TEXT, data=OBJECT, rpc=st.none() | OBJECT
)
RESULTS = st.builds(
    ExecutionResult,
    status=st.sampled_from(Status),
    duration_ms=st.integers(0, 10**6).map(float),
    stages=st.dictionaries(TEXT, st.floats(0, 1e6), max_size=3),
    result=OBJECT,
) | st.builds(ExecutionResult, status=st.sampled_from(Status), failure=FAILURES)

MINIMAL = {"tenant": "t", "client": "c", "tool": "x", "method": "tools/call"}


def over_the_wire(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def read(wire: object) -> Invocation:
    return invocation_from_wire(wire, task_id="i", default_version="2025-11-25", default_deadline=7)


@given(INVOCATIONS)
def test_an_invocation_arrives_as_it_was_sent(invocation: Invocation) -> None:
    """Every field, whatever the characters."""
    wire = over_the_wire(invocation_to_wire(invocation))
    back = invocation_from_wire(wire, task_id=invocation.id, default_version="x", default_deadline=0)
    assert back == invocation


@given(RESULTS)
def test_a_result_arrives_as_it_was_sent(result: ExecutionResult) -> None:
    """The backend's answer, or the failure with all it says."""
    assert result_from_wire(over_the_wire(result_to_wire(result))) == result


def test_a_stock_producer_gives_four_words() -> None:
    """The rest has defaults; the task's id is the invocation's."""
    found = read(MINIMAL)
    assert found == Invocation(
        id=InvocationId("i"),
        caller=Caller(tenant=TenantId("t"), client=ClientId("c")),
        tool=ToolId("x"),
        method="tools/call",
        params={},
        version="2025-11-25",
        deadline=7,
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"v": None}, "v"),
        ({"v": "1"}, "v"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": None}, "tenant"),
        ({"client": 7}, "client"),
        ({"tool": "a" * 1000}, "tool"),
        ({"tool": []}, "tool"),
        ({"method": None}, "method"),
        ({"params": []}, "params"),
        ({"params": None}, "params"),
        ({"deadline": "soon"}, "deadline"),
        ({"deadline": 1.5}, "deadline"),
        ({"deadline": True}, "deadline"),
        ({"deadline": None}, "deadline"),
        ({"scopes": None}, "scopes"),
        ({"scopes": "read"}, "scopes"),
        ({"scopes": [["read"]]}, "scopes"),
        ({"scopes": 7}, "scopes"),
        ({"subject": None}, "subject"),
        ({"subject": {"a": 1}}, "subject"),
        ({"version": None}, "version"),
        ({"version": 2}, "version"),
        ({"request_id": [1]}, "request_id"),
        ({"request_id": True}, "request_id"),
        ({"mcp_session": 1}, "mcp_session"),
        ({"resumable_until": 1.5}, "resumable_until"),
        ({"resumable_until": True}, "resumable_until"),
    ],
)
def test_a_bad_field_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    """Anybody with access to the broker may send anything: the answer names the field, and no guess is made."""
    with pytest.raises(InvalidRequest) as caught:
        read(MINIMAL | change)
    assert caught.value.data["field"] == field
    assert field == "v" or field in caught.value.message


@pytest.mark.parametrize("wire", [None, [], "x", 7, [MINIMAL]])
def test_what_is_no_object_is_refused(wire: object) -> None:
    """The first task argument is the invocation."""
    with pytest.raises(InvalidRequest) as caught:
        read(wire)
    assert caught.value.data["field"] == "args"


@pytest.mark.parametrize("field", MINIMAL)
def test_the_four_words_are_obligatory(field: str) -> None:
    """Each is asked for by name."""
    with pytest.raises(InvalidRequest) as caught:
        read({key: value for key, value in MINIMAL.items() if key != field})
    assert caught.value.data["field"] == field


def test_a_newer_result_is_refused_by_name() -> None:
    """A reader refuses a newer form instead of guessing."""
    wire = result_to_wire(answer({})) | {"v": WIRE_VERSION + 1}
    with pytest.raises(FormatTooNew, match=f"{WIRE_VERSION + 1}") as caught:
        result_from_wire(wire)
    assert caught.value.data["field"] == "v"


@pytest.mark.parametrize(
    "wire",
    [
        {},
        [],
        None,
        "done",
        {"v": 1, "status": "maybe"},
        {"v": 1, "status": "failure", "error": "broken"},
        {"v": 1, "status": "failure", "error": {"code": "INTERNAL"}},
        {"v": 1, "status": "failure", "error": {"message": "no code"}},
        {"v": 1, "status": "failure", "error": {"code": ["INTERNAL"], "message": ""}},
        {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"},
    ],
)
def test_what_is_no_result_is_refused(wire: Any) -> None:
    """Others may write result keys too (stock Celery's ``revoke`` does): one typed error, no other."""
    with pytest.raises(InvalidRequest):
        result_from_wire(wire)


def test_a_code_of_tomorrow_keeps_its_name() -> None:
    """A reader older than the writer says INTERNAL, and what it was."""
    wire = {"v": 1, "status": "denied", "error": {"code": "BUDGET_SPENT", "message": "no money"}}
    failure = result_from_wire(wire).failure
    assert failure == Failure(code=ErrorCode.INTERNAL, message="BUDGET_SPENT: no money")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a-b", "c", ""), ("a", "b-c", "")),
        (("a\x1fb", "c", ""), ("a", "b\x1fc", "")),
        (("a", "b", "c"), ("a", "b\x1fc", "")),
        (("a|b", "c", ""), ("a", "b|c", "")),
        (("a%7Cb", "c", ""), ("a|b", "c", "")),
        (("a", "b", ""), ("a", "b", "s")),
    ],
)
def test_different_callers_are_different_principals(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    """A session is bound to its principal, so parts must not run together."""
    principals = {
        Caller(tenant=TenantId(tenant), client=ClientId(client), subject=subject).principal
        for tenant, client, subject in (one, other)
    }
    assert len(principals) == 2


@given(CALLERS, CALLERS)
def test_a_principal_is_tenant_client_and_subject(one: Caller, other: Caller) -> None:
    """Nothing else, and nothing less: scopes may change without ending a session."""
    same = (one.tenant, one.client, one.subject) == (other.tenant, other.client, other.subject)
    assert (one.principal == other.principal) == same


def test_params_are_not_shown() -> None:
    """Arguments may be secrets; logs print reprs."""
    invocation = replace(read(MINIMAL | {"params": {"password": "hunter2"}}), mcp_session=McpSessionId("m"))
    assert "hunter2" not in repr(invocation)


def test_an_answer_is_an_answer_also_when_it_is_an_error() -> None:
    """``isError`` and JSON-RPC errors come from the backend; our own failures do not."""
    assert answer({}).answered
    assert answer({}).status is Status.SUCCESS
    assert answer({"isError": True}).answered
    assert answer({"isError": True}).status is Status.FAILURE
    assert answer({"isError": "yes"}).status is Status.SUCCESS
    assert rpc_failure({"code": 1, "message": "no"}).answered
    assert not failed(InvalidRequest("x")).answered


@pytest.mark.parametrize("code", ErrorCode)
def test_a_failure_becomes_the_exception_it_was(code: ErrorCode) -> None:
    """With message and data, for callers of the Python API."""
    error = ERRORS_BY_CODE[code]("why", field="f")
    result = result_from_wire(over_the_wire(result_to_wire(failed(error))))
    assert result.failure is not None
    again = error_of(result.failure)
    assert (type(again), again.message, again.data) == (type(error), "why", {"field": "f"})
    assert result.status is error.meaning.status


@given(OBJECT)
def test_data_may_have_any_names(data: dict[str, Any]) -> None:
    """Also such as Python uses for its own arguments."""
    failure = Failure(code=ErrorCode.INTERNAL, message="m", data={**data, "message": 1, "self": 2})
    error = error_of(failure)
    assert isinstance(error, GatewayError)
    assert error.message == "m"
    assert error.data["message"] == 1
