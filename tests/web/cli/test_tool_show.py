"""``canalgate tools show``: one tool, and what its MCP tools want to be given."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from common.domain.capabilities import Capabilities
from common.domain.ids import ToolId
from common.domain.tool import StdioTransport, Tool
from common.registry.records import capabilities_to_json
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import Exit
from gateway_web.cli.tool_show import arguments, signature
from tests.support.egress import ANYTHING
from tests.web.cli.conftest import Canalgate

T = ToolId("demo")
SECRET = "hunter2"
ADD = {
    "name": "add",
    "description": "\nAdds two numbers.\nAnd more.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "precision": {"type": "integer"},
            "a": {"type": "number"},
            "mode": {"enum": ["up", "down"]},
        },
        "required": ["a"],
    },
}


@pytest.fixture
def registry(client: Client, keys: Keys) -> Registry:
    registry = Registry(client, keys, ANYTHING)
    registry.put(Tool(id=T, transport=StdioTransport(command="cmd", env={"K": SECRET})))
    return registry


def offer(client: Client, keys: Keys, registry: Registry, *tools: dict[str, Any]) -> None:
    """Let the tool have been asked, with this answer."""
    version = registry.get(T).registered.version
    found = Capabilities(tool_version=version, discovered_at=1, tools=tools)
    client.hset(keys.registry_capabilities, T, capabilities_to_json(found))


def test_each_mcp_tool_is_shown_with_its_arguments(
    canalgate: Canalgate, registry: Registry, client: Client, keys: Keys
) -> None:
    """Name, type, and whether it is needed, on one line; and the first line of what it is for."""
    offer(client, keys, registry, ADD, {"name": "now", "inputSchema": {"type": "object"}})
    done = canalgate("tools", "show", "demo")
    assert done.exit_code == Exit.OK, done.output
    lines = done.stdout.splitlines()
    assert "tool       demo" in lines
    assert lines[-3:] == [
        '  add(a: number, precision?: integer, mode?: "up" | "down")',
        "      Adds two numbers.",
        "  now()",
    ]
    assert SECRET not in done.stdout


def test_the_same_for_scripts(canalgate: Canalgate, registry: Registry, client: Client, keys: Keys) -> None:
    """With all that the list says."""
    offer(client, keys, registry, ADD)
    told = orjson.loads(canalgate("tools", "show", "demo", "--json").stdout)
    (listed,) = orjson.loads(canalgate("tools", "--json").stdout)
    (tool,) = told.pop("tools")
    assert told.pop("definition")["env"] == {"K": "********"}
    assert told == listed
    assert tool["name"] == "add"
    assert tool["arguments"][:2] == [
        {"name": "a", "type": "number", "required": True},
        {"name": "precision", "type": "integer", "required": False},
    ]


def test_a_tool_that_was_not_asked_yet_says_so(canalgate: Canalgate, registry: Registry) -> None:
    """It is shown all the same."""
    done = canalgate("tools", "show", "demo")
    assert done.exit_code == Exit.OK
    assert "offers     not known yet" in done.stdout


def test_a_tool_that_is_not_there_is_not_found(canalgate: Canalgate, registry: Registry) -> None:
    """One line, with the code."""
    done = canalgate("tools", "show", "nobody")
    assert done.exit_code == Exit.NOT_FOUND
    assert "no tool 'nobody' is registered (TOOL_NOT_FOUND)" in done.output


def test_what_a_backend_says_does_not_reach_the_terminal_as_it_is(
    canalgate: Canalgate, registry: Registry, client: Client, keys: Keys
) -> None:
    """No markup, no escape sequences."""
    hostile = {
        "name": "[red]x\x1b[2J",
        "description": "\x1b]0;title\x07 [bold]b",
        "inputSchema": {"properties": {"a\x1b[1m": {"type": "[link]"}}},
    }
    offer(client, keys, registry, hostile)
    shown = canalgate("tools", "show", "demo").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[red]x" in shown
    assert "[bold]b" in shown


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"type": "string"}, "string"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"type": "array", "items": {"type": "integer"}}, "integer[]"),
        ({"type": "array"}, "any[]"),
        ({"type": "array", "items": {"enum": ["a", 1]}}, '("a" | 1)[]'),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer | null"),
        ({"const": True}, "true"),
        ({"$ref": "#/$defs/Point"}, "object"),
        ({"$ref": "#/$defs/nothing"}, "any"),
        ({"$ref": "https://elsewhere/schema"}, "any"),
        ({"enum": list(range(9)), "type": "integer"}, "integer"),
        ({"oneOf": []}, "any"),
        ({}, "any"),
        (True, "any"),
        (None, "any"),
        ({"type": 5, "enum": {}, "anyOf": "x", "$ref": 7}, "any"),
    ],
)
def test_types_are_told_in_a_word(schema: object, shown: str) -> None:
    """As far as a schema says something that can be told so."""
    whole = {"properties": {"x": schema}, "$defs": {"Point": {"type": "object"}}}
    assert signature({"name": "f", "inputSchema": whole}) == f"f(x?: {shown})"


def test_a_schema_that_refers_to_itself_ends() -> None:
    """However wide it is."""
    node = {"anyOf": [{"type": ["array"] * 1000, "items": {"$ref": "#/properties/x"}}] * 8}
    wider = {"anyOf": [{"$ref": "#/properties/y"}] * 1000}
    found = arguments({"inputSchema": {"properties": {"x": node, "y": wider}}})
    assert [argument["name"] for argument in found] == ["x", "y"]


@pytest.mark.parametrize(
    "schema",
    [None, 5, [], {"properties": []}, {"required": {"a": 1}}, {"properties": None, "required": None}],
)
def test_a_schema_that_is_none_has_no_arguments(schema: object) -> None:
    """And no traceback."""
    assert signature({"name": "f", "inputSchema": schema}) == "f()"


def test_what_is_needed_and_not_described_is_shown() -> None:
    """A schema may require what its properties do not name."""
    assert signature({"name": "f", "inputSchema": {"required": ["a", "a"]}}) == "f(a: any)"
