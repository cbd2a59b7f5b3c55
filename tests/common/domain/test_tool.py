"""A tool's definition: what is refused, what survives the registry, and how a change is noticed."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.tool import (
    MAX_TIMEOUT,
    Capabilities,
    HttpTransport,
    StdioTransport,
    Tool,
    ToolState,
    capabilities_from_wire,
    capabilities_to_wire,
    tool_from_wire,
    tool_to_wire,
)

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
WORD = TEXT.filter(bool)
NAMED = st.dictionaries(TEXT, TEXT, max_size=3)
TRANSPORTS = st.builds(
    StdioTransport, command=WORD, args=st.lists(TEXT, max_size=3).map(tuple), env=NAMED, cwd=st.none() | TEXT
) | st.builds(HttpTransport, url=TEXT.map("http://".__add__), headers=NAMED)
SECONDS = st.floats(0.001, MAX_TIMEOUT)
TOOLS = st.builds(
    Tool,
    id=WORD,
    transport=TRANSPORTS,
    state=st.sampled_from(ToolState),
    description=TEXT,
    request_timeout=SECONDS,
    startup_timeout=SECONDS,
    idle_timeout=SECONDS,
    queue_max_length=st.integers(1, 1_000_000),
    queue_max_age=SECONDS,
)
CAPABILITIES = st.builds(
    Capabilities,
    tool_version=st.integers(0, 2**53),
    discovered_at=st.integers(0, 2**53),
    eras=NAMED,
    server_info=NAMED,
    server_capabilities=NAMED,
    instructions=st.none() | TEXT,
    tools=st.lists(NAMED, max_size=3).map(tuple),
    error=st.none() | TEXT,
    attempts=st.integers(0, 100),
    retry_at=st.integers(0, 2**53),
)

STDIO = Tool(id=ToolId("t"), transport=StdioTransport(command="cmd", args=("a",), env={"K": "V"}, cwd="/"))
HTTP = Tool(id=ToolId("t"), transport=HttpTransport(url="http://h/mcp", headers={"X": "1"}))


def over_the_wire(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


@given(TOOLS)
def test_a_definition_survives_the_registry(tool: Tool) -> None:
    """Every field, and with it the fingerprint: an unchanged file keeps its versions."""
    back = tool_from_wire(over_the_wire(tool_to_wire(tool)))
    assert back == tool
    assert back.digest() == tool.digest()


@given(CAPABILITIES)
def test_capabilities_survive_the_registry(capabilities: Capabilities) -> None:
    """Every field, byte for byte."""
    assert capabilities_from_wire(over_the_wire(capabilities_to_wire(capabilities))) == capabilities


CHANGES: list[tuple[Tool, dict[str, Any]]] = [
    (STDIO, {"id": ToolId("u")}),
    (STDIO, {"state": ToolState.DISABLED}),
    (STDIO, {"description": "new"}),
    (STDIO, {"request_timeout": 31.0}),
    (STDIO, {"startup_timeout": 31.0}),
    (STDIO, {"idle_timeout": 31.0}),
    (STDIO, {"queue_max_length": 31}),
    (STDIO, {"queue_max_age": 31.0}),
    (STDIO, {"transport": HTTP.transport}),
    (STDIO, {"transport": replace(STDIO.transport, command="other")}),
    (STDIO, {"transport": replace(STDIO.transport, args=("b",))}),
    (STDIO, {"transport": replace(STDIO.transport, env={"K": "W"})}),
    (STDIO, {"transport": replace(STDIO.transport, cwd=None)}),
    (HTTP, {"transport": replace(HTTP.transport, url="http://h/other")}),
    (HTTP, {"transport": replace(HTTP.transport, headers={"X": "2"})}),
]


@pytest.mark.parametrize(("tool", "change"), CHANGES)
def test_every_change_changes_the_fingerprint(tool: Tool, change: dict[str, Any]) -> None:
    """Or a changed definition would keep sessions of the old one."""
    assert replace(tool, **change).digest() != tool.digest()


def test_the_changes_above_name_every_field() -> None:
    """A new field without a row here is a field that may be missing from the fingerprint."""
    named = {name for _, change in CHANGES for name in change}
    assert named == {field.name for field in fields(Tool)}
    for tool in (STDIO, HTTP):
        changed = set()
        for base, change in CHANGES:
            new = change.get("transport")
            if base is tool and type(new) is type(tool.transport):
                changed |= {
                    field.name
                    for field in fields(tool.transport)
                    if getattr(new, field.name) != getattr(tool.transport, field.name)
                }
        assert changed == {field.name for field in fields(tool.transport)}


def test_the_order_of_a_mapping_is_no_change() -> None:
    """``env`` and ``headers`` have no order."""
    one = replace(STDIO, transport=StdioTransport(command="c", env={"A": "1", "B": "2"}))
    other = replace(STDIO, transport=StdioTransport(command="c", env={"B": "2", "A": "1"}))
    assert one.digest() == other.digest()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": "\ud800"}, "id"),
        ({"transport": StdioTransport(command="")}, "command"),
        ({"transport": HttpTransport(url="ftp://h")}, "url"),
        ({"transport": HttpTransport(url="")}, "url"),
        ({"description": "\ud800"}, "description"),
        ({"transport": StdioTransport(command="x\ud800")}, "command"),
        ({"transport": StdioTransport(command="x", args=("a", "\ud800"))}, "args"),
        ({"transport": StdioTransport(command="x", env={"K": "\ud800"})}, "env"),
        ({"transport": StdioTransport(command="x", env={"\ud800": "v"})}, "env"),
        ({"transport": StdioTransport(command="x", cwd="\ud800")}, "cwd"),
        ({"transport": HttpTransport(url="http://\ud800")}, "url"),
        ({"transport": HttpTransport(url="http://h", headers={"X": "\ud800"})}, "headers"),
        *(({"queue_max_length": value}, "queue_max_length") for value in (0, -1, 1_000_001)),
        *(
            ({name: value}, name)
            for name in ("request_timeout", "startup_timeout", "idle_timeout", "queue_max_age")
            for value in (0, -1, MAX_TIMEOUT + 1, float("nan"), float("inf"))
        ),
    ],
)
def test_a_definition_that_cannot_work_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    """At once, not at the first call."""
    with pytest.raises(InvalidRequest) as caught:
        replace(STDIO, **change)
    assert caught.value.data["field"] == field


def test_secrets_are_not_shown() -> None:
    """``env`` and ``headers`` hold credentials."""
    assert "V" not in repr(STDIO)
    assert "X" not in repr(HTTP)


@pytest.mark.parametrize("state", ToolState)
def test_only_an_operator_switches_a_tool_off(state: ToolState) -> None:
    """Degraded and unavailable are the probe's view, and calls go through."""
    assert STDIO.with_state(state).enabled == (state is not ToolState.DISABLED)
