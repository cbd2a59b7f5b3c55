"""What a newer release wrote is refused by name, wherever it lies; what is merely added is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from common.calls.contract import result_of_wire
from common.calls.head import head_from_text
from common.domain.api_key import record_from_wire
from common.domain.capabilities import capabilities_from_wire
from common.domain.errors import ErrorCode, FormatTooNew, InvalidRequest
from common.domain.formats import check_format
from common.domain.ids import TenantId
from common.domain.invocation import invocation_from_wire, result_from_wire
from common.domain.tool import Origin, StdioTransport, Tool, ToolId
from common.domain.tool_status import OperatorState, operator_from_wire, operator_to_wire
from common.registry.records import definition_from_json, definition_to_json
from common.store.keys import Keys
from common.tenants.records import readable
from tests.support.backends import invocation
from tests.support.messages import head

TOOL = Tool(id=ToolId("t"), transport=StdioTransport(command="x"))
CALL = {"tenant": "t", "client": "c", "tool": "t", "method": "tools/call"}


def definition(**more: Any) -> object:
    record = orjson.loads(definition_to_json(TOOL, Origin.FILE))
    return definition_from_json(orjson.dumps({**record, **more}), 1, name="t")


def call(**more: Any) -> object:
    return invocation_from_wire({**CALL, **more}, task_id="i", default_version="", default_deadline=1)


def result(**more: Any) -> object:
    return result_from_wire({"v": 1, "status": "success", "result": {}, **more})


def offered(**more: Any) -> object:
    return capabilities_from_wire({"tool_version": 1, "discovered_at": 1, **more})


def said(**more: Any) -> object:
    return operator_from_wire({**operator_to_wire(OperatorState()), **more})


READERS: dict[str, Callable[..., object]] = {
    "definition": definition,
    "invocation": call,
    "result": result,
    "capabilities": offered,
    "operator": said,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_newer_record_is_refused_with_both_versions(reader: str) -> None:
    """And one to which something was added is not."""
    read = READERS[reader]
    read(something_new=1)
    with pytest.raises(FormatTooNew) as raised:
        read(v=2)
    assert raised.value.code is ErrorCode.FORMAT_TOO_NEW
    assert (raised.value.data["found"], raised.value.data["known"]) == (2, 1)
    assert "version 2" in raised.value.message
    assert "version 1" in raised.value.message


@pytest.mark.parametrize("version", [0, -1, True, "2", None, 1.5])
def test_what_is_no_version_is_no_record(version: object) -> None:
    """It is nobody's."""
    with pytest.raises(InvalidRequest):
        check_format({"v": version}, what="it")


def test_older_ones_are_read() -> None:
    """Those without a version are of the first."""
    check_format({}, 3, what="it")
    check_format({"v": 2}, 3, what="it")


def test_a_newer_head_is_refused_with_both_versions() -> None:
    """However many parts it has; what is no number is no head."""
    made = head(invocation("echo").id)
    assert head_from_text(made.text()) == made
    for text in ("2|from|the|future", made.text().replace("1|", "2|", 1)):
        with pytest.raises(FormatTooNew, match="reads version 1"):
            head_from_text(text)
    with pytest.raises(InvalidRequest):
        head_from_text("99999999999999|x")
    with pytest.raises(InvalidRequest):
        head_from_text("17")


def test_a_newer_key_and_a_newer_quota_let_nobody_in() -> None:
    """Fails closed: what is not understood may be a bound."""
    with pytest.raises(FormatTooNew):
        record_from_wire({"v": 2, "scopes": []})
    record = readable(b"acme", b'7 {"v": 2, "max_calls": 3}')
    assert (record.id, record.version, record.layer) == (TenantId("acme"), 7, {"enabled": False})


def test_a_newer_result_ends_the_call_at_once() -> None:
    """Its caller is told, and does not wait for a result that was there."""
    try:
        failure = result_of_wire({"v": 2, "status": "success", "result": {}}, "i", Keys()).failure
    except FormatTooNew:
        failure = None
    assert failure is not None
    assert failure.code is ErrorCode.FORMAT_TOO_NEW
