"""``Mcp-Param-*`` headers come from the tool's schema as discovery found it."""

from __future__ import annotations

from typing import Any

import pytest

from common.mcp.revisions import Era
from gateway_worker.param_headers import ParamHeaders
from tests.support.backends import entry_of, invocation, stdio_tool

REGION = {"type": "string", "x-mcp-header": "Region"}


def definition(**properties: Any) -> dict[str, Any]:
    """A tool with these properties."""
    return {"name": "query", "inputSchema": {"type": "object", "properties": properties}}


def headers(definitions: list[Any], arguments: Any, **fields: Any) -> dict[str, str]:
    """The headers for a call of ``query``."""
    entry = entry_of(stdio_tool(), eras=[Era.MODERN], definitions=definitions)
    call = invocation("query", era=Era.MODERN, **fields)
    call.params["arguments"] = arguments  # type: ignore[index]
    return dict(ParamHeaders().of(entry, call))


def test_annotated_arguments_are_repeated() -> None:
    """Each in its header, whatever its type, encoded where a header could not hold it."""
    deep = {"type": "object", "properties": {"flag": {"type": "boolean", "x-mcp-header": "Flag"}}}
    schema = definition(region=REGION, size={"type": "integer", "x-mcp-header": "Size"}, deep=deep)
    found = headers([schema], {"region": "übersee", "size": 3, "deep": {"flag": True}, "other": 1})
    assert found == {
        "Mcp-Param-Region": "=?base64?w7xiZXJzZWU=?=",
        "Mcp-Param-Size": "3",
        "Mcp-Param-Flag": "true",
    }


@pytest.mark.parametrize(
    ("definitions", "arguments", "method"),
    [
        ([], {"region": "eu"}, "tools/call"),
        ([definition(region={"type": "string"})], {"region": "eu"}, "tools/call"),
        ([definition(region={**REGION, "x-mcp-header": "no token"})], {"region": "eu"}, "tools/call"),
        ([{"name": "query", "inputSchema": "nonsense"}, {"name": 5}, {}], {"region": "eu"}, "tools/call"),
        ([definition(region=REGION)], {}, "tools/call"),
        ([definition(region=REGION)], {"region": None}, "tools/call"),
        ([definition(region=REGION)], ["eu"], "tools/call"),
        ([definition(region=REGION)], None, "tools/call"),
        ([{**definition(region=REGION), "name": "other"}], {"region": "eu"}, "tools/call"),
        ([definition(region=REGION)], {"region": "eu"}, "prompts/get"),
    ],
)
def test_otherwise_there_are_none(definitions: list[Any], arguments: Any, method: str) -> None:
    """Neither without a valid annotation nor without the argument, and only for tool calls."""
    assert headers(definitions, arguments, method=method) == {}


def test_a_new_discovery_is_taken_up() -> None:
    """What was looked up belongs to one answer of the backend, and is looked up once."""
    call = invocation("query", {"region": "eu"}, era=Era.MODERN)
    headers = ParamHeaders()
    plain = entry_of(stdio_tool(), eras=[Era.MODERN], definitions=[definition(region={"type": "string"})])
    annotated = entry_of(stdio_tool(), eras=[Era.MODERN], definitions=[definition(region=REGION)])
    assert headers.of(plain, call) == {}
    assert headers.of(annotated, call) == {"Mcp-Param-Region": "eu"}
    assert headers.of(entry_of(stdio_tool()), call) == {}
